"""Laws for every sampler; a new file is found and held to them by itself."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.progress import Progress
from lightning_select.samplers.success import with_success
from tests.fitting import Rows, same, trainer, weights_of
from tests.methods import camel, class_of, modules_of
from tests.modules import Classifier
from tests.samplers.presets import preset
from tests.samplers.runs import generator
from tests.samplers.waits import waits

CONFIGS = Path(__file__).parent.parent / "configs" / "sampler"
PRESETS = {path.stem for path in CONFIGS.glob("*.yaml")} - {"none"}
NAMES = [name for name in modules_of("sampler") if issubclass(class_of("sampler", name), OnlineSampler)]
EVERY = pytest.mark.parametrize("name", NAMES)
PRESET = pytest.mark.parametrize("name", sorted(PRESETS))
ROWS = 60
COMMON = {"num_samples": None, "seed": 0, "id_key": None, "lag": 0}


def data_of(name: str, rows: int) -> dict[str, Any]:
    """What a sampler must be told about the rows."""
    labels = ["ab"[row % 2] for row in range(rows)]
    return {
        "category_bandit": {"categories": labels},
        "end_upsampling": {"domains": labels, "weights": {"a": 1.0, "b": 1.0}, "end_weights": {"a": 1.0, "b": 9.0}},
        "group_balanced": {"groups": labels},
        "quota": {"pass_rates": [(row % 5) / 4 for row in range(rows)]},
        "weighted": {"weights": [1.0 + row % 3 for row in range(rows)]},
    }.get(name, {})


def make(name: str, rows: int = ROWS, **kwargs: Any) -> OnlineSampler:
    sampler = class_of("sampler", name)(rows, **data_of(name, rows), **kwargs)
    sampler.progress = Progress(step=0, total_steps=100, max_epochs=9)
    return sampler


def said(ids: Tensor, step: int = 0) -> dict[str, Tensor]:
    """What a model might say about rows."""
    losses = ((ids.clamp(min=0) * 37 + step * 11) % 19).float() / 4
    attempts = torch.arange(4)
    return {"loss": losses, "reward": ((ids[:, None] * 7 + step + attempts) % 3 == 0).float()}


def observe(sampler: OnlineSampler, ids: Tensor, step: int = 0, **changes: Tensor) -> None:
    sampler.observe(ids, {**said(ids, step), **changes})


def train(sampler: OnlineSampler, steps: int, size: int = 8, lead: int = 0) -> list[list[int]]:
    """As many batches as asked for, over as many epochs as it takes."""
    sampler.bind(size, lead, torch.device("cpu"))
    done: list[list[int]] = []
    while len(done) < steps:
        rows, waiting = iter(sampler), []
        while len(done) < steps:
            while len(waiting) <= lead:
                batch = [row for _, row in zip(range(size), rows, strict=False)]
                if not batch:
                    break
                waiting.append(batch)
            if not waiting:
                sampler.close_epoch()
                break
            batch = waiting.pop(0)
            sampler.arrived(batch)
            observe(sampler, torch.tensor(batch), sampler.updates)
            done.append(batch)
    return done


def passed_on(state: Any) -> Any:
    """A state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_there_are_all_samplers_and_each_has_a_config() -> None:
    assert len(NAMES) >= 12
    assert set(NAMES) <= PRESETS


@EVERY
def test_it_says_where_it_comes_from(name: str) -> None:
    module = importlib.import_module(f"lightning_select.samplers.{name}")
    assert "References:" in str(module.__doc__)
    assert "Deviations:" in str(module.__doc__)
    assert camel(name) in module.__all__
    assert len(module.__all__) >= 2, "a pure function beside the class"


@PRESET
def test_its_config_builds_it_with_every_argument(name: str) -> None:
    config = OmegaConf.create(preset(name))
    module, _, kind = config._target_.rpartition(".")
    parameters = dict(inspect.signature(getattr(importlib.import_module(module), kind)).parameters)
    del parameters["dataset"]
    held = {key: config._get_node(key) for key in config if key not in ("_target_", "_partial_")}
    assert held.keys() == parameters.keys()
    assert config._partial_
    plain = module.rpartition(".")[2] == name
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert OmegaConf.is_missing(config, key)
        elif plain and hasattr(parameter.default, "begin"):
            assert hydra.utils.instantiate(config[key]) == parameter.default
        elif plain:
            value = config[key]
            assert (tuple(value) if isinstance(parameter.default, tuple) else value) == parameter.default
    missing = data_of(module.rpartition(".")[2], ROWS)
    made = hydra.utils.instantiate(config, **missing)(ROWS)
    made.progress = Progress(step=0, total_steps=100, max_epochs=9)
    assert isinstance(made, OnlineSampler)
    assert len(list(made)) == len(made)


@EVERY
def test_it_takes_what_all_samplers_take(name: str) -> None:
    parameters = inspect.signature(class_of("sampler", name)).parameters
    assert {key: parameters[key].default for key in COMMON} == COMMON
    assert make(name, seed=1).seed == 1


