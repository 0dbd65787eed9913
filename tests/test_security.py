"""The promises of SECURITY.md."""

from __future__ import annotations

import ast
import io
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_select
from lightning_select.errors import ReferenceModelError
from lightning_select.reports.writing import write_report
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.reducible_loss import ReducibleLoss
from lightning_select.selectors.top_k import TopK
from tests.fitting import fit, loader
from tests.modules import Classifier
from tests.reports import made_up
from tests.scanning import faults

PACKAGE = Path(lightning_select.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [path.relative_to(PACKAGE).as_posix() for path in FILES]
EXCEPTIONS = {"testing.py": "imports pickle", "signals/traceless/generators.py": "imports ctypes"}
"""The first copies the user's own object through memory, the second looks at that of NumPy's generator."""

BAD = [
    "import pickle",
    "from marshal import loads",
    "import shelve",
    "import joblib",
    "import importlib\nimportlib.import_module('pickle')",
    "eval('1')",
    "exec('1')",
    "compile('1', '', 'eval')",
    "run = eval\nrun('1')",
    "import os\nos.system('ls')",
    "from os import system\nsystem('ls')",
    "import os as o\no.execv('/bin/ls', [])",
    "import subprocess",
    "run('ls', shell=True)",
    "import torch\ntorch.load('x')",
    "import torch\ntorch.load('x', weights_only=False)",
    "import torch as t\nt.load('x', weights_only=flag)",
    "from torch import load\nload('x')",
    "import torch\ntorch.jit.load('x')",
    "import torch\ntorch.serialization.add_safe_globals([int])",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import yaml",
    "from omegaconf import OmegaConf\nOmegaConf.register_new_resolver('eval', str)",
    "import pandas\npandas.read_pickle('x')",
    "import urllib.request",
    "from http.client import HTTPConnection",
    "import socket",
    "AutoModel.from_pretrained('x', trust_remote_code=True)",
    "from jinja2 import Environment\nEnvironment()",
    "import jinja2\njinja2.Environment(autoescape=False)",
    "import os\nos.chmod('x', 0o777)",
    "import tempfile\ntempfile.mktemp()",
    "import sys\nsys.settrace(None)",
]


@pytest.mark.parametrize("code", BAD)
def test_the_scan_finds_what_it_looks_for(code: str) -> None:
    assert list(faults(code))


def test_the_scan_lets_the_rest_pass() -> None:
    fine = "import torch, re, numpy as np\ntorch.load('x', weights_only=True)\nnp.load('x')\nre.compile('x')\n"
    assert not list(faults(fine + "module.eval()\ntorch.compile(module)\nyaml = 'pickle'\n"))


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_nothing_dangerous_stands_in_the_source(path: Path) -> None:
    known = EXCEPTIONS.get(path.relative_to(PACKAGE).as_posix(), "\0")
    assert not [fault for fault in faults(path.read_text(encoding="utf-8")) if known not in fault]


def test_configs_become_objects_in_three_places() -> None:
    """All else is given objects; whoever adds a place has to say so in SECURITY.md."""
    hydras = {"instantiate", "call", "get_object", "get_class", "get_method", "get_static_method", "get_obj"}
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in hydras and ast.unparse(node.value) == "hydra.utils":
                found.add(path.name)
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hydra.utils"):
                found.add(path.name)
    assert found == {"batch_size.py", "building.py", "fairness.py"}


def test_templates_escape_and_hold_no_script() -> None:
    pages = [page for page in PACKAGE.rglob("templates/*") if page.is_file()]
    assert len(pages) >= 3
    for page in pages:
        told = page.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|<script|javascript:|https?://|url\(", told), page.name
        if "<html" in told:
            assert "Content-Security-Policy\" content=\"default-src 'none'" in told, page.name


WATCHED = """
import os, sys
seen, allowed = [], os.path.realpath(os.environ["ALLOWED"])
programs = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")
hooks = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "sys.settrace", "sys.setprofile")

def watch(event, arguments):
    # Numbers are handles that are open already; /dev/null keeps nothing.
    if event == "open" and isinstance(arguments[0], (str, bytes)) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        place = os.path.realpath(os.fsdecode(arguments[0]))
        if place != "/dev/null" and not place.startswith(allowed + os.sep):
            seen.append(f"writes {place}")
    elif event in ("os.mkdir", "os.rename", "os.remove") and isinstance(arguments[0], (str, bytes)):
        if not os.path.realpath(os.fsdecode(arguments[0])).startswith(allowed):
            seen.append(f"{event} {arguments[0]}")
    elif event in programs or event in hooks or event.startswith("urllib"):
        seen.append(f"{event} {arguments}")
"""

OTHERS = "import torch, lightning.pytorch, lightning.pytorch.callbacks, torchmetrics"

IMPORTS = f"""{OTHERS}
import importlib, pkgutil, threading
sys.addaudithook(watch)
import lightning_select
for info in pkgutil.walk_packages(lightning_select.__path__, "lightning_select."):
    importlib.import_module(info.name)
seen += [f"thread {{one.name}}" for one in threading.enumerate() if one is not threading.main_thread()]
print(*seen, sep="\\n")
"""

FITS = f"""{OTHERS}
from torch.utils.data import DataLoader
from lightning_select import BatchSelection, LossReweighting, SelectionReport
from lightning_select.samplers.loss_proportional import LossProportional
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from lightning_select.weightings.focal import Focal
from tests.fitting import Rows, trainer
from tests.modules import Classifier
sys.addaudithook(watch)
rows = DataLoader(Rows(rows=24), 8, sampler=LossProportional(24))
callbacks = [BatchSelection(Loss(), TopK(), keep=0.5), LossReweighting(Focal()), SelectionReport("report")]
trainer(*callbacks, default_root_dir="here").fit(Classifier(), rows)
print(*seen, sep="\\n")
"""

SELF_TEST = """
sys.addaudithook(watch)
import socket, subprocess
open(sys.argv[1], "w").close()
try:
    socket.create_connection(("127.0.0.1", 9), timeout=0.1)
except OSError:
    pass
subprocess.run([sys.executable, "-c", ""])
print(*seen, sep="\\n")
"""


def watched(code: str, cwd: Path, *arguments: str) -> list[str]:
    """What code does to the world, outside of its own folder, told by Python itself."""
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    quiet = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "ALLOWED": str(cwd), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-c", WATCHED + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(("writes", "socket", "urllib", *PROGRAMS))]


PROGRAMS = ("subprocess", "os.", "thread ", "signal.", "sys.")


def test_the_watch_sees_files_sockets_and_programs(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    told = "\n".join(watched(SELF_TEST, tmp_path / "own", str(tmp_path / "outside.txt")))
    assert "outside.txt" in told
    assert "socket.connect" in told
    assert "subprocess.Popen" in told


def test_importing_every_module_does_nothing_but_define_names(tmp_path: Path) -> None:
    assert watched(IMPORTS, tmp_path) == []


def test_a_fit_reaches_nothing_but_its_own_folder(tmp_path: Path) -> None:
    assert watched(FITS, tmp_path) == []
    assert (tmp_path / "report" / "report.html").is_file()


class Hostile:
    """Runs a command of the shell where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".npy"])
def test_a_hostile_reference_runs_nothing(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"reference{suffix}"
    if suffix == ".npy":
        np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True)
    else:
        torch.save({"state_dict": {"a": Hostile()}}, path)
    score = ReducibleLoss(str(path))
    with pytest.raises(ReferenceModelError, match=r"load with weights_only=True"):
        fit(Classifier, lightning_select.BatchSelection(score, TopK(), keep=0.5))
    assert not (tmp_path / "ran").exists()


def test_what_we_put_into_checkpoints_is_plain(tmp_path: Path) -> None:
    kept = lightning_select.BatchSelection(lambda signals: signals.loss, TopK(), keep=0.5)
    rows = loader(shuffle=False, sampler=LossProportional(48))
    done = fit(Classifier, kept, lightning_select.SelectionReport(tmp_path), data=rows)
    done.save_checkpoint(tmp_path / "saved.ckpt")
    held = torch.load(tmp_path / "saved.ckpt", weights_only=True)
    assert any("SamplerFeedback" in key for key in held["callbacks"])
    copied = io.BytesIO()
    torch.save(held["callbacks"], copied)
    assert b"lightning_select" not in copied.getvalue().replace(b"lightning_select.callbacks", b"")


@pytest.mark.skipif(os.name == "nt", reason="permissions of Windows are others")
def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        page = write_report(tmp_path / "private", made_up.report())
    finally:
        os.umask(before)
    for file in page.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
