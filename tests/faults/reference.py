"""What each kind of fit gives in a process that has done nothing else: ``python -m tests.faults.reference FILE``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.faults.scenes import SETUPS, Scene


def main() -> None:
    torch.set_num_threads(1)
    known = {}
    for kind in SETUPS:
        with tempfile.TemporaryDirectory() as folder:
            scene = Scene(kind, Path(folder))
            scene.fit()
        known[kind] = {"weights": scene.weights, "calls": dict(scene.fuses.calls)}
    torch.save(known, sys.argv[1])


if __name__ == "__main__":
    main()
