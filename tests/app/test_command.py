from __future__ import annotations

import subprocess
import sys
import textwrap

import hydra
import pytest
import torch
from hydra.errors import HydraException

from lightning_select.app import main
from lightning_select.errors import ConfigurationError, SelectionError
from tests.app import tiny
from tests.app.conftest import TINY


def test_fit_trains_tests_and_says_what_came_out(launch_tiny, capsys) -> None:
    folder = launch_tiny("callbacks/selection=max_loss", "callbacks.selection.keep=0.5")
    told = capsys.readouterr().out
    assert "fit: 6 steps in " in told
    assert "test/acc 0." in told
    assert "val/acc 0." in told
    assert f"files in {folder}" in told
    assert "max_loss/" not in told


def test_without_a_test_step_fit_does_not_test(launch_tiny, capsys) -> None:
    launch_tiny("model._target_=tests.app.tiny.WithoutTest")
    told = capsys.readouterr().out
    assert "val/acc" in told
    assert "test/acc" not in told


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_a_module_may_bring_its_own_data(launch, capsys) -> None:
    overrides = [override for override in TINY[1:] if "data" not in override]
    launch(*overrides, "data=none", "model._target_=tests.app.tiny.WithData")
    assert "fit: 6 steps" in capsys.readouterr().out


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_recipe_is_chosen_with_and_without_the_plus(launch_tiny, plus) -> None:
    launch_tiny(f"{plus}callbacks/selection=max_loss", "+callbacks.note._target_=tests.app.tiny.Note")
    assert [len(ids) for ids in tiny.NOTES[0][1:]] == [1] * 6


def test_two_recipes_at_once(launch_tiny) -> None:
    launch_tiny(
        "callbacks/selection=max_loss",
        "callbacks.selection.keep=0.5",
        "+callbacks/selection@callbacks.reweight=dynamic_loss",
        "+callbacks.note._target_=tests.app.tiny.Note",
    )
    assert [len(ids) for ids in tiny.NOTES[0][1:]] == [4] * 6


