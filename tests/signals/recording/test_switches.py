"""What a step computes under its own `torch.no_grad` is a constant to its loss, in a scoring pass too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_select import BatchSelection
from lightning_select.selectors.top_k import TopK
from lightning_select.signals.recording.capture import Capture
from tests.fitting import fit
from tests.modules import Base


def in_a_block(scalar: Tensor) -> Tensor:
    with torch.no_grad():
        return 0.1 * scalar + 1


@torch.no_grad()
def decorated(scalar: Tensor) -> Tensor:
    return 0.1 * scalar + 1


def in_a_block_of_blocks(scalar: Tensor) -> Tensor:
    with torch.no_grad():
        with torch.enable_grad():
            scalar * 2
        with torch.no_grad():
            scalar * 2
        return 0.1 * scalar + 1


def as_it_was(scalar: Tensor) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        return 0.1 * scalar + 1


def set_back(scalar: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    scalar * 2
    torch.set_grad_enabled(before)
    return 0.1 * scalar + 1


@torch.set_grad_enabled(True)
def decorated_with_gradients(scalar: Tensor) -> Tensor:
    return 0.1 * scalar + 1


def beside_an_optimizer(scalar: Tensor) -> Tensor:
    weight = torch.nn.Parameter(torch.ones(1))
    torch.optim.SGD([weight], lr=0.1).step()
    return 0.1 * scalar + 1


def in_inference(scalar: Tensor) -> Tensor:
    with torch.inference_mode():
        return 0.1 * scalar + 1


def after_blocks(scalar: Tensor) -> Tensor:
    with torch.no_grad(), torch.enable_grad(), torch.set_grad_enabled(False):
        scalar * 2
    torch.set_grad_enabled(False)(in_a_block)(scalar)
    return 0.1 * scalar + 1


def inside_again(scalar: Tensor) -> Tensor:
    with torch.no_grad(), torch.enable_grad():
        return 0.1 * scalar + 1


CONSTANT = [in_a_block, decorated, in_a_block_of_blocks, in_inference]
FOLLOWED = [after_blocks, inside_again, as_it_was, set_back, decorated_with_gradients, beside_an_optimizer]


@pytest.mark.parametrize("scale", [*CONSTANT, *FOLLOWED], ids=lambda scale: scale.__name__)
def test_coefficients_are_those_of_training(scale: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)

    def loss() -> Tensor:
        mean = (x * 2).mean()
        return mean / scale(mean).clone()

    with Capture(gated=True) as training:
        trained = loss()
    (expected,) = training.coefficients(trained)
    with torch.no_grad(), Capture(connected=(True,)) as scoring:
        scored = loss()
    (found,) = scoring.coefficients(scored)
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, expected)


class KeepsAMean(Base):
    """Divides its loss by its running mean, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * loss)
        return loss / self.mean


def test_a_running_mean_of_the_loss_stays_a_plain_buffer() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def score(signals: Any) -> Tensor:
        with torch.no_grad():
            x, y = module.batch
            losses = F.cross_entropy(module.net(x), y, reduction="none")
            seen.append((signals.loss, losses / (0.9 * module.mean + 0.1 * losses.mean())))
        return signals.loss

    class Notes(KeepsAMean):
        batch: Any = None

        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            self.batch = batch
            return batch

    module = Notes()
    fit(module, BatchSelection(score, TopK(), keep=0.5), max_steps=4)
    assert len(seen) == 4
    for found, expected in seen:
        torch.testing.assert_close(found, expected)
    assert not module.mean.requires_grad
