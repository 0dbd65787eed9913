from __future__ import annotations

import pytest

from lightning_select.errors import ConfigurationError
from tests.app import tiny
from tests.app.conftest import TINY

WITHOUT_DATA = [override for override in TINY if "data" not in override]
OWN = [*WITHOUT_DATA, "model._target_=tests.app.tiny.Tuples"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=abc", r"seed must be a whole number in \[0, 4294967296\), got 'abc'"),
        ("seed=-1", r"seed must be a whole number in \[0, 4294967296\), got -1"),
        ("seed=1.5", r"seed must be a whole number in .*, got 1\.5"),
        ("threads=abc", "threads must be null or a whole number above 0, got 'abc'"),
        ("threads=0", "threads must be .*, got 0"),
        ("ckpt_path=/nope.ckpt", "ckpt_path must be null or a checkpoint that exists, got '/nope.ckpt'"),
        ("trainer.max_epochs=abc", r"trainer\.max_epochs must be null or a whole number, got 'abc'"),
        ("trainer.max_epochs=2.5", r"trainer\.max_epochs must be null or a whole number, got 2\.5"),
        ("trainer.max_steps=null", r"trainer\.max_steps must be a whole number, got None"),
        ("trainer.val_check_interval=often", r"trainer\.val_check_interval must be null or a number, got 'often'"),
        ("+trainer.limit_train_batches=few", r"trainer\.limit_train_batches must be null or a number, got 'few'"),
        ("+trainer.overfit_batches=null", r"trainer\.overfit_batches must be a number, got None"),
        ("+trainer.accumulate_grad_batches=null", r"trainer\.accumulate_grad_batches must be a whole number, got None"),
        ("+trainer.accumulate_grad_batches=0", r"trainer\.accumulate_grad_batches must be .* above 0, got 0"),
        ("compare.target=high", r"compare\.target must be null or a number, got 'high'"),
        ("compare.metric=null", r"compare\.metric must be the name of a metric, got None"),
    ],
)
@pytest.mark.parametrize("task", ["fit", "compare"])
def test_values_of_a_wrong_kind_are_told_before_anything_starts(launch_tiny, task, override, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        launch_tiny(f"task={task}", override)
    assert not tiny.ROWS_SEEN


def test_a_checkpoint_that_exists_is_taken(launch, capsys) -> None:
    overrides = [override for override in TINY if "enable_checkpointing" not in override]
    (checkpoint,) = launch(*overrides).rglob("*.ckpt")
    launch(*overrides, f"ckpt_path='{checkpoint}'", "trainer.max_steps=8", folder="on")
    assert "fit: 8 steps" in capsys.readouterr().out
    assert len(tiny.ROWS_SEEN) == 8


@pytest.mark.parametrize("task", ["fit", "compare"])
def test_who_gives_a_module_and_no_data_hears_of_the_digits(launch, capsys, task) -> None:
    with pytest.raises((KeyError, ConfigurationError), match=r"^0$|KeyError: 0"):
        launch(*OWN, f"task={task}", "methods=uniform", "seeds=1")
    told = capsys.readouterr().out
    assert told.startswith("Notice: tests.app.tiny.Tuples is trained on the bundled digits, batches of {'x', 'y', ")
    assert "data._target_=my.DataModule; a module with loaders of its own: data=none" in told


@pytest.mark.parametrize("overrides", [TINY, [*OWN, "data=digits"], [*OWN, "data.noise=0.1"], WITHOUT_DATA[1:]])
def test_who_chooses_data_hears_nothing(launch, capsys, overrides) -> None:
    if overrides[-1].startswith("data"):
        with pytest.raises(KeyError, match="0"):
            launch(*overrides)
    else:
        launch(*overrides)
    assert "Notice" not in capsys.readouterr().out
