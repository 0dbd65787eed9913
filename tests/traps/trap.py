"""What is said of one trap."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BOTH", "LIGHTNING", "TORCH", "Trap"]

LIGHTNING, TORCH, BOTH = "Lightning 2.6.6", "torch 2.13", "Lightning 2.6.6, torch 2.13"


@dataclass(frozen=True)
class Trap:
    """Something that others do and that a tool for data selection falls over.

    Attributes:
        number: Which one; numbers stay, so that they can be cited.
        what: What Lightning, torch or a peer does.
        stance: What we do about it.
        tests: Those that fail if it springs, as ``tests/file.py::test_name``.
        reason: Why it cannot occur, where no test can show that.
        seen: With which versions.
    """

    number: str
    what: str
    stance: str
    tests: tuple[str, ...] = ()
    reason: str = ""
    seen: str = LIGHTNING
