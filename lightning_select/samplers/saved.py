"""Is what a checkpoint holds the state of this sampler? Asked as a whole, before anything is taken over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple
from typing import Any

from lightning_select.errors import ConfigurationError
from lightning_select.samplers.ledger import Ledger
from lightning_select.samplers.progress import Progress
from lightning_select.states import broken_state, check_range, check_state, in_our_kinds

__all__ = ["check_saved", "load_whole"]

_SAME = {
    "sampler": "the sampler must be of the kind",
    "rows": "the dataset must have the length",
    "dataset": "the dataset must be of the class",
}
_MOST_UPDATES = 2**30
"""Steps are kept in int32."""

_PLACE = ("epoch", "draws", "drawn", "arrivals", "opened", "closed", "ended", "size")
_EARLY = 6
"""The first states of 0.1.0 hold so many of these."""


def check_saved(
    owner: str,
    state: Any,
    identity: Mapping[str, Any],
    learnt: Mapping[str, Any],
    loose: Collection[str],
    optional: Collection[str],
) -> None:
    """A state is whole, and belongs to one kind of sampler and one dataset.

    Args:
        owner: Who is to take it over, in errors.
        state: What the checkpoint holds.
        identity: What the sampler is, and what it samples from.
        learnt: What it would save of what it learnt.
        loose: Names in there whose size may differ; see `check_state`.
        optional: Names that may be absent.

    Raises:
        ConfigurationError: It is damaged, or belongs to others.
    """
    names = {*identity, "updates", "progress", "stream", "learnt"}
    if not isinstance(state, Mapping) or set(state) != names:
        got = ", ".join(map(str, state)) if isinstance(state, Mapping) else f"a {type(state).__name__}"
        raise broken_state(owner, "state", f"hold {', '.join(sorted(names))}", got)
    for name, mine in identity.items():
        check_state(owner, state[name], mine, path=f"state.{name}")
        if state[name] != mine:
            raise ConfigurationError(
                f"{owner}: {_SAME[name]} that the checkpoint holds ({state[name]}), got {mine}. What was learnt about "
                "rows is of no use for others: load the weights alone, and start the sampler afresh."
            )
    check_state(owner, state["updates"], 0, path="state.updates")
    check_range(owner, "state.updates", state["updates"], 0, _MOST_UPDATES)
    check_state(owner, state["progress"], list(astuple(Progress())), loose=("progress",), path="state.progress")
    check_state(owner, state["progress"][0], 0, path="state.progress.step")
    for number, low in zip(state["progress"], (0, -1, -1), strict=True):  # the lengths of training may be unknown
        check_range(owner, "state.progress", low if number is None else number, low)
    _check_stream(owner, state["stream"], identity["rows"])
    check_state(owner, state["learnt"], learnt, loose=loose, optional=optional, path="state.learnt")


def load_whole(owner: str, load: Callable[[Any], None], state: Any, before: Any) -> None:
    """Load a state, or where its owner refuses it what was there before: the first parts may be taken over by then.

    Raises:
        ConfigurationError: It is refused.
    """
    state = in_our_kinds(owner, state, before, "state.learnt", exactly=True)
    try:
        load(state)
    except Exception as error:  # of a sampler of the user's, or of torch
        load(before)
        if isinstance(error, ConfigurationError):
            raise
        raise broken_state(owner, "state.learnt", "be what it saves", f"{type(error).__name__}: {error}") from error


def _check_stream(owner: str, state: Any, rows: int) -> None:
    pending = state.get("pending") if isinstance(state, Mapping) else None
    place = state.get("place") if isinstance(state, Mapping) else None
    names = _PLACE[:_EARLY] if isinstance(place, (list, tuple)) and len(place) == _EARLY else _PLACE
    like = {"place": [0] * len(names), "lag": 0, "pending": pending}
    check_state(owner, state, like, path="state.stream")
    for name, number in zip((*names, "lag"), (*state["place"], state["lag"]), strict=True):
        check_range(owner, f"state.stream.{name}", number, 0)
    if not isinstance(pending, list) or not pending:
        raise broken_state(owner, "state.stream.pending", "be a list, one entry per rank", f"{type(pending).__name__}")
    for one in pending:
        _check_pending(owner, one, rows)
    if len({len(one["weights"]) > 0 for one in pending if len(one["ids"])}) > 1:
        raise broken_state(owner, "state.stream.pending", "hold weights of all ranks or of none", "those of some")


def _check_pending(owner: str, state: Any, rows: int) -> None:
    """Rows on their way, in chunks."""
    like, path = Ledger().state_dict(), "state.stream.pending"
    check_state(owner, state, like, loose=tuple(like), path=path)
    state = in_our_kinds(owner, state, like, path)
    ids, weights, sizes, versions = (state[name] for name in ("ids", "weights", "sizes", "versions"))
    check_range(owner, f"{path}.ids", ids, 0, rows - 1)
    check_range(owner, f"{path}.weights", weights, 0)
    check_range(owner, f"{path}.sizes", sizes, 0, len(ids))
    whole = int(sizes.sum()) == len(ids) and len(versions) == len(sizes) and len(weights) in (0, len(ids))
    if not whole:
        raise broken_state(owner, path, "tell of every row which chunk it is in", f"{len(ids)} rows in {len(sizes)}")
