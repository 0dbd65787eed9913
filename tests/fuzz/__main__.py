"""Try many cases, and say how many passed: ``python -m tests.fuzz [cases]``, 10,000 if not said otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

DEFAULT = 10_000


class Counting:
    """Passed and failed, as pytest reports them."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.passed += report.when == "call" and report.passed
        self.failed += report.failed


def main(arguments: list[str]) -> int:
    os.environ["LIGHTNING_SELECT_FUZZ"] = arguments[0] if arguments else str(DEFAULT)
    counting = Counting()
    status = pytest.main([str(Path(__file__).parent), "-q", "-p", "no:cacheprovider"], plugins=[counting])
    from tests.fuzz.budget import TRIED

    for name, number in sorted(TRIED.items()):
        sys.stdout.write(f"{number:>7,} cases of {name}\n")
    sys.stdout.write(f"{sum(TRIED.values()):>7,} cases in all\n")
    sys.stdout.write(f"{counting.passed} passed, {counting.failed} failed\n")
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
