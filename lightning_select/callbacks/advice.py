"""What a selection is told to watch out for, said once and only where it applies."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lightning_select.callbacks.choice import name_of
from lightning_select.compat import rank_zero_warn
from lightning_select.schedule import Anneal
from lightning_select.signals.base import Signals

__all__ = ["on_a_fresh_model", "on_memory", "on_pieces", "on_sizes"]

_LEAST_ROWS = 4
_OFF = 1.25
"""A share that rounding makes this many times larger or smaller is another share."""
_NEAR_CHANCE = 0.9


def on_sizes(name: str, keep: float | int | Anneal, count: int, rows: int, per_step: int) -> Iterator[str]:
    """About the sizes of the candidate batch and of what is left of it.

    Args:
        name: Name of the callback.
        keep: The share or the number that was asked for.
        count: Rows that are kept of a candidate batch.
        rows: Rows of a candidate batch.
        per_step: How many candidate batches an optimizer step sees, over ranks and accumulation.
    """
    keep, share = keep.begin if isinstance(keep, Anneal) else keep, count / rows
    if isinstance(keep, float) and not 1 / _OFF <= share / keep <= _OFF:
        yield (
            f"{name} keeps {count} of {rows} rows, which is {share:.3g} and not {keep:.3g}: the batch is too small for "
            f"that share. Load batches of at least {math.ceil(1 / keep)} rows."
        )
    elif rows < _LEAST_ROWS:
        yield f"{name} has {rows} rows to choose from, which is hardly a choice. Load larger batches."
    if count < rows:
        yield (
            f"{name}: an optimizer step learns from {count * per_step} rows of {rows * per_step}. A learning rate that "
            f"was tuned for {rows * per_step} rows is then large: take {share:.3g} of it (SGD) or "
            f"{math.sqrt(share):.3g} of it (Adam), or keep it and load {round(rows / share)} rows per batch or "
            f"accumulate {round(1 / share)} times as many batches."
        )


def on_memory(selector: Any, steps: int | float | None, count: int, per_step: int) -> Iterator[str]:
    """About a memory that the whole fit will not fill.

    Args:
        selector: The selector; one that has a ``capacity`` keeps a memory.
        steps: Optimizer steps of the fit, where it has an end.
        count: Rows that are kept of a candidate batch.
        per_step: How many candidate batches an optimizer step sees on this rank.
    """
    capacity = getattr(selector, "capacity", None)
    if isinstance(capacity, int) and steps is not None and capacity > (chosen := steps * count * per_step):
        yield (
            f"{name_of(selector)} has a memory of {capacity} rows, and this fit chooses {chosen:.0f}. It is never "
            "full, so that the first choices count to the end."
        )


def on_pieces(owner: str) -> str:
    """About a table of losses beside those of a model that is scored in pieces.

    Args:
        owner: The score that compares them.
    """
    return (
        f"{owner} compares losses from a table with those of a model that is scored in pieces, for lack of memory. "
        "They are on one scale where the loss is a mean over rows, or one of torch that is summed, and not where the "
        "step sums losses itself, or has a divisor that depends on its rows: load fewer rows per batch, or let the "
        "reference be a module, which is cut alike."
    )


def on_a_fresh_model(score: Any, trainer: Any, signals: Signals) -> None:
    """Warn of a score for pretrained models on one whose predictions are those of a model that knows nothing.

    Reads a number from the device, so it is for the first batch.

    Args:
        score: The score; one that is ``for_pretrained`` says so.
        trainer: The Trainer.
        signals: What a scoring pass in full showed.
    """
    if trainer.global_step or not getattr(score, "for_pretrained", False):
        return
    if signals.loss is None or signals.head is None:
        return
    module = type(trainer.lightning_module).__name__
    chance, loss = math.log(max(2, signals.head.classes)), float(signals.loss.mean())
    if loss >= _NEAR_CHANCE * chance:
        rank_zero_warn(
            f"{name_of(score)} is made for a pretrained model, but {module} starts with a loss of {loss:.3g}, near the "
            f"{chance:.3g} of one that knows nothing. A model that learns from scratch is sure of what it has learned, "
            "and would be fed just that. Load pretrained weights, let training begin without selection "
            "(schedule=Schedule(start=...)), or score by Loss()."
        )
