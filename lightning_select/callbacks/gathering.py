"""Rows of all ranks in tensors of one size, settled by the loader and the first batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select import distributed
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.success import SOURCES, with_success
from lightning_select.types import Float, Int, Shaped

__all__ = ["Gathering", "of_all_ranks"]


class Gathering:
    """Gathers rows of all ranks, each in as many places as the loader's or the first batch of any rank has at most.

    Args:
        owner: Who is to blame, for the message.
        rows: How many rows of a batch there can be, as the loader says: a collate function may leave out some of the
            first one. 0 where nobody knows.
        steady: Is no batch larger than the first? If not, the ranks settle on a size in every step, and wait for it.
        amid: Is the first batch one amid an epoch, which may be its short last one? Then they do so until `next_epoch`.

    Attributes:
        world: Number of ranks.
        capacity: Places of each rank; 0 before the first batch.
        width: Most attempts at a row; 0 before the first batch.
    """

    def __init__(self, owner: str, *, rows: int = 0, steady: bool = True, amid: bool = False) -> None:
        self.owner = owner
        self.rows = rows
        self.steady = steady
        self.amid = amid
        self.world = distributed.world_size()
        self.capacity = self.width = 0

    def next_epoch(self) -> None:
        """The next batch is the first one of an epoch."""
        if self.amid:
            self.amid, self.capacity, self.width = False, 0, 0

    def values(self, values: Float[Tensor, "rows *rest"]) -> Float[Tensor, "all *rest"]:
        """The values of all ranks, padded with NaN; as they are where there is one rank.

        Raises:
            ConfigurationError: A batch is larger than the first one.
        """
        if self.world == 1:
            return values
        self._settle(values)
        return distributed.gather_rows(values, self.capacity).flatten(0, 1)

    def attempts(self, values: Shaped[Tensor, "rows *attempts"]) -> Float[Tensor, "all attempts"]:
        """As `values`, where rows of other ranks may have been tried more or less often: a line is padded as well.

        Raises:
            ConfigurationError: A batch is larger than the first one, or has more attempts.
        """
        if self.world == 1:
            return values
        lines = distributed.with_nan(values).unsqueeze(-1).flatten(1)
        if self._unsettled(self.width):
            self.width = distributed.largest(lines.shape[1], lines.device)
        if lines.shape[1] > self.width:
            raise ConfigurationError(
                f"{self.owner} must see its largest number of attempts first when several ranks train, got "
                f"{lines.shape[1]} after a first batch of {self.width}. Pad rewards with NaN to one number of attempts."
            )
        return self.values(F.pad(lines, (0, self.width - lines.shape[1]), value=float("nan")))

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
        if self._unsettled(self.capacity):
            self.capacity = distributed.largest(max(values.shape[0], self.rows), values.device)
        if values.shape[0] > self.capacity:
            raise ConfigurationError(
                f"{self.owner} must see its largest batch first when several ranks train, got {values.shape[0]} "
                f"rows after a first batch of {self.capacity}. Use batches of one size (drop_last=True)."
            )

    def _unsettled(self, size: int) -> bool:
        return not size or not self.steady or self.amid


def of_all_ranks(
    sampler: OnlineSampler, gathering: Gathering, ids: Int[Tensor, "rows"], signals: Mapping[str, Tensor]
) -> tuple[Int[Tensor, "all"], Mapping[str, Tensor]]:
    """Ids and signals of the rows of all ranks.

    Where there are several and the sampler learns from success, each rank counts its own: the rows of one may have been
    tried more often than those of another, and all send tensors of one size.

    Raises:
        ArgumentError: A reward that is counted is outside [0, 1].
        ConfigurationError: A batch is larger than the first one, or rewards that are not counted are of more attempts.
    """
    everyone: dict[str, Tensor] = {}
    if gathering.world > 1 and "success" in sampler.needs and signals.keys() & set(SOURCES):
        counted = with_success(sampler.owner, signals)
        signals = {name: one for name, one in counted.items() if name in sampler.needs - {"success"}}
        table = gathering.values(torch.stack([counted["success"], counted["attempts"]], dim=1))
        everyone["success"], everyone["attempts"] = table.unbind(dim=1)
    for name, one in signals.items():
        everyone[name] = gathering.attempts(one) if name == "reward" else gathering.values(one)
    return gathering.ids(ids), everyone
