"""Large buffers are used again instead of being given back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from trainer.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)  # 64 MiB, 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
assert keep_freed_memory()
faults()
print(without, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not GNU's")
def test_freed_buffers_are_used_again() -> None:
    """In a process of its own, since the setting stays."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    without, kept = map(int, done.stdout.split())
    assert without > 1_000  # pages may be huge ones
    assert kept < 100
