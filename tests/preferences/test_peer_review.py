"""Peer review through ``Trainer.fit``, against loops written by hand."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_select.errors import ArgumentError, BatchFormatError, ConfigurationError
from lightning_select.preferences.easy_first import EasyFirst
from lightning_select.preferences.pair_loss import PairLoss
from lightning_select.preferences.peer_select import PeerSelect
from tests.fitting import trainer
from tests.preferences.pairs_of import FEATURES, MODEL, SGD, Pairs, loader, one_model, review, same

PAIRS = Pairs()
NEVER = PeerSelect(noise=0.5, warm_up=1e9)
"""Reviews every pair and keeps all of them."""


class Watch(pl.Callback):
    """Batches as they came, and what was logged at the end of each epoch."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.told: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.told.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(module: Any, *callbacks: Any, data: Any = None, ckpt_path: Any = None, **kwargs: Any) -> Watch:
    watch = Watch()
    trainer(watch, *callbacks, **kwargs).fit(module, loader(PAIRS) if data is None else data, ckpt_path=ckpt_path)
    return watch


def margin(model: nn.Module, pairs: Any) -> torch.Tensor:
    return model(pairs["chosen"]) - model(pairs["rejected"])


def by_hand(
    batches: list[Any],
    select: Any,
    review_by: str = "peer",
    accumulate: int = 1,
    clip: float | None = None,
    per_epoch: int = 5,
) -> list[nn.Module]:
    """Both models after a loop in plain Python."""
    models = [one_model(0), one_model(1)]
    optimizers = [SGD(model.parameters()) for model in models]
    for number, batch in enumerate(batches):
        epoch, place = divmod(number, per_epoch)
        chosen = []
        for mine in (0, 1):
            pairs = {name: values[mine::2] for name, values in batch.items()}
            reviewer = models[1 - mine if review_by == "peer" else mine]
            with torch.no_grad():
                sure = margin(reviewer, pairs).tolist()
            rate = 1 - select.noise * min(1.0, epoch / select.warm_up)
            count = math.ceil(rate * len(sure) - 1e-9)
            rows = sorted(sorted(range(len(sure)), key=lambda row: (-sure[row], row))[:count])
            chosen.append({name: values[rows] for name, values in pairs.items()})
        for model, pairs in zip(models, chosen, strict=True):
            (torch.nn.functional.softplus(-margin(model, pairs)).mean() / accumulate).backward()
        if (place + 1) % accumulate == 0 or place + 1 == per_epoch:
            for model, optimizer in zip(models, optimizers, strict=True):
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return models


@pytest.mark.parametrize("review_by", ["peer", "self"])
@pytest.mark.parametrize("select", [PeerSelect(0.4), PeerSelect(0.5, 2.0), PeerSelect(0.0)])
def test_it_trains_as_a_loop_by_hand(select: PeerSelect, review_by: Any) -> None:
    module = review(select=select, review=review_by)
    watch = fit(module, max_epochs=3)
    assert len(watch.batches) == 15
    for mine, theirs in zip(module.models, by_hand(watch.batches, select, review_by), strict=True):
        assert same(mine, theirs)


@pytest.mark.parametrize(("accumulate", "clip"), [(2, None), (1, 0.05), (3, 0.05)])
def test_accumulation_and_clipping_are_those_of_a_loop_by_hand(accumulate: int, clip: float | None) -> None:
    select = PeerSelect(0.4)
    module = review(select=select, accumulate=accumulate, clip=clip)
    watch = fit(module, max_epochs=2)
    for mine, theirs in zip(module.models, by_hand(watch.batches, select, "peer", accumulate, clip), strict=True):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)
    assert not same(module.models[0], by_hand(watch.batches, select)[0])


def noisy() -> nn.Module:
    """Draws random numbers and keeps statistics when it is trained."""
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 1))


@pytest.mark.parametrize("make", [MODEL, noisy])
def test_keeping_everything_is_plain_training_bit_for_bit(make: Any) -> None:
    """Reviews happen, at a keep rate of one, and leave no trace."""
    ends = []
    for select in (NEVER, PeerSelect(0.0)):
        module = review(models=make, select=select)
        torch.manual_seed(0)
        fit(module)
        ends.append(module)
    assert same(*ends)


def test_swapping_the_names_of_the_models_swaps_all_that_happens() -> None:
    class Swapped(DataLoader):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                order = torch.arange(len(batch["place"])).view(-1, 2).flip(1).flatten()
                yield {name: values[order] for name, values in batch.items()}

    module, other = review(seeds=(0, 1)), review(seeds=(1, 0))
    plain = loader(PAIRS)
    fit(module, data=plain)
    fit(other, data=Swapped(PAIRS, 16, sampler=loader(PAIRS).sampler))
    assert same(module.models[0], other.models[1])
    assert same(module.models[1], other.models[0])


