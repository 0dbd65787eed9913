"""Weights of the rows of a dataset, which may change at every step, and draws in proportion to them.

Rows lie in blocks and every block knows its sum: a draw reads the sums and a few blocks, a change makes the sums of
its blocks anew. So both cost little at any number of rows, no error adds up, and there is no limit at 2^24 rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError
from lightning_select.samplers.race import race, repeated
from lightning_select.states import broken_state, check_range, in_our_kinds
from lightning_select.types import Float, Int, State

__all__ = ["WeightedDraw"]

_ROUNDING = 1e-9
"""Share by which sums in float64 of the same weights may differ, at any order of adding."""


class WeightedDraw:
    """Weights of n rows, in blocks, from which rows are drawn in proportion to their weight.

    Everything happens on one device, and on any but the CPU nothing waits for it. Values are checked on the CPU only,
    where a mistake is an error. Elsewhere a look at them would wait, and what happens instead is fixed:

    * A weight that is negative, NaN or infinite counts as zero.
    * An id outside the dataset is passed over by :meth:`set` and has probability zero.
    * Where no weight is positive, every row counts the same.
    * Where fewer rows than asked for have a positive weight, a draw without replacement repeats those in their order.

    Weights are kept as float32, sums are float64 (which the device must have). Memory: about 4 to 4.5 bytes per
    row, 0.4 GB for 1e8 rows.

    Args:
        rows: Length of the dataset.
        fill: Weight of every row at the start.
        device: Where the weights are; torch's default device if not given.

    Example:
        >>> draw = WeightedDraw(50_000_000)
        >>> draw.set(torch.arange(8), torch.full((8,), 1e12))
        >>> sorted(draw.draw(8, torch.Generator().manual_seed(0), replacement=False).tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
    """

    def __init__(self, rows: int, *, fill: float = 1.0, device: torch.device | str | None = None) -> None:
        if rows < 1:
            raise ArgumentError(f"WeightedDraw.rows must be at least 1, got {rows}.")
        if not 0 <= fill <= torch.finfo(torch.float32).max:
            raise ArgumentError(f"WeightedDraw.fill must be finite in float32 and not negative, got {fill}.")
        self.rows = rows
        block = _block_size(rows)
        # One row more than needed, or several: ids outside the dataset are led there where they cannot be refused.
        self._blocks = torch.zeros(rows // block + 1, block, device=device)
        self.weights.fill_(fill)
        self._sums = _sums(self._blocks)
        self._checks = self.device.type == "cpu"

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where ids, new weights and generators must be."""
        return self._blocks.device

    @property
    def weights(self) -> Float[Tensor, "rows"]:
        """The weights themselves, float32, to be read; :meth:`set` writes."""
        return self._blocks.view(-1)[: self.rows]

    @property
    def total(self) -> Float[Tensor, ""]:
        """Sum of all weights, float64."""
        return self._sums.sum()

    def set(self, ids: Int[Tensor, "k"], weights: Float[Tensor, "k"]) -> None:
        """Change the weights of some rows; the next draw follows.

        An id that comes twice should come with one weight. If it does not, the last wins on the CPU, and on another
        device any of them, unless torch was told to be deterministic.

        Raises:
            ArgumentError: As many weights as ids are needed; on the CPU also if a weight is negative or not finite.
            RowIdError: On the CPU, if an id is outside the dataset.
        """
        if ids.shape != weights.shape:
            raise ArgumentError(f"WeightedDraw.set must get one weight per id ({len(ids)}), got {len(weights)}.")
        inside, changed = self._inside(ids), self._valid(weights)
        if not self._checks:
            changed = changed.masked_fill(inside == self.rows, 0.0)
        self._blocks.view(-1).scatter_(0, inside, changed)
        touched = inside // self._blocks.shape[1]
        # Made anew, not changed by a difference: a block that is touched twice gets the same sum twice.
        self._sums.scatter_(0, touched, _sums(self._blocks.index_select(0, touched)))

    def set_all(self, weights: Float[Tensor, "rows"]) -> None:
        """Change the weights of all rows.

        Raises:
            ArgumentError: One weight per row is needed; on the CPU also if a weight is negative or not finite, or all
                are zero.
        """
        if len(weights) != self.rows:
            raise ArgumentError(f"WeightedDraw.set_all must get one weight per row ({self.rows}), got {len(weights)}.")
        valid = self._valid(weights)
        if self._checks and not valid.max() > 0:
            raise ArgumentError("WeightedDraw.weights must hold a positive weight, got zeros only.")
        self.weights.copy_(valid)
        self._sums = _sums(self._blocks)

    def draw(self, count: int, generator: torch.Generator, *, replacement: bool = True) -> Int[Tensor, "count"]:
        """``count`` rows in proportion to their weights, in the order in which they were drawn.

        The same weights and the same state of the generator give the same rows. A row of weight zero is never drawn.
        Without replacement, each row is drawn in proportion to the weights of those that are left.

        Args:
            count: How many; without replacement at most the number of rows of positive weight.
            generator: Of the device of the weights.
            replacement: May a row come twice?

        Raises:
            ArgumentError: ``count`` is below 1 or above the number of rows; on the CPU also if too few rows have a
                positive weight.
        """
        if count < 1:
            raise ArgumentError(f"WeightedDraw.draw must be asked for at least 1 row, got {count}.")
        if not replacement and count > self.rows:
            raise ArgumentError(
                f"WeightedDraw.draw must be asked for at most all {self.rows} rows without replacement, got {count}."
            )
        sums = self._drawable_sums()
        if replacement:
            return repeated(self._opened, sums, count, generator)
        ids, keys = race(self._opened, sums, count, generator)
        if self._checks:
            self._check_enough(keys)
            return ids
        return ids.index_select(0, torch.arange(count, device=self.device) % keys.isfinite().sum())

    def probability(self, ids: Int[Tensor, "k"]) -> Float[Tensor, "k"]:
        """Share of each of ``ids`` in all weights, float64: its chance to be the next row that is drawn.

        Raises:
            RowIdError: On the CPU, if an id is outside the dataset.
        """
        total, inside = self.total, self._inside(ids)
        shares = self._blocks.view(-1).index_select(0, inside).double() / total
        return torch.where(total > 0, shares, (inside < self.rows).double() / self.rows)

    def to(self, device: torch.device | str) -> WeightedDraw:
        """Move the weights, and return this very object."""
        self._blocks, self._sums = self._blocks.to(device), self._sums.to(device)
        self._checks = self.device.type == "cpu"
        return self

    def copy_from(self, other: WeightedDraw) -> None:
        """Take over the weights of another over as many rows, so that both draw alike; waits for nothing."""
        self.weights.copy_(other.weights)
        self._sums.copy_(other._sums)

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the weights and of the sums of the blocks, so that draws go on bit for bit."""
        return {"weights": self.weights.clone(), "block_sums": self._sums.clone()}

    def load_state_dict(self, state: State) -> None:
        """Take over what :meth:`state_dict` gave, from any device.

        Raises:
            ConfigurationError: The state is of a dataset of another length, or holds what is no weight.
        """
        state = in_our_kinds("WeightedDraw", state, {"weights": self.weights, "block_sums": self._sums})
        weights, sums = state["weights"], state["block_sums"].to(self.device)
        if len(weights) != self.rows:
            raise ConfigurationError(
                f"WeightedDraw.weights must have the length of the dataset ({self.rows}), got {len(weights)}."
            )
        for name, values in (("weights", weights), ("block_sums", sums)):
            check_range("WeightedDraw", name, values, 0.0)
        blocks = torch.zeros_like(self._blocks)
        blocks.view(-1)[: self.rows] = weights
        # Kept where they are right: on another device they may differ in the last bits, and with them the draws.
        if not torch.allclose(sums, _sums(blocks), rtol=_ROUNDING, atol=0.0):
            raise broken_state("WeightedDraw", "block_sums", "be the sums of the weights", "others")
        self._blocks = blocks
        self._sums.copy_(sums)

    def _valid(self, weights: Tensor) -> Tensor:
        """As float32: refused on the CPU, elsewhere replaced by zero, where not a weight."""
        weights = weights.detach().to(torch.float32)
        if not self._checks:
            return weights.masked_fill(~(weights.isfinite() & (weights > 0)), 0.0)
        if len(weights):
            low, high = (float(one) for one in weights.aminmax())
            if not (low >= 0 and high < math.inf):
                wrong = high if low >= 0 else low
                raise ArgumentError(f"WeightedDraw.weights must be finite and not negative, got {wrong}.")
        return weights

    def _inside(self, ids: Tensor) -> Tensor:
        """As int64: refused on the CPU, elsewhere led to the row after the last, where outside the dataset."""
        ids = ids.long()
        if not self._checks:
            return ids.masked_fill((ids < 0) | (ids >= self.rows), self.rows)
        if len(ids):
            low, high = (int(one) for one in ids.aminmax())
            if low < 0 or high >= self.rows:
                raise RowIdError(f"WeightedDraw.ids must be in [0, {self.rows}), got {low if low < 0 else high}.")
        return ids

    def _drawable_sums(self) -> Tensor:
        """Sums of the blocks; if all are zero, refused on the CPU, elsewhere replaced by the numbers of rows."""
        if not self._checks:
            starts = torch.arange(len(self._sums), device=self.device) * self._blocks.shape[1]
            return torch.where(self.total > 0, self._sums, (self.rows - starts).clamp(0, self._blocks.shape[1]))
        if not self.total > 0:
            raise ArgumentError("WeightedDraw.draw must find a positive weight, got zeros only.")
        return self._sums

    def _opened(self, blocks: Tensor) -> Tensor:
        """Weights in ``blocks``; off the CPU, ones in a block of zeros: only where all are zero will they matter."""
        weights = self._blocks.index_select(0, blocks)
        if self._checks:
            return weights
        block = self._blocks.shape[1]
        rows = blocks.unsqueeze(1) * block + torch.arange(block, device=self.device)
        return torch.where(self._sums.index_select(0, blocks).unsqueeze(1) > 0, weights, (rows < self.rows).float())

    def _check_enough(self, keys: Tensor) -> None:
        """Keys are sorted, and a row of weight zero has none that is finite."""
        if not keys[-1].isfinite():
            positive = int((self._blocks > 0).sum())
            raise ArgumentError(
                f"WeightedDraw.draw must be asked for at most the {positive} rows of positive weight without "
                f"replacement, got {len(keys)}."
            )


def _block_size(rows: int) -> int:
    """A power of two near a fiftieth of the square root: a draw of 1,024 reads about as many rows as sums."""
    return max(16, 2 ** math.ceil(math.log2(math.sqrt(rows) / 50)))


def _sums(blocks: Float[Tensor, "blocks block"]) -> Float[Tensor, "blocks"]:
    return blocks.sum(1, dtype=torch.float64)
