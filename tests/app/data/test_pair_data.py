from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class

from lightning_select.app.building import build_data, build_model
from lightning_select.app.config_path import PRIMARY, app_folder, register_configs
from lightning_select.app.data.pair_data import PairData
from lightning_select.app.data.pair_text import PairCollate, swapped, tokenized
from lightning_select.app.data.tokenizer import load_tokenizer
from lightning_select.app.hydra_versions import BASE
from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.made_up_pairs import made_up_pairs
from lightning_select.preferences.peer_review import PeerReview

needs_transformers = pytest.mark.skipif("not __import__('importlib').util.find_spec('transformers')")
TEXTS = [{"prompt": "é" * (n % 3), "chosen": f"good {n}", "rejected": "bad"} for n in range(20)]

pytestmark = pytest.mark.filterwarnings("ignore:data.noise=.* swaps that share of the training pairs")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of a wrong type are for the code to refuse; a type checker would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def saved(folder: Path, pairs: Any = TEXTS) -> str:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    return str(folder / "pairs.jsonl")


def test_made_up_pairs_are_swapped_exactly_as_told() -> None:
    clean, noisy = (made_up_pairs(50, 4, noise, seed=1) for noise in (0.0, 0.4))
    assert int(noisy["flipped"].sum()) == 20
    assert not clean["flipped"].any()
    swap = noisy["flipped"][:, None]
    torch.testing.assert_close(torch.where(swap, noisy["rejected"], noisy["chosen"]), clean["chosen"], rtol=0, atol=0)
    torch.testing.assert_close(torch.where(swap, noisy["chosen"], noisy["rejected"]), clean["rejected"], rtol=0, atol=0)
    assert not torch.equal(made_up_pairs(50, 4, 0.0, seed=1, part=1)["chosen"], clean["chosen"])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("noise", [-0.1, 1.1, "0.4"])
def test_made_up_pairs_refuse_what_is_no_share(noise: Any) -> None:
    with pytest.raises(ArgumentError, match=r"made_up_pairs.noise must be in \[0, 1\], got"):
        made_up_pairs(5, 2, noise, seed=0)


def test_batches_hold_pairs_for_both_models_and_only_training_is_swapped() -> None:
    data = PairData(batch_size=8, pairs=20, features=3, noise=0.5)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert [len(batch["flipped"]) for batch in batches] == [16, 16, 8]
    assert sum(int(batch["flipped"].sum()) for batch in batches) == 20
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert not any(batch["flipped"].any() for batch in loader)


def test_a_curriculum_reaches_the_sampler() -> None:
    data = PairData(pairs=20, features=3, curriculum=EasyFirst(0.5))
    data.setup("fit")
    assert data.train_dataloader().sampler.curriculum == EasyFirst(0.5)


