from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_select import BatchSelection
from lightning_select.callbacks.advice import on_memory, on_sizes
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.schedule import Anneal
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.diverse import Diverse
from lightning_select.selectors.top_k import TopK
from tests.fitting import First, Rows, fit, loader, trainer
from tests.language_models import CausalLM, sentences
from tests.modules import Classifier


@pytest.mark.parametrize(
    ("keep", "count", "rows", "told"),
    [
        (0.125, 1, 4, ["keeps 1 of 4 rows, which is 0.25 and not 0.125", "1 rows of 4"]),
        (0.125, 1, 8, ["1 rows of 8"]),
        (Anneal(0.5, 0.1), 1, 2, ["2 rows to choose from", "1 rows of 2"]),
        (1, 1, 3, ["3 rows to choose from", "1 rows of 3"]),
        (1.0, 8, 8, []),
    ],
)
def test_what_sizes_call_for(keep, count, rows, told):
    lines = list(on_sizes("uds", keep, count, rows, 1))
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert line.startswith("uds")
        assert words in line


@pytest.mark.parametrize(("steps", "told"), [(10, True), (512, False), (None, False), (math.inf, False)])
def test_a_memory_that_is_never_full(steps, told):
    lines = list(on_memory(Diverse(capacity=1024), steps, 2, 1))
    assert bool(lines) is told
    if told:
        assert "Diverse has a memory of 1024 rows, and this fit chooses 20." in lines[0]
    assert not list(on_memory(TopK(), steps, 2, 1))


def test_the_learning_rate_rule_counts_ranks_and_accumulation():
    (line,) = on_sizes("uds", 0.25, 8, 32, 6)
    assert "learns from 48 rows of 192" in line
    assert "0.25 of it (SGD) or 0.5 of it (Adam)" in line
    assert "load 128 rows per batch or accumulate 4 times" in line


def test_is_said_once_in_a_fit(caplog):
    with caplog.at_level(logging.INFO):
        fit(CausalLM, BatchSelection(Loss(), TopK(), keep=2), data=loader(sentences, rows=24, size=6), max_epochs=2)
    assert len([line for line in caplog.messages if "an optimizer step learns from 2 rows of 6" in line]) == 1


def trained() -> CausalLM:
    """Knows something: its loss is far below that of chance."""
    torch.manual_seed(0)
    module = CausalLM()
    with torch.no_grad():  # the most usual word of all
        module.lm_head.weight.zero_()
    module.loss = lambda logits, labels: CausalLM.loss(module, logits, labels) * 0.5
    return module


def test_warns_of_the_nuclear_norm_from_scratch():
    callback = BatchSelection(NuclearNorm(), Diverse(), keep=2)
    with pytest.warns(
        UserWarning, match=rf"NuclearNorm .* CausalLM starts with a loss of 5.*near the {math.log(300):.3g}"
    ):
        fit(CausalLM, callback, data=loader(sentences, rows=12, size=6), max_epochs=1)


@pytest.mark.filterwarnings("error:NuclearNorm is made")
def test_does_not_warn_of_a_model_that_knows_something_nor_of_other_scores():
    fit(trained(), BatchSelection(NuclearNorm(), TopK(), keep=2), data=loader(sentences, rows=12, size=6), max_epochs=1)
    fit(CausalLM, BatchSelection(Loss(), TopK(), keep=2), data=loader(sentences, rows=12, size=6), max_epochs=1)


def test_logs_how_long_the_rows_are_that_are_kept():
    seen = []

    def score(signals):
        seen.append(signals.valid.sum(dim=1).float())
        return signals.loss

    callback = BatchSelection(score, First(), keep=2)
    done = fit(CausalLM, callback, data=loader(sentences, rows=6, size=6, shuffle=False), max_epochs=1)
    for name, rows in (("length_kept", slice(0, 2)), ("length_dropped", slice(2, 6))):
        logged = float(done.callback_metrics[f"batch_selection/{name}"])
        assert logged == pytest.approx(float(seen[-1][rows].mean()))


def test_a_resumed_run_is_advised_on_batches_of_whole_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It begins with the short last batch of an epoch."""
    caplog.set_level("INFO")

    def run(**resumed: Any) -> None:
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        callbacks = BatchSelection(Loss(), TopK(), keep=0.5), keep
        fitting = trainer(*callbacks, max_epochs=2, enable_checkpointing=True)
        fitting.fit(Classifier(), DataLoader(Rows(rows=46), 16, sampler=LossProportional(46)), **resumed)

    run()
    caplog.clear()
    run(ckpt_path=tmp_path / "step=2.ckpt")
    told = [record.message for record in caplog.records if "an optimizer step learns from" in record.message]
    assert [message.partition("learns from ")[2][:15] for message in told] == ["8 rows of 16. A"]
