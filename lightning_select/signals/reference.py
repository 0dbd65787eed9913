"""The reference of a reducible loss: what each row would cost a model that is not being trained on it.

A reference is a table of losses by row id, a module, a checkpoint of the module in training, or a `Holdout`, which
trains reference models for the user. All of them answer one question: the losses of the rows of this batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_select.errors import ReferenceModelError, RowIdError
from lightning_select.signals.base import Signals
from lightning_select.signals.holdout import Holdout, detached_copy, holdout_losses
from lightning_select.signals.pieces import Room
from lightning_select.signals.scoring import StepRunner
from lightning_select.types import Batch, Float, Int

__all__ = ["Reference", "UsesReference", "open_reference"]


@runtime_checkable
class UsesReference(Protocol):
    """A score that compares with a reference."""

    @property
    def reference(self) -> Any:
        """A table, a module, a checkpoint path or a `Holdout`."""


@runtime_checkable
class Reference(Protocol):
    """An opened reference."""

    @property
    def needs_ids(self) -> bool:
        """Are rows looked up by id?"""

    @property
    def trained_here(self) -> bool:
        """Was it trained on the data at hand, rather than given?"""

    def prepare(self, trainer: Any, module: Any, rows: int | None) -> None:
        """Get ready on the device of the module that is about to train, whose dataset has ``rows`` rows."""

    def losses(self, batch: Batch, ids: Int[Tensor, "rows"] | None) -> Float[Tensor, "rows"]:
        """Reference losses of the rows of a batch; NaN for a row that a table does not know."""

    def evidence(self, batch: Batch) -> Signals | None:
        """What else shows whether it knows the data: the logits and targets of a module, nothing of a table."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold so that a resumed run has the same reference."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what a checkpoint held."""


def open_reference(owner: str, source: Any, *, train_mode: bool = False, room: Room | None = None) -> Reference:
    """The reference that a score names; ``room`` is that of the model it is compared with.

    Raises:
        ReferenceModelError: ``source`` is of no kind that we know, or its file cannot be read.
    """
    if isinstance(source, Holdout):
        return _Table(owner, None, source)
    if isinstance(source, nn.Module):
        return _Module(owner, source, train_mode, room)
    if isinstance(source, (Tensor, np.ndarray, Sequence, Mapping)) and not isinstance(source, str):
        return _Table(owner, _as_table(owner, source), None)
    if isinstance(source, (str, Path)):
        return _from_file(owner, Path(source), train_mode, room)
    raise ReferenceModelError(
        f"{owner}.reference must be a table of losses by row id, a module, a path or a Holdout, got {source!r}. "
        "To have one trained on the data at hand: reference=Holdout(epochs=3)."
    )


class _Table:
    """Losses by row id, given or found by training."""

    needs_ids = True

    def __init__(self, owner: str, table: Float[Tensor, "dataset"] | None, holdout: Holdout | None) -> None:
        self._owner = owner
        self._table = table
        self._holdout = holdout
        self.trained_here = holdout is not None

    def prepare(self, trainer: Any, module: Any, rows: int | None) -> None:
        """Train the holdout models, unless a checkpoint brought their losses, and compare with the dataset."""
        if self._table is None and self._holdout is not None:
            self._table = holdout_losses(self._holdout, trainer, module)
        if rows is not None and self._table is not None and rows != self._table.shape[0]:
            raise ReferenceModelError(
                f"{self._owner}.reference must hold one loss for each of the {rows} rows of the training dataset, "
                f"got {self._table.shape[0]}. It belongs to another dataset."
            )

    def losses(self, batch: Batch, ids: Int[Tensor, "rows"] | None) -> Float[Tensor, "rows"]:
        """Look the rows up."""
        if ids is None or self._table is None:
            raise RowIdError(f"{self._owner}.reference is a table by row id and must be asked with ids, got none.")
        self._table = self._table.to(ids.device)
        inside = (ids >= 0) & (ids < self._table.shape[0])
        return torch.where(inside, self._table[ids.clamp(0, self._table.shape[0] - 1)], torch.nan)

    def evidence(self, batch: Batch) -> None:
        """Nothing but the losses."""

    def state_dict(self) -> dict[str, Any]:
        """The losses that were found by training; those that the user gave stay with the user."""
        return {} if self._holdout is None or self._table is None else {"table": self._table.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Spare the training."""
        if "table" in state:
            self._table = state["table"]


