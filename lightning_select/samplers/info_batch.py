"""InfoBatch: leave out half of the rows that are learnt well, and let the other half stand for them.

A row is learnt well if its last loss is below the mean of all last losses. Before each pass over the data a share
``ratio`` of these rows is left out at random, and those that stay weigh more, so that the expected sum of weighted
losses is that over all rows. The last passes are full, with all weights one.

References:
    Qin et al., "InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024, arXiv:2303.04947:
    pruning (equation 3), rescaling by ``1 / (1 - r)``, and ``delta``, the share of epochs that prune.

Deviations:
    Of n rows learnt well exactly ``k = n - floor(ratio * n)`` stay and weigh ``n / k``, so the weights of a pass sum to
    the number of rows. The released code keeps ``int((1 - r) n)`` rows of weight ``1 / (1 - r)``: of 3 rows one stays,
    with weight 2.
    A row that was never seen, or never had a finite loss, is not pruned and counts in no mean; there it has the loss 3.
    The last share of training is full to the batch that it starts with, and in ``shrinking`` mode at least one epoch.

Limits:
    A batch that happens to hold many rescaled rows has a larger loss, as in the paper. The last loss of a row may be an
    epoch old, and that of a row left out is older. Rows still on their way when a pass is planned count as they were.
    What is saved is worth having where training is long and rows are redundant.
    Near the largest learning rate that still trains, the larger weights can make training collapse: tune it anew, and
    expect a lower one than for uniform draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.history import SampleHistory
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between
from lightning_select.samplers.drawn import Drawn
from lightning_select.seeding import generator_at
from lightning_select.states import check_range
from lightning_select.types import Bool, Float, Int

__all__ = ["InfoBatch", "info_batch"]


def info_batch(
    losses: Float[Tensor, "rows"], ratio: float, generator: torch.Generator
) -> tuple[Bool[Tensor, "rows"], Float[Tensor, "rows"]]:
    """Which rows stay, and the weight of each, from the last losses (NaN: not known).

    Where n losses are below the mean of all, ``floor(ratio * n)`` of these rows, chosen at random, do not stay, and
    the weights of the others are such that the sum over all rows that stay is the number of rows.
    """
    order = torch.randperm(len(losses), generator=generator, device=losses.device)
    well = losses < losses.double().nanmean()
    mixed = well.index_select(0, order)
    rank = mixed.cumsum(0)
    total = rank[-1].double()
    # Not a product alone: 0.7 * 10 is a little less than 7.
    out = (total * ratio + 1e-9).floor()
    stays = torch.empty_like(well).scatter_(0, order, ~mixed | (rank > out))
    return stays, torch.where(well, total / (total - out), 1.0)


class InfoBatch(OnlineSampler):
    """Leave out a share of the rows learnt well, rescale those that stay, and end with all rows.

    Learns from ``loss``. Weights act on the losses of the batch. Planning a pass looks at all rows and waits for the
    device once; all else costs as much as the batch. Memory and checkpoint: 16 bytes per row, 16 per row that stays.

    In ``constant`` mode an epoch has as many rows as ever, and passes follow each other without regard to epochs: a new
    pass is planned, from the losses known by then, as soon as one is used up. Validation, schedulers and progress bars
    need no change. What is saved shows as more passes in as many epochs (``passes``): train for fewer of them.

    In ``shrinking`` mode each epoch is one pass, and is shorter. The length changes from epoch to epoch: a Trainer must
    load its loaders anew every epoch (``reload_dataloaders_every_n_epochs=1``), and whatever counts steps ahead
    (``estimated_stepping_batches``) counts too many. In a loop of your own, call `end_epoch` after each epoch.

    Args:
        dataset: What is sampled from, or its number of rows.
        ratio: Share of the rows learnt well that a pass leaves out.
        full_last: Share of training at its end in which nothing is left out.
        mode: Do epochs keep their length (``constant``), or is each one pass (``shrinking``)?
        num_samples: Rows of one epoch; ``None``: as many as the dataset has. Not in ``shrinking`` mode.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> stays, weights = info_batch(torch.tensor([0.1, 0.2, 0.3, 9.0]), 0.5, torch.Generator().manual_seed(0))
        >>> int(stays.sum()), float(weights[stays].sum())
        (3, 4.0)
    """

    loose = frozenset({"ids", "weights"})

    def __init__(
        self,
        dataset: Any,
        *,
        ratio: float = 0.5,
        full_last: float = 0.125,
        mode: Literal["constant", "shrinking"] = "constant",
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.ratio = between(self.owner, "ratio", ratio, 0.0, 0.9)
        self.full_last = between(self.owner, "full_last", full_last, 0.0, 1.0)
        if mode not in ("constant", "shrinking"):
            raise ArgumentError(f"{self.owner}.mode must be constant or shrinking, got {mode!r}.")
        if mode == "shrinking" and num_samples is not None:
            raise ArgumentError(
                f"{self.owner}.num_samples must be None in shrinking mode, which sets it itself, got {num_samples}."
            )
        self.mode, self.history = mode, SampleHistory(self.rows)
        self._ids, self._weights = torch.arange(0), torch.ones(0, dtype=torch.float64)
        self._cursor, self._full = 0, False
        self._planned_for = -1  # the epoch of the plan, in shrinking mode
        self._passes, self._planned = 0, 0

    @property
    def needs(self) -> frozenset[str]:
        """Losses."""
        return frozenset({"loss"})

    @property
    def constant_length(self) -> bool:
        """Do all epochs have the same length?"""
        return self.mode == "constant"

    @property
    def passes(self) -> int:
        """Passes over the data that were begun."""
        return self._passes

    def rows_of_epoch(self) -> int:
        """Rows of this epoch: of the plan in shrinking mode, where the first epoch has all."""
        return len(self._ids) if self._planned_for >= 0 else super().rows_of_epoch()

    def begin(self) -> None:
        """Plan the epoch, unless `end_epoch` has."""
        if self.mode == "shrinking":
            if self._planned_for != self.epoch:
                self._plan_epoch(self.epoch)
            self._start()

    def end_epoch(self) -> None:
        """Plan the next epoch, so that its length is known before anybody asks."""
        if self.mode == "shrinking":
            self._plan_epoch(self.epoch + 1)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows of the plan."""
        if self.mode == "shrinking":
            # Ranks may share a few rows more than the plan has: its first ones come again.
            place = (self._cursor + torch.arange(count, device=self.device)) % len(self._ids)
            self._cursor += count
            return Drawn(self._ids.index_select(0, place), self._weights.index_select(0, place))
        if not self._full and self._in_last_share(None):
            self._cursor = len(self._ids)
        parts: list[tuple[Tensor, Tensor]] = []
        while count:
            if self._cursor >= len(self._ids):
                self._plan(self._in_last_share(None), generator)
                self._start()
            here = slice(self._cursor, min(self._cursor + count, len(self._ids)))
            parts.append((self._ids[here], self._weights[here]))
            self._cursor, count = here.stop, count - (here.stop - here.start)
        ids, weights = zip(*parts, strict=True)
        return Drawn(torch.cat(ids), torch.cat(weights))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Note the last losses."""
        self.history.update(ids, self.updates, loss=signals["loss"])

    def tensors(self) -> dict[str, Any]:
        """The losses and what is left to do."""
        return {
            "history": self.history.state_dict(),
            "ids": self._ids.clone(),
            "weights": self._weights.clone(),
            "place": [self._cursor, int(self._full), self._planned_for, self._passes, self._planned],
        }

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over the losses and the plan."""
        ids, weights = state["ids"], state["weights"]
        check_range(self.owner, "ids", ids, 0, self.rows - 1)
        check_range(self.owner, "weights", weights, 0.0)
        check_range(self.owner, "place", torch.tensor(state["place"]), -1)
        check_range(self.owner, "number of weights", len(weights), len(ids), len(ids))
        self.history.load_state_dict(state["history"])
        self._ids, self._weights = ids.to(self.device), weights.to(self.device)
        self._cursor, full, self._planned_for, self._passes, self._planned = state["place"]
        self._full = bool(full)

    def move(self, device: torch.device) -> None:
        """Move the losses and the plan."""
        self.history.to(device)
        self._ids, self._weights = self._ids.to(device), self._weights.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Passes begun, the share of rows in the latest, and the share that all passes left out."""
        all_rows = max(self._passes, 1) * self.rows
        return {
            "passes": float(self._passes),
            "kept": len(self._ids) / self.rows if self._passes else 1.0,
            "skipped": 1 - self._planned / all_rows if self._passes else 0.0,
            "largest_weight": self._weights.max() if self._passes else 1.0,
        }

    def _plan_epoch(self, epoch: int) -> None:
        self._plan(self._in_last_share(epoch), generator_at(self.device, self.seed, epoch, -1))
        self._planned_for = epoch

    def _plan(self, full: bool, generator: torch.Generator) -> None:
        """A new pass, in random order."""
        self._ids = torch.randperm(self.rows, generator=generator, device=self.device)
        self._weights = torch.ones(self.rows, dtype=torch.float64, device=self.device)
        if not full and self.updates:
            stays, weights = info_batch(self.history.last_loss, self.ratio, generator)
            self._ids = self._ids[stays.index_select(0, self._ids)]  # here the host waits: how many stay?
            self._weights = weights.index_select(0, self._ids)
        self._cursor, self._full = 0, full

    def _start(self) -> None:
        """Count a pass."""
        self._passes, self._planned = self._passes + 1, self._planned + len(self._ids)

    def _in_last_share(self, epoch: int | None) -> bool:
        """Is nothing left out now, or in this epoch?"""
        if not self.full_last:
            return False
        progress, epochs = self.progress, self.progress.max_epochs
        by_step = progress.total_steps is not None and progress.step >= progress.total_steps * (1 - self.full_last)
        if progress.total_steps is not None and (by_step or epoch is None or epochs is None):
            return by_step
        if epochs is not None:
            return (self.epoch if epoch is None else epoch) >= epochs - math.ceil(epochs * self.full_last - 1e-9)
        raise ConfigurationError(
            f"{self.owner}.full_last must be 0 while the length of training is unknown, got {self.full_last}. Set "
            "Trainer(max_epochs=...) or max_steps; in a loop of your own assign sampler.progress."
        )
