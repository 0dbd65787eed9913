from __future__ import annotations

import pytest
import torch

from lightning_select import distributed
from lightning_select.callbacks.gathering import Gathering
from lightning_select.errors import ConfigurationError


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """This rank, and one that always has as many rows; the sizes that were asked for."""
    asked: list[int] = []

    def largest(value: int, device: torch.device) -> int:
        asked.append(value)
        return value

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "largest", largest)
    monkeypatch.setattr(distributed, "gather_rows", lambda values, capacity: torch.zeros(2, capacity))
    return asked


def test_the_first_batch_settles_the_size(two_ranks: list[int]) -> None:
    gathering = Gathering("Me")
    for rows in (4, 4, 1):
        assert gathering.values(torch.zeros(rows)).shape == (8,)
    assert two_ranks == [4]
    with pytest.raises(ConfigurationError, match="Me must see its largest batch first .* got 5 rows .* of 4"):
        gathering.values(torch.zeros(5))


def test_a_run_that_goes_on_amid_an_epoch_may_begin_with_its_short_end(two_ranks: list[int]) -> None:
    gathering = Gathering("Me", amid=True)
    assert gathering.values(torch.zeros(1)).shape == (2,)
    gathering.next_epoch()
    for rows in (4, 4, 1):
        gathering.values(torch.zeros(rows))
    gathering.next_epoch()
    gathering.values(torch.zeros(4))
    assert two_ranks == [1, 4]
