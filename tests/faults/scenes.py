"""Fits in which something goes wrong: every callback and sampler, alone and together, and a fuse at every place."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from lightning_select import Anneal, BatchSelection, LossReweighting, SelectionReport
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.info_batch import InfoBatch
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.types import Selection
from tests.fitting import Rows
from tests.fitting import trainer as make_trainer
from tests.modules import CLASSES, FEATURES, Base

ROWS, SIZE, EPOCHS = 40, 8, 2
STEPS = EPOCHS * ROWS // SIZE


class BoomError(Exception):
    """Goes wrong."""


@dataclass
class Fuses:
    """One fuse for every place.

    That of ``place`` burns at its ``at``-th call and ever after: it raises ``error``, or
    does what ``act`` says. Calls are counted.

    A part of a module holds no more of one than a number: what a module holds is put back after every scoring pass.
    """

    place: str = ""
    at: int = 1
    error: Callable[[str], BaseException] = BoomError
    act: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.number = len(_FUSES)
        _FUSES.append(self)

    def __call__(self, place: str) -> None:
        self.calls[place] += 1
        if place == self.place and self.calls[place] >= self.at:
            if self.act is None:
                raise self.error("mine")
            self.act()


_FUSES: list[Fuses] = []


class Module(Base):
    """Has what a step can touch: BatchNorm, dropout, a counter, a list; and fuses."""

    def __init__(self, fuses: Fuses) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, 12), torch.nn.BatchNorm1d(12), torch.nn.Dropout(0.2), torch.nn.Linear(12, CLASSES)
        )
        self.number, self.counter, self.seen = fuses.number, 0, []

    def fuse(self, place: str) -> None:
        _FUSES[self.number](place)

    def training_step(self, batch, batch_idx):
        self.counter += 1
        x, y = batch
        z = self(x)
        self.fuse("a scoring pass" if "log" in vars(self) else "the training pass")  # scoring mutes the module
        loss = F.cross_entropy(z, y)
        self.seen.append(loss.detach())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.fuse("validation")
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def on_before_backward(self, loss: Tensor) -> None:
        if torch.is_grad_enabled() and loss.requires_grad:
            loss.register_hook(self._hook)

    def _hook(self, gradient: Tensor) -> None:
        self.fuse("backward")

    def configure_optimizers(self) -> Any:
        self.fuse("configure_optimizers")
        optimizer = Sgd(self.parameters(), _FUSES[self.number])
        moves = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": moves, "interval": "step"}}

    def _rate(self, step: int) -> float:
        if step:
            self.fuse("a learning-rate schedule")
        return 1.0 / (1 + step)


class Sgd(torch.optim.SGD):
    def __init__(self, parameters: Any, fuses: Fuses) -> None:
        super().__init__(parameters, lr=0.05, momentum=0.9)
        self.fuses = fuses

    def step(self, closure: Any = None) -> Any:
        result = super().step(closure)
        self.fuses("optimizer.step")
        return result


class Data(Rows):
    def __init__(self, fuses: Fuses) -> None:
        super().__init__(rows=ROWS)
        self.fuses = fuses

    def __getitem__(self, position: int) -> Any:
        self.fuses("the dataset")
        return super().__getitem__(position)


@dataclass(frozen=True)
class Collate:
    fuses: Fuses

    def __call__(self, items: Any) -> Any:
        self.fuses("collate")
        return default_collate(items)


@dataclass(frozen=True)
class Score:
    fuses: Fuses
    needs: frozenset[str] = frozenset({"loss"})

    def __call__(self, signals: Any) -> Tensor:
        self.fuses("a score")
        return Loss()(signals)


@dataclass(frozen=True)
class Selector:
    """With a memory, which has to be told apart from that of another fit."""

    fuses: Fuses
    needs: frozenset[str] = frozenset()
    with_replacement: bool = False

    def __call__(self, scores: Tensor, count: int, context: Any) -> Selection:
        self.fuses("a selector")
        before = context.state.get("mean", torch.zeros(()))
        picked = TopK()(scores + 0.1 * before, count, context)
        return Selection(picked.index, state={"mean": 0.5 * before + 0.5 * scores.mean()})


@dataclass(frozen=True)
class Weighting:
    fuses: Fuses

    def __call__(self, losses: Tensor) -> Tensor:
        self.fuses("a weighting")
        return (losses - losses.mean()).tanh().add(1.5)


class Moving(Anneal):
    """A schedule of the user's own."""

    fuses: Any = None

    def at(self, step: int, total: int | None) -> float:
        if self.fuses is not None:
            self.fuses("an annealed value")
        return super().at(step, total)


