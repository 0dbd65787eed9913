"""What training on rewards has cost so far, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

__all__ = ["Counters"]


@dataclass
class Counters:
    """Sums since training began, over all ranks.

    Attributes:
        rounds: Batches of prompts.
        prompts: Prompts attempted.
        attempts: Completions sampled.
        tokens: Tokens of them.
        unscorable: Attempts without a reward.
        kept: Groups that passed the filter.
        all_failed: Groups of which no attempt was right.
        all_solved: Groups of which every attempt was right.
        screened_out: Prompts given up after their first few attempts.
        untried: Prompts not attempted, since nothing was missing any more.
        updates: Updates of the policy, each on one filling of the buffer.
        trained: Groups trained on.
        dropped: Groups that passed and were not trained on: surplus, or grown too old.
        repeated: Groups trained on once more, for want of new ones.
        short: Updates on fewer groups than asked for.
        empty: Fillings that ended with no group at all.
    """

    rounds: int = 0
    prompts: int = 0
    attempts: int = 0
    tokens: int = 0
    unscorable: int = 0
    kept: int = 0
    all_failed: int = 0
    all_solved: int = 0
    screened_out: int = 0
    untried: int = 0
    updates: int = 0
    trained: int = 0
    dropped: int = 0
    repeated: int = 0
    short: int = 0
    empty: int = 0

    def add(self, **numbers: int) -> None:
        """Add to some of the sums."""
        for name, number in numbers.items():
            setattr(self, name, getattr(self, name) + number)

    def state_dict(self) -> dict[str, int]:
        """Every sum by name."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from these sums."""
        for field in fields(self):
            setattr(self, field.name, int(state[field.name]))
