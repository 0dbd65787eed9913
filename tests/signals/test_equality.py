"""Are two tensors alike, in any layout?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lightning_select.signals.equality import same_values
from lightning_select.signals.scoring import StepRunner
from tests.modules import Base, features

DENSE = torch.eye(4) + torch.ones(4, 4).triu(2)
MAKES: dict[str, Any] = {
    "strided": lambda x: x.clone(),
    "coordinates": lambda x: x.to_sparse(),
    "rows": lambda x: x.to_sparse_csr(),
    "columns": lambda x: x.to_sparse_csc(),
    "blocks of rows": lambda x: x.to_sparse_bsr((2, 2)),
    "blocks of columns": lambda x: x.to_sparse_bsc((2, 2)),
    "nested": lambda x: torch.nested.nested_tensor([x[0, :2], x[1, :3]]),
    "jagged": lambda x: torch.nested.nested_tensor([x[0, :2], x[1, :3]], layout=torch.jagged),
}
quiet = pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta", "ignore:The PyTorch API of nested")


@quiet
@pytest.mark.parametrize("kind", MAKES)
def test_numbers_are_compared_in_every_layout(kind: str) -> None:
    make = MAKES[kind]
    assert same_values(make(DENSE), make(DENSE))
    assert not same_values(make(DENSE), make(2 * DENSE))
    for other in set(MAKES) - {kind}:
        assert not same_values(make(DENSE), MAKES[other](DENSE))


@quiet
@pytest.mark.parametrize("kind", ["nested", "jagged"])
def test_nested_tensors_of_other_lengths_differ(kind: str) -> None:
    layout = {"layout": torch.jagged} if kind == "jagged" else {}
    short, long, more = (
        torch.nested.nested_tensor([torch.ones(size) for size in sizes], **layout)
        for sizes in ((2, 3), (2, 4), (2, 3, 1))
    )
    assert not same_values(short, long)
    assert not same_values(short, more)


@quiet
@pytest.mark.parametrize("kind", ["nested", "jagged"])
def test_a_module_may_hold_a_nested_tensor(kind: str) -> None:
    class Holds(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("parts", MAKES[kind](DENSE), persistent=False)

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch[0]), batch[1])

    module = Holds()
    assert StepRunner(module, None, module.training_step).measure(features(), {"loss"}).loss.isfinite().all()