def chosen(module: Any, batch: Any) -> list[list[int]]:
    margins = module._reviews(module._parts(batch))
    return [module.select(one, 5).tolist() for one in margins]


def shaken(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))


@pytest.mark.parametrize("learner", [0, 1])
def test_the_choice_depends_on_the_reviewer_alone(learner: int) -> None:
    batch = PAIRS.take(range(40))
    module = review(select=PeerSelect(0.5))
    before = chosen(module, batch)
    shaken(module.models[learner])
    assert chosen(module, batch)[learner] == before[learner]
    assert chosen(module, batch)[1 - learner] != before[1 - learner]


def test_no_gradient_reaches_the_reviewer() -> None:
    batch = PAIRS.take(range(16))
    for learner in (0, 1):
        module = review(select=PeerSelect(0.5, 0.0))
        for weight in module.models[1 - learner].parameters():
            weight.requires_grad_(False)
        parts = module._parts(batch)
        assert not module._reviews(parts)[learner].requires_grad
        module.loss(margin(module.models[learner], parts[learner])).backward()
        assert all(weight.grad is None for weight in module.models[1 - learner].parameters())
        assert all(weight.grad is not None for weight in module.models[learner].parameters())


def test_what_is_logged_is_what_happened() -> None:
    class All(pl.Callback):
        """Margins and choices before each step, by hand."""

        def __init__(self) -> None:
            self.kept: list[float] = []
            self.dropped: list[float] = []
            self.clean: list[bool] = []
            self.both = 0

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch != 1:
                return
            for mine in (0, 1):
                pairs = {name: values[mine::2] for name, values in batch.items()}
                with torch.no_grad():
                    sure, own = (margin(module.models[model], pairs) for model in (1 - mine, mine))
                rows = sure.argsort(descending=True)[:5].tolist()
                self.both += len(set(rows) & set(own.argsort(descending=True)[:5].tolist()))
                for row in range(8):
                    (self.kept if row in rows else self.dropped).append(float(sure[row]))
                self.clean += [not bool(pairs["flipped"][row]) for row in rows]

    watch_all = All()
    watch = fit(review(select=PeerSelect(0.4)), watch_all)
    first, last = watch.told
    assert first["train/kept"] == 1.0
    assert first["train/clean_kept"] == pytest.approx(0.6)
    assert "train/margin_dropped" not in first
    assert last["train/kept"] == pytest.approx(5 / 8)
    assert last["train/margin_kept"] == pytest.approx(sum(watch_all.kept) / len(watch_all.kept), rel=1e-5)
    assert last["train/margin_dropped"] == pytest.approx(sum(watch_all.dropped) / len(watch_all.dropped), rel=1e-5)
    assert last["train/clean_kept"] == pytest.approx(sum(watch_all.clean) / len(watch_all.clean))
    assert last["train/agreement"] == pytest.approx(watch_all.both / len(watch_all.kept))


