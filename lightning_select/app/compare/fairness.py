"""What would make a comparison unfair, told before anything is trained where the configs show it, or else by the runs.

Every method trains on the data of uniform, in the same order, as long, and is evaluated as often on the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import hydra.utils
import numpy as np
import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select.app.compare.loaders import flatten
from lightning_select.app.compare.methods import UNIFORM, leaves
from lightning_select.app.compare.runs import Run
from lightning_select.app.compare.witness import Order, Witness, differing_order
from lightning_select.batch import count_rows, take_rows
from lightning_select.callbacks.loaders import find_sampler
from lightning_select.compat import Callback, sized_len
from lightning_select.containers import DESCRIPTIONS, children_of
from lightning_select.device_loader import samples_of
from lightning_select.errors import BatchFormatError, ConfigurationError

__all__ = ["Fingerprint", "check_overrides", "size_notes", "stops_early", "unfairness"]

_WITNESSED = 8
"""Rows whose content stands for all."""

_OWN = {"sampler"}
"""Keys of the data that a method may set: which rows are drawn is what it is about."""

_TRAINER = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "fast_dev_run", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "limit_train_batches", "limit_val_batches"),
    *("limit_test_batches", "num_sanity_val_steps", "accumulate_grad_batches", "reload_dataloaders_every_n_epochs"),
)
"""Arguments of the Trainer on which length and evaluation depend."""


def check_overrides(name: str, method: DictConfig, uniform: DictConfig, size_key: str | None) -> None:
    """Refuse a method that is given other data, another seed, length or evaluation than uniform.

    Args:
        name: Name of the method.
        method: Its config, for the same seed as that of ``uniform``.
        uniform: The config of uniform.
        size_key: Key of the batch size, which is a method's own affair.

    Raises:
        ConfigurationError: They differ in what must be equal.
    """
    for section in ("data", "trainer", "compare", "seed", "seeds", "task", "threads", "ckpt_path"):
        ours, theirs = (dict(leaves(section, _plain(config, section))) for config in (method, uniform))
        for key in sorted(ours.keys() | theirs.keys()):
            if _is_free(key, section, size_key) or ours.get(key) == theirs.get(key):
                continue
            raise ConfigurationError(
                f"methods must leave {key} as uniform has it, got {ours.get(key)!r} for {name} and "
                f"{theirs.get(key)!r} for uniform. Set it for all of them: {key}=..., outside of methods."
            )


class Fingerprint(Callback):
    """Notes what a run trains and is evaluated on; to be among the Trainer's callbacks.

    Args:
        seed: Seed of the run.

    Attributes:
        train_rows: Length of the training dataset, of all of them where there are several, if it is known.
        validated: Length of the validation dataset, rows of its first batch, and a digest of the first of them.
    """

    def __init__(self, seed: int) -> None:
        self.train_rows: int | None = None
        self.validated = ""
        self._orders: dict[int, tuple[Order, Any]] = {}
        self._seed = seed

    @property
    def drawn(self) -> list[int]:
        """Positions of the first rows that were drawn, where the loader has a batch sampler to listen to."""
        return self._orders[0][0].first if 0 in self._orders else []

    @property
    def order(self) -> str:
        """The order of rows, as `lightning_select.app.compare.witness` compares it: the first ones, then digests."""
        digests = (order.describe(place, size) for place, (order, size) in self._orders.items())
        return " ".join([*map(str, self.drawn), *digests])

    def watch(self, loaders: Any) -> None:
        """Listen to the drawing of training loaders, unless a sampler of ours draws: its order is the method."""
        lengths = [sized_len(samples_of(loader)) for loader in flatten(loaders)]
        self.train_rows = None if None in lengths else sum(length or 0 for length in lengths)
        for place, loader in enumerate(flatten(loaders)):
            batches = getattr(loader, "batch_sampler", None)
            if not isinstance(loader, DataLoader) or batches is None or find_sampler(loader) is not None:
                continue
            order, _ = self._orders.setdefault(place, (Order(), loader.batch_size))
            if not isinstance(batches, Witness):  # a loader that the user keeps is handed out again
                # Replaced in __dict__, because a DataLoader refuses the plain assignment.
                vars(loader)["batch_sampler"] = Witness(batches, order)

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Start from the same random numbers, whatever came before; Lightning puts back what there was."""
        seed_everything(self._seed, workers=True, verbose=False)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch, before training; a later one may be augmented by other random numbers."""
        if trainer.sanity_checking and not self.validated:
            length = sized_len(samples_of(trainer.val_dataloaders))
            self.validated = f"{length} {_digest(batch)}"


def unfairness(run: Run, uniform: Run, *, own_order: bool, may_stop: bool = False) -> str:
    """Why a run cannot be compared with that of uniform on the same seed; empty where it can.

    Args:
        run: The run.
        uniform: Uniform's.
        own_order: Does the method draw the rows itself?
        may_stop: May every run end when it wants to?
    """
    if len(run.points) < len(uniform.points) and not may_stop:
        return f"it was evaluated {len(run.points)} times, uniform {len(uniform.points)} times"
    if run.train_rows != uniform.train_rows:
        return f"its training data have {run.train_rows} rows, those of uniform {uniform.train_rows}"
    seen, expected = (one.validated.split() for one in (run, uniform))
    # Batches of another size may be padded differently, so that their rows cannot be compared.
    if seen[:1] != expected[:1] or (seen[1:2] == expected[1:2] and seen != expected):
        return "it was evaluated on other rows than uniform"
    order = "" if own_order else differing_order(run.drawn, uniform.drawn)
    return f"its rows came in another order: {order}" if order else ""


def stops_early(config: DictConfig) -> bool:
    """Do the callbacks that all methods share end a run before its time?"""
    return any(
        kind.__name__ == "EarlyStopping"
        for entry in (config.get("callbacks") or {}).values()
        for kind in getattr(_class_of(entry), "__mro__", ())
    )


def _class_of(entry: Any) -> Any:
    """The class that an entry of the config names, ``None`` where building it will say what is wrong."""
    target = entry.get("_target_") if isinstance(entry, DictConfig) else None
    try:
        return hydra.utils.get_method(target) if isinstance(target, str) else None
    except (ImportError, ValueError, AttributeError):
        return None


def size_notes(runs: Sequence[Run]) -> dict[str, str]:
    """A note on each method that was evaluated in batches of another size than uniform, by its name."""
    uniform = {run.seed: run for run in runs if run.method == UNIFORM and not run.error}
    notes = {}
    for run in runs:
        if run.error or run.seed not in uniform:
            continue
        ours, theirs = (one.validated.split()[1:2] for one in (run, uniform[run.seed]))
        if ours != theirs and ours and theirs:
            told = f"validated in batches of {ours[0]}, uniform of {theirs[0]}"
        elif run.evaluated != uniform[run.seed].evaluated:
            told = f"evaluated in batches of {run.evaluated}, uniform of {uniform[run.seed].evaluated}"
        else:
            continue
        notes[run.method] = f"was {told}: a metric that depends on who is in a batch cannot be compared"
    return notes


def _is_free(key: str, section: str, size_key: str | None) -> bool:
    argument = key.split(".")[1] if "." in key else ""  # a section may be null
    if section == "data":
        return key == size_key or argument in _OWN
    return section == "trainer" and argument not in _TRAINER


def _plain(config: DictConfig, section: str) -> Any:
    """A part of the config without interpolations, where they can be resolved."""
    part = config.get(section) if section in config else None
    if not OmegaConf.is_config(part):
        return part
    try:
        return OmegaConf.to_container(part, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_container(part, resolve=False)


def _digest(batch: Any) -> str:
    """Number of rows, and a digest of the first ones; empty where the rows cannot be counted."""
    try:
        rows = count_rows(batch)
        few = take_rows(batch, torch.arange(min(_WITNESSED, rows)))
    except BatchFormatError:
        return ""
    digest = hashlib.blake2b(digest_size=8)
    for part in _contents(few):
        digest.update(part)
    return f"{rows} {digest.hexdigest()}"


def _contents(part: Any) -> Iterator[bytes]:
    if isinstance(part, Tensor) and part.layout == torch.strided:
        plain = part.detach().cpu().contiguous()
        yield f"{plain.dtype}{tuple(plain.shape)}".encode()
        yield plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    elif isinstance(part, np.ndarray) and part.dtype != object:
        yield part.tobytes()
    elif isinstance(part, DESCRIPTIONS):
        yield repr(part).encode()
    else:
        for path, child in children_of(part) or []:
            yield path.encode()
            yield from _contents(child)
