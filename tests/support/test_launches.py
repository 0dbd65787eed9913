"""Every cell that takes several processes: one launch for each feature, which runs all columns."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fitting import trainer
from tests.support import verdicts
from tests.support.columns import CALLBACKS, COLUMNS
from tests.support.expected import expected
from tests.support.features import Feature
from tests.support.launches import BY_NAME, LAUNCHED

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")

ROOT = Path(__file__).parents[2]
LAUNCHES = [pytest.param(feature, id=feature.name, marks=[pytest.mark.slow] * feature.slow) for feature in LAUNCHED]
MODULE = "tests.support.worker"


def begin(feature: Feature, folder: Path, *names: str) -> None:
    """Run the columns of these names, or all, in processes of their own."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    mine = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "SLURM"))}
    environment = mine | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_PORT": port}
    python, told = [sys.executable], ["-m", MODULE, feature.name, str(folder), *names]
    if feature.launch == "torchrun":
        ranks = ["--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
        commands = [([*python, "-m", "torch.distributed.run", *ranks, *told], environment)]
    elif feature.launch == "nodes":
        loopback = environment | {"MASTER_ADDR": "127.0.0.1"}
        commands = [([*python, *told], loopback | {"NODE_RANK": str(node)}) for node in (0, 1)]
    else:
        commands = [([*python, *told], environment)]
    with (folder / "log.txt").open("w") as log:
        begun = [subprocess.Popen(one, cwd=ROOT, env=env, stdout=log, stderr=log) for one, env in commands]
        try:
            codes = [process.wait(timeout=900) for process in begun]
        finally:
            for process in begun:
                process.kill()
    assert codes == [0] * len(codes), (folder / "log.txt").read_text()[-3000:]


def differs(feature: Feature, folder: Path) -> dict[str, Any]:
    """Cells that are not what the table says, with what was seen."""
    wrong: dict[str, Any] = {}
    for column in COLUMNS:
        outcome = expected(feature, column)
        if outcome.kind == "n.a.":
            continue
        for seen in verdicts.read(folder, column.name):
            if outcome.kind == "works":
                fine = not seen["faults"]
            else:
                fine = bool(re.search(outcome.words, seen["said"])) and seen["ours"] == (outcome.kind == "refused")
                fine = fine and not seen["hanging"] and (outcome.kind != "refused" or not seen["rows"])
            if not fine:
                wrong[column.name] = seen
    return wrong


@pytest.mark.parametrize("feature", LAUNCHES)
def test_a_launch_is_what_the_table_says(feature: Feature, tmp_path: Path) -> None:
    begin(feature, tmp_path)
    without = [seen["said"] for seen in verdicts.read(tmp_path, "plain")]
    never = expected(feature, CALLBACKS[0])
    if never.kind == "not by Lightning":
        assert all(re.search(never.words, said) for said in without)
    else:
        assert without == ["", ""]
    assert differs(feature, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FSDP, parts wrapped", "ModelParallel, whole"])
def test_split_weights_choose_the_rows_that_whole_ones_choose(name: str, tmp_path: Path) -> None:
    whole = BY_NAME["DDP, 2 processes of a script"]
    for feature, folder in ((whole, tmp_path / "whole"), (BY_NAME[name], tmp_path / "split")):
        begin(feature, folder, "BatchSelection")
    one, other = (verdicts.read(tmp_path / part, "BatchSelection") for part in ("whole", "split"))
    assert [seen["rows"] for seen in one] == [seen["rows"] for seen in other]


def test_lightning_itself_wants_a_gpu_for_fsdp_by_name() -> None:
    with pytest.raises(ValueError, match="requires a GPU accelerator"):
        trainer(strategy="fsdp", devices=2)
