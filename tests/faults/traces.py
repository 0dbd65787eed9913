"""What a fit may leave behind: a picture of everything around it, to be compared with one that was taken before."""

from __future__ import annotations

import collections
import faulthandler
import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.data import DataLoader

from lightning_select.callbacks.row_ids import _Listening
from lightning_select.callbacks.wrap import Wrap

BY_LIGHTNING = frozenset(
    {"_hparams", "_hparams_initial", "_hparams_name", "_log_hyperparams", "_last_val_time", "val_check_batch"}
)
"""What Lightning itself leaves on a module and a Trainer after a fit."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_PATIENCE = 5.0
"""Seconds that workers are given to end."""


def picture(module: Any, trainer: Any, loader: Any) -> dict[str, Any]:
    """Names of attributes, objects that stand where ours might, hooks and modes of all that takes part in a fit."""
    parts = dict(_parts(module, trainer, loader))
    seen: dict[str, Any] = {f"attributes of {name}": _attributes(part) for name, part in parts.items()}
    seen |= {f"wraps on {name}": sorted(_ours(part)) for name, part in parts.items()}
    seen["logger"] = [id(one) for one in trainer.loggers]
    seen["callbacks"] = sorted(id(one) for one in trainer.callbacks)
    for name in ("sampler", "batch_sampler", "dataset"):
        seen[name] = id(getattr(loader, name, None))
    for name, part in module.named_modules():
        tables = {table: list(vars(part).get(table, {})) for table in _HOOKS}
        seen[f"hooks of {name or 'module'}"] = tables
        seen[f"own attributes of {name or 'module'}"] = set(vars(part)) - BY_LIGHTNING
    for name, weight in module.named_parameters():
        seen[f"weight {name}"] = (weight.requires_grad, list(weight._backward_hooks or {}))
    seen["class of the module"] = sorted(vars(type(module)))
    return seen


def _attributes(part: Any) -> set[str]:
    """But for Lightning's record, on every loader once an error has come out of anybody's ``train_dataloader``."""
    return {name for name in set(vars(part)) - BY_LIGHTNING if not name.startswith("__pl_")}


def process() -> dict[str, Any]:
    """Modes, handlers, threads, children and open files of this process."""
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "function modes": list(map(type, _get_current_function_mode_stack())),
        "dispatch modes": list(map(type, _get_current_dispatch_mode_stack())),
        "stance": str(torch._dynamo.eval_frame._stance),
        "dtype": torch.get_default_dtype(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "donated": torch._functorch.config.donated_buffer,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": sorted(_children()),
        "files": sorted(_files()),
        "signals": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)},
        "rank": getattr(rank_zero_only, "rank", None),
        "loader": [id(vars(DataLoader)[name]) for name in ("__init__", "__setattr__", "__iter__")],
        "hooks": (sys.excepthook, sys.gettrace(), sys.getprofile(), faulthandler.is_enabled()),
        "log": [(name, logging.getLogger(name).disabled) for name in ("lightning.pytorch", "lightning_utilities")],
        "folder": os.getcwd(),
    }


def generators() -> tuple[Any, ...]:
    """Where the global generators stand."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not as it was, in words."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one != other and isinstance(one, set) and isinstance(other, set):
            found.append(f"{name}: gone {sorted(one - other)}, new {sorted(other - one)}")
        elif one != other and isinstance(one, list) and isinstance(other, list):
            less, more = collections.Counter(map(str, one)), collections.Counter(map(str, other))
            found.append(f"{name}: gone {list(less - more)}, new {list(more - less)}")
        elif one != other:
            found.append(f"{name}: {one} -> {other}")
    return found


def settled(before: dict[str, Any]) -> list[str]:
    """What of the process is not as it was, after workers have had time to end."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        gc.collect()
        found = differences(before, process())
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _parts(module: Any, trainer: Any, loader: Any) -> Iterable[tuple[str, Any]]:
    yield from (("module", module), ("trainer", trainer), ("strategy", trainer.strategy), ("loader", loader))
    yield from (("fit loop", trainer.fit_loop), ("data source", trainer.fit_loop._data_source))
    yield from (("dataset", loader.dataset), ("sampler", loader.sampler))


def _ours(part: Any) -> list[str]:
    """Attributes that hold something of ours that should not stay."""
    return [name for name, value in vars(part).items() if isinstance(value, (Wrap, _Listening))]


def _children() -> list[int]:
    """Processes of ours, those that multiprocessing does not know of too, without those that serve the tests."""
    multiprocessing.active_children()  # takes in those that have ended
    return [int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def _files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # that of the listing itself
    # Batches from workers lie in shared memory for as long as Lightning keeps the last of them.
    return [one for one in found if not one.startswith(("/proc/", "/dev/shm/torch_"))]
