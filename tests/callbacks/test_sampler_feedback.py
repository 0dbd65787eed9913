"""Swap the sampler and nothing else: what the Trainer, workers, loaders of all kinds and resumed runs make of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from lightning_select import BatchSelection, LossReweighting
from lightning_select.callbacks.sampler_feedback import SamplerFeedback
from lightning_select.errors import ArgumentError, ConfigurationError, RowIdError, TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.dynamic_loss import DynamicLoss
from tests.fitting import Rows, same, trainer, weights_of
from tests.modules import CLASSES, Base, Classifier
from tests.samplers.toy import ByLastLoss, Plain, Weighted

ROWS, SIZE = 52, 8


class Journal(pl.Callback):
    """Which rows each step was trained on, as the feedback has it."""

    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.weights: list[Any] = []

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        feedback = next(one for one in trainer.callbacks if isinstance(one, SamplerFeedback) and one.sampler)
        assert feedback.interception is not None
        self.ids.append(feedback.interception.ids.tolist())
        self.weights.append(feedback.interception.arrival.weights)


def loader(sampler: Any, **kwargs: Any) -> DataLoader:
    return DataLoader(Rows(rows=ROWS), SIZE, sampler=sampler, **kwargs)


def run(sampler: Any, *callbacks: Any, module: Any = None, data: Any = None, ckpt: Any = None, **kwargs: Any) -> Any:
    """Fit; the trainer and the journal."""
    torch.manual_seed(1)
    made, journal = module or Classifier(), Journal()
    done = trainer(*callbacks, journal, **kwargs)
    done.fit(made, loader(sampler) if data is None else data, ckpt_path=ckpt)
    return done, journal


def attached(done: Any) -> list[SamplerFeedback]:
    return [one for one in done.callbacks if isinstance(one, SamplerFeedback)]


def test_one_word_in_the_loader_is_enough() -> None:
    sampler = ByLastLoss(Rows(rows=ROWS))
    done, journal = run(sampler)
    assert len(attached(done)) == 1
    assert [ids for ids, _ in sampler.heard] == journal.ids
    assert sampler.updates == 14
    assert sampler.epoch == 1
    assert not sampler.fed


@pytest.mark.parametrize(("weighs", "own"), [(False, True), (True, False)])
def test_the_graph_of_a_step_that_is_only_heard_stays_its_own(weighs: bool, own: bool) -> None:
    class Squares(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            errors = (self(batch[0]) - F.one_hot(batch[1], CLASSES)).square()
            loss = errors.mean()
            if self.trainer.global_step > 2 and loss.requires_grad:
                below.add(loss.grad_fn.next_functions[0][0] is errors.grad_fn)
            return loss

    below: set[bool] = set()
    run(ByLastLoss(ROWS), *([LossReweighting(DynamicLoss())] if weighs else []), module=Squares(), max_epochs=1)
    assert below == {own}


def test_it_hears_the_losses_of_the_rows_of_the_training_step() -> None:
    class Keeps(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            if torch.is_grad_enabled() and self.training:
                self.kept = [*getattr(self, "kept", []), losses.detach()]
            return losses.mean()

    module, sampler = Keeps(), ByLastLoss(ROWS)
    run(sampler, module=module)
    for (_, heard), kept in zip(sampler.heard[::-1], module.kept[::-1], strict=False):
        torch.testing.assert_close(torch.tensor(heard), kept)


def test_training_is_that_of_the_same_rows_without_us() -> None:
    done, journal = run(ByLastLoss(ROWS))
    torch.manual_seed(1)
    plain = trainer(max_epochs=1)
    plain.fit(Classifier(), DataLoader(Rows(rows=ROWS), batch_sampler=journal.ids))
    assert same(weights_of(done), weights_of(plain))


def test_it_leaves_no_trace() -> None:
    module, plain = Classifier(), Classifier()
    done, _ = run(ByLastLoss(ROWS), module=module)
    trainer().fit(plain, DataLoader(Rows(rows=ROWS), SIZE))
    assert set(vars(module)) == set(vars(plain))
    assert not {"process_dataloader", "batch_to_device"} & set(vars(done.strategy))


def test_without_a_sampler_of_ours_it_does_nothing() -> None:
    done = trainer(ModelCheckpoint(save_last=True), enable_checkpointing=True, default_root_dir=os.devnull)
    assert len(attached(done)) == 1
    done = trainer()
    done.fit(Classifier(), DataLoader(Rows(rows=ROWS), SIZE))
    assert attached(done)[0].state_dict() == {}
    assert attached(done)[0].interception is None


def test_one_added_by_hand_does_the_work_of_the_one_attached_by_itself() -> None:
    sampler = ByLastLoss(ROWS)
    done, _ = run(sampler, SamplerFeedback(name="mine"))
    assert [one.standing_by for one in attached(done)] == [False, True]
    assert sampler.updates == 14


def test_two_added_by_hand_need_two_names() -> None:
    with pytest.raises(ConfigurationError, match="SamplerFeedback.name must be unique"):
        run(ByLastLoss(ROWS), SamplerFeedback(), SamplerFeedback())


def test_an_adaptive_sampler_follows_within_the_epoch() -> None:
    class Split(Base):
        """Rows of class 0 are learnt at once, the others never."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return ((batch[1] != 0).float() + 0.0 * self(batch[0]).sum(dim=1)).mean()

    data = Rows(rows=ROWS)
    easy = {row for row in range(ROWS) if data.batch[1][row] == 0}
    assert len(easy) > 5
    _, journal = run(ByLastLoss(ROWS, num_samples=40 * SIZE), module=Split(), max_epochs=1)
    seen: set[int] = set()
    for ids in journal.ids:
        assert not seen & set(ids)
        seen |= set(ids) & easy
    assert seen


