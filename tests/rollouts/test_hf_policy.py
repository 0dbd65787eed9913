from __future__ import annotations

import copy
import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_select.errors import ArgumentError, ConfigurationError
from lightning_select.rollouts import hf_text
from lightning_select.rollouts.hf_decoder import HFDecoder
from lightning_select.rollouts.hf_policy import HFPolicy
from tests.rollouts import policy_laws as laws

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

PROMPTS = ["12+3=", "What is 17 - 9?", "7"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
MODERN = SIZE | {"intermediate_size": 32, "num_key_value_heads": 1, "head_dim": 8}
LAYERS = ["sliding_attention", "full_attention"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {"model_type": "gpt_neox", "intermediate_size": 32, **SIZE},
    "llama": {"model_type": "llama", **MODERN},
    "qwen2": {"model_type": "qwen2", **MODERN},
    "mistral, sliding window": {"model_type": "mistral", "sliding_window": 6, **MODERN},
    "gemma3, both kinds of layers": {"model_type": "gemma3_text", "sliding_window": 6, "layer_types": LAYERS, **MODERN},
    "bloom, no places": {"model_type": "bloom", "hidden_size": 16, "n_layer": 2, "n_head": 2},
}
LLAMA, GPT2 = ARCHITECTURES["llama"], ARCHITECTURES["gpt2"]
NOISY = GPT2 | {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}


def made(**kwargs: Any) -> HFPolicy:
    """With weights so large that every token matters for the next."""
    torch.manual_seed(0)
    policy = HFPolicy(**{"architecture": LLAMA} | kwargs)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.dim() == 2:
                weight.normal_(std=0.5)
    return policy


def plain_logits(policy: HFPolicy) -> laws.Logits:
    @torch.no_grad()
    def logits(text: list[int]) -> Tensor:
        return policy.model(input_ids=torch.tensor([text])).logits[0, -1]

    return logits


@pytest.fixture(params=ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def policy(request) -> HFPolicy:
    if request.param["model_type"] not in transformers.CONFIG_MAPPING:
        pytest.skip("this version of transformers does not know the architecture")
    return made(architecture=request.param)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_cache_changes_nothing(policy, temperature) -> None:
    laws.notes_what_the_full_forward_gives(policy, PROMPTS, plain_logits(policy), temperature)


def test_padding_and_company_change_nothing(policy) -> None:
    laws.padding_and_company_change_nothing(policy, PROMPTS)


def test_sampling_leaves_no_trace(policy) -> None:
    configured = policy.model.config.to_dict()
    laws.leaves_no_trace(policy, PROMPTS)
    assert policy.model.config.to_dict() == configured


def test_autocast_forgets_what_it_cast() -> None:
    policy = made()
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(0.5)
    assert laws.autocast_forgets(policy, PROMPTS) < 0.3


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", [NOISY, LLAMA | {"attention_dropout": 0.5}], ids=["gpt2", "llama"])
def test_no_dropout_in_any_mode(architecture, checkpointing) -> None:
    policy = made(architecture=architecture, gradient_checkpointing=checkpointing)
    laws.the_mode_does_not_matter(policy, PROMPTS)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "adapters"])
@pytest.mark.parametrize("architecture", [NOISY, LLAMA], ids=["gpt2", "llama"])
def test_gradient_checkpointing_computes_layers_again_and_the_same_gradient(architecture, lora) -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        policy = made(architecture=architecture, lora=lora, gradient_checkpointing=checkpointing)
        attempts = laws.sampled(policy, PROMPTS)
        attention = next(part for name, part in policy.named_modules() if name.endswith((".0.self_attn", ".0.attn")))
        count: list[int] = []
        attention.register_forward_hook(lambda *_, count=count: count.append(1))
        policy.log_probs(attempts, temperature=0.9).sum().backward()
        gradients.append([value.grad for value in policy.parameters() if value.requires_grad])
        calls.append(len(count))
    assert calls == [1, 2]
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_logits_are_made_for_completions_only_and_prompts_are_read_once() -> None:
    policy = made()
    shapes: list[tuple[int, ...]] = []
    policy.model.lm_head.register_forward_hook(lambda *given: shapes.append(tuple(given[-1].shape[:2])))
    attempts = laws.sampled(policy, PROMPTS, 4, max_tokens=3)
    assert shapes == [(3, 1), (12, 1), (12, 1)]
    policy.log_probs(attempts, temperature=1.0)
    assert shapes[-1] == (12, 3)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_rows_end_at_stop_tokens(temperature) -> None:
    stop = [*range(40, 60), "a"]
    policy = made(stop=stop)
    assert policy.stop == (1, *range(40, 60), 100)
    attempts = laws.sampled(policy, PROMPTS, 8, temperature=temperature, max_tokens=9)
    laws.is_well_formed(attempts, set(policy.stop))
    assert attempts.ended.any()
    for tokens, _, ended, text in laws.rows_of(attempts):
        said = bytes(token - 3 for token in tokens[: len(tokens) - ended] if token >= 3)
        assert text == said.decode("utf-8", errors="ignore")


