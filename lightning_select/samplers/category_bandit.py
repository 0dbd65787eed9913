"""Category bandit (SEC): draw more rows of the categories that give the most to learn from at present.

Categories are the arms of a bandit. The value Q of an arm is a running mean of what its rows gave, by default the mean
size of their advantages, which is largest where rows are solved half of the time. Every row of a batch is drawn by
itself: first an arm, by a softmax over Q, then the next row of that arm's own shuffled queue.

References:
    Chen et al., "Self-Evolving Curriculum for LLM Reasoning" (SEC), arXiv:2505.14970: ``p(c) ~ exp(Q_c / tau)``,
    ``Q_c <- (1 - alpha) Q_c + alpha r_c``, r_c the mean absolute advantage over the rows of c in the batch.

Deviations:
    The released code lets arms that are not in a batch decay as if they had given nothing; by default they keep their
    value here (``absent``). It refills all queues when any is low, and demands a batch of rows of every category; here
    every queue starts anew by itself, at any size.
    Advantages divided by the standard deviation are at most about 1, undivided ones at most one half, so that the
    temperature should be halved where ``normalise`` is off. A row with fewer than two scored attempts has no advantage
    and says nothing; a row whose attempts are all alike has advantage zero, and counts.
    Masks of tokens are left out: an attempt has one advantage.
    ``loss`` and ``progress`` are stand-ins for training without rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import between, labels_of, switch
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.picks import places
from lightning_select.samplers.queues import GroupQueues
from lightning_select.schedule import Anneal
from lightning_select.states import check_range, check_state
from lightning_select.types import Float, Int, Num

__all__ = ["CategoryBandit", "advantage_size", "category_bandit"]

EPSILON = 1e-6
"""Added to standard deviations, as in the released code."""

NAMED = 32
"""So many categories get curves of their own."""

_MOST = 1e300
"""Size of a value or of a mean loss. Beyond, neither a difference nor a value in terms of the temperature is finite:
a row that gives as much says nothing."""


def category_bandit(values: Float[Tensor, "categories"], temperature: float) -> Float[Tensor, "categories"]:
    """Probability of each category: the softmax of ``values / temperature``."""
    return torch.softmax(values.double() / temperature, dim=0)


def advantage_size(rewards: Num[Tensor, "rows attempts"], *, normalise: bool = True) -> Float[Tensor, "rows"]:
    """Mean size of the advantages of each row's attempts; NaN with fewer than two attempts that are finite."""
    values = rewards.double()
    scored = values.isfinite()
    attempts = scored.sum(dim=1)
    values = torch.where(scored, values, 0.0)
    away = torch.where(scored, values - (values.sum(dim=1) / attempts).unsqueeze(1), 0.0)
    size = away.abs().sum(dim=1) / attempts
    if normalise:
        size = size / ((away.square().sum(dim=1) / (attempts - 1)).sqrt() + EPSILON)
    return torch.where(attempts > 1, size, torch.nan)


