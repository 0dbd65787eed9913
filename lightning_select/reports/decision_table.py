"""Which methods fit which kind of data, by what was measured with this package.

Every reason quotes a figure that a script under ``examples/benchmarks`` prints; the README shows the same table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lightning_select.reports.data_kind import DataKind

__all__ = ["DECISIONS", "Decision", "decide"]

WRONG, REDUNDANT, IMBALANCED = 0.03, 0.5, 5.0
"""Shares and ratio from which data is called so."""

_FEWEST = 30
"""Rows that it takes to say what kind they are of."""


@dataclass(frozen=True)
class Decision:
    """One line of the table.

    Attributes:
        when: The kind of data, in words.
        fits: Is this data of that kind?
        first: What to try first, without any method of ours where that is the better advice.
        methods: Recipes or samplers that are worth a comparison.
        avoid: Those that lose on such data.
        reason: What was measured.
    """

    when: str
    fits: Callable[[DataKind], bool]
    first: str
    methods: tuple[str, ...]
    avoid: tuple[str, ...]
    reason: str


def decide(kind: DataKind) -> list[Decision]:
    """The lines that fit the data; the last one where no other does."""
    found = [decision for decision in DECISIONS[:-1] if decision.fits(kind) and kind.rows >= _FEWEST]
    return found or [DECISIONS[-1]]


DECISIONS = (
    Decision(
        "wrong labels",
        lambda kind: (kind.wrong_share or 0.0) >= WRONG,
        "correct or drop the likely mislabelled rows",
        ("rho_loss",),
        ("max_loss", "grad_norm", "el2n", "selective_backprop", "dynamic_loss"),
        "with 30 % wrong labels rho_loss has .760 right after as many steps, uniform .517, max_loss .335 (beds.py); at "
        "equal compute rho_loss is behind uniform, by 2 to 17 points (time_to_accuracy.py)",
    ),
    Decision(
        "redundant rows",
        lambda kind: (kind.redundant_share or 0.0) >= REDUNDANT,
        "train shorter",
        ("dynamic_loss", "info_batch"),
        (),
        "on text of which half are copies dynamic_loss ends .106 lower in loss than uniform after as many rows "
        "(lm_reweighting.py); info_batch skips 37 % of the rows at no loss, and so does a shorter uniform run "
        "(info_batch.py)",
    ),
    Decision(
        "rare classes, right labels",
        lambda kind: (kind.imbalance or 1.0) >= IMBALANCED and (kind.wrong_share or 0.0) < WRONG,
        "fixed shares of the classes",
        ("group_balanced", "max_loss", "loss_proportional"),
        (),
        "max_loss has .894 right on rare kinds of rows after as many steps, uniform .610, and .985 where it reads as "
        "many rows at a learning rate of its own (beds.py)",
    ),
    Decision(
        "anything else",
        lambda kind: True,
        "tune the learning rate and the length of ordinary training",
        (),
        (),
        "on CIFAR-10N, Banking77 and Adult no method took clearly less time than uniform (time_to_accuracy.py)",
    ),
)
