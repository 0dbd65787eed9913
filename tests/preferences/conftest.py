"""What the tests of peer review share."""

from __future__ import annotations

import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of a wrong type are for the code to refuse; a type checker would come first."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