def test_validation_tells_each_model_and_their_mean() -> None:
    module = review()
    pairs = Pairs(30, 0.0, seed=9)
    (told,) = trainer(max_epochs=1).validate(module, DataLoader(pairs, 30), verbose=False)
    batch = pairs.take(range(30))
    with torch.no_grad():
        one, other = (margin(model, batch) for model in module.models)
        mean = module(batch["chosen"]) - module(batch["rejected"])
    assert told["val/acc_1"] == pytest.approx(float((one > 0).float().mean()))
    assert told["val/acc_2"] == pytest.approx(float((other > 0).float().mean()))
    assert told["val/acc"] == pytest.approx(float((mean > 0).float().mean()))
    losses = [math.log1p(math.exp(-float(value))) for value in torch.cat([one, other])]
    assert told["val/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize(("interval", "decays"), [("step", 10), ("epoch", 2)])
def test_schedulers_step_as_asked(interval: Any, decays: int) -> None:
    rates: list[float] = []

    class Note(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            rates.extend(one.param_groups[0]["lr"] for one in trainer.optimizers)

    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
    fit(review(scheduler=schedule, interval=interval), Note())
    assert rates == pytest.approx([0.1 * 0.9**decays] * 2)


def test_a_shared_batch_is_learnt_by_both() -> None:
    module = review(select=PeerSelect(0.0), shared=True)
    fit(module, data=loader(PAIRS, streams=1), max_epochs=1)
    model = one_model(0)
    optimizer = SGD(model.parameters())
    for batch in loader(PAIRS, streams=1):
        optimizer.zero_grad()
        PairLoss()(margin(model, batch)).backward()
        optimizer.step()
    assert same(module.models[0], model)


class Save(ModelCheckpoint):
    def __init__(self, folder: Any) -> None:
        super().__init__(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)


# Lightning asks for the state before the step, which is not what resuming needs.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
@pytest.mark.parametrize("step", [4, 10, 14, 20, 26])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_one_without_a_break(
    step: int, workers: int, tmp_path: Any
) -> None:
    """Amid an epoch and at its end, with a curriculum, and optimizers and schedulers that remember."""

    def start(seeds: Any = (0, 1)) -> tuple[Any, Any]:
        schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
        module = review(seeds=seeds, select=PeerSelect(0.4), optimizer=torch.optim.AdamW, scheduler=schedule)
        return module, loader(PAIRS, curriculum=EasyFirst(0.5, 3), num_workers=workers)

    module, data = start()
    whole = fit(module, Save(tmp_path), data=data, max_epochs=3, enable_checkpointing=True)
    resumed, data = start((5, 6))
    rest = fit(resumed, data=data, max_epochs=3, ckpt_path=tmp_path / f"step={step}.ckpt")
    expected = [batch["place"].tolist() for batch in whole.batches[step // 2 :]]
    assert [batch["place"].tolist() for batch in rest.batches] == expected
    assert same(module, resumed)
    assert len({row for batch in whole.batches[5:10] for row in batch["place"].tolist()}) < 40


def test_the_curriculum_hears_the_reviewers_margins() -> None:
    class Sum(pl.Callback):
        def __init__(self) -> None:
            self.margins: list[list[float]] = [[] for _ in range(40)]

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            for mine in (0, 1):
                with torch.no_grad():
                    values = margin(module.models[1 - mine], {name: rows[mine::2] for name, rows in batch.items()})
                for row, value in zip(batch["place"][mine::2].tolist(), values.tolist(), strict=True):
                    self.margins[row].append(value)

    heard, data = Sum(), loader(PAIRS, curriculum=EasyFirst(0.5, 4))
    fit(review(), heard, data=data, max_epochs=1)
    sampler: Any = data.sampler
    assert all(len(values) == 2 for values in heard.margins)
    sampler.begin()
    torch.testing.assert_close(
        sampler.margins,
        torch.tensor([sum(one) / 2 for one in heard.margins], dtype=torch.float64),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seeds": (3, 3)}, r"PeerReview.models must differ, .* got the same weights twice \(seeds \(3, 3\)\)"),
        ({"models": [one_model(0), one_model(0)]}, "PeerReview.models must differ"),
        ({"review": "both"}, "PeerReview.review must be peer or self, got 'both'"),
        ({"interval": "batch"}, "PeerReview.interval must be step or epoch, got 'batch'"),
        ({"accumulate": 0}, "PeerReview.accumulate must be a whole number, at least 1, got 0"),
        ({"accumulate": True}, "PeerReview.accumulate must be"),
        ({"clip": 0.0}, "PeerReview.clip must be above 0, or None, got 0.0"),
        ({"clip": "1"}, "PeerReview.clip must be above 0, or None, got '1'"),
    ],
)
def test_what_is_out_of_range_is_told(given: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        review(**given)


@pytest.mark.parametrize("given", [{"select": PeerSelect(0.0)}, {"review": "self"}])
def test_two_models_alike_are_fine_where_none_reviews_the_other(given: Any) -> None:
    assert same(*review(seeds=(3, 3), **given).models)


def test_a_scheduler_that_waits_for_a_metric_is_refused() -> None:
    with pytest.raises(ArgumentError, match="PeerReview.scheduler must depend on the step alone"):
        fit(review(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))


def test_scaled_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = trainer(max_epochs=1)
    monkeypatch.setattr(runner.precision_plugin, "scaler", object(), raising=False)
    with pytest.raises(ConfigurationError, match="precision that needs no scaling of gradients, got 32-true"):
        runner.fit(review(), loader(PAIRS))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (DataLoader(PAIRS, 1), "must hold a pair for each of the two models, got 1"),
        (DataLoader(torch.utils.data.TensorDataset(torch.zeros(8, 6)), 4), "must be a mapping, got list"),
        (DataLoader([{"chosen": torch.zeros(6)} for _ in range(8)], 4), "chosen and rejected, got chosen"),
    ],
)
def test_what_is_no_batch_of_pairs_is_told(data: Any, told: str) -> None:
    with pytest.raises(BatchFormatError, match=told):
        fit(review(), data=data)
