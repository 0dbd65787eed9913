from __future__ import annotations

import pytest

from lightning_select.errors import ConfigurationError
from tests.app.conftest import TINY, read_csv

OVERRIDES = [override for override in TINY if "data" not in override]
HALVED = "{max_loss:{callbacks.selection.keep:0.5}}"
EPOCHS = ("trainer.max_epochs=1", "trainer.max_steps=-1", "trainer.val_check_interval=1.0")


def compare(launch, data: str, *overrides: str) -> list[tuple[float, int]]:
    """Rows per step and steps of uniform and of a method that keeps half."""
    methods = ("task=compare", f"methods=[uniform,{HALVED}]", "seeds=1", "compare.equal_cost=false")
    folder = launch(*OVERRIDES, f"data._target_=tests.app.tiny.{data}", *methods, *overrides)
    return [(float(run["rows_per_step"]), int(run["steps"])) for run in read_csv(folder / "runs.csv")]


def test_the_default_of_the_data_class_is_the_size(launch, capsys) -> None:
    assert compare(launch, "Data") == [(8, 6), (8, 6)]
    assert "Notice" not in capsys.readouterr().out


def test_epochs_are_those_of_that_size(launch) -> None:
    assert compare(launch, "Data", *EPOCHS, "trainer.check_val_every_n_epoch=1") == [(8, 12), (8, 12)]


def test_without_such_an_argument_all_draw_the_same_batches(launch, capsys) -> None:
    assert compare(launch, "Fixed") == [(8, 6), (4, 6)]
    (notice,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Notice: ")]
    assert "tests.app.tiny.Fixed has no argument batch_size with a default, so all methods draw the same" in notice


def test_without_a_data_module_all_draw_the_same_batches(launch, capsys) -> None:
    module = ("data=none", "model._target_=tests.app.tiny.WithData", "task=compare", f"methods=[uniform,{HALVED}]")
    with pytest.raises(ConfigurationError, match="must evaluate at least once"):  # no validation data either
        launch(*OVERRIDES[1:], *module, "seeds=1")
    assert "Notice: there is no data module, so all methods draw the same batches" in capsys.readouterr().out


def test_an_argument_of_another_name(launch) -> None:
    assert compare(launch, "Named", "compare.batch_size_key=data.rows") == [(4, 6), (4, 6)]


def test_what_the_config_says_comes_first(launch) -> None:
    assert compare(launch, "Data", "+data.batch_size=16") == [(16, 6), (16, 6)]


@pytest.mark.parametrize(
    ("data", "overrides", "got"),
    [
        ("Asking", [], "data.batch_size"),
        ("Fixed", ["compare.batch_size_key=data.batch_size"], "data.batch_size"),
        ("Data", ["compare.batch_size_key=data.rows"], "data.rows"),
        ("Data", ["compare.batch_size_key=model.rows"], "model.rows"),
        ("Data", ["+data.batch_size=null"], "data.batch_size"),
        ("Data", ["+data.batch_size=2.5"], "data.batch_size"),
        ("Data", ["+data.batch_size=0"], "data.batch_size"),
    ],
)
def test_a_key_without_a_whole_number_is_an_error_that_says_what_to_write(launch, data, overrides, got) -> None:
    told = rf"compare\.batch_size_key must name a whole number of the config, got '{got}', .* new: \+{got}=32\. With "
    with pytest.raises(ConfigurationError, match=told + "compare.batch_size_key=null all methods draw the same"):
        compare(launch, data, *overrides)


def test_a_key_is_a_name(launch) -> None:
    with pytest.raises(ConfigurationError, match="compare.batch_size_key must be null or a key of the config, got 3"):
        compare(launch, "Data", "compare.batch_size_key=3")
