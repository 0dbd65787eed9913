"""Something goes wrong inside this process: all is as it was, and the next fit is that of a fresh process."""

from __future__ import annotations

import gc
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tests.faults.scenes import EPOCHS, HOOKS, ROWS, SETUPS, STEPS, BoomError, Fuses, Scene
from tests.faults.traces import differences, picture, process, settled
from tests.fitting import same

PLACES = (
    *("a scoring pass", "the training pass", "the dataset", "collate", "a score", "a selector", "a weighting"),
    *("a draw", "what a sampler learns", "an annealed value", "a learning-rate schedule", "the logger", "backward"),
    *("optimizer.step", "validation", "configure_optimizers"),
    # Another callback, before ours or behind them, as comes.
    *(f"{hook} of the {('first', 'last')[place % 2]} callback" for place, hook in enumerate(HOOKS)),
    *("setup of the last callback", "teardown of the last callback", "on_train_start of the last callback"),
)
TOLD = {BoomError: BoomError, MemoryError: MemoryError, KeyboardInterrupt: SystemExit, SystemExit: SystemExit}
"""What the caller of ``fit`` gets for what went wrong; Lightning ends the process after Ctrl-C."""

TEN = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))]


def moment(known: Any, place: str, seed: int) -> tuple[str, int]:
    """A kind of fit that comes by this place, and a number of calls there."""
    draw = random.Random(f"{place} {seed}")
    kind = draw.choice([kind for kind in SETUPS if known[kind]["calls"].get(place)])
    reached = known[kind]["calls"][place]
    if place == "the dataset":  # the page of a report reads rows behind these, and what goes wrong there ends no fit
        reached = min(reached, EPOCHS * ROWS)
    # A pass that only looks for rows may fail on batches that it made up: the error counts if the batch itself fails.
    certain = place != "a scoring pass" or "selection" in SETUPS[kind][0]
    return kind, draw.randint(1, reached if certain else 1)


def go_wrong(scene: Scene, told: type[BaseException], match: str = "mine") -> None:
    """The error and the frames that it holds are gone when this returns."""
    with pytest.raises(told) as caught:
        scene.fit()
    assert told in (SystemExit, SIGTERMException) or match in str(caught.value)
    del caught
    gc.collect()


def check_after(scene: Scene, before: dict[str, Any], here: dict[str, Any], known: Any, folder: Path) -> None:
    """Nothing is left; the same objects can be fitted again; new ones are fitted as in a fresh process."""
    assert not differences(before, picture(scene.module, scene.trainer, scene.loader))
    assert not settled(here)
    scene.fuses.place = ""
    scene.trainer = scene.new_trainer(max_epochs=EPOCHS)
    scene.fit()
    assert scene.trainer.global_step == STEPS
    assert not settled(here | {"children": process()["children"]} if scene.workers else here)
    fresh = Scene(scene.kind, folder)
    fresh.fit()
    assert same(fresh.weights, known[scene.kind]["weights"])


def check(known: Any, kind: str, fuses: Fuses, told: type[BaseException], folder: Path, workers: int = 0) -> Scene:
    scene = Scene(kind, folder / "report", fuses, workers)
    before, here = picture(scene.module, scene.trainer, scene.loader), process()
    go_wrong(scene, told)
    check_after(scene, before, here, known, folder / "fresh")
    return scene


@pytest.mark.parametrize("seed", TEN)
@pytest.mark.parametrize("place", PLACES)
def test_an_error(place: str, seed: int, known: Any, tmp_path: Path) -> None:
    kind, at = moment(known, place, seed)
    error = random.Random(f"error {place} {seed}").choice(list(TOLD))
    check(known, kind, Fuses(place, at, error), TOLD[error], tmp_path)


@pytest.mark.parametrize("seed", TEN)
@pytest.mark.parametrize("place", ["the dataset", pytest.param("collate", marks=pytest.mark.slow)])
def test_an_error_in_a_worker(place: str, seed: int, known: Any, tmp_path: Path) -> None:
    """To end workers of which one has failed takes torch some ten seconds, with us or without."""
    kind, _ = moment(known, place, seed)
    # Each of two workers has a fuse of its own, and as many calls as half of the batches make.
    at = random.Random(seed).randint(1, known[kind]["calls"][place] // 4)
    check(known, kind, Fuses(place, at), BoomError, tmp_path, workers=2)


@pytest.mark.parametrize("seed", TEN)
def test_an_error_while_workers_run(seed: int, known: Any, tmp_path: Path) -> None:
    # Where validation fails, Lightning keeps the workers of training for as long as there is the Trainer.
    place = random.Random(seed).choice([one for one in PLACES[4:] if "validation" not in one])
    kind, _ = moment(known, place, seed)
    check(known, kind, Fuses(place, 1), BoomError, tmp_path, workers=2)


@pytest.mark.parametrize("seed", TEN)
def test_a_worker_that_is_killed(seed: int, known: Any, tmp_path: Path) -> None:
    """As the system does when memory runs out."""
    scene = Scene(random.Random(seed).choice(list(SETUPS)), tmp_path / "report", workers=2)
    before, here = picture(scene.module, scene.trainer, scene.loader), process()

    def kill(_: str) -> BaseException:
        os.kill(random.Random(seed).choice(list(process()["children"])), signal.SIGKILL)
        return BoomError("a worker is gone")

    scene.fuses.place, scene.fuses.error = "the training pass", kill
    scene.fuses.at = random.Random(seed).randint(1, STEPS)
    go_wrong(scene, Exception, "")
    check_after(scene, before, here, known, tmp_path / "fresh")


@pytest.mark.parametrize("seed", TEN)
@pytest.mark.parametrize("place", ["a scoring pass", "the training pass", "on_train_batch_end of the last callback"])
def test_sigterm(place: str, seed: int, known: Any, tmp_path: Path) -> None:
    kind, _ = moment(known, place, seed)
    at = random.Random(seed).randint(1, known[kind]["calls"][place] // 2)
    fuses = Fuses(place, at, act=lambda: os.kill(os.getpid(), signal.SIGTERM))
    check(known, kind, fuses, SIGTERMException, tmp_path)


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("seed", [0, 1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 30))])
def test_ctrl_c_at_any_moment(seed: int, known: Any, tmp_path: Path) -> None:
    """Amid any line of ours, of Lightning's or of torch's, and not only where somebody looks for it."""
    kind = random.Random(seed).choice(list(SETUPS))
    scene = Scene(kind, tmp_path / "report", settings={"max_epochs": 1000})
    before, here = picture(scene.module, scene.trainer, scene.loader), process()
    handler = signal.signal(signal.SIGALRM, interrupt)
    delay = random.Random(f"moment {seed}").uniform(1e-4, 0.3)
    scene.module.on_train_start = lambda *_: signal.setitimer(signal.ITIMER_REAL, delay)
    try:
        go_wrong(scene, SystemExit)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        del scene.module.on_train_start
    check_after(scene, before, here, known, tmp_path / "fresh")
