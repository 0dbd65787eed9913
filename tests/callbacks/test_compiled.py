"""Steps that are compiled in one piece (``fullgraph=True``), so that nothing of them may be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting, SelectionReport, Signals
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from tests.fitting import First, fit, loader, same, weights_of
from tests.modules import CLASSES, FEATURES, ROWS, Base, Opaque

FIXED = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.4, 1.6, 1.8, 2.0])
WHOLE: dict[str, Any] = {"backend": "eager", "fullgraph": True}


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Plain(Base):
    """Draws noise before anything that may be compiled, and counts its steps."""

    compiles = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
        self.register_buffer("steps", torch.zeros(()))
        self.loss = torch.compile(self.of_rows, **WHOLE) if self.compiles else self.of_rows

    def of_rows(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.steps += 1
        return self.loss(x + 0.1 * torch.randn_like(x), y)


class ByHand(Plain):
    def of_rows(self, x: Tensor, y: Tensor) -> Tensor:
        return (FIXED * F.cross_entropy(self.net(x), y, reduction="none")).mean()


class CutByHand(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step((batch[0][:4], batch[1][:4]), batch_idx)


class CallsCompiled(Plain):
    compiles = True


class Whole(Base):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])


class WholeByHand(Base):
    def training_step(self, batch, batch_idx):
        return (FIXED * F.cross_entropy(self(batch[0]), batch[1], reduction="none")).mean()


class WholeCutByHand(Base):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0][:4]), batch[1][:4])


KINDS = {"a function": (Plain, ByHand, CutByHand), "the module": (Whole, WholeByHand, WholeCutByHand)}


def compiled(kind: str) -> Any:
    torch.manual_seed(1)
    return CallsCompiled() if kind == "a function" else torch.compile(Whole(), **WHOLE)


def trained(module: Any, *callbacks: Any) -> dict[str, Tensor]:
    return weights_of(fit(module, *callbacks, data=loader(size=ROWS)))


@pytest.mark.parametrize("kind", KINDS)
def test_unit_weights_and_reports_train_like_no_callback(
    kind: str, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plain = trained(KINDS[kind][0])
    assert same(plain, trained(compiled(kind), LossReweighting(torch.ones_like)))
    assert caplog.text.count("it is trained uncompiled") == 1
    assert same(plain, trained(compiled(kind), SelectionReport(tmp_path)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_written_by_hand(kind: str) -> None:
    ours = trained(compiled(kind), LossReweighting(lambda losses: FIXED))
    for key, value in trained(KINDS[kind][1]).items():
        torch.testing.assert_close(ours[key], value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_scores_uncompiled_and_trains_compiled(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ours = trained(compiled(kind), BatchSelection(Loss(), First(), keep=4))
    assert caplog.text.count("it is scored uncompiled") == 1
    assert same(trained(KINDS[kind][2]), ours)


def test_an_error_of_the_step_itself_is_no_error_of_the_compiler() -> None:
    class Fails(Whole):
        def training_step(self, batch, batch_idx):
            if self.training and torch.is_grad_enabled() and len(batch[1]) == ROWS:
                raise RuntimeError("mine")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="mine"):
        fit(Fails, LossReweighting(torch.ones_like), data=loader(size=ROWS))


class Asked(Base):
    """Its selection step is compiled in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = torch.compile(self.of_rows, **WHOLE)

    def of_rows(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y, reduction="none")

    def training_step(self, batch, batch_idx):
        return Opaque.apply(self(batch[0]), batch[1])

    def selection_step(self, batch):
        return Signals(loss=self.losses(*batch))


def test_a_selection_step_may_be_compiled_in_one_piece() -> None:
    ours = trained(Asked, LossReweighting(lambda losses: FIXED))
    for key, value in trained(WholeByHand).items():
        torch.testing.assert_close(ours[key], value)
    ours = trained(Asked, BatchSelection(Loss(), First(), keep=4))
    for key, value in trained(WholeCutByHand).items():
        torch.testing.assert_close(ours[key], value)


class Elsewhere:
    @staticmethod
    @torch.compile(**WHOLE)
    def losses(logits, targets):
        return F.cross_entropy(logits, targets)


def test_what_is_compiled_out_of_sight_is_refused_in_words() -> None:
    class Hidden(Base):
        def training_step(self, batch, batch_idx):
            return Elsewhere.losses(self(batch[0]), batch[1])

    with pytest.raises(TrainingStepContractError, match=r"break its graph where it is watched, got \w+ from something"):
        fit(Hidden, LossReweighting(torch.ones_like), data=loader(size=ROWS))
