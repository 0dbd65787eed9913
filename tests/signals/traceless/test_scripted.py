"""Modules of ``torch.jit``, whose mode and attributes are in C++."""

from __future__ import annotations

import array
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_select import BatchSelection, LossReweighting
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit, loader
from tests.modules import CLASSES, FEATURES, ROWS, Base, features

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.total = torch.zeros(1)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.total = self.total + 1
        self.mean = self.mean + x.mean()
        return x * 3 if self.training else x


class Scripted(Base):
    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)
        self.part = torch.jit.script(Counting())

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(self.part(batch[0])), batch[1])
        if self.fails:
            raise RuntimeError("mine")
        return loss


def held(module: Any) -> tuple[Any, ...]:
    return module.part.calls, module.part.total.item(), module.part.mean.item(), module.part.training


def test_rows_are_scored_in_eval_mode() -> None:
    seen = []

    def score(signals: Any) -> Tensor:
        seen.append(signals.loss.clone())
        return signals.loss

    torch.manual_seed(1)
    module = Scripted()
    net = {key: value.clone() for key, value in module.net.state_dict().items()}
    fit(module, BatchSelection(score, TopK(), keep=4), data=loader(rows=ROWS, size=ROWS, shuffle=False), max_epochs=1)
    x, y = features(rows=ROWS)
    torch.testing.assert_close(seen[0], F.cross_entropy(F.linear(x, net["weight"], net["bias"]), y, reduction="none"))
    assert module.part.training


def test_what_a_scripted_module_holds_is_put_back() -> None:
    plain, ours = (fit(Scripted, *own).lightning_module for own in ((), (LossReweighting(torch.ones_like),)))
    assert held(ours) == held(plain)


def test_it_is_put_back_after_an_error() -> None:
    module = Scripted()
    module.fails = True
    before = held(module)
    with pytest.raises(RuntimeError, match="mine"):
        fit(module, BatchSelection(lambda signals: signals.loss, TopK(), keep=4))
    assert held(module) == before


class Writing(Base):
    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.numbers = bytearray(b"\0"), array.array("i", [0])
        self.text, self.data = io.StringIO(newline="\r\n"), io.BytesIO()

    def training_step(self, batch, batch_idx):
        self.bytes[0] += 1
        self.numbers.append(1)
        self.text.write("a\n")
        self.data.write(b"a")
        return F.cross_entropy(self(batch[0]), batch[1])


def test_bytes_numbers_and_streams_are_put_back() -> None:
    plain, ours = (fit(Writing, *own).lightning_module for own in ((), (LossReweighting(torch.ones_like),)))
    assert (ours.bytes, ours.numbers) == (plain.bytes, plain.numbers)
    for one, other in ((ours.text, plain.text), (ours.data, plain.data)):
        assert (one.getvalue(), one.tell()) == (other.getvalue(), other.tell())
