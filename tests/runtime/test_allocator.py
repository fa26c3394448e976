from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from templora.runtime.allocator import give_freed_memory_back, keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(30):  # until the heap has grown to what it takes
    torch.ones(12_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(12_000_000)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
kept = resident()
give_freed_memory_back()
print(faults, kept - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults_and_given_back_when_asked() -> None:
    """Ten times 48 MB: without it, pages are fetched anew each time."""
    done = [
        subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout.split()
        for how in ("keep", "not")
    ]
    (faults, given_back), (faults_without, _) = (map(int, said) for said in done)
    assert faults < 100 < 10_000 < faults_without
    assert given_back > 40_000_000
