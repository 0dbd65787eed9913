"""Coverage by simulation, and quantiles from a printed table."""

from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest

from lightning_select.app.compare.intervals import paired_interval, student_quantile


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 10, 2.228), (0.975, 100, 1.984), (0.995, 2, 9.925), (0.5, 7, 0.0)],
)
def test_quantiles_are_those_of_a_printed_table(share, freedom, value) -> None:
    assert student_quantile(share, freedom) == pytest.approx(value, abs=6e-4)


@pytest.mark.parametrize("count", [3, 5, 10])
@pytest.mark.parametrize(("kind", "least"), [("normal", 0.935), ("exponential", 0.85)])
def test_intervals_hold_the_true_mean(count, kind, least) -> None:
    """Of 1,000 samples; the standard error of a share of 95 % is .7 %. What skewness costs is in the module's text."""
    draw = np.random.default_rng(7)
    samples = draw.normal(size=(1000, count)) if kind == "normal" else draw.exponential(size=(1000, count)) - 1
    intervals = [paired_interval(list(sample)) for sample in samples]
    held = statistics.fmean(interval.low <= 0 <= interval.high for interval in intervals)
    assert least <= held < 0.985


def test_three_that_agree_in_sign_are_not_enough() -> None:
    """All 27 resamples of them are positive, so the percentile bootstrap would leave out zero."""
    differences = [0.1, 0.5, 0.9]
    assert min(map(statistics.fmean, itertools.product(differences, repeat=3))) > 0
    interval = paired_interval(differences)
    assert interval.low < 0 < interval.high
    assert interval.mean == pytest.approx(0.5)


def test_the_bootstrap_shows_where_differences_are_skewed() -> None:
    """Student's t is symmetric; on the side of the long tail the bootstrap reaches further."""
    differences = [*(0.01 * number for number in range(19)), 5.0]
    interval = paired_interval(differences)
    half = student_quantile(0.975, 19) * statistics.stdev(differences) / 20**0.5
    assert interval.low == pytest.approx(interval.mean - half)
    assert interval.high > interval.mean + 1.02 * half


def test_the_same_differences_have_the_same_interval_and_wider_at_a_higher_level() -> None:
    differences = [0.3, -0.2, 0.8, 0.1]
    assert paired_interval(differences) == paired_interval(differences)
    narrow, wide = paired_interval(differences), paired_interval(differences, level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_equal_differences_have_no_width() -> None:
    interval = paired_interval([0.25] * 3)
    assert (interval.low, interval.mean, interval.high) == (0.25, 0.25, 0.25)
