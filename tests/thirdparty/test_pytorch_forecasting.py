"""Models of pytorch-forecasting: batches are (inputs, (target, weight)), losses are metrics of its own."""

import numpy as np
import pytest

pytest.importorskip("pytorch_forecasting")

import pandas as pd
from pytorch_forecasting import (
    DeepAR,
    NBeats,
    RecurrentNetwork,
    TemporalFusionTransformer,
    TimeSeriesDataSet,
)
from pytorch_forecasting.metrics import MAE, NormalDistributionLoss, QuantileLoss

from tests.thirdparty.harness import (
    Case,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
)

pytestmark = pytest.mark.slow

QUIET = {"learning_rate": 0.01, "log_interval": -1}


def series(*, ragged=False, known=True):
    random = np.random.RandomState(0)
    rows = [
        {"time": time, "group": str(group), "y": np.sin(time / 3 + group) + 0.1 * random.randn() + 2, "z": time % 5.0}
        for group in range(6)
        for time in range(30)
    ]
    extra = {"time_varying_known_reals": ["z"], "static_categoricals": ["group"]} if known else {}
    shorter = {"min_encoder_length": 3, "min_prediction_length": 2} if ragged else {}
    return TimeSeriesDataSet(
        pd.DataFrame(rows),
        time_idx="time",
        target="y",
        group_ids=["group"],
        max_encoder_length=8,
        max_prediction_length=4,
        time_varying_unknown_reals=["y"],
        **extra,
        **shorter,
    )


def case(build, dataset):
    def batches():
        loader = iter(dataset.to_dataloader(train=True, batch_size=8, num_workers=0))
        return [next(loader) for _ in range(3)]

    return Case(lambda: build(dataset), batches)


def transformer(dataset):
    return TemporalFusionTransformer.from_dataset(
        dataset, hidden_size=8, hidden_continuous_size=4, attention_head_size=1, loss=QuantileLoss(), **QUIET
    )


def deep_ar(dataset):
    return DeepAR.from_dataset(dataset, hidden_size=8, loss=NormalDistributionLoss(), **QUIET)


def n_beats(dataset):
    return NBeats.from_dataset(dataset, widths=[8, 8], backcast_loss_ratio=0.1, **QUIET)


def recurrent(dataset):
    return RecurrentNetwork.from_dataset(dataset, hidden_size=8, loss=MAE(), **QUIET)


CASES = {
    "temporal fusion": case(transformer, series()),
    "temporal fusion, ragged": case(transformer, series(ragged=True)),
    "deep ar": case(deep_ar, series()),
    "n-beats": case(n_beats, series(known=False)),
    "recurrent": case(recurrent, series()),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_unit_weights_change_nothing(case):
    check_unit_weights(case)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_selection_is_training_on_the_chosen_series(case):
    check_selection(case)


@pytest.mark.parametrize("name", ["temporal fusion", "recurrent"])
def test_row_losses_are_those_of_series_alone(name):
    check_row_losses(CASES[name])


@pytest.mark.parametrize("name", ["deep ar", "n-beats"])
def test_row_losses_are_those_of_series_alone_but_for_their_share(name):
    check_row_losses(CASES[name], mean=False)


def test_row_losses_are_found_where_series_differ_in_length():
    check_row_losses(CASES["temporal fusion, ragged"], independent=False, mean=False)  # it cannot take a series alone


def test_weighted_gradient_is_that_of_the_weighted_loss():
    check_weighted_gradient(CASES["temporal fusion"])
