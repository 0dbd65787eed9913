"""Groups with quotas: classes, sources or lengths take part in training by shares of your choice.

``equal`` gives every group the same share, ``square_root`` one in proportion to the root of its size, halfway to
``proportional``, and a mapping any share at all. Quotas are exact: a chunk holds ``share * count`` rows of each group,
rounded, and what is rounded off is made good in the next chunks. Independent draws would stray with the root of the
number of draws.

References:
    Mahajan et al., "Exploring the Limits of Weakly Supervised Pretraining", ECCV 2018, arXiv:1805.00932:
    images by the square root of the frequency of their class.
    Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020, arXiv:1910.09217,
    equation 1: ``p_j = n_j^q / sum_i n_i^q`` with q = 1, 1/2 and 0.

Deviations:
    Quotas with a carry in place of independent draws. Rows of a group come in shuffled order and none comes again
    before all have come, also across epochs.

Honest limits:
    A small group with a large share is repeated; the metric ``most_passes`` tells how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_select.errors import ArgumentError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.checks import labels_of
from lightning_select.samplers.drawn import Drawn
from lightning_select.samplers.mixture import Mixture, shares_of
from lightning_select.types import Float, Num

__all__ = ["Balance", "GroupBalanced", "group_balanced"]

Balance = Literal["equal", "square_root", "proportional"]

_POWERS = {"equal": 0.0, "square_root": 0.5, "proportional": 1.0}


def group_balanced(sizes: Num[Tensor, "groups"], *, balance: Balance) -> Float[Tensor, "groups"]:
    """Shares of groups of these sizes, float64."""
    powered = sizes.double() ** _POWERS[balance]
    return powered / powered.sum()


class GroupBalanced(OnlineSampler):
    """Draw rows so that every group has its share.

    A draw costs what it draws. What a chunk holds of each group is worked out on the host, from sizes known at
    construction, so no draw waits for a device. A group that is used up starts anew in another order.

    Args:
        dataset: What is sampled from, or its number of rows.
        groups: Group of every row: numbers or strings.
        balance: ``equal``, ``square_root``, ``proportional``, or a mapping of every group to its share; shares are
            divided by their sum, and a group with a share of 0 is never drawn.
        num_samples: Rows of one epoch, of all ranks together; ``None`` is the length of the dataset.
        seed: Seed of the draws.
        id_key: Entry of the batch that holds row ids; ``None``: batches keep the order in which rows were drawn.
        lag: Batches that every draw is ahead of the training at least.

    Raises:
        ArgumentError: A value is out of range, or groups and shares do not fit together.

    Example:
        >>> groups = ["cat"] * 9 + ["dog"]
        >>> [groups[row] for row in GroupBalanced(10, groups)].count("dog")
        5
    """

    loose = frozenset({"cursors", "credit"})  # as many as there are groups, and the owner says so

    def __init__(
        self,
        dataset: Sized | int,
        groups: Sequence[Any] | Tensor,
        *,
        balance: Balance | Mapping[Any, int | float] = "equal",
        num_samples: int | None = None,
        seed: int = 0,
        id_key: str | int | None = None,
        lag: int = 0,
    ) -> None:
        super().__init__(dataset, num_samples=num_samples, seed=seed, id_key=id_key, lag=lag)
        names, labels = labels_of(self.owner, "groups", groups, self.rows)
        self._mixture = Mixture(names, labels, seed)
        if isinstance(balance, str):
            if balance not in get_args(Balance):
                raise ArgumentError(
                    f"{self.owner}.balance must be one of {', '.join(get_args(Balance))} or a mapping, got {balance!r}."
                )
            self._shares = group_balanced(torch.bincount(labels), balance=balance).cpu()
        else:
            self._shares = shares_of(self.owner, "balance", balance, names)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """The next rows, each group by its share."""
        return Drawn(self._mixture.take(self._shares, count, generator))

    def tensors(self) -> dict[str, Any]:
        """How far the groups are."""
        return self._mixture.state_dict()

    def load_tensors(self, state: Mapping[str, Any]) -> None:
        """Take over what `tensors` gave."""
        self._mixture.load_state_dict(state)

    def move(self, device: torch.device) -> None:
        """Move the queues of the groups."""
        self._mixture.to(device)

    def metrics(self) -> dict[str, float | Tensor]:
        """How often the group drawn most for its size was gone through, and the one drawn least."""
        passes = self._mixture.passes()
        return {"most_passes": passes.amax(), "least_passes": passes.amin()}
