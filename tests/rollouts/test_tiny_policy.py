from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_select.errors import ArgumentError
from lightning_select.rollouts.tiny_policy import END, TinyPolicy
from tests.rollouts import policy_laws as laws

PROMPTS = ["12+3=", "7", "4*", "123-99+4*85= 3"]


def made(**kwargs: Any) -> TinyPolicy:
    """With weights so large that every token matters for the next."""
    torch.manual_seed(0)
    policy = TinyPolicy(**{"width": 16, "depth": 2, "heads": 2, "context": 40} | kwargs)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.dim() == 2:
                weight.mul_(3)
    return policy


def biased(policy: TinyPolicy, bias: float) -> TinyPolicy:
    """With this much more for the end than for every other token."""
    head = nn.Linear(policy.model.head.in_features, policy.model.head.out_features)
    head.bias.data.zero_()[END] = bias
    policy.model.head = head
    return policy


def plain_logits(policy: TinyPolicy) -> laws.Logits:
    @torch.no_grad()
    def logits(text: list[int]) -> Tensor:
        there = torch.ones(1, len(text), dtype=torch.bool)
        return policy.model(torch.tensor([text]), torch.arange(len(text))[None], there)[0, -1]

    return logits


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_the_cache_changes_nothing(temperature) -> None:
    policy = made()
    laws.notes_what_the_full_forward_gives(policy, PROMPTS, plain_logits(policy), temperature)


def test_padding_and_company_change_nothing() -> None:
    laws.padding_and_company_change_nothing(made(), PROMPTS)


def test_a_text_knows_no_later_token_and_every_earlier_one() -> None:
    model = made().model
    tokens, places = torch.randint(0, 16, (1, 8)), torch.arange(8)[None]
    there = torch.ones(1, 8, dtype=torch.bool)
    whole = model(tokens, places, there)
    for changed in range(8):
        other = tokens.clone()
        other[0, changed] = (tokens[0, changed] + 1) % 16
        moved = (model(other, places, there) - whole).abs().amax(2)[0] > 1e-4
        assert moved.tolist() == [place >= changed for place in range(8)]


def test_padding_looks_at_itself_and_is_looked_at_by_no_one_else() -> None:
    there = torch.tensor([[False, False, True, True, True], [True, True, True, True, False]])
    for new in (5, 2):
        sees = made().model._sees(there, new)
        expected = [
            [[[key == query or (key < query and bool(row[key])) for key in range(5)] for query in range(5 - new, 5)]]
            for row in there
        ]
        assert sees.tolist() == expected


def test_draws_are_spread_as_the_chances_are() -> None:
    policy = made(alphabet="ab")
    logits, prompt = plain_logits(policy), [1, 2, 1]
    chances: dict[tuple[int, ...], float] = {}
    for first, second in itertools.product(range(3), repeat=2):
        one = torch.softmax(logits(prompt) / 1.5, 0)[first].item()
        if first == END:
            chances[(END,)] = one
        else:
            chances[first, second] = one * torch.softmax(logits([*prompt, first]) / 1.5, 0)[second].item()
    draws = 20_000
    attempts = laws.sampled(policy, ["aba"], draws, max_tokens=2, temperature=1.5)
    counts = dict.fromkeys(chances, 0)
    for tokens, *_ in laws.rows_of(attempts):
        counts[tuple(tokens)] += 1
    chi_square = sum((counts[key] - draws * chance) ** 2 / (draws * chance) for key, chance in chances.items())
    assert chi_square < 27.9  # 6 degrees of freedom, one in ten thousand
    assert min(chances.values()) > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_end_at_the_end_token(temperature) -> None:
    attempts = laws.sampled(made(), PROMPTS, 8, temperature=temperature, max_tokens=9)
    laws.is_well_formed(attempts, {END})
    alphabet = TinyPolicy().alphabet
    for tokens, _, ended, text in laws.rows_of(attempts):
        assert text == "".join(alphabet[token - 1] for token in tokens[: len(tokens) - ended])
    if temperature:
        assert 0 < attempts.ended.sum() < len(attempts)


def test_a_completion_may_be_empty_and_decoding_stops_when_all_have_ended() -> None:
    attempts = laws.sampled(biased(made(), 50.0), PROMPTS)
    assert attempts.texts == ("",) * 12
    assert attempts.ended.all()
    assert attempts.tokens.tolist() == [[END]] * 12


def test_completions_stay_within_the_context() -> None:
    policy = biased(made(context=10), -50.0)
    prompts = ["1", "12345678", "123456789"]
    attempts = laws.sampled(policy, prompts, 2, max_tokens=6)
    assert [len(text) for text in attempts.texts] == [6, 6, 2, 2, 1, 1]
    assert not attempts.ended.any()
    laws.padding_and_company_change_nothing(policy, prompts)
    laws.notes_what_the_full_forward_gives(policy, prompts, plain_logits(policy), 1.0)


def test_sampling_leaves_no_trace() -> None:
    laws.leaves_no_trace(made(), PROMPTS)
    laws.the_mode_does_not_matter(made(), PROMPTS)


def test_autocast_forgets_what_it_cast() -> None:
    assert laws.autocast_forgets(made(), PROMPTS) < 0.3