@EVERY
@pytest.mark.parametrize("count", [1, 7, 3 * ROWS])
def test_it_draws_as_many_rows_as_asked(name: str, count: int) -> None:
    sampler = make(name)
    observe(sampler, torch.arange(ROWS))
    sampler.begin()
    drawn = sampler.draw(count, generator())
    assert drawn.ids.dtype == torch.int64
    assert drawn.ids.shape == (count,)
    assert ((drawn.ids >= 0) & (drawn.ids < ROWS)).all()
    if drawn.weights is not None:
        assert drawn.weights.shape == (count,)
        assert (drawn.weights.isfinite() & (drawn.weights >= 0)).all()


@EVERY
def test_draws_depend_on_state_and_generator_alone(name: str) -> None:
    one, two = make(name), make(name)
    state = torch.get_rng_state()
    for sampler in (one, two):
        observe(sampler, torch.arange(ROWS))
        sampler.begin()
    torch.manual_seed(5)
    first = one.draw(20, generator(3)).ids
    torch.manual_seed(6)
    assert torch.equal(first, two.draw(20, generator(3)).ids)
    torch.set_rng_state(state)
    two.draw(20, generator(4))
    assert torch.equal(state, torch.get_rng_state())


@EVERY
@pytest.mark.parametrize("lead", [0, 3])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_resumed_run_is_the_uninterrupted_one(name: str, lead: int, stop: int) -> None:
    whole = train(make(name), 14, lead=lead)
    first = make(name)
    before = train(first, stop, lead=lead)
    again = make(name)
    again.bind(8, lead, torch.device("cpu"))
    again.load_state_dict(passed_on(first.state_dict()))
    assert before + train(again, 14 - stop, lead=lead) == whole


@EVERY
def test_it_can_be_copied_and_pickled(name: str) -> None:
    sampler = make(name)
    train(sampler, 3)
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler))):
        assert train(twin, 4) == train(copy.deepcopy(sampler), 4)


@EVERY
def test_neither_drawing_nor_learning_waits_for_a_device(name: str) -> None:
    sampler = make(name)
    train(sampler, 3)
    ids = torch.arange(8)
    signals = with_success("test", said(ids))
    made = generator()
    assert waits(sampler, lambda: sampler.draw(8, made)) == []
    assert waits(sampler, lambda: sampler.observe(ids, signals)) == []


@EVERY
def test_padding_repeated_rows_and_losses_that_are_not_finite(name: str) -> None:
    sampler = make(name)
    ids = torch.tensor([3, -1, 3, 5, -1, 7])
    losses = torch.tensor([1.0, torch.nan, 2.0, torch.nan, 5.0, torch.inf])
    reward = said(ids)["reward"].index_fill(0, torch.tensor([1, 4]), torch.nan)
    observe(sampler, ids, loss=losses, reward=reward)
    observe(sampler, torch.full((4,), -1), loss=torch.full((4,), torch.nan), reward=torch.full((4, 2), torch.nan))
    rows = train(sampler, 10)
    assert {row for batch in rows for row in batch} <= set(range(ROWS))
    for value in sampler.metrics().values():
        assert torch.as_tensor(value).isfinite().all()


@EVERY
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(name: str, rows: int) -> None:
    if name == "category_bandit" or data_of(name, rows).get("domains"):
        rows = max(rows, 2)
    sampler = make(name, rows)
    assert {row for batch in train(sampler, 6, size=2) for row in batch} <= set(range(rows))


@EVERY
def test_it_never_starves(name: str) -> None:
    """Whatever the model says of all rows: always right, always wrong, no loss at all."""
    for reward, loss in ((1.0, 0.0), (0.0, 1e9), (0.0, -1.0)):
        sampler: Any = make(name)
        ids = torch.arange(ROWS)
        for _ in range(5):
            sampler.observe(ids, {"reward": torch.full((ROWS, 4), reward), "loss": torch.full((ROWS,), loss)})
        assert len(train(sampler, 12)) == 12


@EVERY
def test_the_length_of_an_epoch_is_what_it_says(name: str) -> None:
    sampler = make(name)
    observe(sampler, torch.arange(ROWS))
    for _ in range(3):
        assert len(list(sampler)) == len(sampler)


@EVERY
def test_metrics_are_numbers(name: str) -> None:
    sampler = make(name)
    train(sampler, 4)
    metrics: Mapping[str, Any] = sampler.metrics()
    assert all(torch.as_tensor(value).numel() == 1 for value in metrics.values())


