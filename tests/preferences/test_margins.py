from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_select.errors import BatchFormatError
from lightning_select.preferences.margins import Reviewing, margins_of, scores_of
from lightning_select.preferences.reward_encoder import RewardEncoder
from lightning_select.preferences.reward_mlp import RewardMLP
from tests.preferences.pairs_of import Pairs, one_model

PAIRS = Pairs(8).take(range(8))


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.sum(1),
        lambda x: x.sum(1, keepdim=True),
        lambda x: SimpleNamespace(logits=x.sum(1, keepdim=True)),
        lambda x: x.sum(1).double(),
    ],
)
def test_scores_of_every_form_that_is_usual(make):
    expected = PAIRS["chosen"].sum(1) - PAIRS["rejected"].sum(1)
    torch.testing.assert_close(margins_of(Returns(make), PAIRS).float(), expected)


def test_a_score_in_low_precision_is_subtracted_in_float32():
    assert margins_of(Returns(lambda x: x.sum(1).bfloat16()), PAIRS).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: x, r"Returns must return one score per row, got torch.float32 of shape \(8, 6\)"),
        (lambda x: x.sum(), r"got torch.float32 of shape \(\)"),
        (lambda x: x.argmax(1), "got torch.int64"),
        (lambda x: [1.0] * 8, "got list"),
    ],
)
def test_what_is_no_score_is_told(make, told):
    with pytest.raises(BatchFormatError, match=told):
        margins_of(Returns(make), PAIRS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"chosen": torch.zeros(2, 6)}, "must be a mapping with chosen and rejected, got chosen"),
        ([torch.zeros(2, 6)], "got list"),
        ({"chosen": torch.zeros(2, 6), "rejected": torch.zeros(3, 6)}, "got 2 chosen and 3 rejected"),
    ],
)
def test_what_is_no_pair_is_told(pairs, told):
    with pytest.raises(BatchFormatError, match=told):
        margins_of(one_model(0), pairs)


class Noisy(nn.Module):
    """Draws, drops, normalises, and notes who looked."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.frozen = nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Dropout(0.5)
        self.frozen.eval()

    def forward(self, x):
        return (self.frozen(self.drop(self.norm(x))) + 1e-3 * torch.randn(6)).sum(1)


def test_a_review_leaves_no_trace():
    model, state = Noisy(), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    margins = Reviewing()(model, PAIRS)
    assert not margins.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == [True, True, True, False]


def test_a_review_that_fails_leaves_no_trace_either():
    model = Noisy()
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        Reviewing()(model, {"chosen": torch.zeros(2, 2, 2, 2), "rejected": torch.zeros(2, 2, 2, 2)})
    assert model.training
    assert torch.is_grad_enabled()


def test_padding_changes_no_score_of_the_encoder():
    torch.manual_seed(0)
    model = RewardEncoder(vocabulary=20, width=16, depth=2, heads=2, context=12).eval()
    ids = torch.randint(1, 20, (3, 5))
    mask = torch.ones_like(ids)
    left = {"input_ids": torch.cat([torch.zeros(3, 4, dtype=torch.int64), ids], 1)}
    right = {"input_ids": torch.cat([ids, torch.zeros(3, 4, dtype=torch.int64)], 1)}
    left["attention_mask"] = torch.cat([torch.zeros(3, 4, dtype=torch.int64), mask], 1)
    right["attention_mask"] = torch.cat([mask, torch.zeros(3, 4, dtype=torch.int64)], 1)
    plain = scores_of(model, {"input_ids": ids, "attention_mask": mask})
    for padded in (left, right):
        torch.testing.assert_close(scores_of(model, padded), plain, atol=1e-5, rtol=0)


def test_texts_need_a_model_that_takes_tokens() -> None:
    with pytest.raises(BatchFormatError, match="RewardMLP.forward must take the entries of a batch, got input_ids"):
        scores_of(RewardMLP(4), {"input_ids": torch.zeros(2, 3), "attention_mask": torch.ones(2, 3)})
