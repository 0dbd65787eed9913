"""What a wheel holds, and what someone who installed it meets."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_select.app.hydra_versions import BASE

ROOT = Path(__file__).parents[1]
HEAVY = ["hydra", "matplotlib", "sklearn", "transformers", "peft", "pandas"]
ALIASES = ["omegaconf", "hydra-core", "scikit-learn"]
CORE = {"torch", "lightning", "torchmetrics", "numpy", "hydra-core"}

pytestmark = pytest.mark.repository

HIDE = """
import importlib.machinery, importlib.metadata, sys
hidden = {names!r}
find, read = importlib.machinery.PathFinder.find_spec, importlib.metadata.Distribution.from_name

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else find(name, path, target)

def from_name(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return read(name)

importlib.metadata.Distribution.from_name = from_name
sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""
"""Makes packages look as if they were not installed."""

APP = """
import sys
import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

# Names that our own application uses too; these are stored in Python, which Hydra looks at last.
ConfigStore.instance().store(group="trainer", name="default", node={{"who": "theirs"}})
ConfigStore.instance().store(name="app", node={{"defaults": [{{"trainer": "default"}}, {{"callbacks": "default"}}]}})

@hydra.main(config_path="conf", config_name="app"{base})
def run(config):
    if "torch" in sys.modules or "lightning_select" in sys.modules:
        raise RuntimeError("the plugin imports too much")
    OmegaConf.save(config, "composed.yaml")

run()
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built once."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ``site-packages`` with nothing but the wheel in it; its name has a space."""
    folder = tmp_path_factory.mktemp("site") / "site packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(code: str, *arguments: str, path: Path, cwd: Path) -> str:
    """Run code in a fresh process that sees ``path`` and what is installed, but not this checkout."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_the_configs_and_the_plugin(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {f.relative_to(ROOT).as_posix() for f in (ROOT / "lightning_select").rglob("*.py")}
    configs = {f"lightning_select/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "configs").rglob("*.yaml")}
    assert len(configs) > 20
    pages = (ROOT / "lightning_select").rglob("templates/*")
    templates = {f.relative_to(ROOT).as_posix() for f in pages if f.is_file()}
    assert templates
    expected = sources - {"lightning_select/hydra_plugin.py"} | configs | templates
    expected |= {"hydra_plugins/lightning_select_plugin.py", "lightning_select/py.typed"}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_requires_the_core_only(wheel) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name)
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        entries = archive.read(f"{info}/entry_points.txt").decode()
    required = {re.split(r"[^\w-]", line)[0] for line in metadata.get_all("Requires-Dist") if "extra ==" not in line}
    assert required == CORE
    assert {"demo", "report", "llm", "dev"} <= set(metadata.get_all("Provides-Extra"))
    assert "lightning-select = lightning_select.app:main" in entries
    assert "[hydra.plugins]\nlightning_select = hydra_plugins.lightning_select_plugin:" in entries


def test_importing_pulls_in_nothing_heavy(unpacked, tmp_path) -> None:
    """Lightning and torchmetrics import some of these by themselves where they are installed."""
    code = f"""
import sys, torch, lightning.pytorch, torchmetrics
before = set(sys.modules)
import lightning_select
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} & set({HEAVY!r})))
print("lightning_select.app" in sys.modules, lightning_select.__file__)
"""
    heavy, rest = python(code, path=unpacked, cwd=tmp_path).splitlines()
    assert heavy == "[]"
    assert rest == f"False {unpacked / 'lightning_select' / '__init__.py'}"


def test_importing_needs_nothing_heavy(unpacked, tmp_path) -> None:
    hide = HIDE.format(names=[*HEAVY, *ALIASES, "jaxtyping", "beartype"])
    code = "import importlib.util, lightning_select; print(importlib.util.find_spec('hydra'))"
    assert python(hide + code, path=unpacked, cwd=tmp_path) == "None\n"


def test_the_help_needs_core_dependencies_only(unpacked, tmp_path) -> None:
    hidden = [name for name in (*HEAVY, "scikit-learn") if name != "hydra"]
    code = HIDE.format(names=hidden) + "from lightning_select.app import main; main()"
    told = python(code, "--help", path=unpacked, cwd=tmp_path)
    assert "callbacks/selection: balanced_difficulty, divbs, dynamic_loss" in told


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Someone else's Hydra app, with a dict of callbacks as lightning-hydra-template has it."""
    (tmp_path / "conf" / "callbacks").mkdir(parents=True)
    summary = "summary:\n  _target_: lightning.pytorch.callbacks.RichModelSummary\n"
    (tmp_path / "conf" / "callbacks" / "default.yaml").write_text(summary, encoding="utf-8")
    return tmp_path


OVERRIDES = (
    *("+callbacks/selection=uds", "callbacks/selection/score=el2n", "callbacks.selection.keep=0.25"),
    "+callbacks/selection@callbacks.reweight=dynamic_loss",
)


def check_foreign(app: Path) -> None:
    """What `OVERRIDES` must have made of the foreign config."""
    config = OmegaConf.load(app / "composed.yaml")
    assert config.trainer == {"who": "theirs"}
    callbacks = config.callbacks
    assert list(callbacks) == ["summary", "selection", "reweight"]
    assert callbacks.selection._target_ == "lightning_select.BatchSelection"
    assert callbacks.selection.score._target_ == "lightning_select.scores.el2n.EL2N"
    assert callbacks.selection.keep == 0.25
    assert callbacks.reweight.weighting._target_ == "lightning_select.weightings.dynamic_loss.DynamicLoss"


def test_configs_are_found_by_someone_elses_app(unpacked, foreign) -> None:
    base = "".join(f", {name}={value!r}" for name, value in BASE.items())
    (foreign / "app.py").write_text(APP.format(base=base), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-W", "error::UserWarning", "app.py", *OVERRIDES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=foreign, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    check_foreign(foreign)


@pytest.mark.slow
@pytest.mark.parametrize("hydra", ["hydra-core>=1.3,<1.4", "hydra-core>=1.4.0rc1"])
@pytest.mark.parametrize("editable", [False, True], ids=["wheel", "editable"])
def test_configs_are_found_by_either_hydra(wheel, foreign, tmp_path, hydra, editable) -> None:
    """Installed by pip into an environment of its own, which sees this one's packages behind its own."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    own = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    find = [own, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    (Path(site) / "zz_behind.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p), encoding="utf-8")
    ours = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)] if editable else ["--no-deps", str(wheel)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for what in (["--pre", "--ignore-installed", hydra], ours):
        subprocess.run([own, "-m", "pip", "install", "-q", *what], check=True, env=environment)
    base = ', version_base="1.3"' if "<1.4" in hydra else ""
    (foreign / "app.py").write_text(APP.format(base=base), encoding="utf-8")
    command = [own, "-W", "error::UserWarning", "app.py", *OVERRIDES]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=foreign, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    check_foreign(foreign)
    command = [own.parent / "lightning-select", "trainer.max_epochs=1", "callbacks/selection=uds"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert "fit: 33 steps" in done.stdout, done.stdout + done.stderr
    assert "hydra" not in done.stderr.lower(), done.stderr
