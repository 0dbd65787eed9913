"""The group `sampler`: in our application by a name, in anyone's by `+sampler=name`."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.utils import instantiate

from lightning_select.app.compare.methods import read_methods
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.loss_proportional import LossProportional
from tests.app import tiny
from tests.app.conftest import TINY, read_csv

DRAWN = ("data._target_=tests.app.tiny.Sampled", "+data.sampler=${sampler}")
OWN = [one for one in TINY if "data._target_" not in one]


def test_a_sampler_is_an_override(launch: Any, capsys: Any) -> None:
    launch(*OWN, *DRAWN, "sampler=loss_proportional", "sampler.floor=0.25", "seed=3")
    (sampler,) = tiny.SAMPLERS
    assert isinstance(sampler, LossProportional)
    assert (sampler.floor, sampler.seed) == (0.25, 3)
    assert sampler.updates == 6
    assert "fit: 6 steps" in capsys.readouterr().out


def test_a_preset_is_one_as_well(launch: Any) -> None:
    launch(*OWN, *DRAWN, "sampler=vade")
    (sampler,) = tiny.SAMPLERS
    assert isinstance(sampler, BetaPosterior)
    assert (sampler.keep, sampler.updates) == (0.2, 6)


def test_no_sampler_leaves_the_loader_as_it_is(launch: Any, capsys: Any) -> None:
    launch(*OWN, *DRAWN)
    assert tiny.SAMPLERS == []
    assert "fit: 6 steps" in capsys.readouterr().out


def test_the_digits_take_a_sampler(launch: Any, capsys: Any) -> None:
    pytest.importorskip("sklearn")
    settings = [one for one in TINY if one.startswith(("trainer", "+trainer", "threads"))]
    launch(*settings, "sampler=info_batch")
    assert "fit: 6 steps" in capsys.readouterr().out


def test_data_that_take_no_sampler_say_so(launch_tiny: Any) -> None:
    with pytest.raises(ConfigurationError, match="sampler must be taken by the data, got data without a `sampler`"):
        launch_tiny("sampler=vade")


def test_a_sampler_that_must_know_the_rows_says_what_is_missing(launch: Any) -> None:
    with pytest.raises(ConfigurationError, match="^sampler.groups must be given, one value per row of the dataset"):
        launch(*OWN, *DRAWN, "sampler=group_balanced")


def test_samplers_are_compared_with_recipes(launch: Any) -> None:
    methods = "methods=[uniform,max_loss,loss_proportional,{mine:{sampler:loss_proportional,sampler.floor:0.5}}]"
    folder = launch(*OWN, *DRAWN, "task=compare", methods, "seeds=2", "compare.equal_cost=false")
    rows = read_csv(folder / "table.csv")
    assert [row["method"] for row in rows] == ["uniform", "max_loss", "loss_proportional", "mine"]
    assert [(sampler.floor, sampler.seed) for sampler in tiny.SAMPLERS] == [(0.0, 0), (0.5, 0), (0.0, 1), (0.5, 1)]


def test_a_recipe_comes_before_a_sampler_of_its_name() -> None:
    named = read_methods(["both", "sampler_alone"], ["both"], ["both", "sampler_alone"])
    assert [method.overrides for method in named] == [
        ("callbacks/selection=both",),
        ("callbacks/selection=none", "sampler=sampler_alone"),
    ]
    with pytest.raises(ConfigurationError, match="one of the recipes both or one of the samplers alone, got 'other'"):
        read_methods(["other"], ["both"], ["alone"])


def test_the_configs_make_samplers_in_the_application_of_anyone() -> None:
    config = {"_target_": "lightning_select.samplers.loss_proportional.LossProportional", "_partial_": True}
    assert isinstance(instantiate(config)(10), LossProportional)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], r"got data without a `sampler` \(method info_batch\)\. .* \+data\.sampler='\$\{sampler\}'"),
        (["+data.sampler=${sampler}"], r"sampler\.groups must be given, .* got none \(method group_balanced\)"),
    ],
)
def test_a_sampler_that_cannot_be_made_is_told_before_anything_is_trained(launch: Any, more: Any, told: str) -> None:
    data = "data._target_=tests.app.tiny.Sampled"
    methods = "methods=[uniform,max_loss,info_batch,group_balanced]"
    with pytest.raises(ConfigurationError, match=told):
        launch(*OWN, data, *more, "task=compare", methods, "seeds=1")
    assert not tiny.ROWS_SEEN
