"""What other people's packages warn of is not ours to mend, and what they write goes to a directory of its own."""

import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """They warn when imported ..."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (yield)


def pytest_itemcollected(item: pytest.Item) -> None:
    """... and when used; only what is said of our own lines stays an error."""
    item.add_marker(pytest.mark.filterwarnings("ignore", "error:::lightning_select"))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that threads mostly wait for each other: ten times as long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
