"""The disk is full: what was there stays whole, nothing half is taken for whole, and training is not lost."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_select.app.compare.recorder import Point
from lightning_select.app.compare.reporting import Settings, report
from lightning_select.app.compare.runs import CURVES, RUNS, Run, RunLog, read_runs, write_csv, write_whole
from lightning_select.errors import ConfigurationError
from tests.faults.scenes import STEPS, Scene
from tests.faults.test_in_process import TEN, check_after
from tests.faults.traces import picture, process
from tests.fitting import same

BLOCK = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave so many blocks of 4096 bytes."""
    with (disk / "other").open("ab", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(BLOCK))
        file.truncate(max(0, file.tell() - leave * BLOCK))


class Fills(ModelCheckpoint):
    """A checkpoint after every step, and no room from some step on."""

    def __init__(self, disk: Path, at: int, leave: int) -> None:
        super().__init__(disk, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        self.disk, self.at, self.leave = disk, at, leave

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        if trainer.global_step == self.at:
            fill(self.disk, self.leave)
        super().on_train_batch_end(trainer, *rest)


@pytest.mark.parametrize("seed", TEN)
def test_no_room_for_a_checkpoint(seed: int, disk: Path, known: Any, tmp_path: Path) -> None:
    draw = random.Random(seed)
    at, kind = draw.randint(2, STEPS - 1), draw.choice(["everything", "selection and a sampler", "beta_posterior"])
    fills = Fills(disk, at, draw.choice([0, 1, 2]))
    scene = Scene(kind, tmp_path / "report", settings={"enable_checkpointing": True, "more": (fills,)})
    before, here = picture(scene.module, scene.trainer, scene.loader), process()
    with pytest.raises((OSError, RuntimeError)) as caught:
        scene.fit()
    assert getattr(caught.value, "errno", errno.ENOSPC) == errno.ENOSPC
    del caught
    # What was saved before is whole, and a run goes on from there.
    last = disk / f"step={at - 1}.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == at - 1
    scene.settings = {}
    check_after(scene, before, here, known, tmp_path / "fresh")
    resumed = Scene(kind, tmp_path / "resumed")
    resumed.fit(ckpt_path=last)
    assert resumed.trainer.global_step == STEPS


@pytest.mark.parametrize("leave", [0, 1, 3])
@pytest.mark.parametrize("earlier", [False, True])
def test_no_room_for_the_report(
    leave: int, earlier: bool, disk: Path, known: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    if earlier:
        Scene("report", disk).fit()
    files = {file.name: file.read_bytes() for file in disk.iterdir()}
    assert set(files) == ({"report.html", "rows.csv"} if earlier else set())
    fill(disk, leave)
    scene = Scene("report", disk)
    scene.fit()
    assert same(scene.weights, known["report"]["weights"])
    assert f"no report was written to {disk}: OSError: [Errno 28] No space left on device" in caplog.text
    (disk / "other").unlink()
    left = {file.name: file.read_bytes() for file in disk.iterdir()}
    assert left.get("report.html") == files.get("report.html")
    assert set(left) <= {"report.html", "rows.csv"}
    if "rows.csv" in left and left["rows.csv"] != files.get("rows.csv"):
        assert left["rows.csv"].count(b"\n") == 41  # a whole one


def runs(count: int) -> list[Run]:
    curve = tuple(Point(step=one, samples=one, seconds=float(one), value=0.1 * one) for one in range(20))
    names = ("uniform", "other")
    return [Run(names[one % 2], one // 2, final=0.5, steps=9, samples=9, points=curve) for one in range(count)]


@pytest.mark.parametrize("leave", [0, 1, 2])
@pytest.mark.parametrize("write", ["write_whole", "write_csv"])
def test_no_room_for_a_file_of_a_comparison(write: str, leave: int, disk: Path) -> None:
    file = disk / "table.csv"
    writers: dict[str, Callable[[int], None]] = {
        "write_whole": lambda number: write_whole(file, f"{number}" * 5 * BLOCK),
        "write_csv": lambda number: write_csv(file, [{"a": f"{number}" * BLOCK}] * 5),
    }
    writers[write](1)
    before = file.read_bytes()
    fill(disk, leave)
    with pytest.raises(ConfigurationError, match=f"hydra.run.dir must be a folder with room .*{disk}: No space left"):
        writers[write](2)
    assert file.read_bytes() == before
    assert {one.name for one in disk.iterdir()} == {"table.csv", "other"}


@pytest.mark.parametrize("seed", TEN)
def test_no_room_for_the_runs_of_a_comparison(seed: int, disk: Path) -> None:
    log, some = RunLog(disk), runs(400)
    draw = random.Random(seed)
    fill(disk, draw.randint(1, 12))
    whole: list[Run] = []

    def write() -> None:
        for run in some:
            log.add(run)
            whole.append(run)

    with pytest.raises(ConfigurationError, match="What stands in runs.csv is kept: compare.resume="):
        write()
    assert read_runs(disk) == whole
    (disk / "other").unlink()
    again = RunLog(disk, read_runs(disk))
    for run in some[len(whole) :]:
        again.add(run)
    assert read_runs(disk) == some
    assert {one.name for one in disk.iterdir()} == {RUNS, CURVES}


@pytest.mark.parametrize("leave", [0, 1, 2, 4, 8])
def test_no_room_for_the_page_of_a_comparison(leave: int, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(metric="val_acc", mode="max", target=None)
    report(runs(6), settings, disk)
    before = {file.name: file.read_bytes() for file in disk.iterdir()}
    assert {"compare.html", "table.csv", "intervals.csv"} <= set(before)
    fill(disk, leave)
    capsys.readouterr()
    report(runs(8), settings, disk)
    told = capsys.readouterr()
    assert "the report of the comparison was not written" in told.out + told.err
    assert "No space left on device" in told.out + told.err
    assert "uniform" in told.out  # table and verdict are told all the same
    (disk / "other").unlink()
    after = {file.name: file.read_bytes() for file in disk.iterdir()}
    assert set(after) == set(before)
    assert after["compare.html"] == before["compare.html"]
