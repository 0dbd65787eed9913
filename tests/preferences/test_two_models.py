from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_select.errors import ArgumentError
from lightning_select.preferences.two_models import are_alike, two_models
from tests.preferences.pairs_of import MODEL, one_model, same


def test_each_model_is_made_after_its_seed_and_nothing_else_is_drawn():
    state = torch.get_rng_state()
    made = two_models(MODEL, (7, 9))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(made[0], one_model(7))
    assert same(made[1], one_model(9))


def test_without_seeds_the_global_generator_goes_on():
    torch.manual_seed(4)
    first, second = MODEL(), MODEL()
    torch.manual_seed(4)
    made = two_models(MODEL)
    assert same(made[0], first)
    assert same(made[1], second)


@pytest.mark.parametrize("holder", [list, tuple, nn.ModuleList])
def test_two_models_are_taken_as_they_are(holder):
    one, other = one_model(0), one_model(1)
    made = two_models(holder([one, other]))
    assert made[0] is one
    assert made[1] is other


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("models", "seeds", "told"),
    [
        (nn.Linear(2, 1), None, "must be a function that makes a model, or two models, got Linear"),
        ("model", None, "got str"),
        ([nn.Linear(2, 1)], None, "got 1"),
        ([nn.Linear(2, 1), 3], None, "got a int for a model"),
        (lambda: 3, None, "got a int for a model"),
        (MODEL, (1,), "PeerReview.seeds must be two whole numbers"),
        (MODEL, (1, 2.0), "PeerReview.seeds must be two whole numbers"),
        (MODEL, 3, "PeerReview.seeds must be two whole numbers, got 3"),
    ],
)
def test_what_is_not_two_models_is_told(models, seeds, told):
    with pytest.raises(ArgumentError, match=told):
        two_models(models, seeds)


def test_one_model_twice_is_refused():
    one = one_model(0)
    with pytest.raises(ArgumentError, match="got one model twice"):
        two_models([one, one])


def test_alike_is_to_the_last_bit_and_of_one_form():
    one, other = one_model(0), one_model(0)
    assert are_alike(nn.ModuleList([one, other]))
    with torch.no_grad():
        other.net[0].bias[0] += 1e-6
    assert not are_alike(nn.ModuleList([one, other]))
    assert not are_alike(nn.ModuleList([nn.Linear(2, 1), nn.Linear(3, 1)]))
    assert not are_alike(nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1, bias=False)]))
