from __future__ import annotations

import subprocess
import sys


def test_the_peak_outlives_what_was_freed() -> None:
    code = "from templora.runtime.rss import peak_rss_bytes as peak\nbefore = peak(); block = b'x' * 2**28; del block\n"
    code += "print(peak() - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**28 - 2**24 < int(done.stdout) < 2**29


def test_a_program_does_not_inherit_the_peak_of_its_starter() -> None:
    block = bytearray(b"x" * 2**28)
    code = "from templora.runtime.rss import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**20 < int(done.stdout) < len(block)
