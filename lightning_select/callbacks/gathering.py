"""Rows of all ranks in tensors of one size, settled by the first batch."""

from __future__ import annotations

from torch import Tensor

from lightning_select import distributed
from lightning_select.errors import ConfigurationError
from lightning_select.types import Float, Int

__all__ = ["Gathering"]


class Gathering:
    """Gathers rows of all ranks, each in as many places as the largest first batch of any rank had rows.

    Args:
        owner: Who is to blame, for the message.
        steady: Is no batch larger than the first? If not, the ranks settle on a size in every step, and wait for it.
        amid: Is the first batch one amid an epoch, which may be its short last one? Then they do so until `next_epoch`.

    Attributes:
        world: Number of ranks.
        capacity: Places of each rank; 0 before the first batch.
    """

    def __init__(self, owner: str, *, steady: bool = True, amid: bool = False) -> None:
        self.owner = owner
        self.steady = steady
        self.amid = amid
        self.world = distributed.world_size()
        self.capacity = 0

    def next_epoch(self) -> None:
        """The next batch is the first one of an epoch."""
        if self.amid:
            self.amid, self.capacity = False, 0

    def values(self, values: Float[Tensor, "rows *rest"]) -> Float[Tensor, "all *rest"]:
        """The values of all ranks, padded with NaN; as they are where there is one rank.

        Raises:
            ConfigurationError: A batch is larger than the first one.
        """
        if self.world == 1:
            return values
        self._settle(values)
        return distributed.gather_rows(values, self.capacity).flatten(0, 1)

    def ids(self, ids: Int[Tensor, "rows"]) -> Int[Tensor, "all"]:
        """The row ids of all ranks, padded with -1; as they are where there is one rank.

        Raises:
            ConfigurationError: A batch is larger than the first one.
        """
        if self.world == 1:
            return ids
        self._settle(ids)
        return distributed.gather_ids(ids, self.capacity).flatten()

    def own(self, values: Float[Tensor, "all"], rows: int) -> Float[Tensor, "rows"]:
        """Those of this rank, which has so many rows."""
        start = distributed.rank() * self.capacity if self.world > 1 else 0
        return values[start : start + rows]

    def _settle(self, values: Tensor) -> None:
        if not self.capacity or not self.steady or self.amid:
            self.capacity = distributed.largest(values.shape[0], values.device)
        if values.shape[0] > self.capacity:
            raise ConfigurationError(
                f"{self.owner} must see its largest batch first when several ranks train, got {values.shape[0]} "
                f"rows after a first batch of {self.capacity}. Use batches of one size (drop_last=True)."
            )
