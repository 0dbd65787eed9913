"""What would make a comparison unfair, told before anything is trained where the configs show it, or else by the runs.

Every method trains on the data of uniform, in the same order, as long, and is evaluated as often on the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import seed_everything
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select.app.runs import Run
from lightning_select.batch import count_rows, take_rows
from lightning_select.callbacks.loaders import find_sampler
from lightning_select.compat import Callback, sized_len
from lightning_select.containers import DESCRIPTIONS, children_of
from lightning_select.errors import BatchFormatError, ConfigurationError

__all__ = ["Fingerprint", "check_overrides", "unfairness"]

_WITNESSED = 8
"""Rows whose order and content stand for all."""

_OWN = {"sampler"}
"""Keys of the data that a method may set: which rows are drawn is what it is about."""

_TRAINER = (
    *("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "fast_dev_run", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "limit_train_batches", "limit_val_batches"),
    *("limit_test_batches", "num_sanity_val_steps", "accumulate_grad_batches"),
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
        ours, theirs = (dict(_leaves(section, _plain(config, section))) for config in (method, uniform))
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
        train_rows: Length of the training dataset, where it has one.
        drawn: Positions of the first rows that were drawn, where the loader has a batch sampler to listen to.
        validated: Length of the validation dataset, rows of its first batch, and a digest of the first of them.
    """

    def __init__(self, seed: int) -> None:
        self.train_rows: int | None = None
        self.drawn: list[int] = []
        self.validated = ""
        self._seed = seed

    def watch(self, loader: Any) -> None:
        """Listen to the drawing of a training loader, unless a sampler of ours draws: its order is the method."""
        self.train_rows = sized_len(getattr(loader, "dataset", None))
        batches = getattr(loader, "batch_sampler", None)
        if isinstance(loader, DataLoader) and batches is not None and find_sampler(loader) is None:
            # Replaced in __dict__, because a DataLoader refuses the plain assignment.
            vars(loader)["batch_sampler"] = _Witness(batches, self.drawn)

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """Start from the same random numbers, whatever came before; Lightning puts back what there was."""
        seed_everything(self._seed, workers=True, verbose=False)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first batch, before training; a later one may be augmented by other random numbers."""
        if trainer.sanity_checking and not self.validated:
            length = sized_len(getattr(trainer.val_dataloaders, "dataset", None))
            self.validated = f"{length} {_digest(batch)}"


class _Witness:
    """A batch sampler that notes the first rows it draws; everything else is the inner one's."""

    def __init__(self, inner: Any, drawn: list[int]) -> None:
        self.inner = inner
        self.drawn = drawn

    def __iter__(self) -> Iterator[Any]:
        for positions in self.inner:
            if len(self.drawn) < _WITNESSED:
                few = islice(positions, _WITNESSED - len(self.drawn))
                self.drawn.extend(int(position) for position in few if _is_position(position))
            yield positions

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # not while copy and pickle build an empty one
            raise AttributeError(name)
        return getattr(self.inner, name)


def unfairness(run: Run, uniform: Run, *, own_order: bool) -> str:
    """Why a run cannot be compared with that of uniform on the same seed; empty where it can.

    Args:
        run: The run.
        uniform: Uniform's.
        own_order: Does the method draw the rows itself?
    """
    if len(run.points) < len(uniform.points):
        return f"it was evaluated {len(run.points)} times, uniform {len(uniform.points)} times"
    if run.train_rows != uniform.train_rows:
        return f"its training data have {run.train_rows} rows, those of uniform {uniform.train_rows}"
    seen, expected = (one.validated.split() for one in (run, uniform))
    # Batches of another size may be padded differently, so that their rows cannot be compared.
    if seen[:1] != expected[:1] or (seen[1:2] == expected[1:2] and seen != expected):
        return "it was evaluated on other rows than uniform"
    ours, theirs = run.drawn.split(), uniform.drawn.split()
    common = min(len(ours), len(theirs))
    if not own_order and ours[:common] != theirs[:common]:
        return f"its rows came in another order: {run.drawn}, those of uniform {uniform.drawn}"
    return ""


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


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        yield from chain.from_iterable(_leaves(f"{path}.{key}", part) for key, part in value.items())
    else:
        yield path, value


def _is_position(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) or (isinstance(value, Tensor) and value.ndim == 0)


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
