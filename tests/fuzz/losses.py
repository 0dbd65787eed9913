"""Losses as people write them, composed at random, each with the share of every row in it, by a loop over the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

__all__ = ["CLASSES", "OUTPUTS", "TOKENS", "Composed", "Term", "composed"]

CLASSES, TOKENS = 4, 3
OUTPUTS = CLASSES * TOKENS


@dataclass
class Term:
    """A scalar of a batch, and what each row adds to it.

    Attributes:
        name: For a failure to be read.
        whole: From outputs (rows, 12) and the batch to the scalar, as a training step has it.
        part: What one row adds, from its outputs (1, 12), its batch, and the batch as a whole; ``None``: no row adds to
            it, as to a penalty.
        separate: Is the scalar the mean over the rows of what it is for each row alone?
        cuts: Does a mask leave out whole rows of it? What is left then has no places, and beside other losses it stays
            unweighted, which is told.
    """

    name: str
    whole: Callable[[Tensor, dict[str, Tensor]], Tensor]
    part: Callable[[Tensor, dict[str, Tensor], dict[str, Tensor]], Tensor] | None
    separate: bool
    cuts: bool = False


@dataclass
class Composed:
    """Terms and how they are put together."""

    terms: Sequence[Term]
    factors: Sequence[float]
    form: str
    rows: int
    dtype: torch.dtype

    def loss(self, outputs: Tensor, batch: dict[str, Tensor], penalised: Tensor) -> Tensor:
        """What a training step returns."""
        return self.together([term.whole(outputs, batch) for term in self.terms], penalised)

    def together(self, scalars: Sequence[Tensor], penalised: Tensor) -> Tensor:
        """The loss, given its terms."""
        if self.form == "stacked":
            return (
                torch.stack([factor * one for factor, one in zip(self.factors, scalars, strict=True)]).sum()
                + 0.0 * penalised.sum()
            )
        total = sum(factor * one for factor, one in zip(self.factors, scalars, strict=True))
        if self.form == "logarithm":
            return torch.log1p(total.square())
        if self.form == "penalised":
            return total + 0.01 * penalised.square().sum()
        return total / 3 if self.form == "divided" else total

    @property
    def separate(self) -> bool:
        """Is the loss the mean over the rows of the loss of each row alone?"""
        return self.form in ("plain", "divided", "stacked") and all(term.separate for term in self.terms)

    def __repr__(self) -> str:
        terms = ", ".join(f"{factor} {term.name}" for factor, term in zip(self.factors, self.terms, strict=True))
        return f"{self.form}: {terms}; {self.rows} rows, {self.dtype}"


Cut = Callable[[Tensor, dict[str, Tensor]], tuple[Any, ...]]


def _from_torch(name: str, func: Any, cut: Cut, reduction: str, shared: dict[str, Any], *, even: bool) -> Term:
    """A loss of torch by one of its reductions, or by one made by hand of what it gives without."""

    def run(outputs: Tensor, batch: dict[str, Tensor], how: str) -> Tensor:
        cast = {k: v.to(outputs.dtype) if isinstance(v, Tensor) else v for k, v in shared.items()}
        return func(*cut(outputs, batch), **cast, reduction=how)

    def whole(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        if reduction == "none, mean":
            return run(outputs, batch, "none").mean()
        if reduction == "none, sum":
            return run(outputs, batch, "none").sum() / len(outputs)
        return run(outputs, batch, reduction)

    def part(one: Tensor, row: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        outputs = batch["outputs"].detach()
        divisor = run(outputs, batch, "sum") / whole(outputs, batch)
        return run(one, row, "sum") / divisor

    return Term(f"{name} by {reduction} {shared or ''}", whole, part, even and reduction != "sum")


def _by_row(name: str, of_rows: Callable[[Tensor, dict[str, Tensor]], Tensor], how: str) -> Term:
    """A loss of each row, and a mean of them written by hand."""

    def whole(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        values, mask = of_rows(outputs, batch), batch["mask"]
        if how == "masked":
            return (values * mask).sum() / mask.sum()
        if how == "cut":
            return values[mask.bool()].mean()
        if how == "weighted":
            return (values * batch["importance"]).sum() / batch["importance"].sum()
        return values.sum() / len(values) if how == "sum" else values.mean()

    def part(one: Tensor, row: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        value, rows = of_rows(one, row)[0], len(batch["y"])
        if how in ("masked", "cut"):
            return value * row["mask"][0] / batch["mask"].sum()
        if how == "weighted":
            return value * row["importance"][0] / batch["importance"].sum()
        return value / rows

    return Term(f"{name}, {how}", whole, part, how in ("sum", "mean"), how == "cut")


def _logits(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs[:, :CLASSES], batch["y"]


def _flattened(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs.reshape(-1, CLASSES), batch["labels"].reshape(-1)


def _classes_second(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs.reshape(-1, TOKENS, CLASSES).transpose(1, 2), batch["labels"]


def _without_gaps(cut: Cut) -> Cut:
    """With a class in the place of what is ignored elsewhere."""
    return lambda outputs, batch: (cut(outputs, batch)[0], cut(outputs, batch)[1].clamp(min=0))


def _to_numbers(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs, batch["t"].to(outputs.dtype)


def _log_probabilities(outputs: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return outputs.log_softmax(-1), batch["t"].to(outputs.dtype).softmax(-1)


OF_ROWS: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "squares": lambda z, b: z.square().sum(dim=1),
    "absolute": lambda z, b: (z - b["t"].to(z.dtype)).abs().mean(1),
    "gathered": lambda z, b: -z[:, :CLASSES].log_softmax(-1).gather(1, b["y"][:, None]).squeeze(1),
    "unreduced": lambda z, b: F.cross_entropy(z[:, :CLASSES], b["y"], reduction="none"),
    "focal": lambda z, b: (1 - torch.exp(-F.cross_entropy(z[:, :CLASSES], b["y"], reduction="none"))) ** 2,
    "logsumexp": lambda z, b: torch.logsumexp(z, dim=-1),
    "cosine": lambda z, b: 1 - F.cosine_similarity(z, b["t"].to(z.dtype), dim=-1),
}
REDUCTIONS = ("mean", "mean", "sum", "none, mean", "none, sum")


@st.composite
def terms(draw: Any) -> Term:
    kind = draw(st.sampled_from(["classes", "tokens", "numbers", "bits", "divergence", "by hand", "by hand"]))
    reduction = draw(st.sampled_from(REDUCTIONS))
    if kind in ("classes", "tokens"):
        shared: dict[str, Any] = {}
        if draw(st.booleans()):
            shared["weight"] = torch.tensor([0.5, 1.0, 2.0, 3.0])
        if draw(st.booleans()):
            shared["label_smoothing"] = draw(st.sampled_from([0.1, 0.9]))
        if kind == "tokens" and draw(st.booleans()):
            shared["ignore_index"] = draw(st.sampled_from([-100, 1]))
        cut = _logits if kind == "classes" else draw(st.sampled_from([_flattened, _classes_second]))
        if shared.get("ignore_index") == 1:
            cut = _without_gaps(cut)
        # Tokens that are ignored, and class weights, make rows count unlike where a mean is made.
        even = "weight" not in shared and kind == "classes"
        return _from_torch(f"cross_entropy of {kind}", F.cross_entropy, cut, reduction, shared, even=even)
    if kind == "numbers":
        func = draw(st.sampled_from([F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss]))
        even = reduction != "none, sum"
        return _from_torch(func.__name__, func, _to_numbers, reduction, {}, even=even)
    if kind == "bits":
        shared = draw(st.sampled_from([{}, {"pos_weight": torch.linspace(0.5, 2.0, OUTPUTS)}]))
        func, cut = F.binary_cross_entropy_with_logits, lambda z, b: (z, b["t"].to(z.dtype).sigmoid())
        return _from_torch("bce", func, cut, reduction, shared, even=reduction != "none, sum")
    if kind == "divergence":
        how = draw(st.sampled_from(["batchmean", "sum"]))
        return _from_torch("kl_div", F.kl_div, _log_probabilities, how, {}, even=True)
    name = draw(st.sampled_from(sorted(OF_ROWS)))
    return _by_row(name, OF_ROWS[name], draw(st.sampled_from(["mean", "sum", "masked", "cut", "weighted"])))


@st.composite
def composed(draw: Any) -> Composed:
    several = draw(st.lists(terms(), min_size=1, max_size=3))
    factors = [draw(st.sampled_from([1.0, 1.0, 0.3, 2.0, -0.5])) for _ in several]
    form = draw(st.sampled_from(["plain", "plain", "divided", "penalised", "stacked", "logarithm"]))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    return Composed(several, factors, form, draw(st.integers(2, 6)), dtype)