@pytest.mark.parametrize(("workers", "prefetch", "lag"), [(0, None, 0), (1, 2, 2), (2, 2, 4)])
def test_the_lag_is_logged(workers: int, prefetch: int | None, lag: int, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    data = loader(ByLastLoss(ROWS), num_workers=workers, prefetch_factor=prefetch)
    done, _ = run(None, data=data, logger=logger)
    assert done.callback_metrics["sampler/lag"] == lag
    assert done.callback_metrics["sampler/active"] == 1


SETTINGS: list[dict[str, Any]] = [
    {},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"limit_train_batches": 5},
    {"num_workers": 2, "limit_train_batches": 5},
    {"accumulate_grad_batches": 2},
    {"num_workers": 1, "reload_dataloaders_every_n_epochs": 1},
    {"early": True},
    {"num_workers": 2, "early": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_checkpoint_resumes_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    rest = dict(settings)
    early = rest.pop("early", False)
    workers = {key: rest.pop(key) for key in ("num_workers", "persistent_workers") if key in rest}

    class Asks(Classifier):
        def configure_optimizers(self) -> Any:
            assert not early or self.trainer.estimated_stepping_batches == 14
            return super().configure_optimizers()

    def fit(folder: Path, ckpt: Any = None) -> tuple[Any, Journal]:
        keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        settings = {"max_epochs": 2, "enable_checkpointing": True, **rest}
        return run(None, keep, module=Asks(), data=loader(Weighted(ROWS), **workers), ckpt=ckpt, **settings)

    whole, journal = fit(tmp_path / "whole")
    per_epoch = whole.global_step // 2
    for step in (3, per_epoch, whole.global_step - 1):  # two amid an epoch, one at its end
        again, rest_of_it = fit(tmp_path / str(step), tmp_path / "whole" / f"step={step}.ckpt")
        assert rest_of_it.ids == journal.ids[len(journal.ids) - len(rest_of_it.ids) :]
        assert rest_of_it.weights == journal.weights[len(journal.ids) - len(rest_of_it.ids) :]
        assert same(weights_of(again), weights_of(whole))


def test_the_state_loads_with_weights_only(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True)
    run(Weighted(ROWS), keep, enable_checkpointing=True)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert any("SamplerFeedback" in key for key in state["callbacks"])


def test_weights_of_a_sampler_act_like_those_of_anyone(tmp_path: Path) -> None:
    class ByHand(Classifier):
        weights: list[Any]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            return (losses * torch.tensor(self.weights[self.global_step])).mean()

    done, journal = run(Weighted(ROWS))
    torch.manual_seed(1)
    module = ByHand()
    module.weights = journal.weights
    plain = trainer(max_epochs=1)
    plain.fit(module, DataLoader(Rows(rows=ROWS), batch_sampler=journal.ids))
    for key, value in weights_of(plain).items():
        torch.testing.assert_close(weights_of(done)[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_it_stacks_with_our_callbacks(first: bool) -> None:
    sampler = ByLastLoss(ROWS)
    ours = [BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(DynamicLoss())]
    callbacks = [SamplerFeedback(), *ours] if first else [*ours, SamplerFeedback()]
    run(sampler, *callbacks)
    assert {len(ids) for ids, _ in sampler.heard} == {4, 2}  # half of 8, and half of the last 4
    assert sampler.updates == 14


class Sorts(BatchSampler):
    """Puts the rows of two batches in order, as samplers by length do."""

    def __iter__(self) -> Any:
        held: list[int] = []
        for row in self.sampler:
            held.append(row)
            if len(held) == 2 * self.batch_size:
                held.sort()
                yield held[: self.batch_size]
                yield held[self.batch_size :]
                held = []


def test_a_batch_sampler_that_wraps_ours() -> None:
    sampler = Weighted(ROWS, num_samples=64)
    data = DataLoader(Rows(rows=ROWS), batch_sampler=Sorts(sampler, SIZE, drop_last=True))
    _, journal = run(None, data=data)
    assert all(ids == sorted(ids) for ids in journal.ids)
    assert [ids for ids, _ in sampler.heard] == journal.ids
    assert all(len(weights) == SIZE for weights in journal.weights)


def test_rows_may_come_from_an_entry_of_the_batch() -> None:
    class Doubled(Rows):
        def __getitem__(self, position: int) -> Any:
            return (*super().__getitem__(position), 2 * (position // 2))

    class Three(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch[:2], batch_idx)

    sampler = ByLastLoss(ROWS, id_key=2)
    run(None, module=Three(), data=DataLoader(Doubled(rows=ROWS), SIZE, sampler=sampler))
    assert all(row % 2 == 0 for ids, _ in sampler.heard for row in ids)


def test_a_loader_that_is_made_anew_takes_over_what_was_learnt() -> None:
    class Own(Classifier):
        made: list[ByLastLoss]

        def train_dataloader(self) -> Any:
            self.made = [*getattr(self, "made", []), ByLastLoss(ROWS)]
            return loader(self.made[-1])

    torch.manual_seed(1)
    module = Own()
    again = trainer(reload_dataloaders_every_n_epochs=1, max_epochs=3)
    again.fit(module)
    assert len(module.made) == 3
    sampler = ByLastLoss(ROWS)
    run(sampler, max_epochs=3)
    assert torch.equal(module.made[-1].last, sampler.last)


def test_a_sampler_in_the_place_of_a_batch_sampler_is_refused() -> None:
    data = DataLoader(Rows(), batch_sampler=ByLastLoss(48))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="ByLastLoss must be the `sampler` of a loader, .* as batch_sampler"):
        trainer(SamplerFeedback()).fit(Classifier(), data)


def test_two_loaders_are_refused() -> None:
    class Both(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], batch_idx)

    data = {"a": loader(ByLastLoss(ROWS)), "b": loader(None)}
    with pytest.raises(ConfigurationError, match="ByLastLoss must be the sampler of the only training loader, got 2"):
        run(None, module=Both(), data=data)


def test_overfitting_is_refused_since_it_replaces_the_sampler() -> None:
    with pytest.raises(ConfigurationError, match=r"ByLastLoss must draw the rows itself, got Trainer\(overfit_bat"):
        run(ByLastLoss(ROWS), overfit_batches=2)
    done = trainer(overfit_batches=2)
    done.fit(Classifier(), DataLoader(Rows(rows=ROWS), SIZE))


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"limit_train_batches": 0.5}, {"max_steps": 3}], ids=str)
def test_short_runs(settings: dict[str, Any]) -> None:
    sampler = ByLastLoss(ROWS)
    run(sampler, **settings)
    assert sampler.updates > 0


def test_a_dataset_that_changed_its_length(tmp_path: Path) -> None:
    run(ByLastLoss(ROWS), ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
    shorter = DataLoader(Rows(rows=ROWS - 1), SIZE, sampler=ByLastLoss(ROWS - 1))
    with pytest.raises(ConfigurationError, match=r"the dataset must have the length that the checkpoint holds \(52\)"):
        run(None, data=shorter, ckpt=tmp_path / "last.ckpt", max_epochs=3)
    with pytest.raises(ConfigurationError, match=r"as many rows as the dataset of the loader \(52\), got 51"):
        run(ByLastLoss(ROWS - 1))


def test_a_checkpoint_without_a_sampler_starts_one_afresh(tmp_path: Path) -> None:
    torch.manual_seed(1)
    done = trainer(ModelCheckpoint(tmp_path, save_last=True), enable_checkpointing=True)
    done.fit(Classifier(), DataLoader(Rows(rows=ROWS), SIZE))
    sampler = ByLastLoss(ROWS)
    run(sampler, ckpt=tmp_path / "last.ckpt", max_epochs=3)
    assert sampler.updates == 7


def test_rows_that_the_collate_function_adds() -> None:
    def twice(items: Any) -> Any:
        batch = torch.utils.data.default_collate(items)
        return [torch.cat([part, part]) for part in batch]

    with pytest.raises(RowIdError, match="Row ids must be one per row, got 8 drawn for a batch of 16 rows"):
        run(None, data=loader(ByLastLoss(ROWS), collate_fn=twice))


def test_a_sampler_that_learns_nothing_does_not_mind_them() -> None:
    def twice(items: Any) -> Any:
        return [torch.cat([part, part]) for part in torch.utils.data.default_collate(items)]

    done = trainer()
    done.fit(Classifier(), loader(Plain(ROWS), collate_fn=twice))


class ByItself(Base):
    """Optimises by hand."""

    def __init__(self, *, tells: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.tells = tells

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(losses.mean())
        optimizer.step()
        return {"loss": losses.mean(), "sample_loss": losses.detach()} if self.tells else None


def test_manual_optimisation_returns_its_losses() -> None:
    sampler = ByLastLoss(ROWS)
    run(sampler, module=ByItself(tells=True))
    assert sampler.updates == 14
    with pytest.raises(TrainingStepContractError, match='ByItself.training_step must return "sample_loss" of shape'):
        run(ByLastLoss(ROWS), module=ByItself(tells=False))
    with pytest.raises(TrainingStepContractError, match="the weights of Weighted, got manual"):
        run(Weighted(ROWS), module=ByItself(tells=True))


class ByReward(ByLastLoss):
    needs = frozenset({"success"})  # type: ignore[assignment]

    def learn(self, ids: Tensor, signals: Any) -> None:
        self.heard.append((signals["success"].tolist(), signals["attempts"].tolist()))


class Rewarded(Classifier):
    high = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        reward = torch.tensor([[0.0, self.high, torch.nan, 0.5]]).expand(len(batch[0]), -1)
        return {"loss": super().training_step(batch, batch_idx), "reward": reward}


def test_rewards_that_the_step_returns_are_successes() -> None:
    sampler = ByReward(ROWS)
    run(sampler, module=Rewarded(), max_epochs=1)
    assert sampler.heard[0] == ([1.5] * 8, [3.0] * 8)
    module = Rewarded()
    module.high = 2.0
    with pytest.raises(ArgumentError, match=r"ByReward.reward must be in \[0, 1\] to be counted as success, got 2."):
        run(ByReward(ROWS), module=module)


def test_without_rewards_success_is_a_right_class() -> None:
    class Keeps(Classifier):
        right: list[Tensor]

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            with torch.no_grad():
                self.right = [*getattr(self, "right", []), self(batch[0]).argmax(dim=1) == batch[1]]

    sampler, module = ByReward(ROWS), Keeps()
    run(sampler, module=module)
    assert len(sampler.heard) == 14
    for (success, attempts), right in list(zip(sampler.heard, module.right, strict=True))[1:]:
        assert success == right.double().tolist()
        assert set(attempts) == {1.0}


def test_a_worker_that_dies_loses_nothing() -> None:
    class Dies(Rows):
        def __getitem__(self, position: int) -> Any:
            if torch.utils.data.get_worker_info() is not None and self.deadly:
                os._exit(1)
            return super().__getitem__(position)

    data = Dies(rows=ROWS)
    data.deadly = True
    sampler, module = ByLastLoss(ROWS), Classifier()
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        run(None, module=module, data=DataLoader(data, SIZE, sampler=sampler, num_workers=1))
    assert not sampler.fed
    data.deadly = False
    run(None, module=module, data=DataLoader(data, SIZE, sampler=sampler, num_workers=1))
    assert sampler.updates == 14


def saves_at(folder: Path, hook: str, step: int) -> pl.Callback:
    """A callback of the user's that saves a checkpoint."""

    class Saves(pl.Callback):
        pass

    def save(self: Any, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == step:
            trainer.save_checkpoint(folder / "mine.ckpt")

    setattr(Saves, hook, save)
    return Saves()


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_batch_start", "on_before_optimizer_step"])
@pytest.mark.parametrize("step", [3, 7, 10])
def test_checkpoints_of_other_callbacks_hold_the_place_too(hook: str, step: int, tmp_path: Path) -> None:
    whole, journal = run(ByLastLoss(ROWS), saves_at(tmp_path, hook, step), max_epochs=3)
    again, rest = run(ByLastLoss(ROWS), ckpt=tmp_path / "mine.ckpt", max_epochs=3)
    assert rest.ids == journal.ids[step:]
    assert same(weights_of(again), weights_of(whole))


def test_an_epoch_that_is_stopped_early_is_over(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    run(ByLastLoss(ROWS), keep, enable_checkpointing=True, max_steps=10)
    sampler = ByLastLoss(ROWS)
    _, rest = run(sampler, ckpt=tmp_path / "last.ckpt", max_epochs=3)
    assert len(rest.ids) % 7 == 0
    assert rest.ids


def test_a_loader_that_is_set_up_twice_leaves_nothing_behind() -> None:
    module, sampler = Classifier(), ByLastLoss(ROWS)
    data = loader(sampler)
    done, _ = run(None, module=module, data=data, reload_dataloaders_every_n_epochs=1, max_epochs=3)
    assert not {"training_step"} & set(vars(module))
    assert not {"process_dataloader", "batch_to_device"} & set(vars(done.strategy))
    assert type(data.batch_sampler) is BatchSampler
    run(None, data=data)
    assert sampler.updates == 21 + 14


def test_the_learning_rate_finder_goes_before() -> None:
    class Rated(Classifier):
        lr = 0.02

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    data = loader(ByLastLoss(ROWS))
    done = trainer()
    module = Rated()
    pl.tuner.Tuner(done).lr_find(module, data, num_training=5)
    done.fit(module, data)
    assert done.global_step == 14


@pytest.mark.parametrize("skipped", [{0}, {1, 4}])
@pytest.mark.parametrize("kind", [ByLastLoss, "reward"])
def test_steps_may_skip_batches(kind: Any, skipped: set[int]) -> None:
    class Skips(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in skipped else super().training_step(batch, batch_idx)

    sampler = ByReward(ROWS) if kind == "reward" else kind(ROWS)
    run(sampler, module=Skips(), max_epochs=1)
    # The first look at the classes is a run of its own, with the index of the batch to come: here, one that is skipped.
    unseen = kind == "reward" and 1 in skipped
    assert sampler.updates == 7 - len(skipped) - unseen


@pytest.mark.parametrize("skipped", [{0}, {1, 4}])
def test_steps_that_return_rewards_may_skip_batches(skipped: set[int]) -> None:
    class Skips(Rewarded):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in skipped else super().training_step(batch, batch_idx)

    class Raw(ByLastLoss):
        needs = frozenset({"reward"})  # type: ignore[assignment]

        def learn(self, ids: Tensor, signals: Any) -> None:
            self.heard.append((ids.tolist(), signals["reward"].tolist()))

    sampler = Raw(ROWS)
    _, journal = run(sampler, module=Skips(), max_epochs=1)
    assert [ids for ids, _ in sampler.heard] == [ids for at, ids in enumerate(journal.ids) if at not in skipped]
    with pytest.raises(TrainingStepContractError, match='Classifier.training_step must return "reward" of shape'):
        run(Raw(ROWS))


def test_losses_that_nothing_weighs_may_be_detached() -> None:
    class Detached(Classifier):
        kept: list[list[float]]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            if self.training and torch.is_grad_enabled():
                self.kept = [*getattr(self, "kept", []), losses.tolist()]
            return {"loss": losses.mean(), "sample_loss": losses.detach()}

    sampler, module = ByLastLoss(ROWS), Detached()
    run(sampler, module=module, max_epochs=1)
    assert [heard for _, heard in sampler.heard] == module.kept[-7:]
    with pytest.raises(TrainingStepContractError, match="a 'sample_loss' without a gradient"):
        run(Weighted(ROWS), module=Detached())


def test_a_batch_sampler_without_a_length_or_a_size() -> None:
    class Bare:
        __slots__ = ("rows",)

        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def __iter__(self) -> Any:
            return iter(BatchSampler(self.rows, SIZE, drop_last=False))

    sampler = ByLastLoss(ROWS)
    done, journal = run(None, data=DataLoader(Rows(rows=ROWS), batch_sampler=Bare(sampler)))
    assert done.global_step == 14
    assert [ids for ids, _ in sampler.heard] == journal.ids


def test_what_the_sampler_has_no_use_for_is_left_alone() -> None:
    class Counts(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "correct": torch.tensor(5), "reward": "none"}

    sampler = ByLastLoss(ROWS)
    run(sampler, module=Counts())
    assert sampler.updates == 14
    with pytest.raises(
        TrainingStepContractError, match=r'must return "correct" of shape .*, got shape \(\) for 8 rows'
    ):
        run(ByReward(ROWS), module=Counts())


@pytest.mark.parametrize("kind", ["list", "array", "tensors"])
def test_rewards_may_come_as_lists_and_arrays(kind: str) -> None:
    class Listed(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            reward = [[1.0, 0.0, 0.5]] * len(batch[0])
            made = {"list": reward, "array": torch.tensor(reward).numpy(), "tensors": [torch.tensor(reward[0])] * 8}
            return {"loss": super().training_step(batch, batch_idx), "reward": made[kind][: len(batch[0])]}

    sampler = ByReward(ROWS)
    run(sampler, module=Listed(), max_epochs=1)
    assert sampler.heard[0] == ([1.5] * 8, [3.0] * 8)


def test_a_sampler_is_for_training_alone() -> None:
    sampler = ByLastLoss(ROWS)

    class Validates(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with pytest.raises(ConfigurationError, match="ByLastLoss must draw for training alone"):
        trainer(num_sanity_val_steps=1).fit(Validates(), loader(sampler), loader(sampler))


def test_more_workers_than_before_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(ByLastLoss(ROWS), ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=3), enable_checkpointing=True)
    with caplog.at_level("INFO", logger="lightning_fabric.utilities.rank_zero"):
        run(None, data=loader(ByLastLoss(ROWS), num_workers=1), ckpt=tmp_path / "last.ckpt", max_epochs=3)
    assert "ByLastLoss goes on with workers that draw further ahead" in caplog.text


def test_ids_of_the_batch_must_be_rows() -> None:
    class Beyond(Rows):
        def __getitem__(self, position: int) -> Any:
            return (*super().__getitem__(position), position + 1)

    class Three(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch[:2], batch_idx)

    with pytest.raises(
        RowIdError, match=r"The batch entry 2 must hold ids in \[0, 52\), the rows of ByLastLoss, got 52"
    ):
        run(None, module=Three(), data=DataLoader(Beyond(rows=ROWS), SIZE, sampler=ByLastLoss(ROWS, id_key=2)))
