from __future__ import annotations

import dataclasses
import math

import jaxtyping
import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_select.errors import ArgumentError, MissingSignalError
from lightning_select.protocols import Score
from lightning_select.scores.el2n import EL2N
from lightning_select.scores.grad_norm import GradNorm, grad_norm
from lightning_select.signals.base import Signals
from lightning_select.signals.scoring import StepRunner
from tests.scores.cases import ALONE, CASES, CLASSES, FEATURES, HOST_READS, MASKED, operations_of, rows_of, signals_of
from tests.scores.cases import with_masked_row as masked
from tests.scores.cases import with_values as filled

EVERY = pytest.mark.parametrize("case", CASES)
BOTH = pytest.mark.parametrize("features", [False, True])


def reference(signals: Signals, *, features: bool) -> list[float]:
    """The gradient of the last layer, entry by entry: ``e_c phi_j`` for the weights and ``e_c`` for the bias."""
    scores = []
    for tokens in rows_of(signals):
        square = 0.0
        for c in range(CLASSES):
            for j in range(FEATURES + 1):
                entry = 0.0
                for token in tokens:
                    phi = token.hidden[j] if j < FEATURES else 1.0
                    entry += (token.probabilities[c] - token.target[c]) * phi
                if features or j == FEATURES:
                    square += entry**2
        scores.append(math.sqrt(square))
    return scores


