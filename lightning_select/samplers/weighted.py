"""Rows in proportion to weights of your own: distributed, exact at any number of rows, and open to change at any time.

``torch.utils.data.WeightedRandomSampler`` draws a whole epoch at once from weights that it froze, on one process, and
from 2^24 rows at most. Here ``sampler.weights[ids] = w`` acts on the next draw, and every rank draws its own share.

References:
    Requests at torch: pytorch#7359 (weights that change), #77154 (distributed), #2576 (more than 2^24 rows).
    Wong and Easton, "An Efficient Method for Weighted Sampling without Replacement", SIAM Journal on Computing 9(1),
    1980: one row after the other, in proportion to the weights of those left.

Deviations:
    None.

Honest limits:
    All ranks must set the same weights: each of them draws for all.
    A draw that a loader's workers made ahead does not know of weights that were set since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import switch
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import effective_share
from lightning_select.samplers.row_weights import RowWeights, Values, checked_weights
from lightning_select.states import broken_state, check_range, check_state
from lightning_select.types import Float, Int

__all__ = ["Weighted", "weighted"]


def weighted(weights: Float[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    """The chance of each row to be drawn next, float64."""
    return weights.double() / weights.double().sum()


class Weighted(OnlineSampler):
    """Draw rows in proportion to weights.

    Without replacement, a row that was drawn is left out until the epoch ends, also where its weight is set meanwhile.
    If all rows of positive weight were drawn and more are asked for, all may come again. A draw costs what it draws.
    Nothing waits for a device, except that without replacement rows of positive weight are counted after a change.

    Args:
        dataset: What is sampled from, or its number of rows.
        weights: Weight of every row: finite, not negative, one at least positive. Kept as float32.
        replacement: May a row come twice in an epoch?
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset or, without
            replacement, the number of rows of positive weight.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range, or without replacement too few rows have a positive weight.

    Attributes:
        weights: The weights, to be read and set: ``sampler.weights[ids] = w``, or all: ``sampler.weights = w``.

    Example:
        >>> sampler = Weighted(3, [0.0, 1.0, 0.0], num_samples=2)
        >>> rows = iter(sampler)
        >>> sampler.weights[[1, 2]] = [0.0, 1.0]
        >>> list(rows)
        [2, 2]
    """

    loose, optional = frozenset({"numbers"}), frozenset({"left", "drawn"})

    def __init__(
        self,
        dataset: Sized | int,
        weights: Values,
        *,
        replacement: bool = True,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        values = checked_weights(self.owner, weights).cpu()
        if values.shape != (self.rows,):
            got = len(values) if values.ndim == 1 else f"shape {tuple(values.shape)}"
            raise ArgumentError(f"{self.owner}.weights must hold one for each of {self.rows} rows, got {got}.")
        positive = int((values > 0).sum())
        if positive == 0:
            raise ArgumentError(f"{self.owner}.weights must hold a positive weight, got zeros only.")
        self.replacement = switch(self.owner, "replacement", replacement)
        self._size = self._epoch_rows if replacement or num_samples is not None else positive
        if not replacement and self._size > positive:
            raise ArgumentError(
                f"{self.owner}.num_samples must be at most {positive}, the rows of positive weight, without "
                f"replacement, got {num_samples}."
            )
        self._all = WeightedDraw(self.rows, device=self.device)
        self._all.set_all(values)
        # Without replacement, rows that were drawn weigh nothing here.
        self._left = self._all if replacement else WeightedDraw(self.rows, device=self.device)
        self._drawn = torch.zeros(0 if replacement else self.rows, dtype=torch.bool, device=self.device)
        # Rows of positive weight, all and those left; None: to be counted.
        self._positive: int | None = positive
        self._number: int | None = positive
        self._weights = RowWeights(self.owner, self._all, self._set)
        self.begin()

    @property
    def weights(self) -> RowWeights:
        """The weights of all rows. To assign others sets every one of them."""
        return self._weights

    @weights.setter
    def weights(self, weights: Values | RowWeights) -> None:
        self._weights[:] = weights.tensor() if isinstance(weights, RowWeights) else weights

    def rows_of_epoch(self) -> int:
        """Rows of an epoch."""
        return self._size

    def begin(self) -> None:
        """Put back what was drawn."""
        if not self.replacement:
            self._put_back()

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows."""
        if self.replacement:
            return Drawn(self._all.draw(count, generator))
        parts: list[Tensor] = []
        while (missing := count - sum(len(part) for part in parts)) > 0:
            if not self._count_left():
                self._put_back()
                if not self._count_left():
                    raise ArgumentError(f"{self.owner}.weights must hold a positive weight, got zeros only.")
            parts.append(self._draw_different(min(missing, self._count_left()), generator))
        return Drawn(torch.cat(parts))

    def tensors(self) -> dict[str, Any]:
        """The weights, and which rows were drawn."""
        state: dict[str, Any] = {"all": self._all.state_dict(), "numbers": [self._positive, self._number]}
        return state if self.replacement else state | {"left": self._left.state_dict(), "drawn": self._drawn.clone()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        for number in state["numbers"]:
            check_range(self.owner, "numbers", 0 if number is None else number, 0, self.rows)
        if ("drawn" in state) != ("left" in state):
            raise broken_state(self.owner, "state.learnt", "hold left and drawn, or neither", ", ".join(state))
        if "drawn" in state:
            check_state(self.owner, state["drawn"], torch.zeros(self.rows, dtype=torch.bool), path="drawn")
        self._all.load_state_dict(state["all"])
        self._positive, self._number = state["numbers"]
        if not self.replacement and "left" in state:
            self._left.load_state_dict(state["left"])
            self._drawn.copy_(state["drawn"])  # draws write into it
        else:
            self.begin()

    def move(self, device: torch.device) -> None:
        """Move the weights."""
        self._all.to(device)
        self._left.to(device)
        self._drawn = self._drawn.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Shares of rows: of ``positive`` weight, ``effective`` sample size, and ``left`` without replacement."""
        weights = self._all.weights.double()
        told: dict[str, float | Tensor] = {
            "positive": (weights > 0).double().mean(),
            "effective": effective_share(weights),
        }
        return told if self.replacement else told | {"left": (self._left.weights > 0).double().mean()}

    def _put_back(self) -> None:
        self._drawn.zero_()
        self._left.copy_from(self._all)
        if self._positive is None:
            self._positive = int((self._all.weights > 0).sum())
        self._number = self._positive

    def _count_left(self) -> int:
        if self._number is None:
            self._number = int((self._left.weights > 0).sum())
        return self._number

    def _draw_different(self, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
        ids = self._left.draw(count, generator, replacement=False)
        self._left.set(ids, torch.zeros(count, device=self.device))
        self._drawn.index_fill_(0, ids, True)
        self._number = self._count_left() - count
        return ids

    def _set(self, ids: Int[Tensor, "k"], weights: Float[Tensor, "k"]) -> None:
        self._all.set(ids, weights)
        if not self.replacement:
            drawn = self._drawn.index_select(0, ids.clamp(0, self.rows - 1))
            self._left.set(ids, torch.where(drawn, 0.0, weights))
        self._positive = self._number = None
