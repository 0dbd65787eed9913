"""The tests in environments of other versions: ``make matrix``, or ``python -m tests.versions [NAME ...]``.

Every ``NAME.txt`` beside this file is an environment: a constraints file whose first line names the Python. Each is
made under ``.venv/versions`` on first use (gigabytes, where the registry has torch for CUDA alone), and made again when
its file has changed. A Python is taken from the variable ``PYTHON3_10`` (and so on), from pyenv or from the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / ".venv" / "versions"
CHECKED = "lightning_select.scores,lightning_select.selectors,lightning_select.weightings,beartype.beartype"


def python_of(pins: Path) -> str:
    """The Python that the first line names."""
    found = re.match(r"# python (3\.\d+)", pins.read_text())
    if found is None:
        raise SystemExit(f"{pins} must begin with a line '# python 3.x'.")
    return found[1]


def interpreter(version: str) -> str | None:
    """Where that Python is, ``None`` where it is not."""
    named = os.environ.get(f"PYTHON{version.replace('.', '_')}")
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    return named or (str(pyenv[-1]) if pyenv else shutil.which(f"python{version}"))


def environment(pins: Path) -> Path | None:
    """The Python of the environment, made if need be; ``None`` where this machine lacks the Python to make it with."""
    folder = FOLDER / pins.stem
    python, made = folder / "bin" / "python", folder / ".made"
    wanted = pins.read_text() + (ROOT / "pyproject.toml").read_text()
    if made.exists() and made.read_text() == wanted:
        return python
    base = interpreter(python_of(pins))
    if base is None:
        return None
    subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "-q", "-c", str(pins)]
    for what in (["--upgrade", "pip"], ["torch"], ["-e", f"{ROOT}[dev]"]):
        subprocess.run([*install, *what], check=True)
    made.write_text(wanted)
    return python


def run(python: Path, name: str, arguments: Sequence[str]) -> tuple[int, int]:
    """How many tests passed and failed; tests that could not even begin count as one that failed."""
    report = FOLDER / f"{name}.xml"
    report.unlink(missing_ok=True)
    chosen = arguments or ["-n", "2", "-m", "not slow and not gpu"]
    command = [str(python), "-m", "pytest", "-q", f"--junitxml={report}", f"--jaxtyping-packages={CHECKED}", *chosen]
    status = subprocess.run(command, cwd=ROOT, check=False, env=os.environ | {"CI": "true"}).returncode
    if not report.exists():
        return 0, 1
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    broken = failed + errors
    return total - broken - skipped, broken or int(status != 0)


def versions(python: Path) -> str:
    """What is installed there."""
    names = ("torch", "lightning", "torchmetrics", "numpy", "hydra-core", "omegaconf", "transformers")
    code = "import platform as p, sys, importlib.metadata as m\n"
    code += "print('Python ' + p.python_version(), *(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    found = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True, text=True)
    return found.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Run all environments or those that are named; what follows ``--`` goes to pytest."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    names, rest = arguments[:at], arguments[at + 1 :]
    chosen = [HERE / f"{name}.txt" for name in names] or sorted(HERE.glob("*.txt"))
    lines, passed, failed = [], 0, 0
    for pins in chosen:
        started = time.perf_counter()
        python = environment(pins)
        if python is None:
            lines.append(f"{pins.stem}: no Python {python_of(pins)} on this machine")
            failed += 1
            continue
        good, bad = run(python, pins.stem, rest)
        minutes = (time.perf_counter() - started) / 60
        lines.append(f"{pins.stem}: {good} passed, {bad} failed ({minutes:.0f} min; {versions(python)})")
        passed, failed = passed + good, failed + bad
    sys.stdout.write("\n".join([*lines, f"{passed} passed, {failed} failed", ""]))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
