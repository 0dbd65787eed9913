from __future__ import annotations

import math
import sys
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select.app.data.instructions import Instructions
from lightning_select.app.models.causal_lm import CausalLM, _rate
from lightning_select.errors import ArgumentError, ConfigurationError

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

LLAMA = {
    "model_type": "llama",
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SIZES = {"n_embd": 16, "n_layer": 1, "n_head": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 259, **SIZES, "bos_token_id": 1, "eos_token_id": 1}


def built(**kwargs: Any) -> CausalLM:
    torch.manual_seed(0)
    return CausalLM(architecture=kwargs.pop("architecture", LLAMA), **kwargs)


def batch(width: int = 12) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 259, (4, width), generator=draw)
    there = torch.arange(width) < torch.tensor([width, 7, 5, 9])[:, None]
    labels = ids.masked_fill(~there, -100)
    labels[:, :3] = -100
    return {"input_ids": ids.masked_fill(~there, 0), "attention_mask": there.long(), "labels": labels}


def train(module: CausalLM, steps: int = 4, **kwargs: Any) -> pl.Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings = dict.fromkeys(quiet, False) | {"accelerator": "cpu", "max_steps": steps, "limit_val_batches": 1} | kwargs
    trainer = pl.Trainer(**settings)
    trainer.fit(module, datamodule=Instructions(batch_size=8))
    return trainer


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_loss_is_the_mean_over_answer_tokens(architecture) -> None:
    module = built(architecture=architecture).eval()
    data = batch()
    logits = module(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    each = [
        F.cross_entropy(logits[row, place - 1], data["labels"][row, place]).item()
        for row in range(4)
        for place in range(1, 12)
        if data["labels"][row, place] != -100
    ]
    assert module(**data).loss.item() == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_validation_counts_every_answer_token_once() -> None:
    module = built()
    trainer = train(module, steps=1, limit_val_batches=1.0, val_check_interval=1)
    module.eval()
    total = tokens = 0
    for data in trainer.datamodule.val_dataloader():
        count = int((data["labels"][:, 1:] != -100).sum())
        with torch.no_grad():
            total += module(**data).loss.item() * count
        tokens += count
    assert trainer.callback_metrics["val/loss"].item() == pytest.approx(total / tokens, rel=1e-5)


def test_adapters_alone_are_trained() -> None:
    module = built(lora={"r": 4}, lr=0.05)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    train(module)
    moved = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert moved == {name for name in before if "lora_" in name}
    assert not any("lm_head" in name for name in moved)


def test_without_a_rank_all_weights_are_trained() -> None:
    module = built(lora={"r": None, "alpha": 4}, lr=0.05)
    before = [value.detach().clone() for value in module.parameters()]
    train(module)
    assert all(not torch.equal(value, old) for value, old in zip(module.parameters(), before, strict=True))


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "adapters"])
def test_gradient_checkpointing_computes_layers_again_and_the_same_gradient(lora) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        module = built(gradient_checkpointing=checkpointing, lora=lora)
        count: list[int] = []
        attention = next(part for name, part in module.named_modules() if name.endswith("layers.0.self_attn"))
        attention.register_forward_hook(lambda *_, count=count: count.append(1))
        module(**batch()).loss.backward()
        gradients.append([value.grad for value in module.parameters() if value.requires_grad])
        calls.append(len(count))
    assert calls == [1, 2]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_a_folder_is_loaded_in_training_mode_and_in_the_precision_asked_for(tmp_path) -> None:
    built(architecture=LLAMA | {"attention_dropout": 0.1}).model.to(torch.bfloat16).save_pretrained(tmp_path)
    module = CausalLM(str(tmp_path))
    assert all(part.training for part in module.modules())
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert {value.dtype for value in CausalLM(str(tmp_path), dtype="bfloat16").parameters()} == {torch.bfloat16}
    saved = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    for name, value in module.model.state_dict().items():
        torch.testing.assert_close(value, saved[name].float(), rtol=0, atol=0)


def test_the_learning_rate_rises_and_falls_as_a_cosine() -> None:
    rates = [_rate(step, 20, 0.2) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * step / 16) for step in range(17)])
    assert _rate(0, 20, 0.0) == 1.0
    assert _rate(9, math.inf, 0.2) == 1.0
    assert _rate(0, 1, 0.9) == 1.0


def test_the_usual_learning_rate_depends_on_the_start(tmp_path) -> None:
    module = built()
    module.model.save_pretrained(tmp_path)
    path = str(tmp_path)
    assert [module.lr, CausalLM(path).lr, CausalLM(path, lora={"r": 2}).lr] == [3e-3, 2e-5, 2e-4]
    assert CausalLM(path, lr=0.5).lr == 0.5


def test_the_schedule_ends_with_the_training() -> None:
    trainer = train(built(lr=0.1, warmup=0.5), steps=4)
    (schedule,) = trainer.lr_scheduler_configs
    assert schedule.scheduler.last_epoch == 4
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_a_vocabulary_smaller_than_that_of_the_data_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"259 tokens of data.tokenizer, got 100 emb.*vocab_size=259"):
        train(built(architecture=LLAMA | {"vocab_size": 100}))


@pytest.mark.parametrize(
    ("arguments", "kind", "told"),
    [
        ({"warmup": 1.0}, ArgumentError, r"CausalLM\.warmup must be in \[0, 1\), got 1\.0"),
        (
            {"dtype": "float31"},
            ArgumentError,
            r"CausalLM\.dtype must be null or the name of a floating dtype.*'float31'",
        ),
        ({"lora": {"rank": 4}}, ArgumentError, r"CausalLM\.lora must hold r, alpha, .* and nothing else, got rank"),
        ({"lora": {"r": -1}}, ConfigurationError, r"model\.lora must fit the model and PEFT, got \{'r': -1\}"),
        ({"lora": {"r": 2, "target_modules": ["no"]}}, ConfigurationError, r"model\.lora must fit the model and PEFT"),
        (
            {"architecture": {"model_type": "lama"}},
            ConfigurationError,
            r"model\.architecture must describe a causal language model of transformers, got \{'model_type': 'lama'\}",
        ),
        ({"architecture": {"model_type": "vit"}}, ConfigurationError, r"model\.architecture must describe a causal"),
        ({"name_or_path": "/no/such/folder"}, ConfigurationError, r"model\.name_or_path must be a folder or a hub id"),
    ],
)
def test_bad_input_is_told(arguments, kind, told) -> None:
    with pytest.raises(kind, match=told):
        CausalLM(**{"architecture": LLAMA} | arguments)


@pytest.mark.parametrize(
    ("package", "arguments", "told"),
    [
        ("transformers", {}, r"model=causal_lm must have transformers.*pip install \"lightning-select\[llm\]\""),
        ("peft", {"lora": {"r": 2}}, r"model\.lora\.r must have peft.*pip install \"lightning-select\[llm\]\""),
    ],
)
def test_packages_may_be_missing(monkeypatch, package, arguments, told) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=told):
        built(**arguments)
