"""A torchvision built for another torch is imported all the same; a stand-in fails as it does."""

from __future__ import annotations

import subprocess
import sys

# What torchvision does on import: it describes operators that its compiled part should have declared.
PACKAGE = """
import torch

@torch.library.register_fake("torchvision::nms")
def nms(dets, scores, iou_threshold):
    return dets

from torchvision import models
"""
# torch raises NotImplementedError for an operator that is declared and has no kernel: nms must not seem to work.
CODE = """
import sys, torch
try:
    import torchvision
except RuntimeError as error:
    print(error)
from taba_core.models.torchvision_import import import_torchvision, repair_torchvision
repair_torchvision()
import torchvision
print(torchvision.models.NAME, import_torchvision() is torchvision)
try:
    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except NotImplementedError:
    print("not implemented")
"""


def outcome(folder, code):
    command = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)


def test_missing_operators_are_declared_and_another_failure_is_not_hidden(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE)
    (package / "models.py").write_text("NAME = 'stand-in'\n")
    done = outcome(tmp_path, CODE)
    assert done.stdout.splitlines() == [
        "operator torchvision::nms does not exist", "stand-in True", "not implemented",
    ], done.stderr  # fmt: skip
    (package / "__init__.py").write_text("raise RuntimeError('another')\n")
    done = outcome(tmp_path, "from taba_core.models.torchvision_import import import_torchvision as f; f()")
    assert done.returncode == 1 and done.stderr.strip().endswith("RuntimeError: another")
