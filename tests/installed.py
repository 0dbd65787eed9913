"""Runs the tests against the installed wheel, in a clean environment and outside of the repository.

``python -m tests.installed`` builds the sdist and the wheel from it, installs that with the extra ``dev``, and unpacks
the tests of the sdist into a temporary folder. The configs beside them are those of the wheel. What is about the
repository itself (marker ``repository``) stays out.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
WHERE = "import lightning_select, pathlib; print(pathlib.Path(lightning_select.__file__).parent)"
MARKED = "not slow and not gpu and not repository"


def run(*command: str | Path, cwd: Path, check: bool = True, path: Path | None = None) -> str:
    """Run a program that does not see this checkout; what it writes is shown, or returned."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    clean |= {"PYTHONPATH": str(path)} if path else {}
    capture = subprocess.PIPE if command[1:2] == ("-c",) else None
    done = subprocess.run([str(one) for one in command], cwd=cwd, env=clean, check=check, stdout=capture, text=True)
    return (done.stdout or "").strip()


def build(folder: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made of it."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def install(wheel: Path, folder: Path) -> Path:
    """The interpreter of a new environment with the wheel in it."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--upgrade", "-c", CONSTRAINTS, "pip", cwd=folder)
    for what in ("torch", f"{wheel}[dev]"):
        run(python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, what, cwd=folder)
    return python


def unpack(sdist: Path, folder: Path) -> None:
    """The tests of the sdist, and the file that says how they are run."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (whole,) = folder.iterdir()
    for name in ("tests", "pyproject.toml"):
        shutil.move(whole / name, folder / name)
    shutil.rmtree(whole)


def of_the_repository(tests: Path) -> list[str]:
    """Files that are marked as a whole. Some cannot even be collected elsewhere: their cases are read from pages."""
    marked = re.compile(r"^pytestmark = (\[\n\s+)?pytest\.mark\.repository\b", re.MULTILINE)
    return [path.name for path in tests.glob("test_*.py") if marked.search(path.read_text(encoding="utf-8"))]


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped, of a report in JUnit's form."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return total - failed - errors - skipped, failed + errors, skipped


def main(arguments: Sequence[str]) -> int:
    """Build, install, run; the arguments go to pytest. Zero where all passed."""
    with tempfile.TemporaryDirectory(prefix="lightning-select-") as temporary:
        folder = Path(temporary)
        (outside := folder / "outside").mkdir()
        sdist, wheel = build(folder)
        python = install(wheel, folder / "environment")
        unpack(sdist, outside)
        package = Path(run(python, "-c", WHERE, cwd=outside))
        if "site-packages" not in package.parts:
            raise RuntimeError(f"lightning_select must be imported from site-packages, got {package}.")
        shutil.copytree(package / "configs", outside / "configs")
        report = folder / "report.xml"
        left_out = [f"--ignore=tests/{name}" for name in of_the_repository(outside / "tests")]
        given = ["-m", MARKED, "-p", "no:cacheprovider", f"--junitxml={report}", *left_out, *arguments]
        # Programs that the tests start import them too.
        run(python, "-m", "pytest", "tests", *given, cwd=outside, check=False, path=outside)
        passed, failed, skipped = counts(report)
        sys.stdout.write(f"{wheel.name} in {package.parent}: {skipped} skipped\n{passed} passed, {failed} failed\n")
        return int(failed > 0 or not passed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
