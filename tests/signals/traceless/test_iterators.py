"""What is drawn from an iterator cannot be put back: it is as in plain training, or it is said."""

from __future__ import annotations

import itertools
import queue
import sqlite3
import tempfile
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, SelectionReport, Signals
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.signals.traceless.snapshot import ModuleKeeper
from tests.fitting import First, fit, same, weights_of
from tests.modules import Base
from tests.test_laws import CutByHand

CALLBACKS = {
    "reweighting": lambda: LossReweighting(torch.ones_like),
    "selection": lambda: BatchSelection(Loss(), First(), keep=4),
}


class Held:
    """A plain object."""

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn


PLACES = {
    "attribute": (lambda m, it: setattr(m, "drawn", it), lambda m: m.drawn),
    "submodule": (lambda m, it: setattr(m.net[1], "drawn", it), lambda m: m.net[1].drawn),
    "list": (lambda m, it: setattr(m, "held", [0, it]), lambda m: m.held[1]),
    "dict": (lambda m, it: setattr(m, "held", {"drawn": [it]}), lambda m: m.held["drawn"][0]),
    "object": (lambda m, it: setattr(m, "held", (Held(it),)), lambda m: m.held[0].drawn),
}
ONE_WAY = {
    "generator": lambda: (float(n) for n in range(1000)),
    "count": itertools.count,
    "cycle": lambda: itertools.cycle(range(1000)),
    "map": lambda: map(float, range(1000)),
    "dict": lambda: iter(dict.fromkeys(range(1000))),
    "loader": lambda: iter(DataLoader(range(1000), batch_size=None)),
}
COPIED = {
    "list": lambda: iter(list(range(1000))),
    "tuple": lambda: iter(tuple(range(1000))),
    "range": lambda: iter(range(1000)),
}


class Drawing(Base):
    """Adds a penalty with a factor that it draws, and remembers what it drew."""

    def __init__(self, make: Any = ONE_WAY["generator"], place: str = "attribute") -> None:
        super().__init__()
        put, self.find = PLACES[place]
        put(self, make())
        self.seen: list[float] = []

    def draw(self) -> float:
        return float(next(self.find(self)))

    def training_step(self, batch, batch_idx):
        factor = self.draw()
        self.seen.append(factor)
        return F.cross_entropy(self(batch[0]), batch[1]) + factor * self.net[0].weight.square().mean()


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize(
    ("kind", "place"), [*((kind, "attribute") for kind in ONE_WAY), *(("generator", place) for place in PLACES)]
)
def test_a_draw_that_cannot_be_put_back_is_refused_before_it_is_made(kind: str, place: str, callback: str) -> None:
    module = Drawing(ONE_WAY[kind], place)
    held, before = module.find(module), weights_of_module(module)
    with pytest.raises(TrainingStepContractError, match=r"^Drawing\.training_step must not draw .* selection_step"):
        fit(module, CALLBACKS[callback]())
    assert module.find(module) is held
    assert (next(held), module.seen) == (0, [])
    assert same(before, weights_of_module(module))


