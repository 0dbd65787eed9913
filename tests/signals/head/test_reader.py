from __future__ import annotations

import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_select import BatchSelection
from lightning_select.errors import ArgumentError
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals
from lightning_select.signals.head.head import Head
from lightning_select.signals.head.terms import Dense, Linear, Mapped
from lightning_select.signals.scoring import StepRunner
from tests.fitting import fit, loader, same, weights_of
from tests.language_models import (
    FOLLOWED,
    IGNORED,
    ROWS,
    TOKENS,
    WORDS,
    AccuracyFirst,
    Adapted,
    Biased,
    CausalLM,
    Mixture,
    PriorAdded,
    Scaled,
    ScaledPerToken,
    SoftCapped,
    Tied,
    TiedByProduct,
    TwoHeads,
    WideInside,
    WordsMasked,
    sentences,
)

EVERY = pytest.mark.parametrize("kind", FOLLOWED, ids=lambda kind: kind.__name__)


def runner_of(module, **kwargs) -> StepRunner:
    return StepRunner(module, None, module.training_step, **kwargs)


def made(kind) -> CausalLM:
    torch.manual_seed(0)
    return kind()


def slow_norms(signals: Signals) -> torch.Tensor:
    """Singular values of the counted tokens' logits, a row at a time, in float64."""
    rows = []
    for row in range(len(signals.logits)):
        used = (
            torch.ones_like(signals.logits[row, ..., 0], dtype=torch.bool)
            if signals.valid is None
            else signals.valid[row]
        )
        rows.append(torch.linalg.svdvals(signals.logits[row][used].double()).sum())
    return torch.stack(rows)


@EVERY
def test_shows_the_logits_that_the_step_computes(kind):
    module = made(kind)
    full = runner_of(module).measure(sentences(1), {"logits", "targets"})
    runner = runner_of(module)
    runner.measure(sentences(0), {"head"})
    signals = runner.measure(sentences(1), {"head"})
    assert not {"loss", "logits"} & set(signals.measured)
    assert signals.head.shape == full.logits.shape == (ROWS, full.logits.shape[1], WORDS)
    counted = torch.ones_like(signals.valid) if full.valid is None else full.valid
    assert torch.equal(signals.valid, counted)
    torch.testing.assert_close(signals.head.logits()[counted], full.logits[counted], rtol=1e-5, atol=1e-5)
    assert torch.equal(signals.targets[counted], full.targets[counted])
    torch.testing.assert_close(NuclearNorm()(signals).double(), slow_norms(full), rtol=1e-5, atol=1e-6)


@EVERY
def test_computes_neither_logits_nor_loss(kind):
    module = made(kind)
    runner = runner_of(module)
    runner.measure(sentences(0), {"head"})
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if type(made) is torch.Tensor and made.device.type == "cpu" and made.is_floating_point():
                seen.append((made.numel(), str(func)))
            return made

    with Watch():
        runner.measure(sentences(1), {"head"})
    if kind is not WideInside:
        assert max(seen)[0] < ROWS * (TOKENS - 2) * WORDS
    assert not any("softmax" in name or "nll_loss" in name for _, name in seen)


@pytest.mark.parametrize("kind", [CausalLM, Biased, Tied, TiedByProduct, Scaled, ScaledPerToken, PriorAdded, Adapted])
def test_knows_a_linear_head(kind):
    assert isinstance(scored(made(kind)).head.term, Linear)


@pytest.mark.parametrize("kind", [SoftCapped, WordsMasked, Mixture])
def test_knows_a_head_that_is_not_linear(kind):
    assert isinstance(scored(made(kind)).head.term, Mapped)


def scored(module, batch=None, **kwargs) -> Signals:
    runner = runner_of(module, **kwargs)
    runner.measure(sentences(0), {"head"})
    return runner.measure(sentences(1) if batch is None else batch, {"head"})


def test_a_step_that_needs_its_logits_first_is_run_in_full_and_says_why(caplog):
    module = made(AccuracyFirst)
    with caplog.at_level(logging.INFO):
        signals = scored(module)
    assert isinstance(signals.head.term, Dense)
    assert signals.loss is not None
    assert "AccuracyFirst" in caplog.text
    assert "argmax" in caplog.text
    assert len([line for line in caplog.messages if "output head" in line]) == 1
    torch.testing.assert_close(NuclearNorm()(signals).double(), slow_norms(signals), rtol=1e-5, atol=1e-6)


