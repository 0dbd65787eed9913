"""Memory runs out in the scoring pass: smaller pieces, then a clear stop. In the user's own step it is the user's."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.errors import ReferenceModelError, ScoringMemoryError
from lightning_select.scores.grad_norm import GradNorm
from lightning_select.scores.loss import Loss
from lightning_select.scores.nuclear_norm import NuclearNorm
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.base import Signals
from lightning_select.signals.pieces import Room, joined
from lightning_select.signals.scoring import StepRunner
from tests.faults.traces import differences, picture, process
from tests.fitting import fit, same, trainer, weights_of
from tests.modules import CLASSES, FEATURES, SCENARIOS, Base, Classifier, FusedWithStep, Scenario

SEPARATE = [scenario for scenario in SCENARIOS if scenario.separate]


class Full:
    """So many rows fit into memory; everything larger is refused, amid the pass."""

    def __init__(self, rows: int) -> None:
        self.rows, self.seen = rows, []

    def __call__(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
        count = len(inputs[0])
        self.seen.append(count)
        if not module.training and count > self.rows:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {count} rows.\nAnd more words.")


def tight(kind: type[Base], rows: int) -> Base:
    """A module whose forward pass has room for so many rows, noticed after its first layer ran."""
    torch.manual_seed(1)
    module = kind()
    last = [part for part in module.modules() if not list(part.children())][-1]
    last.register_forward_hook(room := Full(rows))
    module.room = [room]
    return module


def runner_of(module: Base, **kwargs: Any) -> StepRunner:
    return StepRunner(module, trainer(), module.training_step, **kwargs)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("scenario", SEPARATE, ids=lambda scenario: scenario.name)
def test_pieces_say_what_the_whole_batch_says(scenario: Scenario, rows: int) -> None:
    names = {"loss", "logits", "targets", "hidden"}
    batch = scenario.batch(rows=7)
    torch.manual_seed(1)
    whole = runner_of(scenario.module()).measure(batch, names)
    found = runner_of(tight(scenario.module, rows)).measure(batch, names)
    assert found.measured == whole.measured
    ratio = found.loss / whole.loss  # of a sum over the batch, all rows have one scale
    torch.testing.assert_close(ratio, ratio[:1].expand(7))
    for name in set(found.measured) - {"loss"}:
        torch.testing.assert_close(getattr(found, name), getattr(whole, name))


class Chatty(Classifier):
    """A sum over the rows, whose scale depends on their number."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")