def weights_of_module(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("kind", COPIED)
def test_iterators_that_say_where_they_are_are_put_back(kind: str) -> None:
    plain, ours = Drawing(COPIED[kind]), Drawing(COPIED[kind])
    ours.load_state_dict(plain.state_dict())
    cut, chosen = Drawing(COPIED[kind]), Drawing(COPIED[kind])
    chosen.load_state_dict(cut.state_dict())
    assert same(weights_of(fit(plain)), weights_of(fit(ours, CALLBACKS["reweighting"]())))
    assert same(weights_of(fit(cut, CutByHand(4))), weights_of(fit(chosen, CALLBACKS["selection"]())))
    assert plain.seen == ours.seen == cut.seen == chosen.seen == list(range(12))


@pytest.mark.parametrize("kind", ["generator", "loader"])
def test_a_report_reads_nothing_and_training_goes_on(kind: str, tmp_path: Any) -> None:
    plain, ours = Drawing(ONE_WAY[kind]), Drawing(ONE_WAY[kind])
    ours.load_state_dict(plain.state_dict())
    assert same(weights_of(fit(plain)), weights_of(fit(ours, SelectionReport(), default_root_dir=tmp_path)))
    assert plain.seen == ours.seen == list(range(12))


class Asked(Drawing):
    """The first way out of the message."""

    def selection_step(self, batch):
        return Signals(loss=F.cross_entropy(self(batch[0]), batch[1], reduction="none"))


class Before(Drawing):
    """The second."""

    def on_train_batch_start(self, batch, batch_idx):
        self.now = float(next(self.find(self)))

    def draw(self) -> float:
        return self.now


@pytest.mark.parametrize(("kind", "callback"), [(Asked, "reweighting"), (Asked, "selection"), (Before, "reweighting")])
def test_the_ways_out_draw_like_plain_training(kind: Any, callback: str) -> None:
    plain, ours = kind(), kind()
    ours.load_state_dict(plain.state_dict())
    expected = weights_of(fit(plain, *([CutByHand(4)] if callback == "selection" else [])))
    assert same(expected, weights_of(fit(ours, CALLBACKS[callback]())))
    assert plain.seen == ours.seen == list(range(12))


class Position:
    """Counts; its place is an attribute."""

    def __init__(self) -> None:
        self.n = -1

    def __iter__(self) -> Position:
        return self

    def __next__(self) -> int:
        self.n += 1
        return self.n


def test_an_iterator_that_is_an_object_is_put_back_like_any_object() -> None:
    plain, ours = Drawing(Position), Drawing(Position)
    ours.load_state_dict(plain.state_dict())
    assert same(weights_of(fit(plain)), weights_of(fit(ours, CALLBACKS["reweighting"]())))
    assert plain.seen == ours.seen == list(range(12))


def test_what_is_held_and_not_drawn_from_is_there_again() -> None:
    module = nn.Linear(1, 1)
    module.one, module.many = (n for n in range(3)), [iter([1]), {"a": itertools.count()}]
    held = [module.one, module.many[0], module.many[1]["a"]]
    keeper = ModuleKeeper(module)
    for _ in range(3):
        with keeper.kept():
            module.one = None
    assert [module.one, module.many[0], module.many[1]["a"]] == held
    assert [next(iterator) for iterator in held] == [0, 1, 0]


def test_files_mocks_and_what_talks_to_the_outside_stay_in_their_place() -> None:
    class Live(dict):
        """Is not put back as an object, for its queue."""

        def __init__(self) -> None:
            super().__init__(inner=(n for n in range(3)))
            self.queue, self.drawn = queue.Queue(), (n for n in range(3))

    module = nn.Linear(1, 1)
    live = Live()
    drawn, inner = live.drawn, live["inner"]
    with tempfile.TemporaryFile("w") as file:
        module.file, module.mock, module.live = file, MagicMock(), live
        held = [module.file, module.mock]
        with ModuleKeeper(module).kept():
            assert [module.file, module.mock] == held
            assert live.drawn is drawn
            module.file.write("a line")
        with pytest.raises(TrainingStepContractError, match=r"got 'inner', a generator\."), ModuleKeeper(module).kept():
            next(live["inner"])
    assert live.drawn is drawn
    assert live["inner"] is inner


class Swallowing(Drawing):
    """Passes over what it cannot draw; an endless loop, if that is everything."""

    def draw(self) -> float:
        for _ in range(100):
            try:
                return super().draw()
            except Exception:
                continue
        return 0.0


@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_step_that_passes_over_errors_does_not_pass_over_this_one(callback: str) -> None:
    module = Swallowing()
    with pytest.raises(TrainingStepContractError, match=r"^Swallowing\.training_step must not draw"):
        fit(module, CALLBACKS[callback]())
    assert (next(module.drawn), module.seen) == (0, [])


class Asking(Before):
    """Draws in a hook; its step asks what else there is to know."""

    def __init__(self) -> None:
        super().__init__(lambda: iter(DataLoader(range(1000), batch_size=None)))
        table = sqlite3.connect(":memory:")
        table.execute("create table factors (factor real)")
        table.execute("insert into factors values (2.0)")
        self.cursor = table.cursor()
        self.both = CombinedLoader([DataLoader(range(4))], "min_size")

    def draw(self) -> float:
        (factor,) = self.cursor.execute("select factor from factors").fetchone()
        (first,), _, _ = next(iter(self.both))
        return float(first) + factor * hasattr(self.drawn, "_num_workers") + len(self.drawn) + super().draw()


def test_what_is_asked_without_drawing_is_answered() -> None:
    plain, ours = Asking(), Asking()
    ours.load_state_dict(plain.state_dict())
    assert same(weights_of(fit(plain)), weights_of(fit(ours, CALLBACKS["reweighting"]())))
    assert plain.seen == ours.seen == [1002.0 + n for n in range(12)]
    for name in ("send", "close"):
        module = Drawing()
        module.draw = lambda module=module, name=name: getattr(module.drawn, name)() or 0.0
        with pytest.raises(TrainingStepContractError, match="must not draw"):
            fit(module, CALLBACKS["selection"]())


class RunsOut(Base):
    """Draws from what nobody sees; plain training ends the epoch there, without a word."""

    def __init__(self) -> None:
        super().__init__()
        there = iter([0, 0])
        self.draw = lambda: next(there)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1]) + self.draw()


@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_epoch_does_not_end_in_silence(callback: str) -> None:
    with pytest.raises(TrainingStepContractError, match=r"^RunsOut\.training_step must not let a StopIteration out"):
        fit(RunsOut(), CALLBACKS[callback]())
