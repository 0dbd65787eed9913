"""The configs: complete, and composable the way people compose them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig

from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.app.building import build_callbacks, instantiate
from lightning_select.app.config_path import PRIMARY, app_folder, register_configs
from lightning_select.app.hydra_versions import BASE
from lightning_select.schedule import Anneal, Schedule

CONFIGS = Path(__file__).parents[1] / "configs"
GROUP = CONFIGS / "callbacks" / "selection"
RECIPES = {
    "uds": ("nuclear_norm", "diverse", 0.125),
    "rho_loss": ("reducible_loss", "top_k", 0.1),
    "selective_backprop": ("loss", "percentile", 0.5),
    "balanced_difficulty": ("solve_rate", "band", 0.5),
    "max_loss": ("loss", "top_k", 0.1),
    "grad_norm": ("grad_norm", "top_k", 0.1),
    "importance_sampling": ("grad_norm", "importance", 0.2),
    "divbs": ("loss", "divbs", 0.1),
    "el2n": ("el2n", "top_k", 0.5),
    "uncertainty": ("uncertainty", "top_k", 0.1),
    "dynamic_loss": ("dynamic_loss",),
    "focal": ("focal",),
    "self_paced": ("self_paced",),
}


@pytest.fixture
def composed() -> Iterator[Callable[..., DictConfig]]:
    GlobalHydra.instance().clear()
    register_configs()
    with initialize_config_dir(str(app_folder()), **BASE):
        yield lambda *overrides: compose(PRIMARY, overrides=list(overrides))


def test_every_recipe_is_known_here() -> None:
    assert {file.stem for file in GROUP.glob("*.yaml")} == {*RECIPES, "none"}


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.relative_to(CONFIGS).as_posix())
def test_every_config_says_what_it_is(file) -> None:
    first = next(line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package"))
    assert first.startswith("# ")


def test_everyone_else_sees_only_names_that_are_ours() -> None:
    """Hydra shows these to every app on the machine, before what that app keeps in its ConfigStore."""
    assert {path.name for path in CONFIGS.iterdir()} == {"callbacks", "lightning_select", "rollouts", "sampler"}
    assert {path.name for path in (CONFIGS / "callbacks").iterdir()} == {"report", "selection"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_made_of_its_parts(composed, recipe) -> None:
    (callback,) = build_callbacks(composed(f"callbacks/selection={recipe}"))
    parts, *keep = RECIPES[recipe][:-1], *RECIPES[recipe][2:]
    if keep:
        assert isinstance(callback, BatchSelection)
        assert callback.keep == keep[0]
        made = [callback.score, callback.selector]
    else:
        assert isinstance(callback, LossReweighting)
        parts, made = RECIPES[recipe], [callback.weighting]
    assert [type(part).__module__.rpartition(".")[2] for part in made] == list(parts)
    assert callback.name == recipe


def test_the_report_lists_every_argument(composed) -> None:
    config = composed("+callbacks/report=selection_report").callbacks.report
    parameters = inspect.signature(SelectionReport).parameters
    assert set(config) == {"_target_", *parameters}
    for name, parameter in parameters.items():
        default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        assert config[name] == default, name
    (callback,) = build_callbacks(composed("+callbacks/report=selection_report", "callbacks.report.title=mine"))
    assert isinstance(callback, SelectionReport)
    assert callback.title == "mine"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_lists_every_argument(composed, recipe) -> None:
    config = composed(f"callbacks/selection={recipe}").callbacks.selection
    parameters = inspect.signature(get_class(config._target_)).parameters
    assert set(config) == {"_target_", *parameters}
    for name, parameter in parameters.items():
        if parameter.default is not parameter.empty and name != "name":
            assert config[name] == parameter.default, name


def test_no_config_object_reaches_a_constructor(composed) -> None:
    overrides = ["callbacks/selection=dynamic_loss", "callbacks.selection.weighting.quantiles=[0.0,0.9]"]
    (callback,) = build_callbacks(composed(*overrides))
    values = [*vars(callback).values(), *vars(callback.weighting).values()]
    assert not any(isinstance(value, (DictConfig, ListConfig)) for value in values)
    assert tuple(callback.weighting.quantiles) == (0.0, 0.9)


def test_parts_are_swapped_one_by_one(composed) -> None:
    overrides = ["callbacks/selection/score=el2n", "callbacks/selection/selector=top_k", "callbacks.selection.keep=3"]
    (callback,) = build_callbacks(composed("callbacks/selection=uds", *overrides))
    assert [type(callback.score).__name__, type(callback.selector).__name__, callback.keep] == ["EL2N", "TopK", 3]


def test_schedule_and_keep_may_be_objects(composed) -> None:
    schedule = "{_target_:lightning_select.schedule.Schedule,start:0.1,every:2}"
    keep = "{_target_:lightning_select.schedule.Anneal,begin:1.0,end:0.2}"
    overrides = [f"callbacks.selection.schedule={schedule}", f"callbacks.selection.keep={keep}"]
    (callback,) = build_callbacks(composed("callbacks/selection=uds", *overrides))
    assert callback.schedule == Schedule(start=0.1, every=2)
    assert callback.keep == Anneal(begin=1.0, end=0.2)


def test_two_recipes_at_once_each_with_its_own_parts(composed) -> None:
    first, second = build_callbacks(
        composed(
            "callbacks/selection=uds",
            "+callbacks/selection@callbacks.second=rho_loss",
            "callbacks/selection/selector@callbacks.second.selector=band",
            "callbacks.second.keep=0.5",
        )
    )
    assert (first.name, first.keep, type(first.selector).__name__) == ("uds", 0.125, "Diverse")
    assert (second.name, second.keep, type(second.selector).__name__) == ("rho_loss", 0.5, "Band")


@pytest.mark.parametrize("choice", ["callbacks/selection=none", "seed=0"])
def test_none_is_no_callback(composed, choice) -> None:
    assert build_callbacks(composed(choice)) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("callbacks/selection=udss", "Available options in 'callbacks/selection':\n\tbalanced_difficulty"),
        ("callbacks/selection/score=el3n", "el3n"),
        ("callbacks.selection.kep=0.5", "Could not override 'callbacks.selection.kep'"),
        ("callbacks/selektion=uds", "Could not override 'callbacks/selektion'"),
    ],
)
def test_what_is_misspelt_is_an_error(composed, override, told) -> None:
    with pytest.raises(HydraException, match=told):
        composed("callbacks/selection=el2n", override) if "=uds" not in override else composed(override)


def test_the_default_of_the_command_is_complete(composed) -> None:
    config = composed()
    model, data = instantiate(config.model), instantiate(config.data)
    for key, made in (("model", model), ("data", data)):
        assert set(config[key]) == {"_target_", *inspect.signature(type(made)).parameters}
    assert config.task == "fit"


def test_the_demo_compares_what_it_says(composed) -> None:
    config: Any = composed("experiment=noisy_digits")
    names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in config.methods]
    assert names == ["uniform", "dynamic_loss", "balanced_difficulty", "uds", "rho_loss"]
    assert (config.task, config.seeds, config.data.noise) == ("compare", 3, 0.2)
