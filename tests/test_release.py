"""What is released: an sdist and a wheel that hold what they should and nothing else, under one version number."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from trove_classifiers import classifiers

import lightning_select
from tests.installed import counts, of_the_repository
from tests.lock import BELOW, FILE, merged, pins, versions_in

pytestmark = pytest.mark.repository

ROOT = Path(__file__).parents[1]
BESIDE = ("BENCHMARKS.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md")
FOLDERS = ("configs", "docs", "examples", "lightning_select", "tests")
# The last two are of the builder: what it must leave out, and the metadata.
TOP = {*BESIDE, *FOLDERS, "constraints.txt", "mkdocs.yml", "pyproject.toml", ".gitignore", "PKG-INFO"}
SUFFIXES = {".py", ".yaml", ".yml", ".md", ".json", ".html", ".css", ".png", ".typed", ".txt", ".toml", ".ckpt"}
NO_SUFFIX = {"LICENSE", "Makefile", ".gitignore", "PKG-INFO"}
LITTER = {"__pycache__", ".venv", "build", "dist", "outputs", "multirun", "lightning_logs", "checkpoints", "runs"}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and with the wheel that is made of it; another wheel, from the tree, in ``tree``."""
    folder = tmp_path_factory.mktemp("dist")
    for more in (["--outdir", str(folder)], ["--wheel", "--outdir", str(folder / "tree")]):
        command = [sys.executable, "-m", "build", "--no-isolation", *more, str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def in_sdist(dist: Path) -> dict[PurePosixPath, int]:
    """Files of the sdist below its one folder, with their sizes."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {PurePosixPath(one.name): one.size for one in archive.getmembers() if one.isfile()}
    assert {path.parts[0] for path in found} == {f"lightning_select-{lightning_select.__version__}"}
    return {PurePosixPath(*path.parts[1:]): size for path, size in found.items()}


def in_wheel(folder: Path) -> dict[str, bytes]:
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_holds_the_repository_and_no_litter(dist: Path) -> None:
    held = in_sdist(dist)
    assert {path.parts[0] for path in held} == TOP
    assert {path.suffix for path in held if path.name not in NO_SUFFIX} <= SUFFIXES
    assert not [path for path in held if LITTER & set(path.parts) or (path.name.startswith(".") and path.parts[1:])]
    sources = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert {PurePosixPath(path.relative_to(ROOT).as_posix()) for path in sources} <= set(held)
    assert max(held.values()) < 300_000, max(held, key=held.__getitem__)
    assert sum(held.values()) < 6_000_000


def test_the_wheel_holds_the_package_and_nothing_else(dist: Path) -> None:
    held, info = in_wheel(dist), f"lightning_select-{lightning_select.__version__}.dist-info"
    assert {name.partition("/")[0] for name in held} == {"lightning_select", "hydra_plugins", info}
    told = {name.removeprefix(f"{info}/") for name in held if name.startswith(info)}
    assert told == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert {PurePosixPath(name).suffix for name in held if info not in name} <= {
        *(".py", ".yaml", ".html", ".css", ".typed")
    }
    assert not [name for name in held if "test" in name.replace("lightning_select/testing.py", "")]
    assert held[f"{info}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert sum(map(len, held.values())) < 3_000_000


def test_the_sdist_builds_the_same_wheel(dist: Path) -> None:
    assert in_wheel(dist) == in_wheel(dist / "tree")


@pytest.fixture(scope="module")
def metadata(dist: Path) -> Metadata:
    """As the index reads it: whatever breaks a rule raises."""
    (raw,) = (text for name, text in in_wheel(dist).items() if name.endswith("/METADATA"))
    try:
        return Metadata.from_email(raw, validate=True)
    except Exception as broken:
        errors = getattr(broken, "exceptions", (broken,))
        if all("is not a valid metadata version" in str(error) for error in errors):
            pytest.skip(f"packaging is older than the tool that made the wheel: {errors}")
        raise


def test_the_metadata_are_valid_and_say_what_is_true(metadata: Metadata) -> None:
    assert metadata.name == "lightning-select"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.license_files == ["LICENSE"]
    said = set(metadata.classifiers or [])
    assert said <= set(classifiers)
    minors = {int(one.rpartition(".")[2]) for one in said if "Python :: 3." in one}
    assert metadata.requires_python is not None
    assert {minor for minor in range(8, 14) if f"3.{minor}" in metadata.requires_python} == minors
    assert not metadata.project_urls, "only addresses that lead somewhere"


def test_the_malicious_releases_are_excluded_wherever_lightning_is_required(metadata: Metadata) -> None:
    required = [one for one in metadata.requires_dist or [] if one.name in ("lightning", "pytorch-lightning")]
    assert len(required) >= 2
    for one in required:
        assert not set(one.specifier.filter(["2.6.1", "2.6.2", "2.6.3", "2.6.4"])) & {"2.6.2", "2.6.3"}


def test_one_version_everywhere(metadata: Metadata) -> None:
    version = Version(lightning_select.__version__)
    assert metadata.version == version
    assert not version.is_devrelease
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changes, re.MULTILINE)
    assert heads[0] == ("Unreleased", "")
    assert heads[1][0] == str(version)
    assert heads[1][1]
    assert f"## {version}\n" in (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    kinds = set(re.findall(r"^### (.+)$", changes, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def needed(metadata: Metadata, extras: set[str]) -> set[str]:
    """Every package that these extras bring here, those of packages included."""
    waiting = [(one, extras) for one in metadata.requires_dist or []]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one, asked = waiting.pop()
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in {"", *asked}):
            continue
        name = canonicalize_name(one.name)
        fresh = {(name, extra) for extra in {"", *one.extras}} - seen
        seen |= fresh
        if not fresh:
            continue
        if name == "lightning-select":
            waiting += [(inner, set(one.extras)) for inner in metadata.requires_dist or []]
            continue
        try:
            inner = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an older environment: what is pinned by name alone is still looked for
        waiting += [(Requirement(text), set(one.extras)) for text in inner]
    return {name for name, _ in seen} - {"lightning-select"}


def test_every_package_of_the_tests_is_pinned(metadata: Metadata) -> None:
    pinned = pins(FILE.read_text(encoding="utf-8"))
    found = needed(metadata, {"dev", "audit", "thirdparty"})
    assert {"torch", "fsspec", "mkdocs", "pip-audit", "kornia"} <= found
    brought = {name for name in found if not re.match(r"nvidia-|cuda-|triton$", name)}
    assert not brought - set(pinned), "Run `python -m tests.lock` with each interpreter."
    for lines in pinned.values():
        for line in lines:
            assert re.fullmatch(r'[\w.-]+==[\w.+-]+(; python_version [<>]=? "3\.\d+"( and .+)?)?', line), line


def test_versions_of_several_pythons_are_merged() -> None:
    resolved = {
        "3.10": [{"a": "1", "b": "1"}, {"a": "1", "c": "1"}],
        "3.11": [{"a": "2", "b": "1"}, {"a": "2"}],
        "3.12": [{"a": "3", "d": "4"}, {}],
        "3.13": [{"a": "3"}, {"hand": "1"}],
    }
    assert merged(resolved, leave=["hand"]) == [
        'a==1; python_version < "3.11"',
        'a==2; python_version >= "3.11" and python_version < "3.12"',
        'a==3; python_version >= "3.12"',
        *("b==1", "c==1", "d==4"),
    ]
    with pytest.raises(ValueError, match=r"a must have one version on Python 3\.10, got \['1', '2'\]"):
        merged({"3.10": [{"a": "1"}, {"a": "2"}]})


def test_a_report_of_pip_is_read() -> None:
    named = {"torch": "2.13.0+cpu", "Typing_Extensions": "4.1", "nvidia-nccl-cu13": "2", "lightning-select": "0.1.0"}
    report = {"install": [{"metadata": {"name": name, "version": at}} for name, at in named.items()]}
    assert versions_in(json.dumps(report)) == {"torch": "2.13.0", "typing-extensions": "4.1"}


def test_the_lower_part_of_the_lock_leaves_the_upper_part_alone() -> None:
    by_hand, _, rest = FILE.read_text(encoding="utf-8").partition(BELOW)
    assert rest
    assert not set(pins(by_hand)) & set(pins(rest))


def test_results_of_a_run_from_the_wheel_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "report.xml"
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="3"/>'
    file.write_text(f"<testsuites>{suite}</testsuites>", encoding="utf-8")
    assert counts(file) == (3, 3, 3)


def test_what_is_about_the_repository_is_known_by_its_mark() -> None:
    found = of_the_repository(ROOT / "tests")
    assert {"test_docs.py", "test_layers.py", "test_packaging.py", "test_uds_sft.py", "test_benchmarks.py"} <= set(
        found
    )
    assert not {"test_security.py", "test_public_api.py", "test_laws.py"} & set(found)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_every_target_of_make_is_told_of() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split()) - {"help", "clean"}  # type: ignore[index]
    told = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([\w-]+)", told, re.MULTILINE)) == targets
