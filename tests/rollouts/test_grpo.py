"""Training on rewards, everything through ``Trainer.fit``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import NonFiniteScoreError
from lightning_select.rollouts.advantages import advantages
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.groups import Group
from lightning_select.rollouts.grpo import GRPO
from lightning_select.rollouts.losses.dapo import DAPOLoss
from lightning_select.rollouts.losses.dr_grpo import DrGRPOLoss
from lightning_select.rollouts.losses.grpo import GRPOLoss
from lightning_select.rollouts.policy import Attempts
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.reporting import show
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.top1 import Top1
from lightning_select.rollouts.uniforms import attempt_keys
from lightning_select.rollouts.zero_variance import ZeroVariance
from lightning_select.samplers.balanced_difficulty import BalancedDifficulty
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.category_bandit import CategoryBandit
from lightning_select.samplers.quota import Quota
from tests.rollouts.toy import LETTERS, Steps, Table, loader, module, right, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Only .* groups passed", "ignore:The policy was never updated")


def pattern(lines: Mapping[str, Sequence[float]]) -> Any:
    """A reward that gives the attempts at each prompt the numbers of its line, whatever they are."""

    def reward(prompts: Sequence[str], completions: Sequence[str], batch: Mapping[str, Any]) -> list[float]:
        numbers = {prompt: itertools.cycle(line) for prompt, line in lines.items()}
        return [next(numbers[prompt]) for prompt in prompts]

    return reward


def trained(policy: GRPO, *callbacks: Any, data: Any = None, **arguments: Any) -> dict[str, list[float]]:
    """What a fit trained on: the rewards of the attempts of each prompt that counted."""
    seen: dict[str, list[float]] = {}
    take = policy.buffer.take

    def watched(*, last: bool = False) -> Any:
        groups = take(last=last)
        seen.update({group.prompt: group.rewards[group.trains].tolist() for group in groups})
        return groups

    policy.buffer.take = watched  # type: ignore[method-assign]
    trainer(*callbacks, **arguments).fit(policy, data or loader(4))
    return seen


LINES = {"0": [1, 0, 0, 0], "1": [0, 0, 0, 0], "2": [1, 1, 1, 1], "3": [1, 0, 1, 0]}


def test_a_group_with_one_success_is_kept_whole() -> None:
    found = trained(module(4, reward=pattern(LINES), group_filter=ZeroVariance(), refill=Refill(max_rounds=1)))
    assert found == {"0": [1, 0, 0, 0], "3": [1, 0, 1, 0]}
    pair = {"0": [1, 0], "1": [0, 0], "2": [0, 1], "3": [1, 1]}
    policy = module(4, reward=pattern(pair), attempts=2, group_filter=ZeroVariance(), refill=Refill(max_rounds=1))
    assert trained(policy) == {"0": [1, 0], "2": [0, 1]}


@pytest.mark.parametrize(("times", "plus"), [(1.0, 100.0), (-3.0, 0.0), (1e-3, 0.0), (50.0, -7.0)])
def test_another_scale_of_rewards_keeps_the_same_groups(times: float, plus: float) -> None:
    lines = {prompt: [times * value + plus for value in line] for prompt, line in LINES.items()}
    policy = module(4, reward=pattern(lines), group_filter=ZeroVariance(), refill=Refill(max_rounds=1))
    assert set(trained(policy)) == {"0", "3"}


def test_equal_rewards_have_no_variance_whatever_their_rounding() -> None:
    lines = {prompt: [0.3] * 7 for prompt in LINES}
    policy = module(4, reward=pattern(lines), attempts=7, group_filter=ZeroVariance(), refill=Refill(max_rounds=1))
    assert trained(policy) == {}
    assert policy.counters.empty == 1


def test_the_metric_that_is_filtered_is_not_the_reward_that_is_trained_on() -> None:
    shaped = {prompt: [1, 2, 3, 4] for prompt in LINES}
    arguments = {"group_filter": ZeroVariance(), "refill": Refill(max_rounds=1)}
    steps = Steps()
    policy = module(4, reward=pattern(shaped), metric=pattern(LINES), **arguments)
    assert trained(policy, steps) == {"0": [1, 2, 3, 4], "3": [1, 2, 3, 4]}
    assert steps.rewards[0].tolist() == list(LINES.values())


def test_the_best_attempt_alone() -> None:
    assert trained(module(4, reward=pattern(LINES), group_filter=Top1(), refill=Refill(max_rounds=1))) == {
        "0": [1],
        "3": [1],
    }


def test_what_cannot_be_scored_does_not_count() -> None:
    nan = math.nan
    lines = {"0": [1, nan, 0, nan], "1": [nan] * 4, "2": [1, nan, 1, 1], "3": [0, 1, 0, 1]}
    steps = Steps()
    policy = module(4, reward=pattern(lines), group_filter=ZeroVariance(), refill=Refill(max_rounds=1))
    assert trained(policy, steps) == {"0": [1, 0], "3": [0, 1, 0, 1]}
    assert policy.counters.unscorable == 7
    assert steps.rewards[0].isnan().sum() == 7
    plain = module(4, reward=pattern(lines))
    assert trained(plain) == {"0": [1, 0], "2": [1, 1, 1], "3": [0, 1, 0, 1]}
    assert plain.policy.logits.isfinite().all()


def step_of(loss: Any, scale: Any, reward: Any, **arguments: Any) -> tuple[Tensor, GRPO]:
    """Change of the table by one step of gradient descent at rate one, and the module after it."""
    torch.manual_seed(3)
    start = torch.randn(4, len(LETTERS) + 1)
    settings = {"optimizer": lambda weights: torch.optim.SGD(weights, lr=1.0), "gradient_clip": None, "max_tokens": 3}
    policy = module(4, start, loss=loss, scale=scale, reward=reward, **(settings | arguments))
    trainer().fit(policy, loader(4))
    return start - policy.policy.logits.detach(), policy


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo"])
def test_the_gradient_is_that_of_the_papers(kind: str, scale: Any) -> None:
    loss = {"grpo": GRPOLoss(), "dr_grpo": DrGRPOLoss(), "dapo": DAPOLoss()}[kind]
    change, policy = step_of(loss, scale, right)
    start = (policy.policy.logits.detach() + change).requires_grad_()
    table = Table(start=start.detach())
    groups, rewards = [], []
    for row in range(4):
        groups.append(attempts_at(table, row, policy))
        rewards.append(right([str(row)] * 4, groups[-1].texts, {"answer": [LETTERS[row]] * 4}))
    gains = advantages(torch.tensor(rewards), scale).tolist()
    tokens = sum(int(group.mask.sum()) for group in groups)
    total = torch.zeros(())
    for row, group in enumerate(groups):
        for attempt in range(4):
            length = int(group.mask[attempt].sum())
            for place in range(length):
                chances = torch.log_softmax(start[row], 0)
                now = chances[group.tokens[attempt, place]]
                ratio = (now - now.detach()).exp()  # where nothing has changed yet, clipping does not act
                share = {"grpo": 1 / 16 / length, "dr_grpo": 1 / 16 / 3, "dapo": 1 / tokens}[kind]
                total = total - share * ratio * gains[row][attempt]
    (slow,) = torch.autograd.grad(total, start)
    torch.testing.assert_close(change, slow, rtol=1e-4, atol=1e-6)


def attempts_at(table: Table, row: int, policy: GRPO) -> Any:
    keys = attempt_keys(policy.seed, 0, torch.tensor([row]), 4)
    return table.sample([str(row)], 4, keys, max_tokens=3, temperature=1.0)


@pytest.mark.parametrize("kind", [GRPOLoss, DrGRPOLoss, DAPOLoss])
@pytest.mark.parametrize("micro_batch", [1, 3, 5, 100])
def test_micro_batches_change_nothing(kind: Any, micro_batch: int) -> None:
    whole, _ = step_of(kind(), "group", right, kl=0.1)
    parts, _ = step_of(kind(), "group", right, kl=0.1, micro_batch=micro_batch)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-7)


def test_the_step_does_not_depend_on_how_many_were_kept() -> None:
    only = {"0": [1, 0, 0, 1], "1": [0, 0, 0, 0], "2": [0, 0, 0, 0], "3": [0, 0, 0, 0]}
    all_like_it = {prompt: [1, 0, 0, 1] for prompt in only}
    arguments = {"group_filter": ZeroVariance(), "refill": Refill(max_rounds=1), "attempts": 4}
    one, _ = step_of(GRPOLoss(), "group", pattern(only), **arguments)
    four, _ = step_of(GRPOLoss(), "group", pattern(all_like_it), **arguments)
    # Every kept group counts with one over their number, so that of the mean over groups all sizes are alike.
    torch.testing.assert_close(one[0] / 4, four[0])
    assert not one[1:].any()


def test_several_inner_epochs_and_minibatches() -> None:
    steps = Steps()
    policy = module(inner_epochs=2, minibatches=3)
    fit = trainer(steps, max_epochs=2)
    fit.fit(policy, loader())
    assert fit.global_step == 2 * 4 * 2 * 3
    assert policy.counters.updates == 8


def test_it_learns_and_says_what_it_can_do() -> None:
    policy = module(lr=0.1, kl=0.01, attempts=8)
    fit = trainer(max_epochs=25)
    fit.fit(policy, loader(), loader())
    assert fit.callback_metrics["val/greedy"] == 1.0
    assert fit.callback_metrics["val/pass@1"] > 0.8
    assert fit.callback_metrics["val/pass@2"] >= fit.callback_metrics["val/pass@1"]
    validated = float(fit.callback_metrics["val/pass@1"])
    (tested,) = fit.test(policy, loader(), verbose=False)
    assert tested["test/pass@1"] == pytest.approx(validated)


def test_the_divergence_holds_the_policy_back() -> None:
    def gone(kl: float) -> float:
        policy = module(lr=0.1, kl=kl, attempts=8)
        trainer(max_epochs=10).fit(policy, loader())
        return float(policy.policy.logits.detach().softmax(1).max(dim=1).values.mean())

    free, held, bound = gone(0.0), gone(1.0), gone(30.0)
    assert free > held > bound
    assert free > bound + 0.4


def test_a_filter_asks_for_more_rounds_until_there_are_enough() -> None:
    steps = Steps()
    policy = module(group_filter=Balanced(), attempts=8)
    trainer(steps, max_epochs=10).fit(policy, loader())
    updates = [seen["updates"] for seen in steps.seen]
    assert 0 < updates[-1] < len(updates)
    short, last = policy.counters.short, steps.seen[-1]
    assert last["trained"] >= 4 * (last["updates"] - short)
    assert last["kept"] == last["trained"] + last["dropped"]


def test_what_was_accepted_is_trained_on_when_the_loader_ends() -> None:
    lines = {str(row): [1, 0, 0, 0] if row == 2 else [0, 0, 0, 0] for row in range(16)}
    policy = module(reward=pattern(lines), group_filter=ZeroVariance())
    assert trained(policy, data=loader()) == {"2": [1, 0, 0, 0]}
    assert policy.counters.updates == 1
    assert policy.counters.rounds == 4


def test_groups_wait_over_the_end_of_an_epoch() -> None:
    lines = {str(row): [1, 0, 0, 0] if row == 2 else [0, 0, 0, 0] for row in range(16)}
    policy = module(reward=pattern(lines), group_filter=ZeroVariance(), refill=Refill(groups=2, max_rounds=100))
    trainer(max_epochs=4).fit(policy, loader())
    assert policy.counters.updates == 2


def test_a_policy_that_always_fails_ends_in_bounded_time(recwarn: pytest.WarningsRecorder) -> None:
    policy = module(reward=lambda prompts, completions, batch: [0.0] * len(prompts), group_filter=ZeroVariance())
    before = policy.policy.logits.detach().clone()
    fit = trainer(max_steps=10, max_epochs=-1)
    fit.fit(policy, loader())
    assert fit.global_step == 0
    assert policy.counters.rounds == 30  # three fillings of ten rounds
    assert torch.equal(policy.policy.logits, before)
    assert any("No group of attempts passed in 3 fillings in a row" in str(one.message) for one in recwarn)


def test_a_run_that_learnt_nothing_says_so() -> None:
    policy = module(reward=lambda prompts, completions, batch: [0.0] * len(prompts), group_filter=ZeroVariance())
    with pytest.warns(UserWarning, match="never updated, since no group .* Of 16 groups so far, 16 failed as a whole"):
        trainer().fit(policy, loader())


def test_what_was_screened_out_has_neither_failed_nor_been_solved_as_a_whole() -> None:
    lines = {"0": [1, 0], "1": [0, 0], "2": [1, 1], "3": [0, 1]}
    policy = module(4, reward=pattern(lines), attempts=6, screening=Screening(2))
    trainer().fit(policy, loader(4))
    sums = policy.counters
    assert (sums.screened_out, sums.all_failed, sums.all_solved) == (2, 0, 0)
    assert "Of 4 groups so far, 2 were screened out, 0 failed as a whole" in policy.buffer.told()


def test_an_attempt_without_company_teaches_nothing() -> None:
    nan = math.nan
    rewards = {"0": [1, nan, nan, nan], "1": [1, 0, nan, nan], "2": [nan] * 4, "3": [0, 0, 1, 1]}
    arguments = {"metric": pattern({prompt: [1, 0, 0, 1] for prompt in rewards}), "group_filter": ZeroVariance()}
    policy = module(4, reward=pattern(rewards), refill=Refill(max_rounds=1), **arguments)
    assert trained(policy) == {"1": [1, 0], "3": [0, 0, 1, 1]}
    assert policy.counters.kept == 2


def test_the_mean_reward_of_a_validation_is_over_what_was_scored() -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        return [math.nan if prompt == "3" else 0.25 for prompt in prompts]

    fit = trainer()
    fit.fit(module(8, reward=reward), loader(8), loader(8, 1))
    assert fit.callback_metrics["val/reward"] == pytest.approx(0.25)


def test_a_filter_may_write_to_what_it_is_given() -> None:
    def writes(rewards: Tensor) -> Tensor:
        return rewards.fill_(1.0).mean(dim=1) > 0

    steps = Steps()
    screening = Screening(2, writes)
    trainer(steps).fit(module(4, reward=pattern(LINES), screening=screening, group_filter=writes), loader(4))
    assert steps.rewards[0][:, :2].tolist() == [[1, 0], [0, 0], [1, 1], [1, 0]]


def test_weights_that_are_not_finite_are_an_error_and_no_lack_of_luck() -> None:
    policy = module()
    with torch.no_grad():
        policy.policy.logits[5, 0] = math.nan
    with pytest.raises(NonFiniteScoreError, match="GRPO.policy must give finite log-probabilities"):
        trainer().fit(policy, loader())


def test_a_loss_that_is_not_finite_leaves_the_weights_alone() -> None:
    class Breaks(Table):
        def log_probs(self, attempts: Any, *, temperature: float) -> Tensor:
            return super().log_probs(attempts, temperature=temperature) * math.nan

    policy = GRPO(Breaks(), right, attempts=4, max_tokens=1, show_every=0)
    with pytest.raises(NonFiniteScoreError, match="GRPO.loss must be finite, got nan after 0 updates"):
        trainer().fit(policy, loader())
    assert not policy.policy.logits.any()


def test_a_long_attempt_is_shown_as_far_as_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    tokens = torch.zeros(2, 1, dtype=torch.int64)
    mask = tokens == 0
    attempts = Attempts(tokens, mask, tokens, mask, tokens.float(), mask[:, 0], ("y" * 400, "no"))
    rewards = torch.tensor([math.nan, 1.0])
    with caplog.at_level("INFO"):
        show(Group("p", attempts, rewards, rewards, mask[:, 0], 0, (0, 0)), 1)
    assert f"no reward: '{'y' * 300} ...'" in caplog.text
    assert "reward 1: 'no'" in caplog.text


def test_replacing_at_once_attempts_less() -> None:
    costs = {}
    for replacement in ("round", "at_once"):
        steps = Steps()
        refill = Refill(groups=6, replacement=replacement)  # type: ignore[arg-type]
        policy = module(group_filter=ZeroVariance(), refill=refill, attempts=8)
        trainer(steps, max_epochs=4).fit(policy, loader(16, 8))
        costs[replacement] = policy.counters
    assert costs["at_once"].attempts < costs["round"].attempts
    assert costs["at_once"].dropped == 0 < costs["round"].dropped
    assert costs["at_once"].untried > 0 == costs["round"].untried
    assert costs["at_once"].trained / costs["at_once"].attempts > costs["round"].trained / costs["round"].attempts


def test_prompts_that_were_not_needed_have_no_reward() -> None:
    steps = Steps()
    policy = module(4, reward=pattern({p: [1, 0, 0, 0] for p in LINES}), group_filter=ZeroVariance())
    policy.buffer.refill = Refill(groups=3, replacement="at_once")
    trainer(steps).fit(policy, loader(4))
    assert steps.rewards[0].isnan().all(dim=1).tolist() == [False, False, False, True]


def test_screening_spends_the_rest_on_the_promising_and_reports_all() -> None:
    steps = Steps()
    lines = {"0": [1, 0], "1": [0, 0], "2": [1, 1], "3": [0, 1]}
    arguments = {"screening": Screening(2), "group_filter": ZeroVariance(), "refill": Refill(max_rounds=1)}
    policy = module(4, reward=pattern(lines), attempts=6, **arguments)
    assert trained(policy, steps) == {"0": [1, 0] * 3, "3": [0, 1] * 3}
    assert steps.rewards[0].isfinite().sum(dim=1).tolist() == [6, 2, 2, 6]
    assert policy.counters.attempts == 16
    assert policy.counters.screened_out == 2


def test_screening_goes_on_with_the_attempts_that_would_have_come() -> None:
    """The first attempts and the others are together those of a round without screening."""
    seen: dict[bool, list[Any]] = {True: [], False: []}
    for screened in (True, False):

        def reward(prompts: Any, completions: Any, batch: Any, screened: bool = screened) -> list[float]:
            seen[screened] += zip(prompts, completions, strict=True)
            return [float(n % 2) for n in range(len(prompts))]

        trainer().fit(module(4, reward=reward, attempts=6, screening=Screening(2) if screened else None), loader(4))
    assert sorted(seen[True]) == sorted(seen[False])


SAMPLERS = {
    "balanced_difficulty": lambda: BalancedDifficulty(16, num_samples=16),
    "beta_posterior": lambda: BetaPosterior(16, num_samples=16),
    "category_bandit": lambda: CategoryBandit(16, [row % 4 for row in range(16)], num_samples=16),
    "quota": lambda: Quota(16, [0.5] * 16, num_samples=16),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_follow_success_without_glue(name: str) -> None:
    sampler = SAMPLERS[name]()
    told: list[Tensor] = []
    observe = sampler.observe

    def watched(ids: Tensor, signals: Mapping[str, Tensor]) -> None:
        told.append(signals["reward"].clone())
        observe(ids, signals)

    sampler.observe = watched  # type: ignore[method-assign]
    steps = Steps()
    screened = module(attempts=6, screening=Screening(2), group_filter=ZeroVariance())
    trainer(SamplerFeedback(), steps, max_epochs=3).fit(screened, loader(sampler=sampler))
    assert len(told) == len(steps.rewards) == 12
    for one, other in zip(told, steps.rewards, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    assert any(reward.isnan().any() for reward in told)


def test_the_effective_band_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer().fit(module(group_filter=Balanced(0.3, 0.7), attempts=16), loader())
    assert "Groups train where 5 to 11 of 16 attempts are right" in caplog.text


def test_attempts_are_shown_with_their_rewards(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        trainer().fit(module(show_every=2, reward=lambda p, c, b: [0.25] * len(p)), loader())
    assert caplog.text.count("Attempts after") == 2
    assert "reward 0.25: '" in caplog.text


def test_another_engine_may_make_the_attempts() -> None:
    class Engine(GRPO):
        made = 0

        def generate(self, prompts: Any, attempts: int, keys: Any, *, temperature: float, max_tokens: int) -> Any:
            self.made += len(keys)
            return super().generate(prompts, attempts, keys, temperature=temperature, max_tokens=max_tokens)

    policy = Engine(Table(), right, attempts=4, max_tokens=1, show_every=0)
    trainer().fit(policy, loader())
    assert policy.made == policy.counters.attempts == 64


def test_bf16() -> None:
    policy = module(lr=0.1, attempts=8)
    trainer(max_epochs=10, precision="bf16-mixed").fit(policy, loader())
    assert policy.policy.logits.dtype == torch.float32
    assert policy.policy.logits.softmax(1).max(dim=1).values.mean() > 0.3