@pytest.mark.parametrize("kind", [Classifier, Chatty, FusedWithStep])
@pytest.mark.parametrize("room", [1, 3, 5])
def test_a_fit_selects_the_same_rows(kind: type[Base], room: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    torch.manual_seed(1)
    plain = fit(kind(), BatchSelection(Loss(), TopK(), keep=0.5))
    caplog.clear()
    module = tight(kind, room)
    before, here = picture(module, plain, plain.train_dataloader), process()
    ours = fit(module, BatchSelection(Loss(), TopK(), keep=0.5))
    assert same(weights_of(plain), weights_of(ours))
    said = [record.message for record in caplog.records if "memory ran out" in record.message]
    sizes = [8, 4, 2, 1]
    assert len(said) == sum(size > room for size in sizes)  # once for each size that did not fit, in the whole fit
    assert said[-1].startswith(f"{kind.__name__}: memory ran out while")
    # The size that fitted is kept: no pass over more rows was tried after the first batch.
    first = module.room[0].seen
    assert max(first[len(first) // 2 :]) <= 4
    assert not [
        line for line in differences(before, picture(module, plain, plain.train_dataloader)) if "room" not in line
    ]
    assert process()["function modes"] == here["function modes"] == []


class Words(Base):
    """Rows of words, some of which count; each of those below has a ``loss`` whose divisor depends on which it sees."""

    def training_step(self, batch, batch_idx):
        x, labels = batch
        return self.loss(self(x), labels, labels >= 0)


class MaskedMean(Words):
    def loss(self, logits, labels, mask):
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        return (losses * mask).sum() / mask.sum()


class CutMean(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits[mask], labels[mask])


class CutSum(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits[mask], labels[mask], reduction="sum") / mask.sum()


class CutTotal(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits[mask], labels[mask], reduction="sum")


class IgnoredTotal(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="sum")


class CutError(Words):
    """A mean over what a mask lets through, of which a piece may have nothing."""

    def loss(self, logits, labels, mask):
        return F.mse_loss(logits[mask], F.one_hot(labels[mask], CLASSES).float())


class SometimesMore(Words):
    """Another term where a batch has a row of many words."""

    def loss(self, logits, labels, mask):
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        loss = (losses * mask).sum() / mask.sum()
        return loss + 1e-6 * logits.square().mean() if mask.all(dim=1).any() else loss


class ClassWeights(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits.transpose(1, 2), labels, torch.tensor([0.1, 1.0, 3.0, 9.0]))


class CutClassWeights(Words):
    def loss(self, logits, labels, mask):
        return F.cross_entropy(logits[mask], labels[mask], torch.tensor([0.1, 1.0, 3.0, 9.0]))


def words(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row ``i`` has one or five words that count, in turns of three rows."""
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(0, CLASSES, (rows, 5), generator=g)
    short = torch.arange(rows) // 3 % 2 == 0
    labels[short, 1:] = -100
    return torch.randn(rows, 5, FEATURES, generator=g), labels


@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "kind",
    [MaskedMean, CutMean, CutSum, CutTotal, IgnoredTotal, ClassWeights, CutClassWeights],
    ids=lambda k: k.__name__,
)
def test_a_divisor_that_depends_on_the_rows_is_one_for_all_pieces(kind: type[Words], room: int) -> None:
    batch = words(rows=12)
    torch.manual_seed(1)
    whole = runner_of(kind()).measure(batch, {"loss"}).loss
    runner = runner_of(tight(kind, room))
    for _ in range(2):  # the second batch needs no probe
        ratio = runner.measure(batch, {"loss"}).loss / whole
        torch.testing.assert_close(ratio, ratio[:1].expand(12))


@pytest.mark.parametrize("kind", [MaskedMean, CutMean, CutError, IgnoredTotal, ClassWeights], ids=lambda k: k.__name__)
@pytest.mark.parametrize("empty", [slice(0, 2), slice(4, 8), slice(0, 8)], ids=["first", "last", "all but some"])
def test_a_piece_in_which_nothing_counts(kind: type[Words], empty: slice) -> None:
    """Its rows have no loss, as in the whole batch; the others have one scale."""
    x, labels = words(rows=10)
    labels[empty] = -100
    counts = (labels >= 0).any(dim=1)
    torch.manual_seed(1)
    whole = runner_of(kind()).measure((x, labels), {"loss"}).loss
    found = runner_of(tight(kind, 2)).measure((x, labels), {"loss"}).loss
    assert found[~counts].eq(0).all()
    ratio = found[counts] / whole[counts]
    torch.testing.assert_close(ratio, ratio[:1].expand(len(ratio)))


def _cross_entropies(module: Base, batch: Any) -> torch.Tensor:
    with torch.no_grad():
        return F.cross_entropy(module(batch[0]), batch[1], reduction="none")


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize("form", ["(l / len(l)).sum()", "l @ w", "batchmean"])
def test_a_mean_that_is_written_as_a_sum_is_one_in_pieces_too(form: str, room: int) -> None:
    class Written(Classifier):
        def training_step(self, batch, batch_idx):
            logits, targets = self(batch[0]), batch[1]
            if form == "batchmean":
                one_hot = F.one_hot(targets, CLASSES).float()
                return F.kl_div(logits.log_softmax(-1), one_hot, reduction="batchmean")
            losses = F.cross_entropy(logits, targets, reduction="none")
            weights = torch.full((len(losses),), 1 / len(losses))
            return losses @ weights if form == "l @ w" else (losses / len(losses)).sum()

    batch = Scenario(Classifier).batch(rows=7)
    runner = runner_of(module := tight(Written, room))
    for _ in range(2):
        found = runner.measure(batch, {"loss"}).loss
        torch.testing.assert_close(found, _cross_entropies(module.train(), batch))


@pytest.mark.parametrize("room", [1, 2, 4])
def test_a_loss_of_texts_is_divided_by_their_lengths_in_pieces_too(room: int) -> None:
    class Spoken(Base):
        def training_step(self, batch, batch_idx):
            return self.losses(batch, "mean")

        def losses(self, batch: Any, reduction: str) -> torch.Tensor:
            x, targets, lengths = batch
            frames = self.net(x).log_softmax(-1).transpose(0, 1)
            return F.ctc_loss(frames, targets, torch.full((len(x),), x.shape[1]), lengths, reduction=reduction)

    g = torch.Generator().manual_seed(3)
    lengths = torch.arange(7) % 4 + 1
    batch = torch.randn(7, 12, FEATURES, generator=g), torch.randint(1, CLASSES, (7, 4), generator=g), lengths
    runner = runner_of(module := tight(Spoken, room))
    with torch.no_grad():
        expected = module.train().losses(batch, "none") / lengths
    for _ in range(2):
        torch.testing.assert_close(runner.measure(batch, {"loss"}).loss, expected)


@pytest.mark.parametrize("room", [1, 2, 5])
def test_a_divisor_that_is_never_zero_is_not_taken_from_a_piece_in_which_nothing_counts(room: int) -> None:
    class Guarded(Words):
        def loss(self, logits, labels, mask):
            losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            return (losses * mask).sum() / (mask.sum() + 1e-8)

    x, labels = words(rows=10)
    labels[0:2] = -100
    torch.manual_seed(1)
    whole = runner_of(Guarded()).measure((x, labels), {"loss"}).loss
    found = runner_of(tight(Guarded, room)).measure((x, labels), {"loss"}).loss
    assert found[:2].eq(0).all()
    ratio = found[2:] / whole[2:]
    torch.testing.assert_close(ratio, ratio[:1].expand(8))
    assert 0.1 < float(ratio[0]) < 10  # that of some piece


def test_a_sum_is_that_of_the_whole_batch() -> None:
    batch = Scenario(Chatty).batch(rows=7)
    torch.manual_seed(1)
    whole = runner_of(Chatty()).measure(batch, {"loss"}).loss
    for room in (1, 2, 5):
        torch.testing.assert_close(runner_of(tight(Chatty, room)).measure(batch, {"loss"}).loss, whole)


def test_a_table_beside_pieces_is_not_judged_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Eighth(Classifier):
        """A mean over eight rows, however many there are."""

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], reduction="sum") / 8

    caplog.set_level("INFO")
    table = torch.full((48,), 1.3)
    fit(Eighth, BatchSelection(ReducibleLoss(reference=table), TopK(), keep=0.5))
    assert "compares losses from a table" not in caplog.text
    fit(tight(Eighth, 2), BatchSelection(ReducibleLoss(reference=table), TopK(), keep=0.5))
    assert "ReducibleLoss compares losses from a table with those of a model that is scored in pieces" in caplog.text


@pytest.mark.parametrize(("room", "rule"), [(64, "predict the classes better"), (4, "know the data better")])
def test_a_reference_that_knows_nothing_is_refused_in_pieces_too(room: int, rule: str) -> None:
    torch.manual_seed(5)
    untrained = Classifier().eval()
    with pytest.raises(ReferenceModelError, match=f"ReducibleLoss.reference must {rule}"):
        fit(tight(Classifier, room), BatchSelection(ReducibleLoss(reference=untrained), TopK(), keep=0.5))


def test_the_predictions_of_pieces_are_not_put_together_to_judge_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are what did not fit into memory."""
    asked: list[Any] = []
    monkeypatch.setattr("lightning_select.signals.reference._Module.evidence", lambda self, batch: asked.append(batch))
    torch.manual_seed(5)
    reference = Classifier().eval()
    with torch.no_grad():
        reference.net[2].bias.zero_()
    with pytest.raises(ReferenceModelError, match="know the data better"):
        fit(tight(Classifier, 4), BatchSelection(ReducibleLoss(reference=reference), TopK(), keep=0.5))
    assert not asked


def test_a_table_beside_pieces_is_told_by_the_rank_that_scores_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chosen = BatchSelection(ReducibleLoss(reference=torch.full((48,), 1.3)), TopK(), keep=0.5)

    class SecondRank(pl.Callback):
        """Has the process speak as one that is not the first."""

        def on_train_start(self, trainer, pl_module):
            monkeypatch.setattr("lightning_select.distributed.rank", lambda: 1)
            monkeypatch.setitem(vars(rank_zero_only), "rank", 1)

    fit(tight(Classifier, 2), chosen, SecondRank())
    assert caplog.text.count("rank 1: ReducibleLoss compares losses from a table") == 1


@pytest.mark.parametrize("tight_one", ["module", "reference", "both"])
def test_a_model_and_its_reference_are_cut_alike(tight_one: str) -> None:
    """Their losses are compared, and a sum over a piece is another number than one over the batch."""
    reference = tight(Chatty, 2 if tight_one != "module" else 64)
    module = tight(Chatty, 4 if tight_one != "reference" else 64)
    reference.eval()
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Same(ReducibleLoss):
        def __call__(self, signals):
            seen.append((signals.loss, signals.reference_loss))
            return signals.loss

    with torch.no_grad():
        for one in (module, reference):
            for weight in one.parameters():
                weight.zero_()  # all rows have the loss log(CLASSES), times the rows of the sum
        reference.net[2].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1e-3]))

    def optimizer(self: Any) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    module.configure_optimizers = optimizer.__get__(module)
    chosen = BatchSelection(Same(reference=reference), TopK(), keep=0.5)
    chosen._judge = lambda *_, **__: None  # an untrained reference is what makes both losses known here
    fit(module, chosen)
    for ours, theirs in seen:
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=0.0)