def test_a_module_of_the_working_directory_is_found(tmp_path) -> None:
    """In a fresh process, as a user's shell would start it."""
    (tmp_path / "my.py").write_text("from tests.app.tiny import Data as DataModule, Module\n", encoding="utf-8")
    overrides = ["model._target_=my.Module", "data._target_=my.DataModule", *TINY[2:], "+model.lr=0.01"]
    command = [sys.executable, "-m", "lightning_select", *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fit: 6 steps" in done.stdout
    assert list((tmp_path / "outputs" / "fit").iterdir())


def test_threads_are_as_before_afterwards(launch_tiny) -> None:
    before = torch.get_num_threads()
    launch_tiny(f"threads={before + 1}")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("task=fitt", "task must be one of fit, compare, audit, got 'fitt'"),
        ("model=own", r"model must have a _target_, the class to build, got none\. Try model\._target_=my\.Module"),
        ("data=own", "data must have a _target_"),
        ("+callbacks.x.y=1", r"callbacks\.x must have a _target_, the class to build, got \['y'\]"),
        ("+trainer.callbacks=[]", r"trainer\.callbacks must not be set"),
        (
            "+callbacks/selektion=uds",
            "There is no config group 'callbacks/selektion'. Did you mean 'callbacks/selection'?",
        ),
    ],
)
def test_contradictions_are_told(launch, argument, told) -> None:
    with pytest.raises(ConfigurationError, match=told):
        launch(argument)


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (
            "callbacks/selektion=uds",
            "There is no config group 'callbacks/selektion'. Did you mean 'callbacks/selection'",
        ),
        ("modle=mlp", "There is no key 'modle' in the config. Did you mean 'model'? Keys: "),
        ("trainer.max_epoch=3", "There is no key 'max_epoch' in trainer. Did you mean 'max_epochs'? Keys: _target_, "),
        ("callbacks/selection=udss", "Available options in 'callbacks/selection':\n\tbalanced_difficulty"),
        ("experiment=noisy", "Available options in 'experiment':\n\tgrpo_arithmetic\n\tgrpo_gsm8k\n\tllm_sft"),
    ],
)
def test_a_misspelt_override_is_told_what_exists(argument, told, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main([argument])
    assert told in capsys.readouterr().err


def test_a_misspelt_argument_of_a_recipe_is_told_what_exists(capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main(["callbacks/selection=uds", "callbacks.selection.kep=0.5"])
    told = capsys.readouterr().err
    assert "There is no key 'kep' in callbacks.selection. Did you mean 'keep'? Keys: score, selector, " in told


@pytest.mark.parametrize("override", ["model.lr=0.05", "trainer.precision=16", "callbacks.note._target_=my.Note"])
def test_a_new_key_is_told_of_the_plus(override, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main(["model._target_=my.Module", "data._target_=my.DataModule", override])
    hints = [line for line in capsys.readouterr().err.splitlines() if line.startswith("There is no")]
    assert len(hints) == 1
    assert hints[0].endswith(f"A new key takes a plus: +{override}")


def test_a_key_outside_of_any_class_is_not_told_of_the_plus(capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main(["callbacks.selection.keep=0.5"])
    told = capsys.readouterr().err
    assert "There is no key 'keep' in callbacks.selection. Keys: none." in told
    assert "takes a plus" not in told


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["task=fitt"], "lightning-select: error: task must be one of fit, compare, audit, got 'fitt'.\n"),
        (
            ["data.noise=1.5"],
            "lightning-select: error: Digits.noise must be in [0, 1], got 1.5.\n",
        ),  # within instantiate
    ],
)
def test_errors_of_our_own_are_a_sentence(launch, capsys, monkeypatch, overrides, told) -> None:
    with pytest.raises(SelectionError, match="must be"):
        launch(*overrides)
    capsys.readouterr()
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    with pytest.raises(SystemExit, match="1"):
        launch(*overrides)
    assert capsys.readouterr().err == told


def test_errors_of_our_own_are_a_sentence_in_a_sweep_too(capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main(["-m", "task=fitt,fits", f"hydra.sweep.dir={tmp_path}"])
    told = capsys.readouterr()
    assert "lightning-select: error: task must be one of fit, compare, audit, got 'fitt'." in told.err
    if hydra.__version__ < "1.4":  # which then shows the tracebacks of jobs whatever they raise
        assert "Traceback" not in told.err
    assert "task=fits" in told.out  # the first job does not end the sweep


def test_errors_of_others_keep_their_traceback(launch, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    with pytest.raises(SystemExit, match="1"):
        launch(*TINY, "+callbacks.crash._target_=tests.app.tiny.Crash")
    told = capsys.readouterr().err
    assert "Traceback (most recent call last):" in told
    assert "RuntimeError: it went wrong" in told
    assert "hint:" not in told


def test_a_module_that_fails_on_data_nobody_asked_for_is_told_so_last(launch, capsys, monkeypatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR")
    overrides = [override for override in TINY if "data" not in override]
    with pytest.raises(SystemExit, match="1"):
        launch(*overrides, "model._target_=tests.app.tiny.Tuples")
    told = capsys.readouterr().err
    assert "\nKeyError: 0\n" in told
    hint = "lightning-select: hint: tests.app.tiny.Tuples is trained on the bundled digits, batches of {'x', 'y', "
    assert told.splitlines()[-1].startswith(hint)


def test_a_comparison_in_which_all_fail_exits_with_one(tmp_path) -> None:
    """In a fresh process, for the exit status."""
    crash = "+callbacks.crash._target_=tests.app.tiny.Crash"
    overrides = [*TINY, "task=compare", "methods=[uniform,max_loss]", "seeds=1", crash]
    code = f"from lightning_select.app import main; main({overrides!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "max_loss failed in 1 run: RuntimeError: it went wrong" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(
        "lightning-select: error: task=compare must have a run that finishes"
    )
    assert "Traceback" not in done.stderr


def test_groups_of_the_user_are_known_too(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "mine.yaml").write_text("a: 1\n", encoding="utf-8")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match="1"):
        main(["--config-dir", str(tmp_path), "my/dataset=mine"])
    assert ", data, dataset, experiment" in capsys.readouterr().err


def test_an_argument_that_the_class_does_not_have_is_an_error(launch_tiny) -> None:
    with pytest.raises((HydraException, TypeError), match="widht"):  # from Hydra 1.4 on as it was raised
        launch_tiny("+model.widht=3")


def test_a_recipe_of_the_users_own(launch, tmp_path) -> None:
    place = tmp_path / "conf" / "callbacks" / "selection"
    place.mkdir(parents=True)
    recipe = """
        defaults: [{score: loss}, {selector: top_k}, _self_]
        _target_: lightning_select.BatchSelection
        keep: 2
        name: mine
    """
    (place / "mine.yaml").write_text(textwrap.dedent(recipe), encoding="utf-8")
    note = "+callbacks.note._target_=tests.app.tiny.Note"
    launch("--config-dir", str(tmp_path / "conf"), *TINY, "callbacks/selection=mine", note)
    assert [len(ids) for ids in tiny.NOTES[0][1:]] == [2] * 6


def test_help_needs_no_task(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr().out
    assert "lightning-select: choose the rows" in told
    assert "callbacks/selection: balanced_difficulty, divbs, dynamic_loss" in told
