"""The command ``lightning-select``: arguments in, one task run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from lightning_select.app.audit import audit
from lightning_select.app.checks import check_settings, digits_notice
from lightning_select.app.compare.comparison import compare
from lightning_select.app.compare.methods import GROUP
from lightning_select.app.compare.sweep import comparisons_in, join_jobs, settle_folder
from lightning_select.app.config_path import PRIMARY, app_folder, register_configs
from lightning_select.app.console import complain, harmless, say
from lightning_select.app.fit import fit
from lightning_select.app.hints import explain, missing_groups
from lightning_select.app.hydra_versions import BASE
from lightning_select.errors import ConfigurationError, SelectionError

__all__ = ["main"]

_TASKS = {"fit": fit, "compare": compare, "audit": audit}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the application.

    Args:
        arguments: Hydra overrides and flags; ``None`` takes those of the command line.
    """
    register_configs()
    arguments, sweep = settle_folder(_prepared(sys.argv[1:] if arguments is None else arguments))
    before = {} if sweep is None else comparisons_in(sweep)
    started: list[bool] = []
    notices: list[str] = []

    def run(config: DictConfig) -> None:
        started.append(True)
        with _in_a_sentence():
            _check(config, arguments)
            notices.append(digits_notice(config))
            if notices[-1]:
                say(f"Notice: {notices[-1]}")
            with _threads(config.threads):
                _TASKS[config.task](config)
        notices.clear()

    with _as_program(arguments):
        try:
            hydra.main(**BASE, config_path=str(app_folder()), config_name=PRIMARY)(run)()
        except SystemExit as stop:
            if stop.code and not started:
                sys.stderr.write(explain(arguments))
            if stop.code and any(notices):  # once more, below what the module made of such batches
                complain(f"hint: {notices[-1]}")
            raise
        finally:
            if sweep is not None and sweep.is_dir():
                join_jobs(sweep, before)


def _check(config: DictConfig, arguments: Sequence[str]) -> None:
    """Refuse what no task can use."""
    if config.task not in _TASKS:
        raise ConfigurationError(f"task must be one of {', '.join(_TASKS)}, got {config.task!r}.")
    if any("/" in str(key) for key in config):  # Hydra makes a key of +callbacks/selektion=uds, and goes on
        raise ConfigurationError(" ".join(missing_groups(arguments)))
    check_settings(config)


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Show errors of our own without a traceback, unless HYDRA_FULL_ERROR=1 asks for it."""
    try:
        yield
    except SelectionError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # maybe in a process of its own: Hydra brings it home
            raise CompactHydraException(harmless(f"lightning-select: error: {error}")) from error
        complain(f"error: {error}")
        raise SystemExit(1) from error


def _prepared(arguments: Sequence[str]) -> list[str]:
    """The arguments as this application's own config needs them.

    A class named on the command line comes without the other arguments of the option that it replaces, and the plus
    that ``callbacks/selection=uds`` needs in other apps is harmless here.
    """
    chosen = {argument.partition("=")[0] for argument in arguments}
    prepared = []
    for argument in arguments:
        group = argument.partition("._target_=")[0]
        prepared.append(argument[1:] if argument.startswith(f"+{GROUP}=") else argument)
        if group in ("model", "data") and group not in chosen:
            prepared.append(f"{group}=own")
    return prepared


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch compute in so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _as_program(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra find its arguments, and Python the user's modules in the working directory."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [argv[0], *arguments]
    sys.path.append(os.getcwd())
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
