from __future__ import annotations

import dataclasses
from typing import Any

import jaxtyping
import pytest
import torch

import lightning_select
from lightning_select.errors import ArgumentError, ScoreError, SelectorError, WeightError
from lightning_select.testing import check_score, check_selector, check_weighting
from lightning_select.types import Selection
from tests.fitting import First
from tests.methods import METHODS, make

CHECKS: dict[str, Any] = {"score": check_score, "selector": check_selector, "weighting": check_weighting}


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_our_own_methods_pass(kind: str, name: str) -> None:
    CHECKS[kind](make(kind, name))


def negative_loss(signals: Any) -> torch.Tensor:
    return -signals.loss


def by_place(signals: Any) -> torch.Tensor:
    return torch.arange(float(signals.rows))


def inverse(losses: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + losses)


def test_functions_pass() -> None:
    check_score(negative_loss)
    check_weighting(inverse)


def test_scores_that_do_not_keep_their_promise() -> None:
    with pytest.raises(ScoreError, match=r"by_place must give every row its own score"):
        check_score(by_place)
    with pytest.raises(ScoreError, match=r"must return finite scores for finite signals, got \[-inf"):
        check_score(lambda signals: signals.loss * torch.nan)
    with pytest.raises(ScoreError, match=r"one floating point number for each of 8 rows"):
        check_score(lambda signals: signals.logits)

    @dataclasses.dataclass(frozen=True)
    class Greedy:
        needs = frozenset({"gradient"})

        def __call__(self, signals: Any) -> torch.Tensor:
            return signals.loss

    with pytest.raises(ArgumentError, match=r"Greedy.needs must be among loss, logits, .*, got gradient"):
        check_score(Greedy())


def test_selectors_that_do_not_keep_their_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Global(First):
        def __call__(self, scores, count, context):
            return Selection(torch.randperm(len(scores))[:count])

    class Short(First):
        def __call__(self, scores, count, context):
            return Selection(torch.arange(count - 1))

    with pytest.raises(ArgumentError, match=r"Global must draw from context.generator alone"):
        check_selector(Global())
    with pytest.raises(SelectorError, match=r"Short must return exactly 1 rows, got 0"):
        check_selector(Short())
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # or the type checker comes first
    with pytest.raises(ArgumentError, match=r"must have needs, with_replacement and a call"):
        check_selector(by_place)


def test_weightings_that_do_not_keep_their_promise() -> None:
    with pytest.raises(WeightError, match=r"not negative, got -"):
        check_weighting(lambda losses: -losses)
    with pytest.raises(WeightError, match=r"every row its own weight"):
        check_weighting(lambda losses: torch.arange(1.0, len(losses) + 1))


def test_a_weighting_that_says_it_is_normalised_and_is_not() -> None:
    class Same:
        normalised = True

        def __call__(self, losses: torch.Tensor) -> torch.Tensor:
            return torch.ones_like(losses)

    class Doubled(Same):
        def __call__(self, losses: torch.Tensor) -> torch.Tensor:
            return 2.0 * losses.isfinite()

    with pytest.raises(
        WeightError, match=r"Same must give .* a row with a loss of nan none, .* got a mean of 2 and 1\."
    ):
        check_weighting(Same())
    with pytest.raises(WeightError, match=r"Doubled must give .* weights of mean one .*, got a mean of 2 and 0\."):
        check_weighting(Doubled())


def test_public_names_exist_and_are_documented() -> None:
    for name in lightning_select.__all__:
        assert getattr(lightning_select, name).__doc__
