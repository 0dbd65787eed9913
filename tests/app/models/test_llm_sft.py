"""``experiment=llm_sft``, offline, as a user would start it."""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf

from lightning_select.errors import ConfigurationError
from tests.app.conftest import read_csv

pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning",
    "ignore:Starting from v1.9.0, `tensorboardX`",
)
ROOT = Path(__file__).parents[3]
SMALL = (
    "experiment=llm_sft",
    "model.architecture.hidden_size=32",
    "model.architecture.intermediate_size=64",
    "trainer.max_epochs=-1",
    "trainer.max_steps=4",
    "trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "+trainer.limit_val_batches=1",
)
UDS = "callbacks/selection=uds"
EVERY_STEP = ("trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null")


@pytest.fixture
def launch_small(launch: Callable[..., Path]) -> Callable[..., Path]:
    return lambda *arguments, **kwargs: launch(*SMALL, *arguments, **kwargs)


def logged(folder: Path) -> dict[str, list[float]]:
    """What the logger wrote, by metric."""
    (file,) = folder.rglob("metrics.csv")
    values: dict[str, list[float]] = {}
    with file.open(encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            for name, value in row.items():
                if value:
                    values.setdefault(name, []).append(float(value))
    return values


def checkpoint(folder: Path) -> Path:
    (file,) = folder.rglob("*.ckpt")
    return file


def test_a_fit_with_uds_logs_its_scores(launch_small, capsys) -> None:
    with pytest.warns(UserWarning, match="NuclearNorm is made for a pretrained model, but CausalLM starts with a loss"):
        folder = launch_small(UDS, "trainer.log_every_n_steps=1")
    told = capsys.readouterr().out
    assert "fit: 4 steps" in told
    assert "val/loss" in told
    values = logged(folder)
    assert values["uds/score_kept"]
    assert all(kept == 0.125 for kept in values["uds/kept_share"])
    assert not any(values["uds/not_finite"])
    assert values["uds/memory_fill"] == sorted(values["uds/memory_fill"])
    assert 0 < values["uds/memory_fill"][-1] < 1
    assert all(length > 0 for length in values["uds/length_kept"] + values["uds/length_dropped"])


def test_a_fit_without_selection(launch_small, capsys) -> None:
    launch_small()
    told = capsys.readouterr().out
    assert "fit: 4 steps" in told


@pytest.mark.parametrize("accumulate", [None, 1])
def test_four_batches_make_a_step_unless_told_otherwise(launch_small, accumulate) -> None:
    overrides = [] if accumulate is None else [f"trainer.accumulate_grad_batches={accumulate}"]
    folder = launch_small(UDS, "trainer.max_steps=2", "trainer.max_epochs=-1", *overrides)
    saved = torch.load(checkpoint(folder), weights_only=True)
    done = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
    assert (saved["global_step"], done) == (2, 2 * (accumulate or 4))


def test_a_pretrained_model_of_a_folder_with_adapters(launch_small, tmp_path, capsys) -> None:
    import transformers

    transformers.ByT5Tokenizer(extra_ids=0).save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.AutoConfig.for_model("llama", vocab_size=259, **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    rows = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(80)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    folder = launch_small(
        UDS, f"model.name_or_path={tmp_path / 'model'}", "model.lora.r=2", "model.gradient_checkpointing=true",
        f"data.path={tmp_path / 'rows.jsonl'}", "data.padding_side=left", "data.batch_size=16",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert "fit: 4 steps" in told
    weights = torch.load(checkpoint(folder), weights_only=True)["state_dict"]
    assert any("lora_" in name for name in weights)


def test_a_resumed_fit_ends_as_the_one_that_was_not_interrupted(launch_small) -> None:
    """From the checkpoint of a step, which is all that a killed run leaves behind."""
    keep = "+callbacks.keep={_target_:lightning.pytorch.callbacks.ModelCheckpoint,every_n_train_steps:2,save_top_k:-1}"
    drawn = (UDS, "sampler=loss_proportional", keep)
    half, whole = sorted(launch_small(*drawn, folder="whole").rglob("*.ckpt"))
    resumed = max(launch_small(*drawn, f"ckpt_path='{half}'", folder="resumed").rglob("*.ckpt"))
    before, first, again = (torch.load(file, weights_only=True) for file in (half, whole, resumed))
    assert (before["global_step"], first["global_step"], again["global_step"]) == (2, 4, 4)
    for name, value in first["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name]), name


def test_methods_are_compared(launch_small) -> None:
    short = ("trainer.max_steps=2", *EVERY_STEP, "compare.equal_cost=false")
    folder = launch_small("task=compare", "seeds=1", "methods=[uniform,uds]", *short)
    rows = read_csv(folder / "table.csv")
    assert [row["method"] for row in rows] == ["uniform", "uds"]
    assert [float(row["rows_per_step"]) for row in rows] == [128.0, 16.0]
    assert all(row["final_metric"] == "val/loss" for row in rows)


def test_errors_of_the_data_come_out(launch_small, tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="data.path must be a file that exists, got '/no.jsonl'"):
        launch_small("data.path=/no.jsonl")


@pytest.mark.parametrize("file", ["model/causal_lm", "data/instructions"])
def test_the_configs_list_every_argument(file) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "lightning_select" / f"{file}.yaml"))
    parameters = inspect.signature(get_class(config.pop("_target_"))).parameters
    assert set(config) == set(parameters)
    named = {"architecture", "lora", "tokenizer", "sampler", "seed"}  # these are spelt out, or follow another key
    for name in set(config) - named:
        assert config[name] == parameters[name].default, name
