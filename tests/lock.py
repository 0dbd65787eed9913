"""Pins every package that the tests are run with, in ``constraints.txt`` below the pins that are chosen by hand.

``python -m tests.lock python3.10 python3.11 python3.12 python3.13`` asks pip, with each of these interpreters, what it
would install for the extras below, and writes the answers as one file with markers where they differ. The packages that
torch brings for CUDA are left out: each release of torch pins its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
BELOW = "# Written by `python -m tests.lock`: everything else that the tests, the pages and the audit install.\n"
EXTRAS = ("dev,audit", "dev,thirdparty")
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")

Versions = Mapping[str, str]


def canonical(name: str) -> str:
    """A name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, list[str]]:
    """The lines of a file of constraints by the name that they pin."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if pinned := re.match(r"([\w.-]+)==", line):
            found.setdefault(canonical(pinned[1]), []).append(line)
    return found


def resolve(interpreter: str, extras: str, by_hand: str) -> dict[str, str]:
    """What pip would install with this interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        python, report, chosen = Path(folder, "bin", "python"), Path(folder, "report"), Path(folder, "chosen")
        chosen.write_text(by_hand, encoding="utf-8")
        subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
        asked = ["--dry-run", "--ignore-installed", "--report", report, "-c", chosen, "-e", f"{ROOT}[{extras}]"]
        subprocess.run([python, "-m", "pip", "install", "-q", *asked], check=True)
        return versions_in(report.read_text(encoding="utf-8"))


def versions_in(report: str) -> dict[str, str]:
    """Names and versions of a report of pip, without us and what torch pins itself."""
    found = (entry["metadata"] for entry in json.loads(report)["install"])
    versions = {canonical(one["name"]): one["version"].partition("+")[0] for one in found}
    return {name: at for name, at in versions.items() if name != "lightning-select" and not OF_TORCH.match(name)}


def merged(resolved: Mapping[str, Sequence[Versions]], leave: Sequence[str] = ()) -> list[str]:
    """A line per name, or one per version with a marker where versions of Python differ.

    Args:
        resolved: For each version of Python, oldest first, what was resolved for each set of extras.
        leave: Names that are pinned elsewhere.

    Raises:
        ValueError: Two sets of extras want different versions on one Python.
    """
    lines = []
    for name in sorted({name for some in resolved.values() for one in some for name in one} - set(leave)):
        runs: list[tuple[str, list[str]]] = []
        for python, some in resolved.items():
            wanted = {one[name] for one in some if name in one}
            if len(wanted) > 1:
                raise ValueError(f"{name} must have one version on Python {python}, got {sorted(wanted)}.")
            for version in wanted:
                if not runs or runs[-1][0] != version:
                    runs.append((version, []))
                runs[-1][1].append(python)
        for place, (version, pythons) in enumerate(runs):
            since = [f'python_version >= "{pythons[0]}"'] * (place > 0)
            until = [f'python_version < "{runs[place + 1][1][0]}"' for _ in runs[place + 1 : place + 2]]
            marker = " and ".join([*since, *until])
            lines.append(f"{name}=={version}" + (f"; {marker}" if marker else ""))
    return lines


def main(interpreters: Sequence[str]) -> None:
    """Write the lower part of the file anew."""
    by_hand = FILE.read_text(encoding="utf-8").partition(BELOW)[0]
    resolved: dict[str, list[Versions]] = {}
    for interpreter in interpreters:
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        python = subprocess.run([interpreter, "-c", asked], check=True, capture_output=True, text=True).stdout.strip()
        resolved[python] = [resolve(interpreter, extras, by_hand) for extras in EXTRAS]
    lines = merged(resolved, leave=list(pins(by_hand)))
    FILE.write_text(by_hand + BELOW + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
