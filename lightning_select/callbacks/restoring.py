"""What the callbacks find in a checkpoint, looked at before it is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_select.states import broken_state, check_range, check_state, is_plain
from lightning_select.types import State

__all__ = ["saved_feedback", "saved_report", "saved_selection"]

_TAKEN = ("selection_seconds", "report_seconds")
"""What a report adds to; the first checkpoints have none."""


def saved_selection(owner: str, state: Any) -> tuple[list[State], dict[str, Any]]:
    """Memories of a selector, one per rank, and the state of a reference.

    Raises:
        ConfigurationError: The state holds something else.
    """
    memories, reference = _entries(owner, state, "selector", "reference")
    if not isinstance(memories, list) or not memories or not all(isinstance(one, Mapping) for one in memories):
        raise broken_state(owner, "selector", "be a list, one memory per rank", f"a {type(memories).__name__}")
    for name, value in ((name, value) for memory in memories for name, value in memory.items()):
        if not is_plain(value):
            tensor = isinstance(value, torch.Tensor)
            got = f"a {value.layout} one of shape {tuple(value.shape)}" if tensor else f"a {type(value).__name__}"
            raise broken_state(owner, f"selector.{name}", "be a dense tensor, no larger than its file", got)
    check_state(owner, reference, {"table": torch.zeros(0)}, loose=("table",), optional=("table",), path="reference")
    return memories, dict(reference)


def saved_feedback(owner: str, state: Any) -> tuple[Any, bool]:
    """The state of a sampler, which looks at it itself, and whether rows tell of success.

    Raises:
        ConfigurationError: The state holds something else.
    """
    sampler, sees_success = _entries(owner, state, "sampler", "sees_success")
    check_state(owner, sees_success, False, path="sees_success")
    return sampler, sees_success


def saved_report(owner: str, state: Any) -> Mapping[str, Any] | None:
    """The state of a record, which is looked at when its size is known, and the times it took; ``None`` if empty.

    Raises:
        ConfigurationError: The state holds something else.
    """
    if isinstance(state, Mapping) and not state:
        return None
    noting, seconds = _entries(owner, state, "noting", "seconds", optional=_TAKEN)
    earlier = {name: state[name] for name in _TAKEN if name in state}
    for name, value in {"seconds": seconds, **earlier}.items():
        check_state(owner, value, 0.0, path=name)
        check_range(owner, name, value, 0.0)
    return {"noting": noting, "seconds": seconds, "earlier": earlier}


def _entries(owner: str, state: Any, *names: str, optional: tuple[str, ...] = ()) -> list[Any]:
    if not isinstance(state, Mapping) or set(state) - set(optional) != set(names):
        got = ", ".join(map(str, state)) or "nothing" if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise broken_state(owner, "state", f"hold {', '.join(names)}", got)
    return [state[name] for name in names]