def test_one_row_that_does_not_fit_is_a_clear_stop() -> None:
    module = tight(Classifier, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ScoringMemoryError, match=r"batch of 8 rows that does not, one row at a time neither") as caught:
        fit(module, BatchSelection(Loss(), TopK(), keep=0.5))
    assert "CUDA out of memory. Tried to allocate 1 rows." in str(caught.value)
    assert "And more words" not in str(caught.value)
    assert "Classifier: a scoring pass must fit into memory" in str(caught.value)
    assert same(before, module.state_dict())
    assert "log" not in vars(module)
    assert "training_step" not in vars(module)


@pytest.mark.parametrize("callback", [LossReweighting(torch.ones_like), BatchSelection(Loss(), TopK(), keep=0.5)])
def test_the_users_own_step_runs_out_of_memory(callback: Any) -> None:
    class Large(Classifier):
        def training_step(self, batch, batch_idx):
            if self.trainer.global_step == 3 and "log" not in vars(self):
                raise torch.OutOfMemoryError("CUDA out of memory, mine")
            return super().training_step(batch, batch_idx)

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory, mine"):
        fit(Large, callback)


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError("Unable to allocate 1 GiB"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_what_counts_as_out_of_memory(error: Exception, retried: bool) -> None:
    class Picky(Classifier):
        def forward(self, x):
            if len(x) > 4:
                raise error
            return super().forward(x)

    runner = runner_of(Picky())
    batch = Scenario(Classifier).batch(rows=8)
    if retried:
        assert runner.measure(batch, {"loss"}).loss.shape == (8,)
    else:
        with pytest.raises(type(error), match="memory|multiplied|allocate"):
            runner.measure(batch, {"loss"})


@pytest.mark.parametrize("score", [NuclearNorm(), GradNorm()])
def test_scores_that_read_the_output_head(score: Any) -> None:
    """The first batch goes in full, the later ones end at the loss; in pieces they say the same."""
    torch.manual_seed(1)
    plain = fit(Classifier(), BatchSelection(score, TopK(), keep=0.5))
    ours = fit(tight(Classifier, 4), BatchSelection(score, TopK(), keep=0.5))
    for name, value in weights_of(plain).items():
        torch.testing.assert_close(weights_of(ours)[name], value)


def test_a_reference_that_does_not_fit_is_asked_in_pieces() -> None:
    torch.manual_seed(2)
    taught = fit(Classifier, max_epochs=20).lightning_module
    before = weights_of(fit(Classifier, BatchSelection(ReducibleLoss(reference=taught), TopK(), keep=0.5)))
    taught.net[2].register_forward_hook(Full(2))
    taught.eval()
    assert same(before, weights_of(fit(Classifier, BatchSelection(ReducibleLoss(reference=taught), TopK(), keep=0.5))))


class Norm(Base):
    """BatchNorm behind a layer, and a step that refuses few rows before it comes there."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Linear(16, CLASSES))

    def training_step(self, batch, batch_idx):
        if len(batch[0]) < 3:
            raise ValueError("too few rows")
        return F.cross_entropy(self(batch[0]), batch[1])


def test_batch_norm_in_training_mode_goes_by_the_piece_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    module = Norm()

    class FullInTraining(Full):
        def __call__(self, module: nn.Module, inputs: Any, *rest: Any) -> None:
            if len(inputs[0]) > 4:
                raise torch.OutOfMemoryError("full")

    module.net[2].register_forward_hook(FullInTraining(4))  # after the statistics have moved
    state = {name: value.clone() for name, value in module.state_dict().items()}
    runner_of(module, train_mode=True).measure(Scenario(Norm).batch(rows=8), {"loss"})
    assert same(state, module.state_dict())
    assert "BatchNorm then goes by the rows of a piece" in caplog.text


def test_a_first_pass_that_failed_on_its_way_does_not_hide_what_the_next_one_writes() -> None:
    module = Norm()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    runner = runner_of(module, train_mode=True)
    for _ in range(3):
        runner.measure(Scenario(Norm).batch(rows=8), {"loss"})
    assert same(state, module.state_dict())


def test_ranks_that_wait_for_each_other_are_not_left_alone() -> None:
    module = tight(Classifier, 4)
    module.sync = nn.SyncBatchNorm(3)
    module.train()
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.eval()  # where the room is looked at
    with pytest.raises(ScoringMemoryError, match="cannot be scored in pieces: SyncBatchNorm in training mode"):
        runner_of(module, train_mode=True).measure(Scenario(Classifier).batch(rows=8), {"loss"})


def test_a_room_that_another_runner_found_small_is_no_way_around_that() -> None:
    """A reference that runs out of memory on one rank must not have the model there run more passes than elsewhere."""
    room = Room()
    module = Classifier()
    module.sync = nn.SyncBatchNorm(3)
    module.train()
    runner, batch = runner_of(module, train_mode=True, room=room), Scenario(Classifier).batch(rows=8)
    runner.measure(batch, {"loss"})
    runner_of(tight(Classifier, 4), room=room).measure(batch, {"loss"})
    assert room.rows == 4
    with pytest.raises(ScoringMemoryError, match="cannot be scored in pieces: SyncBatchNorm"):
        runner.measure(batch, {"loss"})


def test_a_piece_that_cannot_be_read_is_a_matter_of_memory() -> None:
    class Squeezed(Classifier):
        """Loses the axis of a single row."""

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1], reduction="none").squeeze().square().sum(-1)

    batch = Scenario(Classifier).batch(rows=12)
    assert runner_of(tight(Squeezed, 2)).measure(batch, {"loss"}).loss.shape == (12,)  # 12, 6, 3, 2
    with pytest.raises(ScoringMemoryError, match="batch of 12 rows that does not, and cannot be scored 1 at a time"):
        runner_of(tight(Squeezed, 1)).measure(batch, {"loss"})


class Few(Classifier):
    """Cannot do with two rows, and fails at times."""

    fails = False

    def training_step(self, batch, batch_idx):
        if len(batch[0]) < 3 or (self.fails and len(batch[0]) < 9):
            raise ValueError("too few rows")
        return F.cross_entropy(self(batch[0]), batch[1])


def test_a_step_that_fails_on_so_few_rows_is_a_matter_of_memory() -> None:
    batch = Scenario(Classifier).batch(rows=12)
    assert runner_of(tight(Few, 3)).measure(batch, {"loss"}).loss.shape == (12,)
    with pytest.raises(ScoringMemoryError, match="cannot be scored 2 at a time.*ValueError: too few rows") as caught:
        runner_of(tight(Few, 2)).measure(batch, {"loss"})
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_of_a_class_of_its_own_is_the_steps_own() -> None:
    class PrunedError(Exception):
        """Ends a trial."""

    class Pruning(Classifier):
        def training_step(self, batch, batch_idx):
            if len(batch[0]) < 12:
                raise PrunedError("trial 7")
            return super().training_step(batch, batch_idx)

    with pytest.raises(PrunedError, match="trial 7"):
        runner_of(tight(Pruning, 4)).measure(Scenario(Classifier).batch(rows=12), {"loss"})


def test_an_error_of_a_step_that_could_do_with_so_few_rows_is_its_own() -> None:
    batch = Scenario(Classifier).batch(rows=12)
    runner = runner_of(module := tight(Few, 3))
    runner.measure(batch, {"loss"})
    module.fails = True
    with pytest.raises(ValueError, match="too few rows"):
        runner.measure(batch, {"loss"})


def test_a_mask_that_one_piece_goes_without() -> None:
    logits, mask = torch.zeros(2, 3, 5), torch.tensor([[True, False, True]] * 2)
    found = joined([Signals(logits=logits), Signals(logits=logits, valid=mask)], 4)
    assert found.valid.tolist() == [[True] * 3] * 2 + [[True, False, True]] * 2


def test_signals_of_other_shapes_in_each_piece() -> None:
    parts = [Signals(logits=torch.zeros(2, tokens, 5)) for tokens in (3, 4)]
    with pytest.raises(ScoringMemoryError, match=r"signals of one shape, got \[\(2, 3, 5\), \(2, 4, 5\)\] as logits"):
        joined(parts, 4)


def test_only_what_all_pieces_tell_is_told() -> None:
    found = joined([Signals(loss=torch.ones(2), ids=torch.arange(2)), Signals(loss=torch.zeros(1))], 3)
    assert found.measured == ("loss",)
    assert found.loss.tolist() == [1.0, 1.0, 0.0]