@needs_transformers
def test_texts_are_prompt_and_completion_with_an_end(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(None)
    pair = {"prompt": "ab", "chosen": "c", "rejected": "de", "flipped": True}
    (row,) = tokenized([pair], tokenizer, 16)
    assert row["flipped"] is True
    assert [tokenizer.decode(row[side]) for side in ("chosen", "rejected")] == ["abc</s>", "abde</s>"]
    (short,) = tokenized([pair], tokenizer, 3)
    assert [tokenizer.decode(short[side]) for side in ("chosen", "rejected")] == ["bc</s>", "de</s>"]


@needs_transformers
def test_pairs_that_differ_only_beyond_the_limit_are_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    pairs = [{"prompt": "", "chosen": "abcd", "rejected": "abce", "flipped": None}] * 2
    with caplog.at_level(logging.INFO):
        assert tokenized(pairs, load_tokenizer(None), 3) == []
    assert "leaves out 2 of 2 pairs, whose completions are the same within max_length=3" in caplog.text


def test_both_sides_are_padded_to_one_width() -> None:
    batch = PairCollate(pad=9)([{"chosen": [1], "rejected": [2, 3]}, {"chosen": [4, 5, 6], "rejected": [7]}])
    assert batch["chosen"]["input_ids"].tolist() == [[1, 9, 9], [4, 5, 6]]
    assert batch["rejected"]["attention_mask"].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert "flipped" not in batch


def test_swapping_tells_which() -> None:
    rows = [{"chosen": [n], "rejected": [-n]} for n in range(1, 11)]
    found = swapped(rows, 0.4, torch.Generator().manual_seed(0))
    assert sum(row["flipped"] for row in found) == 4
    for row, was in zip(found, rows, strict=True):
        assert row["chosen"] == was["rejected" if row["flipped"] else "chosen"]
    known = swapped([{**row, "flipped": True} for row in rows], 1.0, torch.Generator())
    assert not any(row["flipped"] for row in known)


@needs_transformers
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_a_file_is_split_and_maybe_swapped(noise: float, tmp_path: Path) -> None:
    data = PairData(path=saved(tmp_path), batch_size=4, noise=noise, held_out=0.2)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert sum(len(batch["chosen"]["input_ids"]) for batch in batches) == 2 * 12
    assert all(("flipped" in batch) == (noise > 0) for batch in batches)
    assert sum(int(batch["flipped"].sum()) for batch in batches if noise) == 2 * 12 * noise
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert sum(len(batch["chosen"]["input_ids"]) for batch in loader) == 4
        assert not any(batch.get("flipped", torch.zeros(1)).any() for batch in loader)


@needs_transformers
def test_a_file_with_two_pairs_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="data.path must hold at least 3 pairs .* got 2 in"):
        PairData(path=saved(tmp_path, TEXTS[:2])).setup("fit")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"batch_size": 0}, "PairData.batch_size must be a whole number of at least 1, got 0"),
        ({"pairs": True}, "PairData.pairs must be a whole number"),
        ({"max_length": 1}, "PairData.max_length must be a whole number of at least 2, got 1"),
        ({"noise": 1.5}, r"PairData.noise must be a number in \[0, 1\], got 1.5"),
        ({"held_out": 0.0}, r"PairData.held_out must be a number in \(0, 0.5\), got 0.0"),
        ({"held_out": "a"}, "PairData.held_out must be a number"),
    ],
)
def test_what_is_out_of_range_is_told(given: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        PairData(**given)


@pytest.fixture
def composed() -> Any:
    GlobalHydra.instance().clear()
    register_configs()
    with initialize_config_dir(str(app_folder()), **BASE):
        yield lambda *overrides: compose(PRIMARY, overrides=["experiment=peer_review", *overrides])


def test_the_configs_list_every_argument_at_its_default(composed: Any) -> None:
    config = composed("seed=0")
    for key, kind in (("model", PeerReview), ("data", PairData)):
        assert set(config[key]) == {"_target_", *inspect.signature(kind).parameters}
    assert (config.data.noise, config.model.select.noise) == (0.4, 0.4)
    for name, parameter in inspect.signature(PairData).parameters.items():
        if name != "noise":
            assert config.data[name] == parameter.default, name
    for name in ("reward_mlp", "reward_encoder"):
        models = composed(f"model/models={name}").model.models
        parameters = inspect.signature(get_class(models._target_)).parameters
        assert {key: models[key] for key in models if key[0] != "_"} == {
            key: parameter.default for key, parameter in parameters.items()
        }
    model, data = build_model(config), build_data(config)
    assert isinstance(model, PeerReview)
    assert isinstance(data, PairData)


SMALL = (
    "experiment=peer_review",
    "trainer.max_epochs=2",
    "trainer.enable_progress_bar=false",
    "+trainer.enable_model_summary=false",
    "+trainer.logger=false",
    "+trainer.enable_checkpointing=false",
)


def test_the_experiment_trains_and_tells_the_clean_share(launch: Callable[..., Path], capsys: Any) -> None:
    launch(*SMALL, "data.pairs=64", "data.batch_size=16")
    told = capsys.readouterr().out
    assert "fit: 16 steps in " in told
    for name in ("test/acc 0.", "test/acc_1 0.", "train/clean_kept 0.", "train/kept 0.6", "val/acc 0."):
        assert name in told


def test_the_experiment_compares_its_ablations(launch: Callable[..., Path], capsys: Any) -> None:
    launch(*SMALL, "data.pairs=64", "task=compare", "seeds=2")
    told = capsys.readouterr().out
    for name in ("uniform", "self_review", "peer_review"):
        assert name in told
    assert "failed" not in told
    assert "there is none" not in told


@needs_transformers
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_experiment_trains_on_texts(launch: Callable[..., Path], capsys: Any, tmp_path: Path) -> None:
    model = [f"model.models.{part}" for part in ("width=16", "depth=1", "heads=2")]
    launch(
        *SMALL,
        f"data.path={saved(tmp_path)}",
        "model/models=reward_encoder",
        *model,
        "data.batch_size=4",
        "data.noise=0.25",
        "model.select.noise=0.25",
    )
    told = capsys.readouterr().out
    assert "val/acc 0." in told or "val/acc 1" in told
    assert "train/clean_kept 0." in told


@needs_transformers
def test_a_pretrained_classifier_scores_pairs(tmp_path: Path) -> None:
    import transformers

    from lightning_select.preferences.margins import margins_of
    from lightning_select.preferences.reward_classifier import reward_classifier

    config = transformers.GPT2Config(vocab_size=259, n_positions=64, n_embd=16, n_layer=1, n_head=2, eos_token_id=1)
    config.bos_token_id = 1
    transformers.GPT2Model(config).save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = reward_classifier(str(tmp_path))
    assert model.training
    batch = PairCollate(pad=1)([{"chosen": [5, 6, 7], "rejected": [8]}, {"chosen": [4], "rejected": [4]}])
    margins = margins_of(model.eval(), batch).detach()
    assert margins.shape == (2,)
    assert float(margins[0]) != 0
    assert float(margins[1]) == 0
    with pytest.raises(ConfigurationError, match="reward_classifier.name_or_path must be a folder or a hub id .* got"):
        reward_classifier(str(tmp_path / "none"))


def test_a_share_that_is_swapped_of_ones_own_pairs_is_told(tmp_path) -> None:
    rows = [{"prompt": "p", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(9)]
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(rows))
    with pytest.warns(
        UserWarning, match="data.noise=0.4 swaps that share of the training pairs of .* Set data.noise=0"
    ):
        PairData(str(path), noise=0.4).setup("fit")
