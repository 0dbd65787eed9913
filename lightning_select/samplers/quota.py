"""Quota (DART): every row has a number of right answers to reach, hard rows a larger one, and then is done.

Rows are drawn in proportion to the attempts that they are still expected to need: what is missing, divided by the solve
rate. So all rows are done at about the same time, and hard ones are tried far more often than easy ones.

References:
    Tong et al., "DART-Math: Difficulty-Aware Rejection Tuning for Mathematical Problem-Solving", NeurIPS 2024,
    arXiv:2407.13690: targets alike for all (Uniform), or in proportion to the fail rate, rounded up (Prop2Diff); a cap
    on the attempts at a row.

Deviations:
    There answers are sampled row by row, before training; here rows are drawn for batches, and learnt from as they
    come. The weight of a draw is ours. The solve rate is that of the probe, which counts as one attempt, and of what
    came since.
    Targets are divided by the largest fail rate, so that the hardest row has ``k``; the easiest has at least one. Where
    all rows are always solved, all targets are ``k``. The released code collects one right answer too many and trims.
    A cap is not optional: a row that is never solved would be tried forever.

Limits:
    A row is done when its attempts are known, so rows on their way may overshoot target and cap by what was drawn.
    When all rows are done, training goes on: rows are drawn uniformly, and the curve ``retired`` is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import whole
from lightning_select.samplers.draw import WeightedDraw
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.tries import tries
from lightning_select.states import check_range
from lightning_select.types import Float, Int

__all__ = ["Quota", "quota"]

_KEEPER = 1e-30
"""Weight of a row beyond the last, which is drawn only when all others are done."""

_CLOSE = 1e-6
"""Rounding, of rates and rewards in float32, that is not to cost an attempt."""

_MOST = 2**53
"""Counts are kept in float64, which has every whole number up to here."""


def quota(pass_rates: Float[Tensor, "rows"], k: int, mode: Literal["uniform", "prop2diff"]) -> Float[Tensor, "rows"]:
    """Right answers that each row has to reach: ``k``, or ``ceil(k * d / max d)`` and at least 1, for fail rates d."""
    fails = 1 - pass_rates.double()
    if mode == "uniform":
        return torch.full_like(fails, k)
    hardest = fails.max()
    return torch.where(hardest > 0, (k * (fails / hardest - _CLOSE)).ceil().clamp_min(1), float(k))


class Quota(OnlineSampler):
    """Draw rows until each was solved as often as its difficulty asks for, or was tried too often.

    Learns from ``success`` and ``attempts``, which come from rewards in [0, 1] of shape (rows, attempts) or from
    ``correct``. Draws are with replacement. Drawing and learning cost as much as the batch. Memory: 36 bytes per row.

    Args:
        dataset: What is sampled from, or its number of rows.
        pass_rates: Share of attempts that solved each row, in a probe before training.
        mode: Targets alike for all rows (``uniform``), or in proportion to the fail rate (``prop2diff``).
        k: Target of every row, or of the hardest.
        max_trials: Attempts after which a row is done, solved or not.
        num_samples: Rows of one epoch; ``None``: as many as the dataset has.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> quota(torch.tensor([1.0, 0.75, 0.5, 0.0]), k=4, mode="prop2diff").tolist()
        [1.0, 1.0, 2.0, 4.0]
    """

    def __init__(
        self,
        dataset: Any,
        pass_rates: Sequence[float] | Float[Tensor, "rows"],
        *,
        mode: Literal["uniform", "prop2diff"] = "uniform",
        k: int = 4,
        max_trials: int = 64,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        if mode not in ("uniform", "prop2diff"):
            raise ArgumentError(f"{self.owner}.mode must be one of uniform, prop2diff, got {mode!r}.")
        self.mode = mode
        self.k, self.max_trials = _count(self.owner, "k", k), _count(self.owner, "max_trials", max_trials)
        rates = _checked_rates(self.owner, pass_rates, self.rows)
        # One row more than there are: padding is led there, and it is what a draw finds when all others are done.
        self._targets = torch.cat([quota(rates, k, mode), torch.zeros(1, dtype=torch.float64)])
        self._probe = torch.cat([rates, torch.zeros(1, dtype=torch.float64)])
        self._accepted, self._trials = torch.zeros_like(self._targets), torch.zeros_like(self._targets)
        self._draw = WeightedDraw(self.rows + 1)
        self._draw.set_all(self._weights_of(torch.arange(self.rows + 1)))

    @property
    def needs(self) -> frozenset[str]:
        """Successes and attempts."""
        return frozenset({"success"})

    @property
    def targets(self) -> Float[Tensor, "rows"]:
        """Right answers that each row has to reach."""
        return self._targets[: self.rows]

    @property
    def accepted(self) -> Float[Tensor, "rows"]:
        """Right answers of each row so far."""
        return self._accepted[: self.rows]

    @property
    def trials(self) -> Float[Tensor, "rows"]:
        """Attempts at each row so far."""
        return self._trials[: self.rows]

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """Rows in proportion to the attempts that they need; any rows when all are done."""
        ids = self._draw.draw(count, generator)
        anything = torch.randint(self.rows, (count,), generator=generator, device=self.device)
        return Drawn(torch.where(ids < self.rows, ids, anything))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Count right answers and attempts, and retire rows that are done."""
        ids, successes, failures = tries(ids, signals)
        where = torch.where(ids < 0, self.rows, ids)
        self._accepted.index_put_((where,), successes, accumulate=True)
        self._trials.index_put_((where,), successes + failures, accumulate=True)
        self._draw.set(where, self._weights_of(where))

    def tensors(self) -> dict[str, Any]:
        """The counts, and the weights of the draw."""
        counts = {"accepted": self._accepted.clone(), "trials": self._trials.clone()}
        return counts | {"draw": self._draw.state_dict()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over the counts and the weights of the draw."""
        for name in ("accepted", "trials"):
            check_range(self.owner, name, state[name], 0.0)
        self._accepted.copy_(state["accepted"])
        self._trials.copy_(state["trials"])
        self._draw.load_state_dict(state["draw"])

    def move(self, device: torch.device) -> None:
        """Move the counts and the weights of the draw."""
        self._targets, self._probe = self._targets.to(device), self._probe.to(device)
        self._accepted, self._trials = self._accepted.to(device), self._trials.to(device)
        self._draw.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Share of rows that are done, of those that met the cap without their target, and of right answers in hand."""
        reached = self.accepted >= self.targets - _CLOSE
        capped = ~reached & (self.trials >= self.max_trials)
        return {
            "retired": (reached | capped).double().mean(),
            "capped": capped.double().mean(),
            "accepted": torch.minimum(self.accepted, self.targets).sum() / self.targets.sum(),
        }

    def _weights_of(self, rows: Int[Tensor, "k"]) -> Float[Tensor, "k"]:
        """Attempts that rows are still expected to need, as far as the cap allows."""
        accepted, trials = self._accepted.index_select(0, rows), self._trials.index_select(0, rows)
        missing = self._targets.index_select(0, rows) - accepted
        rate = (self._probe.index_select(0, rows) + accepted) / (1 + trials)
        needed = torch.minimum(missing / rate, self.max_trials - trials)
        weights = torch.where((missing > _CLOSE) & (trials < self.max_trials), needed, 0.0)
        return torch.where(rows == self.rows, _KEEPER, weights).float()


def _count(owner: str, name: str, value: Any) -> int:
    number = whole(owner, name, value, 1)
    if number > _MOST:
        raise ArgumentError(f"{owner}.{name} must be at most 2^53, got {value!r}.")
    return number


def _checked_rates(owner: str, pass_rates: Any, rows: int) -> Float[Tensor, "rows"]:
    try:
        rates = torch.as_tensor(pass_rates, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        got = type(pass_rates).__name__
        raise ArgumentError(f"{owner}.pass_rates must hold one rate for each of {rows} rows, got {got}.") from error
    if rates.shape != (rows,):
        raise ArgumentError(f"{owner}.pass_rates must hold one rate for each of {rows} rows, got {tuple(rates.shape)}.")
    wrong = ~((rates >= 0) & (rates <= 1))
    if bool(wrong.any()):
        raise ArgumentError(f"{owner}.pass_rates must be in [0, 1], got {float(rates[wrong][0]):g}.")
    return rates
