"""A mixture of domains that changes near the end of training, when what is learnt last counts most.

Training goes by the base mixture until ``start`` and by the end mixture from then on, at once or over a linear ramp.

References:
    Blakeney, Paul, Larsen, Owen and Frankle, "Does your data spark joy? Performance gains from domain upsampling at
    the end of training", arXiv:2406.03476: small domains upsampled in the last 5 to 30 % of the
    tokens; 10 to 20 % are best.

Deviations:
    Progress is counted in optimiser steps, so the switch is exact to the batch; where batches differ in size, as with
    tokens, that is another point of the data than the paper's. Shares are exact quotas, not independent draws.

Honest limits:
    Other domains lose what the small ones gain. The end helps more than the same rows spread evenly only while the
    learning rate is still alive: with one that has decayed to nothing, spread them.
    A loader with workers draws ahead, so the end reaches training that many batches later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import labels_of
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.mixture import Mixture, shares_of
from lightning_select.schedule import Anneal, Schedule
from lightning_select.types import Float

__all__ = ["EndUpsampling", "end_upsampling"]


def end_upsampling(
    base: Float[Tensor, "domains"], end: Float[Tensor, "domains"], *, done: float
) -> Float[Tensor, "domains"]:
    """Shares where ``done``, in [0, 1], of the way from the base mixture to the end mixture lies behind."""
    return (1 - done) * base + done * end


class EndUpsampling(OnlineSampler):
    """Draw domains by one mixture, and by another one at the end of training.

    Rows of a domain come in shuffled order and none comes again before all have come. The metrics tell how often each
    domain was gone through, ``passes/<domain>``, and ``done``, the way to the end mixture. No signal is needed. For a
    ``start`` as a fraction the length of training must be known. A draw costs what it draws.

    Args:
        dataset: What is sampled from, or its number of rows.
        domains: Domain of every row: numbers or strings.
        weights: Mapping of every domain to its share at the start; shares are divided by their sum.
        end_weights: The same for the end. A domain with a share of 0 is not drawn.
        start: Where the change starts: an ``int`` is an optimiser step, a ``float`` a fraction of the whole training.
        ramp: How long it takes, in the same unit; 0 is at once.
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range, or domains and shares do not fit together.

    Example:
        >>> web = {"web": 1.0, "code": 0.0}
        >>> sampler = EndUpsampling(4, ["web", "web", "code", "code"], web, end_weights={"web": 0, "code": 1}, start=8)
        >>> sorted(sampler)
        [0, 0, 1, 1]
    """

    loose = frozenset({"cursors", "credit"})  # as many as there are groups, and the owner says so

    def __init__(
        self,
        dataset: Sized | int,
        domains: Sequence[Any] | Tensor,
        weights: Mapping[Any, int | float],
        *,
        end_weights: Mapping[Any, int | float],
        start: int | float = 0.85,
        ramp: int | float = 0,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        names, labels = labels_of(self.owner, "domains", domains, self.rows)
        self._mixture = Mixture(names, labels, seed)
        self._base = shares_of(self.owner, "weights", weights, names)
        self._end = shares_of(self.owner, "end_weights", end_weights, names)
        self._switch = Schedule(start=start)
        self._ramp = self._checked_ramp(start, ramp)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows, each domain by its share at this point of training."""
        return Drawn(self._mixture.take(self._shares(), count, generator))

    def tensors(self) -> dict[str, Any]:
        """How far the domains are."""
        return self._mixture.state_dict()

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        self._mixture.load_state_dict(state)

    def move(self, device: torch.device) -> None:
        """Move the queues of the domains."""
        self._mixture.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """The way to the end mixture, and how often each domain was gone through."""
        passes = {f"passes/{name}": one for name, one in zip(self._mixture.names, self._mixture.passes(), strict=True)}
        return {"done": self._done(), **passes}

    def _done(self) -> float:
        if self._ramp is not None:
            return self.resolve(self._ramp)
        return float(self._switch.active(self.progress.step, self.progress.total_steps))

    def _shares(self) -> Float[Tensor, "domains"]:
        return end_upsampling(self._base, self._end, done=self._done())

    def _checked_ramp(self, start: int | float, ramp: int | float) -> Any:
        number = isinstance(ramp, (int, float)) and not isinstance(ramp, bool)
        if not number or not 0 <= ramp < float("inf") or (ramp and type(ramp) is not type(start)):
            raise ArgumentError(
                f"{self.owner}.ramp must be 0 or, like start ({start}), a number of steps (int) or a fraction of "
                f"training (float), got {ramp!r}."
            )
        if isinstance(start, float) and start + ramp > 1:
            raise ArgumentError(f"{self.owner}.ramp must end by the end of training, got {ramp} after {start}.")
        return Anneal(0.0, 1.0, start=start, stop=start + ramp) if ramp else None