def test_the_gradient_is_that_of_the_plain_forward() -> None:
    policy = made()
    attempts = laws.sampled(policy, PROMPTS)
    weights = torch.randn(attempts.tokens.shape)
    (policy.log_probs(attempts, temperature=0.8) * weights).sum().backward()
    padded = [value.grad.clone() for value in policy.parameters()]
    policy.zero_grad()
    for row in range(len(attempts)):
        prompt = attempts.prompt_tokens[row][attempts.prompt_mask[row]]
        tokens = attempts.tokens[row][attempts.mask[row]]
        text = torch.cat([prompt, tokens])[None]
        there = torch.ones_like(text, dtype=torch.bool)
        logits = policy.model(text, torch.arange(text.shape[1])[None], there)[0] / 0.8
        for place, token in enumerate(tokens):
            (logits.log_softmax(1)[len(prompt) + place - 1, token] * weights[row, place]).backward(retain_graph=True)
    for mine, value in zip(padded, policy.parameters(), strict=True):
        torch.testing.assert_close(mine, value.grad, atol=1e-4, rtol=1e-4)


def test_supervise_is_the_mean_over_the_tokens_of_completions() -> None:
    policy = made()
    pairs = [("12+3=", "15"), ("7", ""), ("4*", "0 ")]
    loss = policy.supervise(*zip(*pairs, strict=True))
    logits, total, count = plain_logits(policy), 0.0, 0
    for prompt, completion in pairs:
        text = [policy.alphabet.index(letter) + 1 for letter in prompt]
        for token in [*(policy.alphabet.index(letter) + 1 for letter in completion), END]:
            total -= logits(text).log_softmax(0)[token].item()
            count += 1
            text.append(token)
    assert count == 3 + 1 + 3
    assert loss.item() == pytest.approx(total / count, abs=1e-5)


def test_supervised_it_learns_and_then_says_so() -> None:
    torch.manual_seed(0)
    policy = TinyPolicy(width=32)
    prompts = [f"{a}+{b}=" for a in range(4) for b in range(4)]
    answers = [str(a + b) for a in range(4) for b in range(4)]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        policy.supervise(prompts, answers).backward()
        optimizer.step()
    assert laws.sampled(policy, prompts, 1, temperature=0.0).texts == tuple(answers)


def test_the_reference_stays_as_it_is() -> None:
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


def test_its_state_is_its_weights() -> None:
    policy, other = made(), TinyPolicy(width=16, heads=2, context=40)
    assert set(policy.state_dict()) == {name for name, _ in policy.named_parameters()}
    other.load_state_dict(policy.state_dict())
    laws.same_rows(laws.sampled(policy, PROMPTS), laws.sampled(other, PROMPTS))
    laws.same_rows(laws.sampled(policy, PROMPTS), laws.sampled(pickle.loads(pickle.dumps(policy)), PROMPTS))


@pytest.mark.parametrize(("changes", "told"), laws.BAD_REQUESTS)
def test_bad_requests(changes, told) -> None:
    with pytest.raises(ArgumentError, match=r"TinyPolicy\." + told):
        laws.asked(made(), changes)


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", r"prompts must have 1 to 39 tokens, .* the context of 40, got 0 tokens: ''\."),
        ("1" * 40, r"prompts must have 1 to 39 tokens, .* the context of 40, got 40 tokens: '1{40}'\."),
        ("1" * 99, r"got 99 tokens: '1{60}\.\.\.'\."),
        ("2x+y=", r"alphabet must hold every character of a text, got 'xy' in '2x\+y='\."),
    ],
)
def test_bad_prompts(prompt, told) -> None:
    with pytest.raises(ArgumentError, match=told):
        laws.asked(made(), {"prompts": ["1", prompt]})
    with pytest.raises(ArgumentError, match=told):
        made().supervise(["1", prompt], ["2", "3"])


def test_bad_supervision() -> None:
    with pytest.raises(ArgumentError, match=r"a completion for each prompt, got 2 and 1\."):
        made().supervise(["1", "2"], ["3"])
    with pytest.raises(ArgumentError, match=r"within the context of 40 tokens, got 41\."):
        made().supervise(["1" * 30], ["2" * 10])
    with pytest.raises(ArgumentError, match=r"every character of a text, got 'z' in '2z'\."):
        made().supervise(["1"], ["2z"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"alphabet": ""}, r"alphabet must hold one or more characters, each once, got ''\."),
        ({"alphabet": "aba"}, r"alphabet must hold one or more characters, each once, got 'aba'\."),
        ({"width": 0}, r"width must be 1 or more, got 0\."),
        ({"depth": 0}, r"depth must be 1 or more, got 0\."),
        ({"heads": 0}, r"heads must be 1 or more, got 0\."),
        ({"context": 1}, r"context must be 2 or more, a prompt and one token, got 1\."),
        ({"width": 30}, r"width must be a multiple of the 4 heads, got 30\."),
    ],
)
def test_bad_arguments(arguments, told) -> None:
    with pytest.raises(ArgumentError, match=r"TinyPolicy\." + told):
        TinyPolicy(**arguments)


@pytest.mark.parametrize("temperature", [-1.0, math.nan])
def test_log_probs_checks_the_temperature(temperature) -> None:
    with pytest.raises(ArgumentError, match=r"TinyPolicy\.log_probs\.temperature must be finite and 0 or more"):
        made().log_probs(laws.sampled(made(), ["1"]), temperature=temperature)


def test_the_config_lists_every_argument() -> None:
    laws.lists_every_argument("tiny", TinyPolicy)
