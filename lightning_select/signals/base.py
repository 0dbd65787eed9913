"""Signals: what one forward pass tells about each row of a batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_select.errors import MissingSignalError
from lightning_select.signals.head.head import Head
from lightning_select.types import Bool, Float, Int, Num

__all__ = ["SIGNAL_NAMES", "Signals"]


@dataclass(frozen=True)
class Signals:
    """What one forward pass tells about each row. A user's ``selection_step(batch)`` returns one of these.

    Every field is ``None`` where it was not measured. ``tokens`` is a second axis of positions inside a row (the words
    of a text, the pixels of an image); it is absent where a row is one prediction.

    Attributes:
        loss: Loss of each row, before any weighting.
        logits: Scores before softmax or sigmoid, classes last.
        targets: Class indices, class probabilities (one more axis) or, for a sigmoid, values in [0, 1].
        valid: Which tokens count; ``None`` means all.
        attended: Which tokens are text and no padding, prompts included, where the batch has an ``attention_mask``.
        link: ``softmax`` over the last axis, or ``sigmoid`` of every number on its own.
        head: The logits as the output head and what enters it, for those that can do without the logits themselves.
        hidden: Input of the last linear layer, token by token where logits have tokens.
        biased: Does that layer have a bias?
        reference_loss: Loss of each row under a reference model.
        reward: Reward of each attempt at a row, or of its only attempt.
        correct: Share of right answers of each row, in [0, 1].
        ids: Position of each row in the training dataset, int64.
    """

    loss: Float[Tensor, "rows"] | None = None
    logits: Float[Tensor, "rows *tokens classes"] | None = None
    targets: Num[Tensor, "rows *rest"] | None = None
    valid: Bool[Tensor, "rows *tokens"] | None = None
    attended: Bool[Tensor, "rows *tokens"] | None = None
    link: Literal["softmax", "sigmoid"] = "softmax"
    head: Head | None = None
    hidden: Float[Tensor, "rows *tokens features"] | None = None
    reference_loss: Float[Tensor, "rows"] | None = None
    reward: Num[Tensor, "rows *attempts"] | None = None
    correct: Num[Tensor, "rows"] | None = None
    ids: Int[Tensor, "rows"] | None = None
    biased: bool = True

    def need(self, name: str, owner: str, hint: str = "") -> Tensor:
        """The signal ``name``, or an error that says who asked for it and how to provide it.

        Raises:
            MissingSignalError: The signal was not measured.
        """
        value = getattr(self, name)
        if value is None:
            raise self._missing(name, owner, hint)
        return value

    def output_head(self, owner: str) -> Head:
        """The signal ``head``, or one made of ``logits``.

        Raises:
            MissingSignalError: Neither was measured.
        """
        if self.head is not None:
            return self.head
        if self.logits is None:
            raise self._missing("head", owner, "")
        return Head.of(self.logits)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the signals that are there."""
        return tuple(name for name in SIGNAL_NAMES if getattr(self, name) is not None)

    def _missing(self, name: str, owner: str, hint: str) -> MissingSignalError:
        hint = hint or (_NO_TARGETS if name == "targets" and self.logits is not None else _HINTS.get(name, ""))
        return MissingSignalError(
            f"{owner} must have the signal '{name}', got only {', '.join(self.measured) or 'nothing'}. "
            f"{hint} Or define selection_step(batch) on the module and return Signals({name}=...)."
        )

    @property
    def rows(self) -> int | None:
        """Number of rows, or ``None`` where nothing was measured."""
        return next((int(getattr(self, name).shape[0]) for name in self.measured), None)

    def take(self, index: Int[Tensor, "kept"]) -> Signals:
        """The signals of the rows ``index``."""
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in self.measured})

    def probabilities(self, owner: str) -> Float[Tensor, "rows *tokens classes"]:
        """Predicted probabilities in float32: softmax over the classes, or the sigmoid of every number.

        Raises:
            MissingSignalError: There are no logits.
        """
        logits = self.need("logits", owner).float()
        return torch.softmax(logits, dim=-1) if self.link == "softmax" else torch.sigmoid(logits)


SIGNAL_NAMES = tuple(field.name for field in dataclasses.fields(Signals) if field.name not in ("link", "biased"))
"""Every signal that a score can ask for."""

_NO_LOGITS = (
    "The loss of the training step shows no logits: it is no classification loss that torch reduces, or there are "
    "several that see different logits. Then name one head: BatchSelection(head=...)."
)
_NO_TARGETS = (
    "The loss of the training step shows no targets: beside logits they are seen where torch computes the loss, or it "
    "picks their log-probabilities with gather."
)
_HINTS = {
    "logits": _NO_LOGITS,
    "head": _NO_LOGITS,
    "targets": f"The loss of the training step shows no targets. {_NO_LOGITS}",
    "hidden": (
        "It is the input of the linear layer (torch.nn.Linear, F.linear) that makes the logits, and is known where "
        "nothing comes between that layer and the loss but views, a choice of tokens, casts and one factor for all "
        "logits. Where a step has several heads, name one: BatchSelection(head=...)."
    ),
    "reference_loss": "Give the score a reference (a table, a module, a checkpoint path or a holdout).",
    "reward": "Rewards are not part of an ordinary training step.",
    "ids": "Row ids come from the loader's sampler, or from the batch entry named by id_key.",
}
