"""What a loader tells about how it draws: its sampler, the rows of a batch, how far its workers are ahead."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_select.callbacks.row_ids import as_given
from lightning_select.callbacks.wrap import Wrap, while_there
from lightning_select.compat import sized_len, steps_so_far, train_source
from lightning_select.device_loader import DeviceLoader, samples_of
from lightning_select.errors import ConfigurationError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.ledger import Arrival
from lightning_select.samplers.progress import Progress

__all__ = [
    "batch_rows",
    "check_loader",
    "draws_ahead",
    "find_sampler",
    "is_steady",
    "keep_sampler",
    "keep_state",
    "lag_of",
    "settle",
    "so_far",
]

_DEPTH = 4
"""How deep batch samplers may be wrapped in each other."""


def find_sampler(loader: Any, depth: int = _DEPTH) -> OnlineSampler | None:
    """The sampler of ours that a loader draws from, directly or through batch samplers that wrap it."""
    if isinstance(loader, OnlineSampler):
        return loader
    if isinstance(loader, (list, tuple)):
        return next((found for one in loader if (found := find_sampler(one, depth - 1)) is not None), None)
    if depth <= 0 or isinstance(loader, (str, bytes, Tensor)):
        return None
    slots = [name for kind in type(loader).__mro__ for name in getattr(kind, "__slots__", ())]
    parts = {**{name: getattr(loader, name, None) for name in slots}, **getattr(loader, "__dict__", {})}
    if depth == _DEPTH:  # of the loader only its samplers, of a batch sampler whatever it holds
        near = [parts[name] for name in ("sampler", "batch_sampler") if name in parts]
    else:
        near = [part for part in parts.values() if hasattr(part, "__iter__")]
    return next((found for part in near if (found := find_sampler(part, depth - 1)) is not None), None)


def batch_rows(loader: Any) -> int:
    """Rows of a batch of this loader; 0 where nobody knows."""
    for owner in (loader, getattr(loader, "batch_sampler", None)):
        rows = getattr(owner, "batch_size", None)
        if isinstance(rows, int) and rows > 0:
            return rows
    return 0


def is_steady(loader: Any) -> bool:
    """Is no batch of this loader larger than its first? Batch samplers of torch make them so, and our loader."""
    return isinstance(loader, DeviceLoader) or type(as_given(getattr(loader, "batch_sampler", None))) is BatchSampler


def lag_of(arrival: Arrival | None) -> dict[str, float]:
    """How many batches a draw was ahead, where that is known, as a metric."""
    return {} if arrival is None or arrival.lag is None else {"lag": float(arrival.lag)}


def draws_ahead(loader: Any) -> int:
    """Batches that the workers of a loader ask for before the first one is used up."""
    return int(getattr(loader, "num_workers", 0) or 0) * int(getattr(loader, "prefetch_factor", None) or 0)


def settle(loader: Any, device: torch.device) -> None:
    """Tell a loader of ours where the model is, so that its data goes there."""
    if isinstance(loader, DeviceLoader):
        loader.bind(device)


def so_far(trainer: Any, before: Progress, total_steps: int | None) -> Progress:
    """How far training is. A loader may be set up before Lightning has restored its steps; they never go back."""
    epochs = trainer.max_epochs
    return Progress(max(before.step, steps_so_far(trainer)), total_steps, epochs if epochs and epochs > 0 else None)


def check_loader(trainer: Any, loader: Any, sampler: OnlineSampler, other: OnlineSampler | None) -> None:
    """A sampler of ours draws for the one training loader, one that can be followed, of epochs that are noticed.

    Raises:
        ConfigurationError: It does not.
    """
    owner, rows = sampler.owner, sized_len(samples_of(loader))
    if isinstance(as_given(getattr(loader, "batch_sampler", None)), OnlineSampler):
        raise ConfigurationError(
            f"{owner} must be the `sampler` of a loader, for it gives single rows, got it as batch_sampler. Write "
            "DataLoader(dataset, batch_size, sampler=sampler)."
        )
    if not trainer.training:
        raise ConfigurationError(
            f"{owner} must draw for training alone, got a loader for validation too. Leave it out."
        )
    if (found := _unfollowed(loader)) is not None:
        raise ConfigurationError(f"{owner} must know which of its draws a batch holds, got {found}")
    if other is not None and type(other) is not type(sampler):
        raise ConfigurationError(
            f"{owner} must be the sampler of the only training loader, got another with a {other.owner}. "
            "Put the datasets into one: torch.utils.data.ConcatDataset."
        )
    if rows is not None and rows != sampler.rows and sampler.id_key is None:
        raise ConfigurationError(
            f"{owner}.dataset must have as many rows as the dataset of the loader ({rows}), got {sampler.rows}."
        )
    if sampler.constant_length or trainer.reload_dataloaders_every_n_epochs == 1:
        return
    raise ConfigurationError(
        f"{owner} must be used with Trainer(reload_dataloaders_every_n_epochs=1) when its epochs change their "
        f"length, got {trainer.reload_dataloaders_every_n_epochs}. Otherwise Lightning would skip validation in the "
        "shorter ones and cut off the longer ones. Or take the mode with a constant length."
    )


def _unfollowed(loader: Any) -> str | None:
    """Why nobody can tell which draws a batch holds, not even by an entry of the batch, and the way out.

    Resuming, weights and lags go by the draws themselves, of which an entry such as a group number need tell nothing.
    """
    if not isinstance(loader, (DataLoader, DeviceLoader)):
        return f"a {type(loader).__name__}. Use a torch DataLoader, or a DeviceLoader."
    if getattr(loader, "batch_sampler", None) is None:
        return (
            "a loader that makes no batches itself (batch_size=None). Write DataLoader(dataset, batch_size, "
            "sampler=sampler); a dataset that reads many rows at once does so in __getitems__."
        )
    if not getattr(loader, "in_order", True):
        return "a loader that hands out batches in another order than it draws them (in_order=False). Leave that out."
    return None


def keep_sampler(trainer: Any) -> Callable[[], None]:
    """Keep Lightning from replacing a sampler of ours, from the moment on at which the Trainer asks for its loader.

    Lightning looks at ``loader.sampler`` alone, which is not ours where a batch sampler wraps it. The returned function
    ends the watch.

    Raises:
        ConfigurationError: Later, from the Trainer: ``overfit_batches`` would replace the sampler.
    """
    source = train_source(trainer)
    # By loader: its own sampler, which holds its dataset. Neither must outlive a loader that is made anew.
    replaced: dict[int, tuple[weakref.ref[Any], Any, weakref.finalize[Any, Any]]] = {}

    def look(original: Any, *args: Any, **kwargs: Any) -> Any:
        loaders = original(*args, **kwargs)
        for loader in _flat(loaders):
            found = find_sampler(loader)
            if found is not None and trainer.overfit_batches:
                raise ConfigurationError(
                    f"{found.owner} must draw the rows itself, got Trainer(overfit_batches={trainer.overfit_batches}), "
                    "which reads the same rows in order. Take limit_train_batches, or no sampler."
                )
            if found is not None and isinstance(loader, DataLoader) and loader.sampler is not found:
                end = weakref.finalize(loader, replaced.pop, id(loader), None)
                replaced[id(loader)] = weakref.ref(loader), loader.sampler, end
                vars(loader)["sampler"] = found
        return loaders

    wrap = Wrap(look, source, "dataloader")
    wrap.put()

    def stop() -> None:
        wrap.take_off()
        for there, sampler, end in list(replaced.values()):
            end.detach()  # a loader that is fitted again gets another
            if (loader := there()) is not None:
                vars(loader)["sampler"] = sampler
        replaced.clear()

    return stop


def keep_state(loader: Any) -> Callable[[], None]:
    """Keep a loader that saves its own position from doing so: a sampler of ours is there to know where it is.

    The returned function lets it go on with that.
    """
    if not isinstance(loader, DataLoader) or not hasattr(loader, "load_state_dict"):
        return lambda: None
    save, load = Wrap(lambda original: {}, loader, "state_dict"), Wrap(_ignore, loader, "load_state_dict")
    save.put()
    load.put()
    stops = [while_there(wrap, Wrap.take_off) for wrap in (load, save)]

    def stop() -> None:
        for one in stops:
            one()

    return stop


def _ignore(original: Any, state: Any) -> None:
    """Of a state that was saved while nobody kept the loader from it, nothing is wanted either."""


def _flat(loaders: Any) -> list[Any]:
    """The loaders of any collection of them."""
    if isinstance(loaders, Mapping):
        return [one for part in loaders.values() for one in _flat(part)]
    if isinstance(loaders, (list, tuple)):
        return [one for part in loaders for one in _flat(part)]
    return list(getattr(loaders, "flattened", [loaders]))
