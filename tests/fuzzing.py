"""What every reader of a file is held to, whatever the file holds: it answers or raises an error of ours, in time that
grows no faster than the input, and in memory that is a stated multiple of it.

A short run is part of the suite. A long one, with a line a reader in `results/fuzz/`:

    TEMPLORA_FUZZ=20000 TEMPLORA_FUZZ_RESULTS=results/fuzz ./scripts/test tests/fuzz
"""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

from templora.errors import TemploraError

EXAMPLES = int(os.environ.get("TEMPLORA_FUZZ", "30"))
RESULTS = os.environ.get("TEMPLORA_FUZZ_RESULTS")
LONG = EXAMPLES > 1000

T = TypeVar("T")


def fuzzed(test: Callable[..., None]) -> Callable[..., None]:
    """A hypothesis test with as many examples as this run asks for: the same ones each time in a short run."""
    return settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=not LONG,
        database=None,
        suppress_health_check=list(HealthCheck),
    )(test)


class Reader:
    """One reader under test, and what is said of it.

    Args:
        kind: its name, and that of its file of results.
        seconds: CPU seconds that any input may take.
        seconds_per_mb: and how many more for each million bytes.
        memory: Python bytes at its peak, as a multiple of the input's bytes,
        memory_floor: on top of so many bytes.
    """

    def __init__(
        self, kind: str, *, seconds: float = 2.0, seconds_per_mb: float = 20.0, memory: float = 100.0,
        memory_floor: int = 32_000_000,
    ) -> None:  # fmt: skip
        self.kind, self.seconds, self.seconds_per_mb = kind, seconds, seconds_per_mb
        self.memory, self.memory_floor = memory, memory_floor
        self.inputs, self.longest, self.slowest, self.peak = 0, 0, 0.0, 0
        self.refused: Counter[str] = Counter()

    def __call__(self, read: Callable[[], T], size: int) -> T | None:
        """What `read` gives for an input of `size` bytes; None if it raised an error of ours. Others are failures."""
        tracemalloc.start()
        start, answer = time.process_time(), None
        try:
            answer = read()
        except TemploraError as error:
            self.refused[type(error).__name__] += 1
            if not str(error).strip():
                raise AssertionError("an error without a word") from error
        finally:
            seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        self.inputs += 1
        self.longest, self.slowest, self.peak = (
            max(self.longest, size),
            max(self.slowest, seconds),
            max(self.peak, peak),
        )
        assert seconds <= self.seconds + self.seconds_per_mb * size / 1e6, f"{seconds:.1f} s for {size} bytes"
        assert peak <= self.memory_floor + self.memory * size, f"{peak} bytes of memory for {size}"
        return answer

    def save(self) -> None:
        """Puts what was seen into the folder of results, if one was asked for. Called when its tests are over."""
        if RESULTS and self.inputs:
            import platform

            import hypothesis

            import templora
            from templora.reports.run_report import source_commit

            found: dict[str, Any] = {
                "reader": self.kind, "inputs": self.inputs, "refused": dict(self.refused), "failed": 0,
                "longest_input_bytes": self.longest, "slowest_cpu_seconds": round(self.slowest, 3),
                "peak_python_bytes": self.peak,
                "bounds": {"seconds": self.seconds, "seconds_per_mb": self.seconds_per_mb,
                           "memory_multiple": self.memory, "memory_floor": self.memory_floor},
                "versions": {"templora": templora.__version__, "python": platform.python_version(),
                             "hypothesis": hypothesis.__version__, "commit": source_commit()},
                "machine": platform.processor() or platform.machine(),
            }  # fmt: skip
            Path(RESULTS).mkdir(parents=True, exist_ok=True)
            (Path(RESULTS) / f"{self.kind}.json").write_text(json.dumps(found, indent=1) + "\n")
