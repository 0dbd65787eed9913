"""Which rows of the training dataset a batch holds, without an index column in it.

A batch sampler draws the positions of each batch just before the batch is made, and a loader hands batches out in the
order in which they were drawn. `RowIds` listens to the drawing and matches the batches as they arrive, whatever the
dataset returns and whatever else the collate function makes of it: rows must stay in the order in which they were
drawn. A collate function or a hook that sorts them by length is not noticed. An entry of the batch that holds ids is
taken where the user names it, and weights that were noted at the draw follow it.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_select.callbacks.wrap import while_there
from lightning_select.compat import sized_len
from lightning_select.device_loader import DeviceLoader, samples_of
from lightning_select.errors import ConfigurationError, RowIdError
from lightning_select.looking import may_look
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.ledger import Arrival
from lightning_select.types import Batch, Int

__all__ = ["RowIds", "as_given"]

_STATE = ("state_dict", "load_state_dict")


class RowIds:
    """Row ids of the batches of one fit, and what a sampler of ours noted of them when it drew them.

    Args:
        id_key: Key, attribute or position of the ids in the batch; ``None`` listens to the loader's batch sampler,
            whose order the batch must keep.

    Attributes:
        dataset: The training dataset, to be read by row, where its loader is listened to.
        dataset_rows: Its length, where ids come from its sampler.
        needed: Has anyone asked for the ids? A sampler that learns nothing only counts what arrives.
        arrival: What a sampler of ours noted of the rows that arrived last when it drew them.
    """

    def __init__(self, id_key: str | int | None = None) -> None:
        self.id_key = id_key
        self.dataset: Any = None
        self.dataset_rows: int | None = None
        self.needed = False
        self.arrival: Arrival | None = None
        self._drawn: collections.deque[Sequence[int] | Tensor] = collections.deque()
        self._sampler: OnlineSampler | None = None
        self._listening = False
        self._reason = "no training loader was set up while this fit was watched"

    def watch(self, loader: Any, sampler: OnlineSampler | None = None) -> Callable[[], None] | None:
        """Listen to a training loader from now on; the returned function stops it.

        The batch sampler is replaced in the loader's ``__dict__``, because a DataLoader refuses the plain assignment.
        """
        self._sampler = sampler or self._sampler
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(batches, _Listening) and batches.drawn is self._drawn:
            batches.stateful = self._sampler is None
            return None
        batches = as_given(batches)  # one of ours may be left behind by a fit that was torn down by nobody
        self.dataset = samples_of(loader)
        if self.id_key is not None and self._sampler is None:
            return None
        self._listening = False
        if not isinstance(loader, (DataLoader, DeviceLoader)):
            self._reason = f"the training loader is a {type(loader).__name__}, not a torch DataLoader"
        elif isinstance(loader.dataset, IterableDataset):
            self._reason = "the dataset is iterable, so that its rows have no ids"
        elif batches is None:
            self._reason = "the loader makes batches without a batch sampler (batch_size=None)"
        elif not getattr(loader, "in_order", True):
            self._reason = "the loader hands out batches in another order than it draws them (in_order=False)"
        else:
            self._listening = True
            self.dataset_rows = sized_len(self.dataset)
            vars(loader)["batch_sampler"] = _Listening(batches, self._drawn, stateful=self._sampler is None)
            return while_there(loader, _stop_listening)
        return None

    def of(self, batch: Batch, rows: int, device: torch.device, loaders: int) -> Int[Tensor, "rows"] | None:
        """Ids of the rows of the batch that arrived now, from so many loaders; to be called once for every batch.

        ``None`` where there are none and nobody but a sampler that learns nothing asked, and for a batch that is none.

        Raises:
            RowIdError: There are no ids, or not one per row.
        """
        if self.id_key is not None and self._sampler is None:
            return None if batch is None else self._named(batch, rows)
        if loaders > 1 and self._sampler is not None:
            raise ConfigurationError(
                f"{self._sampler.owner} must be the sampler of the only training loader, got {loaders} loaders. "
                "Put the datasets into one: torch.utils.data.ConcatDataset."
            )
        if loaders > 1:
            self._reason = f"there are {loaders} training loaders, each with rows of its own"
        if loaders > 1 or not self._listening or not self._drawn:
            raise RowIdError(
                f"Row ids must come from the loader's sampler or from the batch, got neither: {self._reason}. "
                "Put the ids into the batch and name them: id_key='index'."
            )
        ids = self._drawn.popleft()
        if self._sampler is not None:
            self.arrival = self._sampler.arrived(ids)
        if batch is None:  # left out by the collate function, but drawn like the others
            self.arrival = None
            return None
        if self.id_key is not None:
            named = self._named(batch, rows)
            if self.arrival is not None and self.arrival.weights is not None and len(ids) == rows:
                self.arrival = replace(self.arrival, weights=_following(named, ids, self.arrival.weights))
            return named
        if len(ids) == rows:
            return self._listed(ids, rows).to(device, non_blocking=True)
        if not self.needed and (self.arrival is None or self.arrival.weights is None):
            return None
        raise RowIdError(
            f"Row ids must be one per row, got {len(ids)} drawn for a batch of {rows} rows: the dataset or "
            "the collate function adds or drops rows. Put the ids into the batch and name them: id_key='index'."
        )

    @staticmethod
    def _listed(ids: Sequence[int] | Tensor, rows: int) -> Int[Tensor, "rows"]:
        # NumPy reads whole numbers in a fraction of the time that torch takes.
        if not isinstance(ids, Tensor) and set(map(type, ids)) == {int}:
            return torch.from_numpy(np.array(ids, dtype=np.int64))
        try:
            known = ids if isinstance(ids, Tensor) else torch.tensor(ids, dtype=torch.int64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise RowIdError(
                f"Row ids must be whole numbers, got {ids[0]!r} from the loader's sampler: {error}. Put the ids into "
                "the batch and name them: id_key='index'."
            ) from error
        if known.shape != (rows,):
            raise RowIdError(
                f"Row ids must be one whole number per row, got {ids[0]!r} from the loader's sampler. Put the ids into "
                "the batch and name them: id_key='index'."
            )
        return known

    def _named(self, batch: Batch, rows: int) -> Int[Tensor, "rows"]:
        try:
            plain = isinstance(batch, (list, tuple)) and not hasattr(batch, "_fields")
            by_key = isinstance(batch, Mapping) or isinstance(self.id_key, int) or plain
            ids = batch[self.id_key] if by_key else getattr(batch, str(self.id_key))
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise RowIdError(f"id_key must name an entry of the batch, got {self.id_key!r}.") from error
        if not isinstance(ids, Tensor) or ids.shape != (rows,) or ids.is_floating_point() or ids.dtype == torch.bool:
            got = f"{ids.dtype} of shape {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
            raise RowIdError(f"The batch entry {self.id_key!r} must hold {rows} whole numbers, got {got}.")
        if self._sampler is not None and ids.device.type == "cpu" and rows:
            low, high = (int(end) for end in ids.aminmax())
            if low < 0 or high >= self._sampler.rows:
                raise RowIdError(
                    f"The batch entry {self.id_key!r} must hold ids in [0, {self._sampler.rows}), the rows of "
                    f"{self._sampler.owner}, got {low if low < 0 else high}."
                )
        return ids.to(torch.int64)


def as_given(batches: Any) -> Any:
    """The batch sampler that the user gave to a loader, where we listen to it or not."""
    return batches.inner if isinstance(batches, _Listening) else batches


def _following(
    named: Int[Tensor, "rows"], drawn: Sequence[int] | Tensor, weights: list[float] | Tensor
) -> list[float] | Tensor:
    """Weights of the rows as they were drawn, in the order of the same rows in the batch.

    Where the batch names others, such as groups, there is nothing to go by, and its rows are taken to be in order.
    """
    known = torch.as_tensor(drawn, dtype=torch.int64).to(named.device, non_blocking=True)
    if may_look(named.device) and torch.equal(known, named):
        return weights
    ours = torch.as_tensor(weights, dtype=torch.float32).to(named.device, non_blocking=True)
    before, after = known.argsort(stable=True), named.argsort(stable=True)
    same = (known.index_select(0, before) == named.index_select(0, after)).all()
    return torch.where(same, ours.scatter(0, after, ours.index_select(0, before)), ours)


def _stop_listening(loader: Any) -> None:
    if "batch_sampler" in vars(loader):
        vars(loader)["batch_sampler"] = as_given(vars(loader)["batch_sampler"])


class _Listening:
    """A batch sampler that notes what it draws; everything else is the inner one's.

    Unless ``stateful``, it shows no state: a loader that keeps states must not keep that of a sampler of ours as well.
    """

    def __init__(self, inner: Any, drawn: collections.deque[Sequence[int] | Tensor], *, stateful: bool) -> None:
        self.inner = inner
        self.drawn = drawn
        self.stateful = stateful

    def __iter__(self) -> Iterator[Any]:
        self.drawn.clear()  # what was drawn ahead and never arrived belongs to an epoch that was cut short
        for positions in self.inner:
            self.drawn.append(positions if isinstance(positions, Tensor) else list(positions))
            yield positions

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        # Not while copy and pickle build an empty one.
        if name.startswith("__") or name in ("inner", "stateful") or (name in _STATE and not self.stateful):
            raise AttributeError(name)
        return getattr(self.inner, name)