def test_two_heads_must_be_told_apart():
    with pytest.raises(ArgumentError, match=r"BatchSelection.head must name .*lm_head.weight and .*second.weight"):
        scored(made(TwoHeads))


@pytest.mark.parametrize("name", ["lm_head", "second"])
def test_a_head_can_be_named(name):
    module = made(TwoHeads)
    signals = scored(module, head=name)
    with torch.no_grad():
        expected = getattr(module, name)(module.hidden(sentences(1)["input_ids"]))[:, :-1]
    torch.testing.assert_close(signals.head.logits(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm_haed", "must name a submodule of CausalLM that has a weight, got 'lm_haed'. .*lm_head"),
        ("", "got ''"),
        ("mix", "must name the output head of CausalLM, got 'mix', which cannot be read"),
    ],
)
def test_a_wrong_name_is_an_error(name, message):
    with pytest.raises(ArgumentError, match=message):
        scored(made(CausalLM), head=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_reads_the_unrounded_logits(dtype):
    module = made(CausalLM)
    exact = NuclearNorm()(scored(module))

    def step(batch, batch_idx):
        with torch.autocast("cpu", dtype=dtype):
            return CausalLM.training_step(module, batch, batch_idx)

    runner = StepRunner(module, None, step)
    runner.measure(sentences(0), {"head"})
    rounded = NuclearNorm()(runner.measure(sentences(1), {"head"}))
    torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=0.0)


def test_padding_on_either_side_changes_nothing():
    """The rows are fed to a head without a recurrent part, so that a token's hidden state is its own."""

    class Wordwise(CausalLM):
        def hidden(self, ids):
            return self.embed(ids)

    module = made(Wordwise)
    right, left = sentences(2), sentences(2)
    for row in range(ROWS):
        shift = int((right["input_ids"][row] == 0).sum())
        for key in left:
            left[key][row] = right[key][row].roll(shift)
    torch.testing.assert_close(NuclearNorm()(scored(module, right)), NuclearNorm()(scored(module, left)))


def test_follows_the_head_while_it_is_trained():
    module = made(CausalLM)
    runner = runner_of(module)
    runner.measure(sentences(0), {"head"})
    optimizer = module.configure_optimizers()
    for seed in range(3):
        optimizer.zero_grad()
        batch = sentences(seed)
        module.loss(module.head(module.hidden(batch["input_ids"])), batch["labels"]).backward()
        optimizer.step()
        signals = runner.measure(sentences(seed), {"head"})
        expected = slow_norms(runner_of(module).measure(sentences(seed), {"logits"}))
        torch.testing.assert_close(NuclearNorm()(signals).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_selection_step_may_give_the_head():
    class Knows(CausalLM):
        def selection_step(self, batch):
            hidden = self.hidden(batch["input_ids"])[:, :-1]
            valid = batch["labels"][:, 1:] != IGNORED
            return Signals(head=Head.linear(hidden, self.lm_head.weight), valid=valid)

    torch.manual_seed(0)
    module = Knows()
    asked = NuclearNorm()(runner_of(module).measure(sentences(1), {"head"}))
    torch.testing.assert_close(asked, NuclearNorm()(scored(made(CausalLM))))


def test_a_fit_selects_and_learns_alike_with_and_without_the_logits():
    def run(kind):
        callback = BatchSelection(NuclearNorm(), TopK(), keep=3)
        done = fit(kind, callback, data=loader(sentences, rows=24, size=6), max_epochs=2)
        return weights_of(done)

    class InFull(CausalLM):
        def loss(self, logits, labels):
            logits.max().item()
            return super().loss(logits, labels)

    assert same(run(CausalLM), run(InFull))


def test_leaves_nothing_behind():
    module = made(CausalLM)
    before, draws = {key: value.clone() for key, value in module.state_dict().items()}, torch.get_rng_state()
    modes = [part.training for part in module.modules()]
    scored(module)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), draws)
    assert [part.training for part in module.modules()] == modes
    assert all(parameter.grad is None for parameter in module.parameters())


def test_reads_a_compiled_module():
    module = made(CausalLM)
    expected = NuclearNorm()(scored(module))
    module.lm_head.compile(backend="eager")
    module.embed.compile(backend="eager")
    torch.testing.assert_close(NuclearNorm()(scored(module)), expected)
