"""Steps that empty their batch, and that it still can be looked at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import default_collate

from lightning_select import LossReweighting, SelectionReport
from tests.callbacks.test_sampler_feedback import ByReward
from tests.fitting import fit, loader, same, weights_of
from tests.modules import Base
from tests.samplers.toy import ByLastLoss

ROWS, SIZE = 32, 8


class TakesApart(Base):
    """Makes other reductions from the third batch on."""

    def training_step(self, batch, batch_idx):
        part, keys = (batch[0], "yx") if isinstance(batch[0], dict) else (batch, (1, 0))
        y, x = part.pop(keys[0]), part.pop(keys[1])
        z = self(x)
        loss = F.cross_entropy(z, y)
        return loss + F.multi_margin_loss(z, y) if batch_idx > 1 else loss


def nested(rows: list[Any]) -> Any:
    x, y = default_collate(rows)
    return [{"x": x, "y": y}, x]


def run(collate: Any, *callbacks: Any, sampler: Any = None) -> Any:
    data = loader(rows=ROWS, size=SIZE, shuffle=False, collate_fn=collate, sampler=sampler)
    return weights_of(fit(TakesApart, *callbacks, data=data, max_epochs=1))


@pytest.mark.parametrize("collate", [nested, None])
def test_a_batch_that_the_step_takes_apart_can_be_looked_at_again(collate: Any, tmp_path: Path) -> None:
    plain = run(collate)
    assert same(plain, run(collate, LossReweighting(torch.ones_like)))
    assert same(plain, run(collate, SelectionReport(folder=tmp_path)))


@pytest.mark.parametrize("collate", [nested, None])
@pytest.mark.parametrize("kind", [ByLastLoss, ByReward])
def test_a_sampler_hears_of_rows_of_such_batches(collate: Any, kind: Any) -> None:
    sampler = kind(ROWS)
    run(collate, sampler=sampler)
    assert [len(rows) for rows, _ in sampler.heard] == [SIZE] * (ROWS // SIZE)
