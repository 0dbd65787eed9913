"""Run these tests where torchvision cannot be imported as it is: `python -m tests.thirdparty [pytest's arguments]`.

The wheel of torchvision on the package registry is built for CUDA. Beside a CPU build of torch its operators are
missing and its import fails, which takes torchmetrics and Lightning with it. So the operators that the import looks for
are declared; nothing here calls them. A conftest.py or a plugin would come too late: pytest imports Lightning before,
to read which warnings it is to ignore.
"""

import importlib
import sys

import pytest
import torch


def main() -> int:
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")
    return pytest.main(["tests/thirdparty", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