class Rewarded(Classifier):
    """Says how often it was right, beside its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():  # behind the loss: torch 2.6 keeps what autocast casts here, without a gradient
            right = self(batch[0]).argmax(dim=1) == batch[1]
        return {
            "loss": loss,
            "reward": torch.stack([right, torch.ones_like(right)], dim=1).float(),
        }


@EVERY
@pytest.mark.parametrize("workers", [0, 2])
def test_a_script_becomes_adaptive_by_one_word(name: str, workers: int) -> None:
    def fit(rows: Any, **kwargs: Any) -> Any:
        torch.manual_seed(1)
        module, done = Rewarded(), trainer(max_epochs=2)
        done.fit(module, DataLoader(Rows(rows=ROWS), 8, num_workers=workers, **kwargs))
        return done

    sampler = make(name)
    done = fit(ROWS, sampler=sampler)
    assert sampler.updates == (2 * done.num_training_batches if sampler.needs else 0)
    assert done.global_step == 2 * -(-len(sampler) // 8)
    assert done.callback_metrics["sampler/lag"] == 4 * (workers > 0) or len(sampler) < 40
    assert not same(weights_of(done), weights_of(fit(ROWS, shuffle=True)))


def leaves(state: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """All that is in a state, and where."""
    inside = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else None
    return [(path, state)] if inside is None else [leaf for key, one in inside for leaf in leaves(one, (*path, key))]


def spoilt(state: Any, path: tuple[Any, ...]) -> Any:
    """A copy with what no state holds in one place."""
    twin = part = copy.deepcopy(state)
    for key in path[:-1]:
        part = part[key]
    value = part[path[-1]]
    part[path[-1]] = value.fill_(-torch.inf if value.is_floating_point() else -9) if isinstance(value, Tensor) else -9
    return twin


def place(state: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value in one place."""
    twin = part = copy.deepcopy(state)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return twin


@EVERY
def test_a_state_that_is_refused_changes_nothing(name: str) -> None:
    first = make(name)
    train(first, 5)
    good, refused = passed_on(first.state_dict()), 0
    for path, _ in leaves(good["learnt"], ("learnt",)):
        sampler = make(name)
        train(sampler, 3)
        before = leaves(passed_on(sampler.state_dict()))
        try:
            sampler.load_state_dict(spoilt(good, path))
        except ConfigurationError:
            refused += 1
            assert str(leaves(sampler.state_dict())) == str(before), path
    assert refused


MODES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    ("weighted", {"replacement": False}),
    ("loss_proportional", {"replacement": False, "beta": 0.5}),
    ("info_batch", {"mode": "shrinking"}),
]
EVERY_MODE = pytest.mark.parametrize(("name", "mode"), MODES, ids=str)


@EVERY_MODE
def test_training_does_not_write_into_a_state(name: str, mode: dict[str, Any]) -> None:
    """Neither into one that it gave, nor into one that it was given."""
    first = make(name, **mode)
    train(first, 5)
    given = first.state_dict()
    kept = str(leaves(passed_on(given)))
    train(first, 7)
    assert str(leaves(given)) == kept
    second = make(name, **mode)
    second.load_state_dict(given)
    train(second, 13)
    assert str(leaves(given)) == kept


KINDS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@EVERY_MODE
def test_a_state_in_other_kinds_of_numbers_is_taken_over_or_refused(name: str, mode: dict[str, Any]) -> None:
    """Where nothing was lost, it draws the rows of the one that was not changed."""
    first = make(name, **mode)
    train(first, 13)
    good = passed_on(first.state_dict())
    same = make(name, **mode)
    same.load_state_dict(good)
    expected = train(same, 6)
    for path, value in leaves(good):
        if not isinstance(value, Tensor) or value.dtype == torch.bool:
            continue
        for kind in (kind for kind in KINDS if kind.is_floating_point == value.is_floating_point()):
            other = place(good, path, value.to(kind))
            lossless = torch.equal(value.to(kind).to(value.dtype).nan_to_num(-3), value.nan_to_num(-3))
            sampler = make(name, **mode)
            try:
                sampler.load_state_dict(other)
            except ConfigurationError:
                assert not lossless, (path, kind)
                continue
            drawn = train(sampler, 6)
            assert not lossless or drawn == expected, (path, kind)


@EVERY
def test_whole_numbers_and_those_of_numpy_are_taken_for_what_is_meant(name: str) -> None:
    parameters = inspect.signature(class_of("sampler", name)).parameters
    whole = {"num_samples": 24, "seed": 3, "lag": 1}
    given = [(whole, {key: np.int64(value) for key, value in whole.items()})]
    for key, number in ((key, float(number)) for key in parameters for number in (0, 1)):
        default = parameters[key].default
        if isinstance(default, float) or hasattr(default, "begin"):
            given += [({key: number}, {key: int(number)}), ({key: number}, {key: np.float32(number)})]
    for plain, other in given:
        try:
            one, two = make(name, **plain), make(name, **other)
        except ArgumentError:
            continue
        untouched = passed_on(two.state_dict())
        assert train(one, 4) == train(two, 4)
        state, again = passed_on(one.state_dict()), passed_on(two.state_dict())
        for sampler in (one, two, make(name, **plain), make(name, **other)):
            for held in (state, again, untouched):
                sampler.load_state_dict(held)
