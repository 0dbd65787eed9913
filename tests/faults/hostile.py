"""Files that are not what they seem: cut off, of others, made to run code, or to eat memory."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


class Unknown:
    """Of a project that nobody here knows."""


def _saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _saved_by_old_torch(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    """Some bytes in the middle are others."""
    middle = len(content) // 2
    return (
        content[: middle - 32] + bytes(255 - one for one in content[middle - 32 : middle + 32]) + content[middle + 32 :]
    )


def _bomb() -> bytes:
    """A zip that says it holds far more than it does."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"0" * 10_000_000)
    return stream.getvalue()


def _enormous() -> bytes:
    """A view of one number as 10^15 of them: opened in no time, and filled for ever."""
    return _saved(torch.zeros(1).expand(10**15))


def files(mark: Path, whole: bytes | None = None) -> dict[str, Callable[[], bytes]]:
    """Contents by what is wrong with them; ``whole`` is one that is right, to be spoilt."""
    whole = _saved({"state_dict": {"layer.weight": torch.zeros(3)}}) if whole is None else whole
    return {
        "empty": lambda: b"",
        "text": lambda: b"row,loss\n1,2\n",
        "cut off": lambda: _cut(whole),
        "cut off early": lambda: whole[:7],
        "with other bytes": lambda: _flipped(whole),
        "a pickle that runs code": lambda: pickle.dumps(Runs(mark), protocol=2),
        "a checkpoint that runs code": lambda: _saved({"state_dict": Runs(mark)}),
        "a checkpoint that runs code in a key of ours": lambda: _saved({"callbacks": {"BatchSelection": Runs(mark)}}),
        "an old checkpoint that runs code": lambda: _saved_by_old_torch({"state_dict": Runs(mark)}),
        "an object of another project": lambda: _saved({"state_dict": Unknown()}),
        "a bomb": _bomb,
        "an enormous table": _enormous,
        "an enormous table of whole numbers": lambda: _saved(torch.zeros(1, dtype=torch.int64).expand(10**15)),
        "strings": lambda: _saved({"state_dict": {"a": "b"}}),
        "nested rubbish": lambda: _saved({"state_dict": {"a": [{"b": (1, None, {"c": torch.zeros(2)})}]}}),
        "a list of rubbish": lambda: _saved([{"a": [1, 2, "x"]}, None, 3.0]),
        "a number": lambda: _saved(3),
        "nothing": lambda: _saved(None),
        "complex numbers": lambda: _saved(torch.zeros(5, dtype=torch.complex64)),
        "two dimensions": lambda: _saved(torch.zeros(5, 2)),
        "no rows": lambda: _saved(torch.zeros(0)),
        "sparse": lambda: _saved(torch.zeros(5).to_sparse()),
        "a gap of 10^15 ids": lambda: _saved({0: 1.0, 10**15: 2.0}),
        "a directory of weights": lambda: _saved({"state_dict": []}),
    }


def numpy_files(mark: Path) -> dict[str, Callable[[], bytes]]:
    """The same for ``.npy``."""

    def kept(value: Any, **how: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, value, **how)
        return stream.getvalue()

    whole = kept(np.zeros(100))
    header = whole.replace(b"(100,)", b"(10000000000000,)")
    return {
        "empty": lambda: b"",
        "cut off": lambda: _cut(whole),
        "an array of objects": lambda: kept(np.array([Runs(mark)], dtype=object), allow_pickle=True),
        "a pickle": lambda: pickle.dumps(Runs(mark)),
        "text": lambda: b"1 2 3",
        "a header of 10^13 numbers": lambda: header,
        "strings": lambda: kept(np.array(["a", "b"])),
        "records": lambda: kept(np.zeros(3, dtype=[("a", "f4")])),
        "two dimensions": lambda: kept(np.zeros((2, 3))),
        "a zip": _bomb,
    }
