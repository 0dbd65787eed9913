"""What a training step must show, and the error that says how to show it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_select.batch import count_rows
from lightning_select.errors import BatchFormatError, TrainingStepContractError
from lightning_select.types import Batch

__all__ = [
    "NothingReturnedError",
    "bent_error",
    "contract_error",
    "manual_error",
    "parse_output",
    "rows_of",
    "takes_batch_index",
]

_SELECTION_STEP = (
    "    def selection_step(self, batch):\n"
    "        return Signals(loss=...)  # from lightning_select import Signals; shape (rows,)"
)


class NothingReturnedError(TrainingStepContractError):
    """The step returned ``None``, by which Lightning skips a batch."""


class NotRestoredError(TrainingStepContractError):
    """The step changed or used up what cannot be put back."""


def contract_error(module: nn.Module, seen: str) -> TrainingStepContractError:
    """The error for a step that cannot be read row by row; it shows both ways out as code.

    Args:
        module: Whose step it is.
        seen: What was seen instead of one loss per row.
    """
    name = type(module).__name__
    return TrainingStepContractError(
        f"{name}.training_step must show one loss per row of the batch, got {seen}.\n"
        "Either return the row losses beside the loss:\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        losses = ...  # shape (rows,)\n"
        '        return {"loss": losses.mean(), "sample_loss": losses}\n'
        "or define a step of its own for selection:\n" + _SELECTION_STEP
    )


def manual_error(module: nn.Module, weights_of: str | None = None, way_out: str = "") -> TrainingStepContractError:
    """The error for a module that optimises by hand; it shows only what helps such a module.

    Args:
        module: Whose step it is.
        weights_of: Who wants to weigh its rows; ``None``: they are only to be read.
        way_out: What helps, where there are weights.
    """
    name = type(module).__name__
    if weights_of is None:
        return TrainingStepContractError(
            f"{name}.training_step must show one loss per row of the batch, got manual optimisation, where the step "
            "itself steps the optimiser.\nDefine a step of its own for selection:\n" + _SELECTION_STEP
        )
    return TrainingStepContractError(
        f"{name}.training_step must leave its loss to be weighted by the weights of {weights_of}, got manual "
        f"optimisation, where the loss is used before anyone can weigh it. Use automatic optimisation, or {way_out}."
    )


def bent_error(module: nn.Module, reduction: str) -> TrainingStepContractError:
    """The error for a step that trains on a gradient of a loss whose rows are weighted inside of a kernel.

    Args:
        module: Whose step it is.
        reduction: The loss.
    """
    return TrainingStepContractError(
        f"{type(module).__name__}.training_step must reduce a loss by hand that it differentiates with "
        f"create_graph=True where rows are weighted, got {reduction}. Write its mean or sum over the rows outside of "
        "it, as in F.cross_entropy(z, y, reduction='none').mean(): the weights then leave that gradient alone."
    )


def parse_output(module: nn.Module, output: Any, rows: int) -> tuple[Tensor, Tensor | None]:
    """The loss that a training step returned, and its row losses where it returned them as ``sample_loss``.

    Raises:
        TrainingStepContractError: It returned nothing, no loss, or row losses of a wrong shape.
    """
    losses = None
    loss = output
    if isinstance(output, Mapping):
        loss, losses = output.get("loss"), output.get("sample_loss")
    if output is None:
        raise NothingReturnedError(str(contract_error(module, "None instead of a loss")))
    if not isinstance(loss, Tensor):
        raise contract_error(module, f"{_kind(output)} instead of a loss")
    if losses is not None and (not isinstance(losses, Tensor) or losses.shape != (rows,)):
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise contract_error(module, f"'sample_loss' of shape {shape} for a batch of {rows} rows")
    return loss, losses


def takes_batch_index(module: nn.Module, step: Callable[..., Any]) -> bool:
    """Does the step want to know the index of its batch, by the rule that Lightning goes by?

    Raises:
        TrainingStepContractError: It draws its batches itself.
    """
    parameters = inspect.signature(step).parameters
    if "dataloader_iter" in parameters:
        raise contract_error(module, "the argument 'dataloader_iter', so that the batch is not seen from outside")
    kinds = [parameter.kind for parameter in parameters.values()]
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in by_position for kind in kinds) >= 2 or inspect.Parameter.VAR_POSITIONAL in kinds


def _kind(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a dict with the keys {sorted(map(str, output))}"
    return type(output).__name__


def rows_of(batch: Batch) -> int:
    """Number of rows of a batch that has some.

    Raises:
        BatchFormatError: The rows cannot be counted, or there are none.
    """
    rows = count_rows(batch)
    if rows < 1:
        raise BatchFormatError("A batch must hold at least one row, got an empty batch.")
    return rows
