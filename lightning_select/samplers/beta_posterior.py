"""Beta posterior: guess how often each row is solved from its past attempts, and draw the rows worth an attempt.

Every row has counts of successes and failures that fade. Its solve rate is a draw from the Beta distribution of these
counts (Thompson sampling), so a row that is little known or was last tried long ago gets its chance, or it is the mean.
The rows whose rate scores best are drawn. Presets are configs: ``vade``, ``mopps`` and ``spo``.

References:
    VADE, arXiv:2511.18902: rates from Beta(successes + 1, failures + 1), score ``p (1 - p)^2``, the best rows of all;
    counts times 0.2 where a row was tried in a step and times 0.999 where it was not (project page, main figure).
    Qu et al., "Can Prompt Difficulty be Online Predicted for Accelerating RL Finetuning of Reasoning Models?" (MoPPS),
    arXiv:2507.04632: the rates nearest to a target, among candidates drawn at random; counts times 0.5 where tried.
    Xu and Ding, "Single-stream Policy Optimization" (SPO), arXiv:2509.13232: rows in proportion to
    ``sqrt(p (1 - p)) + 0.05`` of the mean, without replacement; counts that start worth 8 attempts and fade.

Deviations:
    MoPPS lets counts go back to its prior, ``alpha <- d alpha + (1 - d) alpha_0 + successes``: the same as a prior that
    stays, beside counts that fade. Its released code overwrites the counts of rows tried once by a constant (the
    precedence of a conditional), so nothing is learnt from them; here one attempt moves the mean.
    SPO fades by ``2^(-D / 0.06)`` in [0.875, 0.96], where D is how far the policy moved on the row's last answer. D
    cannot be read from an ordinary step; ``keep`` is one number, 0.9 in the preset. SPO also starts from a probe of
    every row; here rows start at one half, worth 8 attempts.
    Rows that come twice in a step are one visit: attempts are summed, and counts fade once.

Limits:
    Thompson draws beat the mean in the VADE paper; where rows learn from each other the mean may do better.
    A row drawn ahead by the workers of a loader was judged by what was known then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.history import SampleHistory
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between, several, whole
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import best, in_proportion, some
from lightning_select.samplers.tries import tries
from lightning_select.schedule import Anneal
from lightning_select.torch_compat import STANDARD_GAMMA
from lightning_select.types import Float, Int

__all__ = ["BetaPosterior", "Score", "beta_posterior", "usefulness"]

Score = Literal["skewed", "variance", "near", "deviation", "band"]


def beta_posterior(
    successes: Float[Tensor, "rows"], failures: Float[Tensor, "rows"], generator: torch.Generator | None = None
) -> Float[Tensor, "rows"]:
    """Solve rates: a draw from Beta(successes, failures) by the generator, or without one the mean.

    Both counts hold the prior. No counts at all mean one half.
    """
    if generator is not None:
        # As torch.distributions.Beta does it.
        successes = STANDARD_GAMMA(successes, generator=generator)
        failures = STANDARD_GAMMA(failures, generator=generator)
    total = successes + failures
    return torch.where(total > 0, successes / total, 0.5)


def usefulness(
    rates: Float[Tensor, "rows"],
    score: Score,
    *,
    target: float = 0.5,
    floor: float = 0.05,
    low: float = 0.3,
    high: float = 0.7,
) -> Float[Tensor, "rows"]:
    """How much is to be had from rows that are solved at these rates; the larger the better.

    ``skewed`` is ``p (1 - p)^2``, largest at one third; ``variance`` is ``p (1 - p)``; ``near`` is minus the squared
    distance to ``target``; ``deviation`` is ``sqrt(p (1 - p)) + floor``; ``band`` is minus the distance to [low, high].
    """
    if score == "skewed":
        return rates * (1 - rates).square()
    if score == "variance":
        return rates * (1 - rates)
    if score == "near":
        return -(rates - target).square()
    if score == "deviation":
        return (rates * (1 - rates)).sqrt() + floor
    return -((low - rates).clamp_min(0.0) + (rates - high).clamp_min(0.0))


class BetaPosterior(OnlineSampler):
    """Draw the rows whose solve rate, by a Beta posterior, promises most.

    Learns from ``success`` and ``attempts``, which come from rewards in [0, 1] of shape (rows, attempts) or from
    ``correct``. Equal scores are put in random order. No row comes twice in a chunk, except where a chunk is larger
    than the dataset. A draw costs as much as it has candidates, which are all rows where ``pool`` is ``None``: on one
    core some 0.1 s for 1e6 rows, 2 ms with a ``pool`` of 8 and a batch of 256. Learning costs as much as the batch.
    Memory: 24 bytes per row.

    Args:
        dataset: What is sampled from, or its number of rows.
        score: What is to be had from a solve rate; see `usefulness`.
        target: Best rate, for ``near``.
        floor: Added by ``deviation``, so that a row that is always or never solved can still be drawn.
        low: Lower end of the ``band``.
        high: Upper end of the ``band``.
        draw: Rates are drawn from the posterior (``thompson``), or are its ``mean``.
        select: Take the best (``top_k``), or draw without replacement in proportion to the score (``proportional``).
        keep: Share of a row's counts that stays when it is tried.
        forget: Share of a row's counts that stays in a step in which it is not tried.
        prior: Successes and failures that every row has and that never fade.
        initial: Successes, and as many failures, that every row starts with and that fade.
        pool: Candidates per drawn row, chosen at random anew for every draw; ``None``: every row is a candidate.
        num_samples: Rows of one epoch; ``None``: as many as the dataset has.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range.

    Example:
        >>> sampler = BetaPosterior(4, keep=1.0, draw="mean")
        >>> sampler.observe(torch.arange(4), {"success": torch.tensor([8.0, 0, 3, 7]), "attempts": torch.full((4,), 8)})
        >>> sampler.draw(2, torch.Generator().manual_seed(0)).ids.sort().values.tolist()
        [1, 2]
    """

    def __init__(
        self,
        dataset: Any,
        *,
        score: Score = "skewed",
        target: float | Anneal = 0.5,
        floor: float = 0.05,
        low: float = 0.3,
        high: float = 0.7,
        draw: Literal["thompson", "mean"] = "thompson",
        select: Literal["top_k", "proportional"] = "top_k",
        keep: float | Anneal = 0.2,
        forget: float = 0.999,
        prior: Sequence[float] = (1.0, 1.0),
        initial: float = 0.0,
        pool: int | None = None,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        owner = self.owner
        for name, value, known in (
            ("score", score, get_args(Score)),
            ("draw", draw, ("thompson", "mean")),
            ("select", select, ("top_k", "proportional")),
        ):
            if value not in known:
                raise ArgumentError(f"{owner}.{name} must be one of {', '.join(known)}, got {value!r}.")
        if select == "proportional" and score in ("near", "band"):
            raise ArgumentError(
                f"{owner}.select must be top_k with the score {score}, which is negative, got {select!r}."
            )
        self.score, self.select, self._thompson = score, select, draw == "thompson"
        self.target = between(owner, "target", target, 0.0, 1.0, anneal=True)
        self.floor = between(owner, "floor", floor, 0.0, math.inf)
        self.low, self.high = between(owner, "low", low, 0.0, 1.0), between(owner, "high", high, low, 1.0)
        self.keep = between(owner, "keep", keep, 0.0, 1.0, anneal=True)
        self.initial = between(owner, "initial", initial, 0.0, math.inf)
        self.prior = _checked_prior(owner, prior, initial, self._thompson)
        self.pool = None if pool is None else whole(owner, "pool", pool, 1)
        self.history = SampleHistory(self.rows, columns=("success",), forget=between(owner, "forget", forget, 0.0, 1.0))
        self.history.successes.fill_(initial)
        self.history.failures.fill_(initial)
        self._mixed = torch.full((), torch.nan, dtype=torch.float64)

    @property
    def needs(self) -> frozenset[str]:
        """Successes and attempts."""
        return frozenset({"success"})

    def rates(self, ids: Int[Tensor, "k"], generator: torch.Generator | None = None) -> Float[Tensor, "k"]:
        """Solve rates of rows as believed now, drawn by the generator or, without one, the means.

        Before a step is learnt from, its means are the baseline that SPO subtracts from the rewards.
        """
        successes, failures = self.history.beta(ids, self.updates)
        return beta_posterior(successes + self.prior[0], failures + self.prior[1], generator)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The best of the candidates."""
        candidates = torch.arange(self.rows, device=self.device)
        if self.pool is not None and self.pool * count < self.rows:
            candidates = some(self.rows, self.pool * count, generator)
        rates = self.rates(candidates, generator if self._thompson else None)
        scores = usefulness(
            rates, self.score, target=self.resolve(self.target), floor=self.floor, low=self.low, high=self.high
        )
        distinct = min(count, len(candidates))
        pick = best if self.select == "top_k" else in_proportion
        chosen = candidates.index_select(0, pick(scores, distinct, generator))
        # A chunk larger than the dataset: every row, and again from the best.
        return Drawn(chosen.index_select(0, torch.arange(count, device=self.device) % distinct))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Fade the counts of these rows and add their attempts."""
        ids, successes, failures = tries(ids, signals)
        self.history.update(
            ids, self.updates, successes=successes, failures=failures, keep=float(self.resolve(self.keep))
        )
        self._mixed = ((successes > 0) & (failures > 0)).double().sum() / (ids >= 0).double().sum()

    def tensors(self) -> dict[str, Any]:
        """The counts."""
        return {"history": self.history.state_dict(), "mixed": self._mixed}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over the counts."""
        self.history.load_state_dict(state["history"])
        self._mixed = state["mixed"].to(self.device)

    def move(self, device: torch.device) -> None:
        """Move the counts."""
        self.history.to(device)
        self._mixed = self._mixed.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """Share of rows seen, share of the last batch that was solved by some attempts only, and what is believed."""
        rates = self.rates(torch.arange(self.rows, device=self.device))
        return {
            "seen": self.history.seen.double().mean(),
            "informative": self._mixed,
            "rate": rates.mean(),
            "spread": 4 * (rates * (1 - rates)).mean(),
        }


def _checked_prior(owner: str, prior: Any, initial: float, thompson: bool) -> tuple[float, float]:
    first, second = (between(owner, "prior", one, 0.0, math.inf) for one in several(owner, "prior", prior, 2))
    if min(first, second) <= 0 and (thompson or not initial):
        raise ArgumentError(
            f"{owner}.prior must be positive, unless draw is mean and initial is positive, got {tuple(prior)}."
        )
    return float(first), float(second)
