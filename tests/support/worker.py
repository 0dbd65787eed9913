"""One process of a feature that takes several: runs every column, one after the other, and writes what it saw.

``python -m tests.support.worker FEATURE FOLDER [COLUMN ...]``
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

import torch

from tests.support import children
from tests.support.columns import COLUMNS
from tests.support.launches import BY_NAME
from tests.support.running import run
from tests.support.verdicts import write


def main(name: str, folder: Path, wanted: list[str]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for logger in [known for known in logging.root.manager.loggerDict if "lightning" in known]:
        logging.getLogger(logger).setLevel(logging.ERROR)
    feature, plain = BY_NAME[name], None
    for column in (None, *COLUMNS):
        if column is not None and wanted and column.name not in wanted:
            continue
        place = folder / ("plain" if column is None else column.name)
        place.mkdir(parents=True, exist_ok=True)
        seen = run(feature, column, place)
        plain = plain or seen
        if feature.run is not children.fit or seen.error is not None or seen.ours:  # else the children have written
            write(place, torch.distributed.get_rank() if torch.distributed.is_initialized() else 0, seen, plain)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
