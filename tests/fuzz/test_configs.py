"""Overrides of our config groups, right and wrong: what they describe works, or an error says which value is wrong.

Errors of Hydra that count as clear: a group, key or value that it cannot compose (`HydraException` at composing), what
OmegaConf cannot resolve (`OmegaConfBaseException`), and an argument that a class does not have or lacks
(`InstantiationException` caused by a `TypeError` about arguments). Any other exception of a constructor is a fault.
Where the tests run with types checked, these checks come before our own, and their errors count too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_select.app.building import build_callbacks, instantiate
from lightning_select.app.config_path import PRIMARY, app_folder, register_configs
from lightning_select.app.hydra_versions import BASE
from lightning_select.errors import SelectionError
from lightning_select.samplers.progress import Progress
from tests.fitting import fit
from tests.fuzz.budget import fuzz
from tests.fuzz.damage import in_bounds
from tests.modules import Classifier

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = ("callbacks/selection", "sampler", "rollouts/filter", "rollouts/loss", "rollouts/refill", "rollouts/screening")
CHOICES = [
    (group, file.stem)
    for group in GROUPS
    for file in sorted((CONFIGS / group).glob("*.yaml"))
    if file.stem not in ("none", "rho_loss")  # whose reference trains for many epochs
]
VALUES = (
    *("0", "1", "2", "-1", "7", "0.0", "0.3", "0.5", "1.0", "1.5", "-0.5", "nan", "inf", "-inf", "1e-9", "1e30"),
    *("null", "true", "false", "text", "''", "[]", "[0.1,0.9]", "[0.9,0.1]", "[1,2,3]", "[a,b]", "{}", "{a:1.0}"),
    *("100000", "${seed}", "${nothing}", "???", "uniform", "linupper", "top_k", "mean", "thompson", "constant"),
    "{_target_:lightning_select.schedule.Anneal,begin:1.0,end:0.2}",
    "{_target_:lightning_select.schedule.Anneal,begin:2,end:-1}",
    "{_target_:lightning_select.schedule.Anneal,begin:x,end:1}",
    "{_target_:lightning_select.schedule.Schedule,start:0.1,every:2}",
    "{_target_:lightning_select.schedule.Schedule,every:0}",
    "{_target_:lightning_select.nothing.There}",
)
ARGUMENTS = re.compile("unexpected keyword argument|missing .* required|takes .* argument|got multiple values")
MISSING = "Error locating target"


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register_configs()
    with initialize_config_dir(str(app_folder()), **BASE):
        yield


@functools.cache
def keys(group: str, choice: str) -> tuple[str, ...]:
    """Every value of a choice that can be overridden."""
    config: Any = OmegaConf.select(composed(group, choice, ()), group.replace("/", "."))

    def below(part: Any, path: str) -> Iterator[str]:
        for key in part:
            here, value = f"{path}.{key}", part._get_node(key)
            if isinstance(value, DictConfig) and not value._is_none():
                yield from below(value, here)
            elif key not in ("_target_", "_partial_"):
                yield here

    return tuple(below(config, group.replace("/", ".")))


def composed(group: str, choice: str, overrides: tuple[str, ...]) -> Any:
    known = group in ("callbacks/selection", "sampler")
    return compose(PRIMARY, overrides=[f"{'' if known else '+'}{group}={choice}", *overrides])


@st.composite
def choices(draw: Any) -> tuple[str, str, tuple[str, ...]]:
    group, choice = draw(st.sampled_from(CHOICES))
    some = st.tuples(
        st.sampled_from([*keys(group, choice), f"{group.replace('/', '.')}.nothing"]), st.sampled_from(VALUES)
    )
    changes = draw(st.lists(some, max_size=3))
    return group, choice, tuple(f"{draw(st.sampled_from(['', '', '', '+', '++']))}{k}={v}" for k, v in changes)


def build(group: str, config: Any) -> Any:
    """What a choice describes, built as the application does."""
    if group == "callbacks/selection":
        return build_callbacks(config)
    return instantiate(OmegaConf.select(config, group.replace("/", ".")))


def use(group: str, made: Any) -> None:
    """Train, or draw, for a few steps."""
    if group == "callbacks/selection":
        fit(Classifier, *made, max_steps=2, max_epochs=1)
    if group == "sampler":
        sampler = made(40)
        sampler.progress = Progress(step=0, total_steps=100, max_epochs=9)
        for _, row in zip(range(9), sampler, strict=False):
            assert 0 <= row < 40


@pytest.mark.filterwarnings("ignore")
@given(choices())
@fuzz(0.04, quick=40)
def test_overrides_work_or_say_what_is_wrong(case: tuple[str, str, tuple[str, ...]]) -> None:
    group, choice, overrides = case
    try:
        config = composed(group, choice, overrides)
    except (HydraException, OmegaConfBaseException):
        return
    with in_bounds():
        try:
            use(group, build(group, config))
        except (SelectionError, OmegaConfBaseException):
            return
        except (InstantiationException, TypeError) as error:
            clear = isinstance(error.__cause__, (OmegaConfBaseException, ImportError)) or MISSING in str(error)
            checked = "TypeCheckError" in (type(error).__name__, type(error.__cause__).__name__)
            if not clear and not checked and not ARGUMENTS.search(str(error)):
                raise


def test_there_are_choices_of_every_group() -> None:
    assert {group for group, _ in CHOICES} == set(GROUPS)
    assert all(keys(*choice) for choice in CHOICES if choice[1] not in ("zero_variance", "top1", "vade", "speed"))
    assert torch.get_default_dtype() == torch.float32
