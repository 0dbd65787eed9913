"""The table in ``docs/metrics.md``: every name that is logged is in it, and logged by whom it says."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from lightning_select import BatchSelection, LossReweighting, Schedule
from lightning_select.app.models.causal_lm import CausalLM
from lightning_select.app.models.classifier import Classifier as AppClassifier
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.tiny_policy import TinyPolicy
from lightning_select.samplers.base import OnlineSampler
from lightning_select.samplers.weighted import Weighted
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.focal import Focal
from tests.fitting import Rows, loader, trainer
from tests.methods import camel, class_of, make, modules_of
from tests.modules import Classifier, Tokens, text
from tests.preferences.pairs_of import Pairs, review
from tests.preferences.pairs_of import loader as pair_loader
from tests.test_every_sampler import data_of

pytestmark = pytest.mark.repository

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `([^`]+)` \|.+\| (`[^|]+`) \|$", re.MULTILINE)
STANDING_FOR = {"name": "[a-z_]+", "category": "[ab]", "domain": "[ab]", "model": "[12]", "k": "[0-9]+"}
STANDING_FOR["pool"] = "(?:hard|normal|easy|unseen)"


def table() -> dict[str, set[str]]:
    """Who logs what, as the table has it."""
    found: dict[str, set[str]] = {}
    for name, owners in ROW.findall(PAGE.read_text(encoding="utf-8")):
        for owner in re.findall(r"`(\w+)`", owners):
            found.setdefault(owner, set()).add(name)
    return found


def pattern(name: str) -> re.Pattern[str]:
    """What a name of the table stands for."""
    parts = re.split(r"<(\w+)>", name)
    return re.compile("".join(STANDING_FOR[part] if place % 2 else re.escape(part) for place, part in enumerate(parts)))


class Collecting(Logger):
    """What any logger of Lightning is told; those of TensorBoard and W&B have the same two methods."""

    name, version = "collecting", 0

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.names |= metrics.keys() - {"epoch"}

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


def logged(module: Any, *callbacks: Any, data: Any, evaluation: Any = None) -> set[str]:
    """Names that a logger is told of in a short fit, and in a test after it."""
    collecting = Collecting()
    done = trainer(*callbacks, logger=collecting, num_sanity_val_steps=0)
    done.fit(module, data, evaluation)
    if evaluation is not None and is_overridden("test_step", module):
        done.test(module, evaluation, verbose=False)
    return collecting.names - {"train_loss"}  # which is that of the modules of the tests


@cache
def of_callbacks() -> dict[str, set[str]]:
    """Callbacks, and selectors with something to say of their own; on rows of tokens, so that lengths are known."""
    plain = logged(Tokens(), BatchSelection(NuclearNorm(), TopK(), keep=0.5), data=loader(text))
    found = {"BatchSelection": plain, "LossReweighting": logged(Classifier(), LossReweighting(Focal()), data=loader())}
    for name in modules_of("selector"):
        kept = BatchSelection(NuclearNorm() if name == "diverse" else Loss(), make("selector", name), keep=0.5)
        if others := logged(Tokens(), kept, data=loader(text)) - plain:
            found[camel(name)] = others
    return found


@cache
def of_samplers() -> dict[str, set[str]]:
    class Rewarded(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "reward": torch.arange(2.0).expand(len(batch[0]), 2)}

    found: dict[str, set[str]] = {}
    kinds = [class_of("sampler", name) for name in modules_of("sampler")]
    for name, kind in zip(modules_of("sampler"), kinds, strict=True):
        if issubclass(kind, OnlineSampler):
            rows = DataLoader(Rows(rows=24), 8, sampler=kind(24, **data_of(name, 24)))
            found[kind.__name__] = logged(Rewarded(), data=rows)
    without = Weighted(24, [1.0] * 24, replacement=False)
    found["Weighted"] |= logged(Rewarded(), data=DataLoader(Rows(rows=24), 8, sampler=without))
    draws = pair_loader(Pairs(24), curriculum=EasyFirst(begin=0.5))
    found["PairDraws"] = {name for name in logged(review(), data=draws) if name.startswith("sampler/")}
    found["SamplerFeedback"] = set.intersection(*found.values())
    return found | {name: told - found["SamplerFeedback"] for name, told in found.items() if name != "SamplerFeedback"}


@cache
def of_modules() -> dict[str, set[str]]:
    prompts = DataLoader([{"prompt": f"{one}=", "answer": "1"} for one in range(8)], 4)
    policy = TinyPolicy(width=8, depth=1, heads=1, context=8)
    sizes = {"attempts": 2, "max_tokens": 2, "show_every": 0, "kl": 0.1}
    rewarded = GRPO(policy, lambda prompts, completions, batch: [float(len(one)) for one in completions], **sizes)
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = CausalLM(architecture={"model_type": "llama", "vocab_size": 11, **small})
    words = DataLoader([{"input_ids": torch.arange(5), "labels": torch.arange(5)} for _ in range(8)], 4)
    rows = DataLoader([{"x": torch.rand(6), "y": torch.tensor(row % 2)} for row in range(8)], 4)
    pairs, judged = pair_loader(Pairs(24)), DataLoader(Pairs(8), 4)
    return {
        "GRPO": logged(rewarded, data=prompts, evaluation=prompts),
        "PeerReview": {name for name in logged(review(), data=pairs, evaluation=judged) if "sampler/" not in name},
        "CausalLM": logged(model, data=words, evaluation=words),
        "Classifier": logged(AppClassifier(6, 2), data=rows, evaluation=rows),
    }


@cache
def everyone() -> dict[str, set[str]]:
    """Who logs what, in short fits. What is validated on is tested on under the same names."""
    found = {**of_callbacks(), **of_samplers(), **of_modules()}
    for names in found.values():
        tested = {name for name in names if name.startswith("test/")}
        assert not tested or {name.replace("test/", "val/") for name in tested} <= names
        names -= tested
    return {owner: names for owner, names in found.items() if names}


@pytest.mark.parametrize("owner", sorted(table()))
def test_what_the_table_says_is_logged_by_whom_it_says(owner: str) -> None:
    names = everyone()[owner]
    for name in table()[owner]:
        assert any(pattern(name).fullmatch(one) for one in names), f"{owner} never logs {name}"


def test_what_is_logged_is_in_the_table() -> None:
    known = table()
    for owner, names in everyone().items():
        patterns = [pattern(name) for name in known.get(owner, ())]
        missing = {name for name in names if not any(one.fullmatch(name) for one in patterns)}
        assert not missing, f"docs/metrics.md has no row that says that {owner} logs {sorted(missing)}"


def test_a_method_that_is_off_says_so_and_nothing_else() -> None:
    off = LossReweighting(Focal(), schedule=Schedule(start=1.0), name="later")
    assert logged(Classifier(), off, data=loader()) == {"later/active"}


def test_the_cadence_is_that_of_the_logger_and_a_file_holds_what_was_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    kept = BatchSelection(Loss(), TopK(), keep=0.5)
    trainer(kept, logger=logger, max_epochs=1, log_every_n_steps=3).fit(Classifier(), loader(rows=48, size=8))
    with open(Path(logger.log_dir) / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "5"]
    assert {name for name in rows[0] if name.startswith("batch_selection/")} >= {"batch_selection/score_kept"}
    assert all(row["batch_selection/kept_share"] == "0.5" for row in rows)
