from __future__ import annotations

import itertools
import math
from typing import Any

import jaxtyping
import pytest
import torch

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.kl import kl
from lightning_select.rollouts.losses.dapo import DAPOLoss, dapo
from lightning_select.rollouts.losses.dr_grpo import DrGRPOLoss, dr_grpo
from lightning_select.rollouts.losses.grpo import GRPOLoss, grpo
from lightning_select.rollouts.losses.totals import Totals
from tests.rollouts.cases import Tokens, tokens, waits_for

LOSSES = [GRPOLoss(), DrGRPOLoss(max_tokens=7), DAPOLoss()]


@pytest.fixture(params=LOSSES, ids=lambda loss: type(loss).__name__)
def loss(request) -> Any:
    return request.param


def run(loss: Any, given: Tokens, totals: Totals) -> Any:
    return loss(given.log_probs, given.old, given.advantages, given.mask, totals)


@pytest.mark.parametrize("cuts", [(0, 3, 6), (0, 1, 2, 3, 4, 5, 6), (0, 2, 3, 6), (0, 0, 6)])
def test_the_losses_of_parts_add_up_to_that_of_the_update(loss, cuts):
    whole, parts = tokens(), tokens()
    found = run(loss, whole, whole.totals())
    found.loss.backward()
    pieces = [run(loss, parts.part(slice(start, stop)), parts.totals()) for start, stop in itertools.pairwise(cuts)]
    for piece in pieces:
        piece.loss.backward()
    assert sum(piece.loss.item() for piece in pieces) == pytest.approx(found.loss.item())
    assert sum(piece.clipped.item() for piece in pieces) == pytest.approx(found.clipped.item())
    assert torch.allclose(parts.log_probs.grad, whole.log_probs.grad)


def test_the_scale_does_not_depend_on_how_many_groups_were_kept(loss):
    given = tokens()
    twice = Tokens(*(torch.cat([one, one]) for one in (given.log_probs, given.old, given.advantages, given.mask)))
    assert run(loss, twice, twice.totals()).loss.item() == pytest.approx(run(loss, given, given.totals()).loss.item())


def test_reduce_averages_other_terms_in_the_same_way(loss):
    """With ratios of 1, the loss is minus the averaged advantages."""
    given = tokens()
    gains = given.advantages.unsqueeze(1).expand_as(given.mask)
    still = loss(given.old, given.old, given.advantages, given.mask, given.totals()).loss
    assert loss.reduce(-gains, given.mask, given.totals()).item() == pytest.approx(still.item())


def test_reduce_passes_the_gradient_of_a_divergence_on(loss):
    given = tokens()
    whole = loss.reduce(kl(given.log_probs, given.old, given.mask), given.mask, given.totals())
    whole.backward()
    assert whole.item() > 0
    assert given.log_probs.grad.isfinite().all()
    assert (given.log_probs.grad[~given.mask] == 0).all()
    assert (given.log_probs.grad[given.mask] != 0).any()


def test_what_reduce_finds_outside_the_mask_may_be_anything(loss):
    given = tokens()
    terms = torch.where(given.mask, 1.5, math.nan)
    clean = torch.where(given.mask, 1.5, 0.0)
    assert loss.reduce(terms, given.mask, given.totals()) == loss.reduce(clean, given.mask, given.totals())


def test_permuting_the_rows_permutes_the_gradient(loss):
    order, given, other = torch.tensor([3, 1, 5, 0, 2, 4]), tokens(), tokens()
    run(loss, given, given.totals()).loss.backward()
    permuted = Tokens(*(one[order] for one in (other.log_probs, other.old, other.advantages, other.mask)))
    run(loss, permuted, other.totals()).loss.backward()
    assert torch.allclose(given.log_probs.grad, other.log_probs.grad)


def test_no_row_and_no_token_is_no_loss(loss):
    for shape in ((0, 4), (3, 0)):
        now = torch.zeros(shape)
        for totals in (Totals(4, 9), Totals(4, 0), Totals(4, torch.tensor(0))):
            found = loss(now, now, torch.zeros(shape[0]), now.bool(), totals)
            assert (found.loss, found.clipped) == (0, 0)


def test_without_totals_what_is_given_is_the_update():
    given = tokens()
    parts = (given.log_probs, given.old, given.advantages, given.mask)
    for loss, function in zip(LOSSES, (grpo, lambda *args: dr_grpo(*args, max_tokens=7), dapo), strict=True):
        assert function(*parts).loss.item() == pytest.approx(run(loss, given, given.totals()).loss.item())


def test_totals_may_be_tensors_that_nobody_waits_for(loss):
    given, seen = tokens(), []
    totals = Totals(torch.tensor(6), given.mask.sum())
    assert waits_for(lambda: seen.append(run(loss, given, totals))) == []
    assert seen[0].loss.item() == pytest.approx(run(loss, given, given.totals()).loss.item())
    assert waits_for(lambda: run(loss, given, Totals.of(given.mask))) == []


def test_totals_of_a_mask():
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    totals = Totals.of(mask)
    assert (totals.attempts, totals.tokens) == (3, 3)
    assert totals.per_attempt(torch.tensor(6.0)) == totals.per_token(torch.tensor(6.0)) == 2
    none = Totals.of(mask[:0])
    assert none.per_attempt(torch.tensor(0.0)) == none.per_token(torch.tensor(0.0)) == 0


@pytest.mark.parametrize(
    ("attempts", "count", "told"),
    [
        (0, 4, "Totals.attempts must be positive, got 0"),
        (-1.0, 4, "Totals.attempts must be a finite number, at least 0, got -1.0"),
        (2, -4, "Totals.tokens must be a finite number, at least 0, got -4"),
        (2, math.inf, "Totals.tokens must be a finite number, at least 0, got inf"),
        (math.nan, 4, "Totals.attempts must be a finite number, at least 0, got nan"),
        (True, 4, "Totals.attempts must be a finite number, at least 0, got True"),
        (2, "4", "Totals.tokens must be a finite number, at least 0, got '4'"),
        (2, torch.ones(3), r"Totals.tokens must be one number, got shape \(3,\)"),
    ],
)
def test_totals_are_numbers(attempts, count, told, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=told):
        Totals(attempts, count)
