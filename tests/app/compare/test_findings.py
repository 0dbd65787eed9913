"""Every rule of a finding."""

from __future__ import annotations

import math
import statistics

import pytest

from lightning_select.app.compare.findings import compare_finals, compare_ratios

NEVER = math.inf
FAST = [(50.0, 100.0), (55.0, 112.0), (61.0, 120.0)]


@pytest.mark.parametrize(
    ("pairs", "kind", "told"),
    [
        (FAST, "better", "0.50 times, "),
        ([(other, one) for one, other in FAST], "worse", "2.00 times, "),
        (FAST[:1], "unclear", ""),
        ([(50.0, NEVER)] * 3, "better", "which uniform never reaches"),
        ([(50.0, NEVER)] * 2, "unclear", "which uniform never reaches"),
        ([(NEVER, 50.0)] * 3, "worse", "never gets there"),
        ([(NEVER, 50.0)] * 2, "unclear", "never gets there"),
        ([(NEVER, NEVER)] * 3, "unclear", "neither gets there"),
        ([(NEVER, NEVER), (NEVER, 50.0), (NEVER, 50.0)], "unclear", "gets there in 0 of 3 runs, uniform in 2"),
        ([*FAST, (NEVER, 100.0)], "unclear", "gets there in 3 of 4 runs, uniform in 4"),
        ([(50.0, 100.0), (200.0, 100.0), (90.0, 100.0)], "unclear", "0.97 times, "),
        ([(0.0, 100.0)] * 3, "unclear", ""),
        ([(50.0, 100.0)] * 3, "unclear", "0.50 times, 0.50 to 0.50"),
    ],
)
def test_ratios(pairs, kind, told) -> None:
    finding = compare_ratios(pairs, "times")
    assert finding.kind == kind
    assert finding.numbers.startswith(told)
    assert bool(finding.numbers) == bool(told)


@pytest.mark.parametrize(
    ("early", "kinds"),
    [
        ((False, False), ("better", "worse")),
        ((True, False), ("better", "unclear")),
        ((False, True), ("unclear", "worse")),
        ((True, True), ("unclear", "unclear")),
    ],
)
def test_who_is_there_at_the_first_evaluation_is_not_worse(early, kinds) -> None:
    slow = [(other, one) for one, other in FAST]
    assert (compare_ratios(FAST, "times", early=early).kind, compare_ratios(slow, "times", early=early).kind) == kinds


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [
        ([(0.9, 0.5), (0.91, 0.5), (0.92, 0.5)], ("better", "worse")),
        ([(0.1, 0.5), (0.11, 0.5), (0.12, 0.5)], ("worse", "better")),
        ([(0.9, 0.5), (0.4, 0.5), (0.6, 0.5)], ("unclear", "unclear")),
        ([(0.9, 0.5)], ("unclear", "unclear")),
        ([(math.nan, 0.5), (0.9, 0.5), (0.91, 0.5)], ("unclear", "unclear")),
        ([(0.5, 0.5)] * 3, ("unclear", "unclear")),
        ([(17 / 32, 16 / 32)] * 3, ("unclear", "unclear")),  # of 32 test rows one more, each time
    ],
)
def test_finals(pairs, kinds) -> None:
    assert (compare_finals(pairs, higher=True).kind, compare_finals(pairs, higher=False).kind) == kinds


@pytest.mark.parametrize(("runs", "quantile"), [(3, 4.303), (21, 2.086)])
def test_normal_differences_have_the_interval_of_student(runs, quantile) -> None:
    """Just inside and just outside of t times the standard error; quantiles from a printed table."""
    noise = [statistics.NormalDist().inv_cdf((number + 0.5) / runs) for number in range(runs)]
    half = quantile * statistics.stdev(noise) / math.sqrt(runs)
    for factor, kind in ((0.98, "unclear"), (1.02, "better")):
        pairs = [(factor * half + value, 0.0) for value in noise]
        assert compare_finals(pairs, higher=True).kind == kind
        ratios = [(math.exp((-factor * half - value) / 100), 1.0) for value in noise]
        assert compare_ratios(ratios, "times").kind == kind


def test_words() -> None:
    assert compare_ratios(FAST, "times").word == "helps"
    assert compare_ratios([(other, one) for one, other in FAST], "times").word == "hurts"
    assert compare_ratios(FAST[:1], "times").word == "no evidence"
