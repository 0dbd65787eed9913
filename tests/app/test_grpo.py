"""``experiment=grpo_arithmetic`` and ``experiment=grpo_gsm8k``, offline, as a user would start them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_select.errors import ArgumentError
from tests.app.conftest import read_csv

pytestmark = pytest.mark.filterwarnings(
    "ignore:Starting from v1.9.0, `tensorboardX`", "ignore:Only .* groups passed", "ignore:No group of attempts passed"
)
QUIET = ("trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false", "trainer.log_every_n_steps=1")
SMALL = (
    "experiment=grpo_arithmetic",
    "model.policy.steps=40",
    "model.policy.batch_size=64",
    "model.reward.partial=1.0",  # after so short a start hardly an answer is right
    "data.batch_size=8",
    "trainer.max_steps=3",
    "trainer.val_check_interval=1",
    "+trainer.limit_val_batches=1",
    *QUIET,
)
LLAMA = (
    "{model_type:llama,hidden_size:32,intermediate_size:64,num_hidden_layers:1,num_attention_heads:2,"
    "num_key_value_heads:2,max_position_embeddings:256}"
)


@pytest.fixture
def launch_small(launch: Callable[..., Path]) -> Callable[..., Path]:
    return lambda *arguments, **kwargs: launch(*SMALL, *arguments, **kwargs)


def logged(folder: Path, name: str) -> list[float]:
    (file,) = folder.rglob("metrics.csv")
    with file.open(encoding="utf-8") as handle:
        return [float(row[name]) for row in csv.DictReader(handle) if row.get(name)]


@pytest.mark.parametrize(
    "override",
    [
        "rollouts=none",
        "rollouts=zero_variance",
        "rollouts=balanced",
        "rollouts=speed",
        "rollouts=difficulty_full",
        "sampler=vade",
        "sampler=mopps",
        "sampler=balanced_difficulty",
        "sampler=category_bandit sampler.categories=category",
        "rollouts/loss@model.loss=dr_grpo model.scale=none model.kl=0.01",
        "+rollouts/filter@model.group_filter=top1 rollouts/loss@model.loss=dapo model.inner_epochs=2",
    ],
)
def test_every_method_is_an_override(override: str, launch_small, capsys) -> None:
    folder = launch_small(*override.split())
    assert "fit: " in capsys.readouterr().out
    assert logged(folder, "train/updates")[-1] >= 1
    assert 0 <= logged(folder, "val/pass@1")[-1] <= logged(folder, "val/pass@4")[-1] <= 1
    kept = logged(folder, "train/kept_share")[-1]
    assert kept == 1 if override == "rollouts=none" else 0 < kept <= 1


def test_methods_are_compared(launch_small) -> None:
    methods = "methods=[uniform,mopps,balanced,{few:{rollouts:speed,model.attempts:6}}]"
    # Uniform at their costs would take most of the time of this test.
    folder = launch_small("task=compare", "seeds=1", methods, "compare.equal_cost=false")
    assert [row["method"] for row in read_csv(folder / "table.csv")] == ["uniform", "mopps", "balanced", "few"]


def test_word_problems_are_checked_by_number(launch, tmp_path, capsys) -> None:
    pytest.importorskip("transformers")
    rows = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}.\n#### {n + 1}"} for n in range(20)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    launch(
        "experiment=grpo_gsm8k",
        f"data.path={tmp_path}",
        f"model.policy.architecture={LLAMA}",
        "model.policy.chat=false",
        "data.batch_size=2",
        "data.template='{question} Answer:'",
        "model.max_tokens=4",
        "trainer.precision=32-true",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "trainer.val_check_interval=1.0",
        "trainer.limit_val_batches=1",
        *QUIET,
    )
    assert "fit: 2 steps" in capsys.readouterr().out


def test_a_model_is_asked_for(launch, tmp_path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ArgumentError, match="HFPolicy must be given one of name_or_path and architecture, got neither"):
        launch("experiment=grpo_gsm8k", f"data.path={tmp_path}", *QUIET)
