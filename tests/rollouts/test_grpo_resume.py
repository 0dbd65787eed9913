"""Kill and resume, also in the middle of a filling; and two ranks that do what one does."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import ArgumentError, BatchFormatError, ConfigurationError, RewardError, ShortfallError
from lightning_select.rollouts.balanced import Balanced
from lightning_select.rollouts.grpo_checks import check_trainer
from lightning_select.rollouts.refill import Refill
from lightning_select.rollouts.screening import Screening
from lightning_select.rollouts.zero_variance import ZeroVariance
from lightning_select.samplers.beta_posterior import BetaPosterior
from lightning_select.samplers.repeated_random import RepeatedRandom
from tests.rollouts.toy import Prompts, Steps, loader, module, right, trainer

pytestmark = pytest.mark.filterwarnings("ignore:Only .* groups passed", "ignore:The policy was never updated")

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"group_filter": Balanced(), "attempts": 8},
    "carry": {"group_filter": ZeroVariance(), "refill": Refill(groups=6, surplus="carry"), "inner_epochs": 2},
    "at once": {"group_filter": ZeroVariance(), "refill": Refill(groups=6, replacement="at_once")},
    "relax": {"group_filter": Balanced(0.5, 0.5), "refill": Refill(max_rounds=2, on_shortfall="relax_band")},
    "repeat": {"group_filter": Balanced(0.5, 0.5), "refill": Refill(max_rounds=2, on_shortfall="repeat_last_good")},
    "screened": {"group_filter": Balanced(), "screening": Screening(3), "attempts": 8, "kl": 0.1},
}
SAMPLERS = {"repeated_random": lambda: RepeatedRandom(16, fraction=1.0), "beta_posterior": lambda: BetaPosterior(16)}


def same(one: Any, other: Any) -> bool:
    weights = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in weights) and one.counters == other.counters


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_from_any_batch_is_bit_for_bit_uninterrupted(kind: str, sampler: str, tmp_path: Path) -> None:
    def fit(ckpt: Path | None, *callbacks: Any) -> Any:
        policy = module(**KINDS[kind])
        checkpointing = {"enable_checkpointing": True} if callbacks else {}
        data = loader(sampler=SAMPLERS[sampler]())
        fitting = trainer(SamplerFeedback(), *callbacks, max_epochs=5, **checkpointing)
        fitting.fit(policy, data, ckpt_path=ckpt)
        return policy

    class Every(pl.Callback):
        """A checkpoint after every batch, whether there was an update or not."""

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            done = pl_module.counters.rounds
            waiting.append(len(pl_module.buffer.waiting))
            if done in (3, 6, 7, 13):
                trainer.save_checkpoint(tmp_path / f"{done}.ckpt")

    waiting: list[int] = []
    straight = fit(None, Every())
    for done in (3, 6, 7, 13):
        assert same(fit(tmp_path / f"{done}.ckpt"), straight), done
    if kind != "plain":
        assert any(waiting[done - 1] for done in (3, 6, 7, 13)) or kind in ("relax", "repeat")


class Weights(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder, self.kept = folder, []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.kept.append([(group.prompt, group.rewards.tolist()) for group in pl_module.buffer.waiting])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        found = {"weights": pl_module.state_dict(), "counters": pl_module.counters.state_dict(), "kept": self.kept}
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


def on_ranks(ranks: int, size: int, folder: Path, **arguments: Any) -> list[Any]:
    folder.mkdir()
    extra = {"devices": ranks, "strategy": "ddp_fork"} if ranks > 1 else {}
    policy = module(optimizer=lambda weights: torch.optim.SGD(weights, lr=1.0), **arguments)
    data = DataLoader(Prompts(16), size, sampler=RepeatedRandom(16, fraction=1.0))
    trainer(SamplerFeedback(), Weights(folder), max_epochs=4, **extra).fit(policy, data)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("kind", ["plain", "balanced", "carry", "screened", "relax"])
def test_two_ranks_decide_and_train_like_one(kind: str, tmp_path: Path) -> None:
    arguments = {**KINDS[kind], "micro_batch": 5, "minibatches": 2}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, two = on_ranks(2, 2, tmp_path / "two", **arguments)
    finally:
        torch.set_num_threads(threads)
    (alone,) = on_ranks(1, 4, tmp_path / "one", **arguments)
    assert one["kept"] == two["kept"] == alone["kept"]
    assert one["counters"] == two["counters"] == alone["counters"]
    assert alone["counters"]["updates"] > 1
    torch.testing.assert_close(one["weights"], two["weights"], rtol=0, atol=0)
    torch.testing.assert_close(one["weights"], alone["weights"], rtol=1e-4, atol=1e-5)


def fails(*given: Any) -> list[float]:
    return [0.0] * len(given[0])


def test_an_error_leaves_the_checkpoint_as_it_was(tmp_path: Path) -> None:
    policy = module(reward=fails, group_filter=ZeroVariance(), refill=Refill(max_rounds=5, on_shortfall="raise"))
    keep = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
    fitting = trainer(keep, max_epochs=3, enable_checkpointing=True)
    fitting.fit_loop.max_epochs = 3
    with pytest.raises(ShortfallError, match="got 0. Of 20 groups so far, 20 failed as a whole"):
        fitting.fit(policy, loader())
    again = module(group_filter=ZeroVariance())
    fitting.save_checkpoint(tmp_path / "now.ckpt")
    trainer(max_epochs=4).fit(again, loader(), ckpt_path=tmp_path / "now.ckpt")
    assert again.counters.rounds > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attempts": 1}, "GRPO.attempts must be at least 2"),
        ({"attempts": 2.0}, "GRPO.attempts must be a whole number of at least 1, got 2.0"),
        ({"max_tokens": 0}, "GRPO.max_tokens must be a whole number of at least 1, got 0"),
        ({"micro_batch": 0}, "GRPO.micro_batch must be a whole number of at least 1, got 0"),
        ({"kl": -0.1}, "GRPO.kl must be a finite number that is not negative, got -0.1"),
        ({"temperature": 0.0}, "GRPO.temperature must be a finite number above 0, got 0.0"),
        ({"lr": float("nan")}, "GRPO.lr must be a finite number above 0, got nan"),
        ({"reward": "accuracy"}, "GRPO.reward must be callable and no class, got 'accuracy'"),
        ({"group_filter": Balanced}, "GRPO.group_filter must be callable and no class"),
        ({"loss": right}, "GRPO.loss must be a loss with a method reduce"),
        ({"screening": Screening(4)}, "Screening.attempts must be below GRPO.attempts=4"),
        ({"pass_at": []}, "GRPO.pass_at must be whole numbers of at least 1, got \\[\\]"),
        ({"refill": Refill(on_shortfall="relax_band")}, "must go with a filter that has a band .* got no filter"),
        ({"solved_at": float("nan")}, "GRPO.solved_at must be a finite number of any sign, got nan"),
        ({"solved_at": "1"}, "GRPO.solved_at must be a finite number of any sign, got '1'"),
        ({"seed": 1.5}, "GRPO.seed must be a whole number, got 1.5"),
        ({"refill": "constant"}, "GRPO.refill must be a Refill or None, got 'constant'"),
        ({"screening": 3}, "GRPO.screening must be a Screening or None, got 3"),
        ({"optimizer": "adam"}, "GRPO.optimizer must be callable with the parameters, got 'adam'"),
        ({"scale": "rows"}, "GRPO.scale must be one of group, batch, none, got 'rows'"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        module(**arguments)


def test_a_band_that_no_number_of_attempts_can_meet() -> None:
    policy = module(group_filter=Balanced(0.4, 0.45), attempts=4)
    with pytest.raises(ArgumentError, match="Balanced"):
        trainer().fit(policy, loader())


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([{"text": "0"}], 'a list of strings under "prompt", got dict with text'),
        ([{"prompt": 3}], 'a list of strings under "prompt", got dict with prompt'),
        (["0"], 'a list of strings under "prompt", got'),
    ],
)
def test_batches_without_prompts(batch: Any, message: str) -> None:
    with pytest.raises(BatchFormatError, match=message):
        trainer().fit(module(), DataLoader(batch, 1))


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda p, c, b: [1.0], "one number for each of 16 completions, got 1"),
        (lambda p, c, b: ["good"] * len(p), "must return finite numbers"),
        (lambda p, c, b: [float("inf")] * len(p), "must return finite numbers .* got inf"),
    ],
)
def test_rewards_that_are_none(reward: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        trainer().fit(module(reward=reward), loader())


def test_a_reward_that_fails_now_and_then(recwarn: pytest.WarningsRecorder) -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        if "a" in completions:
            raise ValueError("no a")
        return right(prompts, completions, batch)

    steps, policy = Steps(), module(reward=reward)
    trainer(steps, max_epochs=3).fit(policy, loader())
    assert policy.counters.unscorable > 0
    assert sum("no a" in str(one.message) for one in recwarn) == 1
    rewards: Tensor = torch.cat(steps.rewards)
    assert 0 < rewards.isnan().float().mean() < 0.5


class FSDPStrategy:
    pass


class Mine(FSDPStrategy):
    pass


@pytest.mark.parametrize(
    ("strategy", "scaler", "message"),
    [
        (FSDPStrategy(), None, r"the whole policy on every device .* got Trainer\(strategy=FSDPStrategy\)"),
        (Mine(), None, r"the whole policy on every device .* got Trainer\(strategy=Mine\)"),
        (None, object(), "needs no scaling of gradients, got 16"),
    ],
)
def test_trainers_that_are_refused(strategy: Any, scaler: Any, message: str) -> None:
    trainer = SimpleNamespace(strategy=strategy, precision="16", precision_plugin=SimpleNamespace(scaler=scaler))
    with pytest.raises(ConfigurationError, match=message):
        check_trainer(trainer)


def test_a_run_that_starved_may_go_on_with_what_was_mended(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    starving = module(reward=fails, group_filter=ZeroVariance(), refill=Refill(max_rounds=2))
    fitting = trainer(max_epochs=50, min_epochs=4)
    fitting.fit(starving, loader())
    assert starving.counters.rounds < 50
    assert sum("training stops" in str(one.message) for one in recwarn) == 1
    fitting.save_checkpoint(tmp_path / "starved.ckpt")
    mended = module(group_filter=ZeroVariance(), refill=Refill(max_rounds=2))
    trainer(max_epochs=50).fit(mended, loader(), ckpt_path=tmp_path / "starved.ckpt")
    assert mended.counters.updates > 5


@pytest.mark.parametrize(("before", "after"), [(0.0, 0.1), (0.1, 0.0)])
def test_a_divergence_is_not_switched_on_or_off_by_a_resume(before: float, after: float, tmp_path: Path) -> None:
    fitting = trainer()
    fitting.fit(module(kl=before), loader())
    fitting.save_checkpoint(tmp_path / "now.ckpt")
    with pytest.raises(ConfigurationError, match="GRPO.kl must be as in the run that saved the checkpoint"):
        trainer(max_epochs=2).fit(module(kl=after), loader(), ckpt_path=tmp_path / "now.ckpt")


@pytest.mark.filterwarnings("ignore:only failed for")
def test_a_prompt_that_cannot_be_scored_does_not_end_a_run_when_it_is_alone() -> None:
    def reward(prompts: Any, completions: Any, batch: Any) -> list[float]:
        if prompts[0] == "0":
            raise ValueError("no such prompt")
        return right(prompts, completions, batch)

    policy = module(reward=reward)
    with pytest.warns(UserWarning, match="reward failed for 1 of 1 completions"):
        trainer(max_epochs=2).fit(policy, loader(16, 1), loader(16, 1))
    assert policy.counters.unscorable == 8


def test_a_module_can_be_pickled() -> None:
    policy = module(group_filter=Balanced(), refill=Refill(on_shortfall="relax_band"), reward=fails)
    assert pickle.loads(pickle.dumps(policy)).buffer.relax == policy.buffer.relax


def test_several_loaders_to_validate_on() -> None:
    fitting = trainer()
    fitting.fit(module(), loader(), [loader(4), loader(8)])
    assert {"val/greedy/dataloader_idx_0", "val/greedy/dataloader_idx_1"} <= fitting.callback_metrics.keys()