class Log(Logger):
    name = version = "log"

    def __init__(self, fuses: Fuses) -> None:
        super().__init__()
        self.fuses = fuses

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.fuses("the logger")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self.fuses("hyperparameters")


class Other(pl.Callback):
    """Another callback of the user's, with a fuse in many of its hooks."""

    def __init__(self, fuses: Fuses, which: str) -> None:
        self.fuses, self.which = fuses, which

    @property
    def state_key(self) -> str:
        return self.which


def _hook(name: str) -> Callable[..., None]:
    def hook(self: Other, *args: Any, **kwargs: Any) -> None:
        self.fuses(f"{name} of the {self.which} callback")

    return hook


HOOKS = (
    *("setup", "teardown", "on_fit_start", "on_sanity_check_start", "on_train_start", "on_train_epoch_start"),
    *("on_train_batch_start", "on_before_zero_grad", "on_before_optimizer_step", "on_after_backward"),
    *("on_train_batch_end", "on_validation_start", "on_validation_end", "on_train_epoch_end", "on_train_end"),
    "on_fit_end",
)
for _name in HOOKS:
    setattr(Other, _name, _hook(_name))


def _drawing(kind: type[Any]) -> type[Any]:
    """A sampler with a fuse in its draws; its name is that of the sampler."""

    class Drawing(kind):
        owner = kind.__name__
        fuses: Any = None

        def draw(self, count: int, generator: torch.Generator) -> Any:
            self.fuses("a draw")
            return super().draw(count, generator)

        def learn(self, ids: Tensor, signals: Any) -> None:
            self.fuses("what a sampler learns")
            super().learn(ids, signals)

    return Drawing


SAMPLERS = {
    name: _drawing(kind)
    for name, kind in {
        "loss_proportional": LossProportional,
        "beta_posterior": BetaPosterior,
        "info_batch": InfoBatch,
    }.items()
}


def _selection(fuses: Fuses) -> Any:
    keep = Moving(0.75, 0.5, start=0, stop=STEPS)
    object.__setattr__(keep, "fuses", fuses)
    return BatchSelection(Score(fuses), Selector(fuses), keep=keep)


CALLBACKS: dict[str, Callable[[Fuses, Path], list[Any]]] = {
    "selection": lambda fuses, folder: [_selection(fuses)],
    "reweighting": lambda fuses, folder: [LossReweighting(Weighting(fuses))],
    "report": lambda fuses, folder: [SelectionReport(folder=folder)],
}
SETUPS: dict[str, tuple[tuple[str, ...], str]] = {
    "nothing of ours": ((), ""),
    "selection": (("selection",), ""),
    "reweighting": (("reweighting",), ""),
    "report": (("report",), ""),
    "loss_proportional": ((), "loss_proportional"),
    "beta_posterior": ((), "beta_posterior"),
    "info_batch": ((), "info_batch"),
    "selection and a sampler": (("selection",), "loss_proportional"),
    "everything": (("report", "reweighting", "selection"), "info_batch"),
    "everything, the other way round": (("selection", "reweighting", "report"), "loss_proportional"),
}
"""The callbacks and the sampler of each kind of fit."""


@dataclass
class Scene:
    """All that takes part in one fit.

    Attributes:
        kind: One of `SETUPS`.
        folder: Where a report goes.
        fuses: What burns.
        workers: Of the training loader.
    """

    kind: str
    folder: Path
    fuses: Fuses = field(default_factory=Fuses)
    workers: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names, sampler = SETUPS[self.kind]
        torch.manual_seed(3)
        random.seed(3)
        self.module = Module(self.fuses)
        self.callbacks = [one for name in names for one in CALLBACKS[name](self.fuses, self.folder)]
        self.data = Data(self.fuses)
        draws: dict[str, Any] = {"shuffle": True}
        if sampler:
            draws = {"sampler": SAMPLERS[sampler](self.data)}
            draws["sampler"].fuses = self.fuses
        self.loader = DataLoader(self.data, SIZE, num_workers=self.workers, collate_fn=Collate(self.fuses), **draws)
        self.trainer = self.new_trainer()

    def new_trainer(self, **kwargs: Any) -> pl.Trainer:
        others = Other(self.fuses, "first"), Other(self.fuses, "last")
        settings: dict[str, Any] = {"max_epochs": EPOCHS, "logger": Log(self.fuses)} | self.settings | kwargs
        return make_trainer(others[0], *self.callbacks, others[1], *settings.pop("more", ()), **settings)

    def fit(self, **kwargs: Any) -> None:
        torch.manual_seed(4)
        validation = DataLoader(Rows(rows=SIZE), SIZE)
        self.trainer.fit(self.module, self.loader, validation, **kwargs)

    @property
    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}
