"""Checks that a score, selector or weighting of your own will run in the callbacks; for your tests.

Example:
    >>> from lightning_select.scores.loss import Loss
    >>> check_score(Loss())
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.callbacks.choice import checked_scores, checked_selection, checked_weights, name_of, noted_weights
from lightning_select.callbacks.verdicts import Verdicts
from lightning_select.errors import ArgumentError, ScoreError, WeightError
from lightning_select.protocols import Score, SelectionContext, Selector, Weighting
from lightning_select.signals.base import SIGNAL_NAMES, Signals
from lightning_select.types import Float

__all__ = ["check_score", "check_selector", "check_weighting", "made_signals"]


def made_signals(rows: int, seed: int = 0) -> Signals:
    """All signals of a made-up classifier with 5 classes and 7 features."""
    g = torch.Generator().manual_seed(seed)
    logits, targets = torch.randn(rows, 5, generator=g), torch.randint(0, 5, (rows,), generator=g)
    return Signals(
        loss=F.cross_entropy(logits, targets, reduction="none"),
        logits=logits,
        targets=targets,
        hidden=torch.randn(rows, 7, generator=g),
        reference_loss=torch.rand(rows, generator=g),
        reward=torch.randint(0, 2, (rows, 4), generator=g).float(),
        correct=torch.rand(rows, generator=g),
        ids=torch.arange(rows),
    )


def check_score(score: Score | Callable[[Signals], Tensor], signals: Signals | None = None) -> None:
    """One finite float per row, for any number of rows, that follows its row, and an object that pickles.

    Args:
        score: The score.
        signals: Signals to score, at least 4 rows; ``None`` makes some.

    Raises:
        ScoreError: It does not keep its promise.
        ArgumentError: It asks for a signal that does not exist.
    """
    name = name_of(score)
    if isinstance(score, Score):
        _check_needs(name, score.needs)
    given = signals or made_signals(8)
    rows = int(given.rows or 0)
    plain = checked_scores(name, score(given), rows)
    if not plain.isfinite().all():
        raise ScoreError(f"{name} must return finite scores for finite signals, got {plain.tolist()}.")
    order = torch.arange(rows).flip(0)
    if not torch.allclose(checked_scores(name, score(given.take(order)), rows), plain[order], rtol=1e-4):
        raise ScoreError(f"{name} must give every row its own score, got other scores for the rows in reverse order.")
    for few in (1, 2):
        checked_scores(name, score(given.take(order[:few])), few)
    pickle.loads(pickle.dumps(score))


def check_selector(selector: Selector, signals: Signals | None = None) -> None:
    """Exactly as many rows as asked for, inside the batch, distinct unless it says otherwise, and repeatable.

    Args:
        selector: The selector.
        signals: Signals of the candidates, at least 4 rows; ``None`` makes some.

    Raises:
        SelectorError: It does not keep its promise.
        WeightError: Its weights break a rule.
        ArgumentError: It is no selector, or asks for a signal that does not exist.
    """
    name = name_of(selector)
    if not isinstance(selector, Selector):
        raise ArgumentError(
            f"{name} must have needs, with_replacement and a call with three arguments, got {selector!r}."
        )
    _check_needs(name, selector.needs)
    given = signals or made_signals(8)
    rows = int(given.rows or 0)
    scores = given.need("loss", name)
    for count in (1, 3, rows):
        chosen = []
        for _ in range(2):
            context = SelectionContext(given, torch.Generator().manual_seed(0))
            verdicts = Verdicts()
            made = selector(scores, count, context)
            again = selector.with_replacement
            index, _ = checked_selection(name, made, scores, count, verdicts, with_replacement=again)
            verdicts.raise_broken()
            chosen.append(index)
        if not torch.equal(chosen[0], chosen[1]):
            raise ArgumentError(f"{name} must draw from context.generator alone, got two choices for one seed.")
    pickle.loads(pickle.dumps(selector))


def check_weighting(weighting: Weighting | Callable[[Tensor], Tensor]) -> None:
    """One weight per row, not negative, not all zero, detached, that follows its row.

    Where the weighting says that it is ``normalised``, also: mean one over the rows whose loss is finite, and zero for
    the others.

    Args:
        weighting: The weighting.

    Raises:
        WeightError: It does not keep its promise.
    """
    name, verdicts = name_of(weighting), Verdicts()
    for rows in (1, 2, 8):
        losses = made_signals(rows).need("loss", name)
        plain = checked_weights(name, weighting(losses), rows, verdicts)
        verdicts.raise_broken()
        if not torch.allclose(weighting(losses.flip(0)), plain.flip(0).to(losses.dtype), rtol=1e-4):
            raise WeightError(f"{name} must give every row its own weight, got other weights for the rows in reverse.")
        if getattr(weighting, "normalised", False):
            _check_normalised(name, weighting, losses, verdicts)
    pickle.loads(pickle.dumps(weighting))


def _check_normalised(
    name: str, weighting: Callable[[Tensor], Tensor], losses: Float[Tensor, "rows"], verdicts: Verdicts
) -> None:
    rows = losses.shape[0]
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoiled = torch.cat([losses, losses.new_tensor([bad])])
        weights = noted_weights(name, weighting(spoiled), rows + 1, verdicts)
        verdicts.raise_broken()
        total, last = float(weights.sum()), float(weights[-1])
        if last != 0 or not math.isclose(total, rows, rel_tol=1e-4):
            raise WeightError(
                f"{name} must give rows with a finite loss weights of mean one and a row with a loss of {bad} none, as "
                f"it is normalised, got a mean of {total / rows:.4g} and {last:.4g}."
            )


def _check_needs(name: str, needs: frozenset[str]) -> None:
    unknown = set(needs) - set(SIGNAL_NAMES)
    if unknown:
        raise ArgumentError(f"{name}.needs must be among {', '.join(SIGNAL_NAMES)}, got {', '.join(sorted(unknown))}.")
