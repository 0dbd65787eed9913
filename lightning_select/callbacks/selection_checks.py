"""What `BatchSelection` may be given."""

from __future__ import annotations

from typing import Any

from lightning_select.errors import ArgumentError
from lightning_select.protocols import Selector

__all__ = ["check_arguments"]


def check_arguments(score: Any, selector: Any, train_mode: Any, head: Any, seed: Any) -> None:
    """Nothing, where all of them can be used.

    Raises:
        ArgumentError: One cannot.
    """
    if not callable(score) or isinstance(score, type):
        raise ArgumentError(f"BatchSelection.score must be callable and no class, got {score!r}.")
    if not isinstance(selector, Selector) or isinstance(selector, type):
        raise ArgumentError(
            f"BatchSelection.selector must be a Selector (needs, with_replacement, __call__), got {selector!r}."
        )
    if not isinstance(train_mode, bool):
        raise ArgumentError(f"BatchSelection.train_mode must be True or False, got {train_mode!r}.")
    if head is not None and not isinstance(head, str):
        raise ArgumentError(f"BatchSelection.head must be the name of a submodule, got {head!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ArgumentError(f"BatchSelection.seed must be a whole number, got {seed!r}.")
