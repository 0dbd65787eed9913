"""Refill: gather groups over several rounds of prompts until there are enough for an update, and never starve.

A filter lets a changing number of groups through, and an update wants a constant one. So rounds go on until enough have
passed, at most ``max_rounds``; what happens then is declared. What has passed is kept from round to round, over the end
of an epoch too, and in checkpoints.

References:
    Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, arXiv:2503.14476, section 3.2
    (dynamic sampling). Bae et al., "Online Difficulty Filtering for Reasoning Oriented Reinforcement Learning", 2025,
    arXiv:2504.03380.

Deviations:
    DAPO's code stops with an error after ``max_num_gen_batches`` rounds; that is ``on_shortfall="raise"`` here, and not
    the default. Groups beyond the number asked for may be carried to the next update, which DAPO drops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning_select.compat import rank_zero_warn
from lightning_select.errors import ArgumentError, ShortfallError
from lightning_select.rollouts.counters import Counters
from lightning_select.rollouts.groups import Group

__all__ = ["Refill", "RefillBuffer"]

OnShortfall = Literal["raise", "train_partial", "repeat_last_good", "relax_band"]
Surplus = Literal["drop", "carry"]
Replacement = Literal["round", "at_once"]

Relax = Callable[[Sequence[Group]], Iterable[Sequence[Group]]]
"""From groups that were rejected to those that pass as the filter is widened, step by step."""


@dataclass(frozen=True)
class Refill:
    """How groups are gathered for an update.

    Args:
        groups: Groups of an update, over all ranks; ``None``: as many as the first round has prompts, or with one round
            only whatever passes.
        max_rounds: Rounds after which an update is made of what there is.
        on_shortfall: What if that is too little. ``train_partial`` trains on fewer; ``repeat_last_good`` fills up with
            groups of the update before; ``relax_band`` takes the rejected groups that pass as the band is widened by
            one attempt at a time, as far as it goes; ``raise`` stops with an error. The middle two train on fewer where
            they do not find enough.
        surplus: What becomes of groups beyond that number: ``drop``, or ``carry`` them to the next update.
        max_age: Updates that a carried group may be behind.
        replacement: ``round`` attempts every prompt of a batch. ``at_once`` attempts as many as are missing, and for
            each that is rejected the next one, until nothing is missing: fewer attempts, in smaller batches. Prompts
            that were not needed are not attempted (their rewards are NaN). Several ranks may attempt a few more than
            one would, so that all have as many.
        patience: Fillings in a row that end with no group at all, after which training stops.

    Raises:
        ArgumentError: A value is out of range.
    """

    groups: int | None = None
    max_rounds: int = 10
    on_shortfall: OnShortfall = "train_partial"
    surplus: Surplus = "drop"
    max_age: int = 1
    replacement: Replacement = "round"
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("groups", "max_rounds", "max_age", "patience"):
            value = getattr(self, name)
            if value is None and name == "groups":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ArgumentError(f"Refill.{name} must be a whole number of at least 1, got {value!r}.")
        for name, kind in (("on_shortfall", OnShortfall), ("surplus", Surplus), ("replacement", Replacement)):
            if getattr(self, name) not in get_args(kind):
                raise ArgumentError(
                    f"Refill.{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}."
                )


@dataclass
class RefillBuffer:
    """The groups that wait for an update. Every rank of a run holds the same ones.

    Args:
        refill: How they are gathered.
        counters: Where to note what became of them.
        relax: Finds more among the rejected, for ``relax_band``.
    """

    refill: Refill
    counters: Counters
    relax: Relax | None = None
    waiting: list[Group] = field(default_factory=list)
    rejected: list[Group] = field(default_factory=list)
    last_good: list[Group] = field(default_factory=list)
    rounds: int = 0
    target: int | None = None
    empty: int = 0
    _said: bool = False

    def begin(self, prompts: int) -> None:
        """A round of this many prompts, over all ranks, begins."""
        self.rounds += 1
        young = self._young()
        self.counters.add(dropped=len(self.waiting) - len(young))
        self.waiting = young
        if self.target is None and (self.refill.groups is not None or self.refill.max_rounds > 1):
            self.target = self.refill.groups or prompts

    @property
    def missing(self) -> int | None:
        """Groups that are missing; ``None`` where there is no number to reach."""
        return None if self.target is None else max(0, self.target - len(self.waiting))

    def add(self, kept: Iterable[Group], rejected: Iterable[Group] = ()) -> None:
        """Take in what passed, and what did not and may be of use to ``relax_band``."""
        self.waiting = sorted([*self.waiting, *kept], key=_age_and_place)
        if self.refill.on_shortfall == "relax_band":
            self.rejected = sorted([*self.rejected, *rejected], key=_age_and_place)

    def is_due(self, *, last: bool = False) -> bool:
        """Is it time for an update? ``last``: no round will follow."""
        return last or self.rounds >= self.refill.max_rounds or self.missing == 0

    @property
    def starved(self) -> bool:
        """Did too many fillings in a row end with nothing?"""
        return self.empty >= self.refill.patience

    def take(self, *, last: bool = False) -> list[Group]:
        """The groups of the next update; none where nothing passed.

        Raises:
            ShortfallError: There are too few, and ``on_shortfall`` is ``raise``.
        """
        fresh = self._young()
        target = len(fresh) if self.target is None else self.target
        found = fresh if len(fresh) >= target else self._fill_up(fresh, target, last=last)
        trained_before = {group.place for group in self.last_good}
        new = [group for group in found[:target] if group.place not in trained_before]
        taken, surplus = found[:target] if new else [], fresh[target:]
        carried = surplus if self.refill.surplus == "carry" else []
        self.counters.add(dropped=len(self.waiting) - len(fresh) + len(surplus) - len(carried))
        self.waiting, self.rejected, self.rounds = list(carried), [], 0
        self.empty = 0 if taken else self.empty + 1
        self.counters.add(empty=not taken, trained=len(taken), repeated=len(taken) - len(new))
        self.counters.add(short=bool(taken) and len(taken) < target)
        if self.refill.on_shortfall == "repeat_last_good" and new:
            self.last_good = new
        return taken

    def _young(self) -> list[Group]:
        """Those that are not too many updates behind."""
        return [group for group in self.waiting if self.counters.updates - group.born <= self.refill.max_age]

    def _fill_up(self, fresh: list[Group], target: int, *, last: bool) -> list[Group]:
        policy = self.refill.on_shortfall
        found = list(fresh)
        if policy == "raise" and not last:
            raise ShortfallError(
                f"Refill.max_rounds={self.refill.max_rounds} rounds of prompts must give {target} groups that pass the "
                f"filter, got {len(fresh)}. {self.told()} Widen the filter, allow more rounds, or choose what to do "
                'with too few: on_shortfall="train_partial".'
            )
        if policy == "relax_band" and self.relax is not None:
            for passing in self.relax(self.rejected):
                found = [*fresh, *passing]
                if len(found) >= target:
                    break
        elif policy == "repeat_last_good":
            found = [*fresh, *self.last_good][:target]
        if len(found) < target and not self._said and not last:
            self._said = True
            follows = "the policy trains on those" if found else "there is no update"
            rank_zero_warn(
                f"Only {len(found)} of {target} groups passed the filter within max_rounds={self.rounds} rounds of "
                f"prompts, so {follows}; and so on without a further word. {self.told()}"
            )
        return found

    def told(self) -> str:
        """Where the groups went, in a sentence."""
        sums = self.counters
        screened = f"{sums.screened_out} were screened out, " if sums.screened_out else ""
        return (
            f"Of {sums.prompts} groups so far, {screened}{sums.all_failed} failed as a whole, {sums.all_solved} were "
            f"solved as a whole, and {sums.kept} passed."
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        lists = {name: [group.state_dict() for group in getattr(self, name)] for name in _LISTS}
        return {**lists, "rounds": self.rounds, "target": self.target, "empty": self.empty}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, in the middle of a filling too."""
        for name in _LISTS:
            setattr(self, name, [Group.from_state(one) for one in state[name]])
        self.rounds, self.target, self.empty = state["rounds"], state["target"], state["empty"]


def _age_and_place(group: Group) -> tuple[int, tuple[int, int]]:
    """An order in which the number of ranks makes no difference."""
    return group.born, group.place


_LISTS = ("waiting", "rejected", "last_good")