class CategoryBandit(OnlineSampler):
    """Draw categories by a softmax over what they gave, and rows of a category in shuffled order.

    Drawing and learning cost as much as the batch and the categories. Within a category no row comes again before all
    others of it have come. Memory: 16 bytes per row.

    Args:
        dataset: What is sampled from, or its number of rows.
        categories: Category of every row, as numbers or names.
        temperature: How much larger values are preferred; small is greedy, large is uniform over categories.
        alpha: How much of a category's value is replaced by what it just gave.
        absent: A category that is not in a batch may ``keep`` its value, or ``decay`` as if it had given nothing.
        signal: What a category gives: the mean size of the ``advantage`` of its attempts (from ``reward``, one line of
            attempts per row), the mean ``loss``, or ``progress``, the change of its mean loss since its last batch.
        normalise: Divide advantages by the standard deviation of the row's rewards.
        num_samples: Rows of one epoch; ``None``: as many as the dataset has.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range, or a row has no category.

    Example:
        >>> sampler = CategoryBandit(4, ["easy", "hard", "easy", "hard"], signal="loss", temperature=0.01)
        >>> sampler.observe(torch.tensor([0, 1]), {"loss": torch.tensor([0.1, 0.9])})
        >>> sampler.draw(4, torch.Generator().manual_seed(0)).ids.sort().values.tolist()
        [1, 1, 3, 3]
    """

    loose = frozenset({"cursors", "values", "means"})  # as many as there are groups, and the owner says so

    def __init__(
        self,
        dataset: Any,
        categories: Sequence[Any] | Tensor,
        *,
        temperature: float | Anneal = 0.4,
        alpha: float = 0.5,
        absent: Literal["keep", "decay"] = "keep",
        signal: Literal["advantage", "loss", "progress"] = "advantage",
        normalise: bool = True,
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        self.temperature = between(self.owner, "temperature", temperature, 1e-3, math.inf, anneal=True)
        self.alpha = between(self.owner, "alpha", alpha, 0.0, 1.0)
        for name, value, known in (
            ("absent", absent, ("keep", "decay")),
            ("signal", signal, ("advantage", "loss", "progress")),
        ):
            if value not in known:
                raise ArgumentError(f"{self.owner}.{name} must be one of {', '.join(known)}, got {value!r}.")
        self.absent, self.signal, self.normalise = absent, signal, switch(self.owner, "normalise", normalise)
        self.names, self._labels = labels_of(self.owner, "categories", categories, self.rows)
        self.queues = GroupQueues(self._labels, len(self.names), seed)
        self.values = torch.zeros(len(self.names), dtype=torch.float64)
        self._means = torch.full((len(self.names),), torch.nan, dtype=torch.float64)

    @property
    def needs(self) -> frozenset[str]:
        """Rewards of all attempts, or losses."""
        return frozenset({"reward" if self.signal == "advantage" else "loss"})

    @property
    def probabilities(self) -> Float[Tensor, "categories"]:
        """Chance of each category, in the order of ``names``, to give the next row."""
        return category_bandit(self.values, float(self.resolve(self.temperature)))

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """A category for each row, and the next rows of these categories."""
        return Drawn(self.queues.take(places(self.probabilities, count, generator)))

    def learn(self, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]) -> None:
        """Move the values of the categories in the batch towards what their rows gave."""
        if self.signal == "advantage":
            rewards = signals["reward"].reshape(len(ids), -1)
            if rewards.shape[1] < 2:
                raise ArgumentError(
                    f"{self.owner}.reward must hold at least two attempts per row, got {rewards.shape[1]}: a single "
                    "one has no advantage. Use signal='loss' or 'progress'."
                )
            given = advantage_size(rewards, normalise=self.normalise)
        else:
            given = signals["loss"].double()
        means = self._mean_of_each(ids, given)
        if self.signal == "progress":
            means, self._means = (means - self._means).abs(), torch.where(means.isnan(), self._means, means)
        moved = (1 - self.alpha) * self.values + self.alpha * means
        still = self.values if self.absent == "keep" else (1 - self.alpha) * self.values
        self.values = torch.where(means.isnan(), still, moved).clamp(-_MOST, _MOST)

    def tensors(self) -> dict[str, Any]:
        """The values, and how far the queues are."""
        return {"values": self.values, "means": self._means, "queues": self.queues.state_dict()}

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over the values, and go on in the queues."""
        known = state["means"][~state["means"].isnan()]
        for name, numbers in (("values", state["values"]), ("means", known)):
            check_range(self.owner, name, numbers, -_MOST, _MOST)
        self.queues.load_state_dict(state["queues"])
        for name, mine in (("values", self.values), ("means", self._means)):
            check_state(self.owner, state[name], mine, path=name)
        self.values, self._means = state["values"].to(self.device), state["means"].to(self.device)

    def move(self, device: torch.device) -> None:
        """Move the values and the queues."""
        self.queues.to(device)
        self.values, self._means = self.values.to(device), self._means.to(device)
        self._labels = self._labels.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """How many categories the draws are worth, and the value and chance of each where there are not too many."""
        chances = self.probabilities
        found: dict[str, float | Tensor] = {"effective_categories": torch.special.entr(chances).sum().exp()}
        for place, name in enumerate(self.names if len(self.names) <= NAMED else ()):
            found |= {f"value_{name}": self.values[place], f"chance_{name}": chances[place]}
        return found

    def _mean_of_each(self, ids: Int[Tensor, "rows"], given: Float[Tensor, "rows"]) -> Float[Tensor, "categories"]:
        """Mean over the rows of each category; NaN for one that says nothing."""
        says = (ids >= 0) & (given.abs() <= _MOST)
        count = len(self.names)
        where = torch.where(says, self._labels.index_select(0, ids.clamp(0, self.rows - 1)), count)
        table = torch.stack([torch.where(says, given, 0.0), says.double()], dim=1)
        # Accumulated in the order of the rows, the same on every device and rank.
        sums = table.new_zeros(count + 1, 2).index_put_((where,), table, accumulate=True)[:count]
        return (sums[:, 0] / sums[:, 1]).clamp(-_MOST, _MOST)