@EVERY
@BOTH
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_the_gradient_entry_by_entry(case, features, seed):
    signals = signals_of(case, seed)
    scores = GradNorm(features=features)(signals)
    assert scores.tolist() == pytest.approx(reference(signals, features=features), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("case", [*ALONE, "ignored"])
def test_without_tokens_it_is_el2n_and_features_are_a_factor(case):
    signals = signals_of(case)
    factor = (signals.hidden.square().sum(dim=-1) + 1).sqrt()
    assert torch.allclose(GradNorm()(signals), EL2N()(signals))
    assert torch.allclose(GradNorm(features=True)(signals), EL2N()(signals) * factor)


def test_worked_numbers():
    logits, target = torch.zeros(1, 2), torch.tensor([0])
    assert grad_norm(logits, target).item() == pytest.approx(math.sqrt(0.5))
    assert grad_norm(logits, target, hidden=torch.tensor([[3.0, 4.0]])).item() == pytest.approx(math.sqrt(0.5 * 26))


def test_tokens_that_pull_in_opposite_directions_cancel():
    logits, targets = torch.zeros(1, 2, 2), torch.tensor([[0, 1]])
    same = torch.ones(1, 2, 1)
    assert grad_norm(logits, targets).item() == 0
    assert grad_norm(logits, targets, hidden=same).item() == 0
    apart = grad_norm(logits, targets, hidden=torch.tensor([[[1.0], [-1.0]]]))
    assert apart.item() == pytest.approx(2 * math.sqrt(0.5))


class Text(pl.LightningModule):
    """A small language model with a padding label, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5)
        self.head = nn.Linear(5, 9)

    def training_step(self, batch, batch_idx):
        logits = self.head(torch.tanh(self.embed(batch["ids"])))
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


class Images(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.head = self.net[2]

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch["x"]), batch["y"])


class Labels(Images):
    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy_with_logits(self.net(batch["x"]), batch["labels"])


@pytest.mark.parametrize(("module", "terms"), [(Text, None), (Images, 1), (Labels, 3)])
def test_is_the_norm_that_autograd_finds_for_the_last_layer_of_an_untouched_module(module, terms):
    torch.manual_seed(0)
    model = module()
    labels = torch.randint(9, (4, 7))
    labels[0, 2:] = -100
    batches = {
        Text: {"ids": torch.randint(9, (4, 7)), "labels": labels},
        Images: {"x": torch.randn(4, 6), "y": torch.tensor([0, 2, 1, 1])},
        Labels: {"x": torch.randn(4, 6), "labels": torch.randint(2, (4, 3)).float()},
    }
    score = GradNorm(features=True)
    scores = score(StepRunner(model, None, model.training_step).measure(batches[module], score.needs))
    for row in range(4):
        alone = {key: value[row : row + 1] for key, value in batches[module].items()}
        count = terms or int((alone["labels"] != -100).sum())  # the loss of the step is a mean over so many terms
        gradients = torch.autograd.grad(count * model.training_step(alone, 0), list(model.head.parameters()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert scores[row].item() == pytest.approx(norm.item(), rel=1e-4)


def test_never_forms_the_outer_product():
    rows, tokens, classes, width = 2, 3, 40, 50
    signals = Signals(
        logits=torch.randn(rows, tokens, classes),
        targets=torch.randint(classes, (rows, tokens)),
        hidden=torch.randn(rows, tokens, width),
    )
    assert operations_of(GradNorm(features=True), signals).largest <= rows * tokens * width


@EVERY
@BOTH
def test_permuting_the_rows_permutes_the_scores(case, features):
    signals, order, score = signals_of(case), torch.tensor([3, 1, 4, 0, 2]), GradNorm(features=features)
    assert torch.allclose(score(signals.take(order)), score(signals)[order])


@EVERY
@BOTH
def test_one_row(case, features):
    signals, score = signals_of(case), GradNorm(features=features)
    assert score(signals.take(torch.tensor([2]))).tolist() == pytest.approx([score(signals)[2].item()])


@pytest.mark.parametrize("case", MASKED)
@BOTH
def test_a_row_without_valid_tokens_scores_zero(case, features):
    signals, score = signals_of(case), GradNorm(features=features)
    scores = score(masked(signals, row=1))
    assert scores[1] == 0
    assert torch.allclose(scores[[0, 2, 3, 4]], score(signals)[[0, 2, 3, 4]])


@EVERY
@BOTH
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_row(case, features, value):
    signals, score = signals_of(case), GradNorm(features=features)
    scores = score(filled(signals, row=0, value=value))
    assert torch.allclose(scores[1:], score(signals)[1:])
    if math.isnan(value):
        assert scores[0].isnan()


@EVERY
def test_features_that_are_not_finite_stay_in_their_row(case):
    signals = signals_of(case)
    hidden = signals.hidden.clone()
    hidden[0] = math.nan
    scores = GradNorm(features=True)(dataclasses.replace(signals, hidden=hidden))
    assert scores.isnan().tolist() == [True, False, False, False, False]


@EVERY
@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_computes_in_float32_even_under_autocast(case, features, dtype):
    signals = signals_of(case)
    rounded = dataclasses.replace(signals, logits=signals.logits.to(dtype), hidden=signals.hidden.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = GradNorm(features=features)(rounded)
    assert scores.dtype == torch.float32
    assert scores.tolist() == pytest.approx(reference(rounded, features=features), rel=1e-5, abs=1e-5)


@EVERY
@BOTH
def test_extreme_numbers_give_finite_scores(case, features):
    signals = signals_of(case)
    extreme = dataclasses.replace(signals, logits=signals.logits.sign() * 1e4, hidden=signals.hidden * 1e4)
    assert GradNorm(features=features)(extreme).isfinite().all()


@EVERY
@BOTH
def test_leaves_its_input_as_it_was_and_reads_nothing_back_to_the_host(case, features):
    signals = signals_of(case)
    before = signals.logits.clone(), signals.hidden.clone()
    assert not operations_of(GradNorm(features=features), signals).names & HOST_READS
    assert torch.equal(signals.logits, before[0])
    assert torch.equal(signals.hidden, before[1])


def test_asks_for_the_hidden_state_only_where_it_is_used():
    assert isinstance(GradNorm(), Score)
    assert GradNorm().needs == {"logits", "targets"}
    assert GradNorm(features=True).needs == {"logits", "targets", "hidden"}
    assert GradNorm()(dataclasses.replace(signals_of("tokens"), hidden=None)).isfinite().all()


@pytest.mark.parametrize("missing", ["logits", "targets", "hidden"])
def test_says_what_is_missing(missing):
    signals = dataclasses.replace(signals_of("classes"), **{missing: None})
    with pytest.raises(MissingSignalError, match=f"^GradNorm must have the signal '{missing}'"):
        GradNorm(features=True)(signals)


@pytest.mark.parametrize("features", [1, "yes", None])
def test_refuses_what_is_no_bool(features, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"^GradNorm.features must be true or false, got "):
        GradNorm(features=features)
