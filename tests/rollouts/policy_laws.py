"""What every policy must hold to, whatever it is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from lightning_select.rollouts.policy import Attempts, Policy
from lightning_select.rollouts.uniforms import attempt_keys

Logits = Callable[[list[int]], Tensor]
"""From the tokens of a text to the logits of the next one, by a plain forward without padding or cache."""


def sampled(policy: Any, prompts: Sequence[str], attempts: int = 3, **kwargs: Any) -> Attempts:
    keys = kwargs.pop("keys", attempt_keys(1, 2, torch.arange(len(prompts)), attempts))
    return policy.sample(prompts, attempts, keys, **{"max_tokens": 12, "temperature": 0.9} | kwargs)


def rows_of(attempts: Attempts) -> list[tuple[list[int], list[float], bool, str]]:
    """What was sampled in each row, without padding."""
    table = zip(
        attempts.tokens, attempts.log_probs, attempts.mask, attempts.ended.tolist(), attempts.texts, strict=True
    )
    return [(tokens[mask].tolist(), noted[mask].tolist(), ended, text) for tokens, noted, mask, ended, text in table]


def same_rows(left: Attempts, right: Attempts) -> None:
    pairs = list(zip(rows_of(left), rows_of(right), strict=True))
    assert pairs
    for one, other in pairs:
        assert (one[0], one[2], one[3]) == (other[0], other[2], other[3])
        assert one[1] == pytest.approx(other[1], abs=1e-4)


def is_well_formed(attempts: Attempts, stop: set[int]) -> None:
    for row, ended in enumerate(attempts.ended.tolist()):
        mask, tokens = attempts.mask[row].tolist(), attempts.tokens[row].tolist()
        count = sum(mask)
        assert mask == [True] * count + [False] * (len(mask) - count)
        assert count >= 1
        assert not any(token in stop for token in tokens[: count - 1])
        assert (tokens[count - 1] in stop) == ended
        assert not attempts.log_probs[row, count:].any()
    assert attempts.mask.any(0).all(), "decoding goes on after all rows have ended"


def notes_what_the_full_forward_gives(policy: Any, prompts: Sequence[str], logits: Logits, temperature: float) -> None:
    """Noted while sampling, evaluated in one padded batch, and computed text by text, token by token."""
    assert isinstance(policy, Policy)
    attempts = sampled(policy, prompts, temperature=temperature, max_tokens=16)
    evaluated = policy.log_probs(attempts, temperature=temperature)
    assert evaluated.requires_grad
    assert not attempts.log_probs.requires_grad
    torch.testing.assert_close(evaluated.detach(), attempts.log_probs, atol=1e-4, rtol=0)
    expected = torch.zeros_like(attempts.log_probs)
    for row in range(len(attempts)):
        text = attempts.prompt_tokens[row][attempts.prompt_mask[row]].tolist()
        for place, token in enumerate(attempts.tokens[row][attempts.mask[row]].tolist()):
            scaled = logits(text).double() / (temperature or 1)
            expected[row, place] = (scaled - scaled.logsumexp(0))[token]
            if temperature == 0:
                assert token == int(scaled.argmax())
            text.append(token)
    torch.testing.assert_close(attempts.log_probs, expected, atol=1e-4, rtol=0)


def padding_and_company_change_nothing(policy: Any, prompts: Sequence[str]) -> None:
    keys = attempt_keys(1, 2, torch.arange(len(prompts)), 3)
    together = sampled(policy, prompts, keys=keys)
    evaluated = policy.log_probs(together, temperature=0.9)
    for number, prompt in enumerate(prompts):
        rows = range(3 * number, 3 * number + 3)
        alone = sampled(policy, [prompt], keys=keys[list(rows)])
        same_rows(alone, together.take(rows))
        shown = policy.log_probs(alone, temperature=0.9)[alone.mask]
        among = evaluated[list(rows)][together.mask[list(rows)]]
        torch.testing.assert_close(shown, among, atol=1e-4, rtol=0)
    order = list(range(len(prompts)))[::-1]
    backwards = [row for number in order for row in range(3 * number + 2, 3 * number - 1, -1)]
    same_rows(sampled(policy, [prompts[number] for number in order], keys=keys[backwards]), together.take(backwards))


def leaves_no_trace(policy: Any, prompts: Sequence[str]) -> None:
    policy.train()
    next(policy.children()).eval()
    modes = [module.training for module in policy.modules()]
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in policy.state_dict().items()}
    gradients: list[bool] = []
    hook = policy.model.register_forward_hook(lambda *_: gradients.append(torch.is_grad_enabled()))
    attempts = sampled(policy, prompts)
    hook.remove()
    assert gradients
    assert not any(gradients)
    policy.log_probs(attempts, temperature=1.0)
    assert [module.training for module in policy.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in policy.state_dict().items())
    assert all(value.grad is None for value in policy.parameters())


def the_mode_does_not_matter(policy: Any, prompts: Sequence[str]) -> None:
    trained, evaluated = sampled(policy.train(), prompts), sampled(policy.eval(), prompts)
    same_rows(trained, evaluated)
    values = [mode.log_probs(trained, temperature=0.9) for mode in (policy.train(), policy.eval(), policy.train())]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])


def autocast_forgets(policy: Any, prompts: Sequence[str]) -> float:
    """Sampling and two updates inside one ``autocast``, as a training step has it."""
    optimizer = torch.optim.SGD([value for value in policy.parameters() if value.requires_grad], lr=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        attempts = sampled(policy, prompts, temperature=1.0)
        first = policy.log_probs(attempts, temperature=1.0)
        assert first.dtype == attempts.log_probs.dtype == torch.float32
        (-first.sum()).backward()
        assert all(value.grad is not None for value in policy.parameters() if value.requires_grad)
        _products(policy)  # casts that someone else has made
        optimizer.step()
        second = policy.log_probs(attempts, temperature=1.0).detach()
        assert not torch.equal(first.detach(), second), "the weights before the update were used"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(second, policy.log_probs(attempts, temperature=1.0))
        optimizer.step()
        products = _products(policy)
        assert {product.dtype for product in products} == {torch.bfloat16}, "autocast was off"
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, products, _products(policy))), "a cast was left behind"
    return (first.detach() - attempts.log_probs).abs().max().item()


def _products(policy: Any) -> list[Tensor]:
    """Of all tables that are trained, in the precision of autocast."""
    tables = [value for value in policy.parameters() if value.dim() == 2 and value.requires_grad]
    return [torch.ones(1, value.shape[0]) @ value for value in tables]


def lists_every_argument(file: str, owner: type) -> None:
    config = dict(OmegaConf.load(Path(__file__).parents[2] / "configs" / "rollouts" / "policy" / f"{file}.yaml"))
    assert config.pop("_target_") == f"{owner.__module__}.{owner.__qualname__}"
    assert config == {name: given.default for name, given in inspect.signature(owner).parameters.items()}


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, r"sample\.max_tokens must be 1 or more, got 0\."),
    ({"temperature": -0.1}, r"sample\.temperature must be finite and 0 or more, got -0\.1\."),
    ({"temperature": float("nan")}, r"sample\.temperature must be finite and 0 or more, got nan\."),
    ({"temperature": float("inf")}, r"sample\.temperature must be finite and 0 or more, got inf\."),
    ({"attempts": 0}, r"sample\.attempts must be 1 or more, got 0\."),
    ({"keys": torch.arange(5)}, r"sample\.keys must be of shape \(6,\), one for each .*, got \(5,\)\."),
    ({"prompts": []}, r"sample\.prompts must be one or more texts in a list, got \[\]\."),
    ({"prompts": "1+2="}, r"sample\.prompts must be one or more texts in a list, got '1\+2='\."),
]


def asked(policy: Any, changes: dict[str, Any]) -> Attempts:
    usual = {"prompts": ["1+2=", "3"], "attempts": 3, "keys": torch.arange(6), "max_tokens": 4, "temperature": 1.0}
    return policy.sample(**usual | changes)
