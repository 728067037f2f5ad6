"""A worker on a CPU keeps the memory that a network's layers give back, and asks for no new pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from taba_core.freed_memory import keep_freed_memory
from workflows.compute import workbench

LAYERS = """
import resource, sys
import torch
from taba_core.freed_memory import keep_freed_memory

torch.set_num_threads(1)
kept = len(sys.argv) > 1 and keep_freed_memory()

def layers():
    x = torch.ones(10 << 20)  # 40 MiB, as a layer's output of 64 images
    for _ in range(5):
        x = x + 1
    return float(x[-1])

for _ in range(4):  # small blocks come to lie between large ones, until the heap has room for both
    layers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
assert layers() == 6
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> tuple[bool, int]:
    said = subprocess.run(
        [sys.executable, "-c", LAYERS, *arguments], capture_output=True, text=True, check=True
    )
    kept, faults = said.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="getrusage counts page faults so on Linux")
def test_layers_need_no_new_pages_once_the_heap_has_room():
    _, lost = page_faults()
    kept, faults = page_faults("keep")
    if not kept:
        pytest.skip("this C library has no such setting")
    # Six outputs of 10240 pages (or 20 large ones) each, against next to none.
    assert faults < 100 and faults < lost / 2


def test_another_system_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory.__wrapped__() is False


@pytest.mark.parametrize(("device", "times"), [("cpu", 1), ("cuda", 0)])
def test_workers_on_a_cpu_do_so(device, times, monkeypatch):
    called = []
    monkeypatch.setattr(workbench, "keep_freed_memory", lambda: called.append(device))
    workbench.Workbench(device)
    assert len(called) == times
