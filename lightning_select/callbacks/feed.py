"""What a step says to a sampler: of all that it returned and showed, the signals that the sampler learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_select.errors import ConfigurationError, TrainingStepContractError
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.success import SOURCES
from lightning_select.signals.base import Signals
from lightning_select.types import Int

__all__ = ["BY_ITSELF", "note_on", "restored_late", "returned_signals", "unreadable_success"]

BY_ITSELF = (
    '{owner} learns from whether a row is classified right, since training_step returns no "reward" or "correct".'
)

_ENTRIES = {"loss": "sample_loss", "reward": "reward", "correct": "correct"}
_SHAPES = {"loss": "(rows,)", "reward": "(rows, attempts), or (rows,)", "correct": "(rows,), shares in [0, 1]"}


def returned_signals(
    sampler: OnlineSampler, module: nn.Module, output: Any, heard: Signals | None, ids: Int[Tensor, "rows"]
) -> dict[str, Tensor]:
    """The signals that ``sampler`` learns from and that the step returned; its losses as they were heard, if they were.

    Empty where the step skipped the batch.

    Raises:
        TrainingStepContractError: The step returned something else than one line per row, or not what is needed.
    """
    needs, found = sampler.needs, {}
    if "loss" in needs and heard is not None and heard.loss is not None:
        found["loss"] = _checked(sampler, module, "loss", heard.loss, ids)  # before any weights
    wanted = (needs & {"loss", "reward"}) - found.keys() | (set(SOURCES) if "success" in needs else set())
    entries = output if isinstance(output, Mapping) else {}
    for name in sorted(wanted):
        if entries.get(_ENTRIES[name]) is not None:
            found[name] = _checked(sampler, module, name, _tensor(entries[_ENTRIES[name]]), ids)
    missing = next(iter(sorted((needs & {"loss", "reward"}) - found.keys())), None)
    skipped = output is None or (isinstance(output, Mapping) and not output)
    by_hand = not getattr(module, "automatic_optimization", True)  # such a step may return nothing at any batch
    if missing is not None and (by_hand or (missing == "reward" and not skipped)):
        raise _error(sampler, module, missing, f"only {', '.join(sorted(map(str, entries))) or 'a loss'}")
    return {} if missing is not None else found


def unreadable_success(sampler: OnlineSampler, module: nn.Module) -> TrainingStepContractError:
    """The error for a step that neither returns how often its rows were right nor shows it."""
    return _error(sampler, module, "correct", "a step that shows no classification to be read from", ' (or "reward")')


def note_on(owner: str, metrics: Mapping[str, float | Tensor]) -> str:
    """What the user should know about what the sampler has to say; nothing if all is well."""
    if not float(metrics.get("negative", 0.0)) > 0:
        return ""
    return (
        f"{owner}: some rows have a loss below zero, which counts as zero, so that they are hardly drawn. A loss whose "
        "constant is outside of its mean (1 - x.mean()) reads so: write (1 - x).mean(), or give a floor."
    )


def restored_late(sampler: OnlineSampler) -> ConfigurationError:
    """The error for a state that comes after the first draws."""
    return ConfigurationError(
        f"{sampler.owner} must get its state back before it draws, got a loader that has started: this strategy "
        "restores late. Leave estimated_stepping_batches out of configure_optimizers, or take num_workers=0."
    )


def _checked(sampler: OnlineSampler, module: nn.Module, name: str, value: Any, ids: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise _error(sampler, module, name, type(value).__name__)
    if value.shape[:1] != ids.shape:
        raise _error(sampler, module, name, f"shape {tuple(value.shape)} for {ids.shape[0]} rows")
    return value.detach().to(ids.device)


def _tensor(value: Any) -> Any:
    """Lists and arrays, as reward functions return them, as a tensor; anything else as it is."""
    if isinstance(value, Tensor) or not (hasattr(value, "__array__") or isinstance(value, (list, tuple))):
        return value
    try:
        return torch.stack(list(value)) if _all_tensors(value) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return value


def _all_tensors(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(one, Tensor) for one in value)


def _error(
    sampler: OnlineSampler, module: nn.Module, name: str, got: str, besides: str = ""
) -> TrainingStepContractError:
    entry, kind = _ENTRIES[name], type(module).__name__
    return TrainingStepContractError(
        f'{kind}.training_step must return "{entry}"{besides} of shape {_SHAPES[name]} beside the loss, for '
        f'{sampler.owner} to learn from, got {got}.\n    return {{"loss": loss, "{entry}": ...}}'
    )