def test_a_completion_may_be_empty() -> None:
    attempts = laws.sampled(made(stop=list(range(259))), PROMPTS)
    assert attempts.texts == ("",) * 9
    assert attempts.ended.all()
    assert attempts.tokens.shape == (9, 1)


@pytest.mark.parametrize("architecture", [LLAMA | {"max_position_embeddings": 10}, GPT2 | {"n_positions": 10}])
def test_completions_stay_within_the_context(architecture) -> None:
    policy = made(architecture=architecture)
    policy.stop = (0,)
    prompts = ["1", "12345678", "123456789"]
    attempts = laws.sampled(policy, prompts, 2, max_tokens=6)
    room = [6, 6, 2, 2, 1, 1]
    assert all(
        sum(mask) in (width, *range(width * end))
        for mask, width, end in zip(attempts.mask.tolist(), room, attempts.ended.tolist(), strict=True)
    )
    assert attempts.mask.sum() > 9
    laws.padding_and_company_change_nothing(policy, prompts)


def test_adapters_alone_are_trained_and_the_reference_does_without_them() -> None:
    policy = made(lora={"r": 4, "alpha": 8, "target_modules": ["q_proj", "v_proj"]})
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if "lora_B" in name:
                value.zero_()
    trained = {name for name, value in policy.named_parameters() if value.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    attempts, reference = laws.sampled(policy, PROMPTS), policy.reference()
    assert not isinstance(reference, nn.Module)
    before = policy.log_probs(attempts, temperature=1.0)
    torch.testing.assert_close(reference.log_probs(attempts, temperature=1.0), before.detach())
    optimizer = torch.optim.SGD([value for value in policy.parameters() if value.requires_grad], lr=1.0)
    now = policy.log_probs(attempts, temperature=1.0)
    reference.log_probs(attempts, temperature=1.0)  # between forward and backward, it must not disturb the gradient
    now.sum().backward()
    optimizer.step()
    assert {name for name, value in policy.named_parameters() if value.requires_grad} == trained
    kept = reference.log_probs(attempts, temperature=1.0)
    assert torch.equal(kept, before.detach())
    assert not kept.requires_grad
    assert not torch.allclose(policy.log_probs(attempts, temperature=1.0), before, atol=1e-3)
    laws.notes_what_the_full_forward_gives(policy, PROMPTS, plain_logits(policy), 1.0)


def test_without_adapters_the_reference_is_a_frozen_copy() -> None:
    policy = made()
    attempts = laws.sampled(policy, PROMPTS)
    policy.log_probs(attempts, temperature=1.0).sum().backward()
    reference, before = policy.reference(), policy.log_probs(attempts, temperature=1.0).detach()
    torch.optim.SGD(policy.parameters(), lr=0.1).step()
    kept = reference.log_probs(attempts, temperature=1.0)
    assert torch.equal(kept, before)
    assert not kept.requires_grad
    assert all(value.grad is None for value in reference.parameters())
    assert not torch.equal(policy.log_probs(attempts, temperature=1.0), before)


def test_its_state_is_the_weights_of_the_model() -> None:
    policy, other = made(), made()
    assert set(policy.state_dict()) == {f"model.{name}" for name in policy.model.state_dict()}
    nn.init.normal_(other.model.lm_head.weight)
    other.load_state_dict(policy.state_dict())
    laws.same_rows(laws.sampled(policy, PROMPTS), laws.sampled(other, PROMPTS))


@pytest.mark.parametrize("dtype", ["bfloat16", None])
def test_weights_in_another_precision(dtype) -> None:
    policy = made(dtype=dtype)
    assert policy.model.lm_head.weight.dtype == (torch.bfloat16 if dtype else torch.float32)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(0.5)
    attempts = laws.sampled(policy, PROMPTS)
    evaluated = policy.log_probs(attempts, temperature=0.9)
    assert evaluated.dtype == attempts.log_probs.dtype == torch.float32
    torch.testing.assert_close(evaluated.detach(), attempts.log_probs, atol=0.3 if dtype else 1e-4, rtol=0)


def letters(**special: str) -> Any:
    """A tokenizer of words of one letter, with a start and an end of its own where it has those tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(["<s>", "</s>", "?", *"abcdefgh"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    template = [("<s>", 0)] * ("bos_token" in special) + [("</s>", 1)] * ("eos_token" in special)
    shown = " ".join(["<s>"] * ("bos_token" in special) + ["$A"] + ["</s>"] * ("eos_token" in special))
    made.post_processor = tokenizers.processors.TemplateProcessing(single=shown, special_tokens=template)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?", **special)


def test_a_folder_brings_its_tokenizer_its_stop_tokens_and_no_dropout(tmp_path) -> None:
    tokenizer = letters(bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(tmp_path)
    model = made(architecture=NOISY | {"vocab_size": 20}, tokenizer=tokenizer).model
    model.config.attn_pdrop = model.config.resid_pdrop = 0.3
    model.generation_config.eos_token_id = [1, 4]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attn_pdrop"] == 0.3
    policy = HFPolicy(str(tmp_path))
    assert policy.training
    assert all(module.training for module in policy.modules())
    assert policy.stop == (1, 4)
    attempts = laws.sampled(policy, ["a b", "c"], 4)
    assert attempts.prompt_tokens[0].tolist() == [0, 3, 4]
    assert attempts.prompt_tokens[-1][attempts.prompt_mask[-1]].tolist() == [0, 5]
    laws.the_mode_does_not_matter(policy, ["a b", "c"])


def test_the_vocabulary_of_a_model_with_random_weights_is_that_of_the_tokenizer() -> None:
    policy = HFPolicy(architecture=LLAMA, tokenizer=letters(eos_token="</s>"))
    assert policy.model.config.vocab_size == 11
    assert policy.stop == (1,)


def test_tokens_that_the_tokenizer_lacks_are_no_text() -> None:
    policy = made(architecture=LLAMA | {"vocab_size": 400})
    attempts = laws.sampled(policy, PROMPTS, 8)
    assert (attempts.tokens >= 259).any()


def test_a_chat_is_written_in_the_template_of_the_tokenizer() -> None:
    tokenizer = hf_text.load_tokenizer(None)
    tokenizer.chat_template = "{% for m in messages %}[{{m.role}}]{{m.content}}{% endfor %}>"
    attempts = laws.sampled(made(tokenizer=tokenizer, chat=True), ["hi"], 1)
    assert bytes(token - 3 for token in attempts.prompt_tokens[0].tolist()) == b"[user]hi>"
    with pytest.raises(
        ArgumentError, match=r"chat must be false, as the tokenizer has no template of a chat, got True"
    ):
        made(chat=True)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"architecture": None}, ArgumentError, r"one of name_or_path and architecture, got neither\."),
        ({"name_or_path": "here"}, ArgumentError, r"one of name_or_path and architecture, got both\."),
        ({"dtype": "int8"}, ArgumentError, r"dtype must be null or the name of a floating dtype .*, got 'int8'"),
        ({"lora": {"rank": 4}}, ArgumentError, r"lora must hold r, alpha, target_modules and .*, got rank\."),
        ({"lora": {"r": 4, "dropout": 0.1}}, ArgumentError, r"nothing else \(no dropout\), got dropout\."),
        ({"lora": {"r": 4, "target_modules": ["no"]}}, ConfigurationError, r"lora must fit the model and PEFT, got"),
        ({"architecture": {"model_type": "no"}}, ConfigurationError, r"architecture must describe a causal .*'no'"),
        ({"architecture": LLAMA | {"vocab_size": 9}}, ArgumentError, r"more than the 9 tokens that .* got 259\."),
        ({"stop": ["ab"]}, ArgumentError, r"stop must name texts of one token each, got 'ab' of tokens \[100, 101\]\."),
        ({"stop": [3000]}, ArgumentError, r"stop must name tokens from 0 to 258, which the model has, got \[3000\]\."),
        ({"tokenizer": letters}, ArgumentError, r"HFPolicy\.stop must name a token that ends a completion, as neither"),
    ],
)
def test_bad_arguments(arguments, error, told) -> None:
    made = {name: value() if value is letters else value for name, value in arguments.items()}
    with pytest.raises(error, match=told):
        HFPolicy(**{"architecture": LLAMA} | made)


def test_a_stop_token_may_be_given_where_the_tokenizer_has_none() -> None:
    assert HFPolicy(architecture=LLAMA, tokenizer=letters(), stop="h").stop == (10,)


@pytest.mark.parametrize("field", ["name_or_path", "tokenizer"])
def test_a_folder_that_holds_nothing(tmp_path, field) -> None:
    other = {"tokenizer": hf_text.load_tokenizer(None)} if field == "name_or_path" else {"architecture": LLAMA}
    with pytest.raises(ConfigurationError, match=rf"HFPolicy\.{field} must be a folder or a hub id of .*, got '.*': "):
        HFPolicy(**{field: str(tmp_path)} | other)


@pytest.mark.parametrize(("package", "arguments"), [("transformers", {}), ("peft", {"lora": {"r": 4}})])
def test_a_package_that_is_missing(package, arguments, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=rf"must have {package}, got none installed: pip install"):
        HFPolicy(architecture=LLAMA, **arguments)


@pytest.mark.parametrize(("changes", "told"), laws.BAD_REQUESTS)
def test_bad_requests(changes, told) -> None:
    with pytest.raises(ArgumentError, match=r"HFPolicy\." + told):
        laws.asked(made(), changes)


@pytest.mark.parametrize(("prompt", "count"), [("", 0), ("1" * 64, 64), ("1" * 90, 90)])
def test_bad_prompts(prompt, count) -> None:
    told = rf"HFPolicy\.prompts must have 1 to 63 tokens, .* the context of 64, got {count} tokens: '1*"
    with pytest.raises(ArgumentError, match=told):
        laws.asked(made(), {"prompts": ["1", prompt]})


def test_log_probs_checks_the_temperature() -> None:
    policy = made()
    with pytest.raises(ArgumentError, match=r"HFPolicy\.log_probs\.temperature must be finite and 0 or more, got nan"):
        policy.log_probs(laws.sampled(policy, ["1"]), temperature=math.nan)


def test_models_of_older_versions_keep_tuples_and_know_another_name() -> None:
    seen: list[dict[str, Any]] = []

    def model(**inputs: Any) -> Any:
        seen.append(inputs)
        rows = torch.arange(float(len(inputs["input_ids"])))
        layer = (rows.view(-1, 1, 1, 1), -rows.view(-1, 1, 1, 1))
        return SimpleNamespace(logits=torch.zeros(len(rows), 1, 5), past_key_values=(layer, copy.copy(layer)))

    decoder = HFDecoder(model, frozenset({"input_ids", "attention_mask", "num_logits_to_keep"}))
    tokens, there = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    decoder.read(tokens, tokens, there)
    decoder.repeat(2)
    decoder.read(tokens.repeat_interleave(2, 0)[:, :1], tokens[:1, :1].expand(4, 1), there.repeat_interleave(2, 0))
    assert set(seen[0]) == {"input_ids", "attention_mask", "num_logits_to_keep", "use_cache"}
    assert [held.flatten().tolist() for held in seen[1]["past_key_values"][1]] == [[0, 0, 1, 1], [-0, -0, -1, -1]]


def test_a_model_without_keys_and_values() -> None:
    architecture = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    with pytest.raises(ConfigurationError, match=r"be one that keeps keys and values .*, got MambaForCausalLM\."):
        laws.sampled(HFPolicy(architecture=architecture), ["1"])


def test_the_config_lists_every_argument() -> None:
    laws.lists_every_argument("hf", HFPolicy)