class _Module:
    """Losses by a module of its own, asked live."""

    needs_ids = False
    trained_here = False

    def __init__(self, owner: str, module: nn.Module, train_mode: bool, room: Room | None) -> None:
        if not hasattr(module, "training_step") and not hasattr(module, "selection_step"):
            raise ReferenceModelError(
                f"{owner}.reference must be a module with a training_step or a selection_step, "
                f"got {type(module).__name__}."
            )
        self._owner = owner
        self._module = module
        self._train_mode = train_mode
        self._room = room
        self._runner: StepRunner | None = None

    def prepare(self, trainer: Any, module: Any, rows: int | None) -> None:
        """Move to the device of the module in training."""
        self._module.to(trainer.strategy.root_device)
        step: Any = getattr(self._module, "training_step", None)
        self._runner = StepRunner(self._module, trainer, step, train_mode=self._train_mode, room=self._room)

    def losses(self, batch: Batch, ids: Int[Tensor, "rows"] | None) -> Float[Tensor, "rows"]:
        """Run the reference's own step on the batch."""
        return self._measure(batch, "loss").need("loss", self._owner)

    def evidence(self, batch: Batch) -> Signals:
        """What it predicts, where its step shows it."""
        return self._measure(batch, "logits", "targets")

    def _measure(self, batch: Batch, *needs: str) -> Signals:
        if self._runner is None:
            raise ReferenceModelError(f"{self._owner}.reference must be prepared by a fit first, got no Trainer yet.")
        return self._runner.measure(batch, needs)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the module stays with the user."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


class _Checkpoint(_Module):
    """A copy of the module in training with the weights of a checkpoint."""

    def __init__(
        self, owner: str, path: Path, weights: Mapping[str, Tensor], train_mode: bool, room: Room | None
    ) -> None:
        self._owner = owner
        self._path = path
        self._weights = weights
        self._train_mode = train_mode
        self._room = room
        self._runner = None

    def prepare(self, trainer: Any, module: Any, rows: int | None) -> None:
        """Copy the module in training and load the weights into the copy."""
        self._module = detached_copy(module)
        try:
            self._module.load_state_dict(self._weights)
        except (RuntimeError, TypeError, AttributeError) as error:  # other names or shapes, or no weights at all
            raise ReferenceModelError(
                f"{self._owner}.reference must be a checkpoint of {type(module).__name__}, got {self._path}, "
                f"whose weights do not fit: {error}"
            ) from error
        super().prepare(trainer, module, rows)


def _from_file(owner: str, path: Path, train_mode: bool, room: Room | None) -> Reference:
    if not path.is_file():
        raise ReferenceModelError(f"{owner}.reference must be a file that exists, got {path}.")
    try:
        held = _table_in(path) if path.suffix == ".npy" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ReferenceModelError(
            f"{owner}.reference must be a .npy table, or tensors saved by torch that load with weights_only=True, "
            f"got {path}: {error}"
        ) from error
    if isinstance(held, Mapping) and any(isinstance(key, str) for key in held):
        return _Checkpoint(owner, path, held.get("state_dict", held), train_mode, room)
    return _Table(owner, _as_table(owner, held), None)


def _table_in(path: Path) -> Any:
    """The array in a file, which may not hold objects: to read those is to run code."""
    with path.open("rb") as file:  # and no archive of several, which NumPy would leave open
        return np.lib.format.read_array(file, allow_pickle=False)


def _as_table(owner: str, source: Any) -> Float[Tensor, "dataset"]:
    """One float per row id; ids that a mapping does not have become NaN."""
    try:
        table = _as_tensor(owner, source)
        dense = table.layout is torch.strided and not table.is_nested
        if dense and table.dim() == 1 and table.numel() and table.dtype != torch.bool and not table.is_complex():
            return table.float()
    # One that says it holds 10^15 numbers is among them, and so is a number that no float can hold.
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ReferenceModelError(
            f"{owner}.reference must hold numbers, got a {type(source).__name__}: {error}"
        ) from error
    raise ReferenceModelError(f"{owner}.reference must hold one loss per row id, got {_told(table)}.")


def _told(table: Tensor) -> str:
    shape = f"shape {tuple(table.shape)}"
    return shape if table.layout is torch.strided else f"a {table.layout} tensor of {shape}"


def _as_tensor(owner: str, source: Any) -> Tensor:
    if isinstance(source, Mapping):
        if not source or not all(type(key) is int and key >= 0 for key in source):
            raise ReferenceModelError(f"{owner}.reference must map row ids (int) to losses, got {list(source)[:3]}.")
        table = torch.full((max(source) + 1,), torch.nan)
        table[list(source)] = torch.tensor([float(value) for value in source.values()])
        return table
    return torch.as_tensor(source)
