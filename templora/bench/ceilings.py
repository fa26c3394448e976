"""What the machine can do: the two figures that speed is held against.

    memory bandwidth   bytes a second read from a buffer far larger than the last-level cache
    matrix rate        FLOP a second of matrix products in the compute dtype

Medians of several passes, after one that is not counted. Measured, never looked up; `measure_apart` does so in a
process of its own, so that its buffers do not count in this one's memory.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from templora.runtime.subprocesses import command

_LINE = 8  # bytes of an element of the buffer that is read


@dataclass(frozen=True)
class Ceilings:
    """Measured on one device.

    Args:
        bytes_per_second: read from memory.
        square_flops_per_second: of a large square product.
        shapes_flops_per_second: of the model's own products, the time of all of them together.
    """

    bytes_per_second: float
    square_flops_per_second: float
    shapes_flops_per_second: float

    @property
    def flops_per_second(self) -> float:
        """The higher of the two rates: what no step can pass."""
        return max(self.square_flops_per_second, self.shapes_flops_per_second)


def timed(action: Callable[[], object], device: torch.device) -> float:
    """Seconds that `action` takes, on the device's own clock where it has one."""
    if device.type != "cuda":
        began = time.perf_counter()
        action()
        return time.perf_counter() - began
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    begin.record()
    action()
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000


def median_seconds(action: Callable[[], object], device: torch.device, passes: int) -> float:
    """Median of `passes` timings, after one that is not counted."""
    action()
    return max(1e-9, statistics.median(timed(action, device) for _ in range(passes)))  # clocks may stand still


@torch.no_grad()
def memory_bandwidth(device: torch.device, size: int = 2**30, passes: int = 5) -> float:
    """Bytes read a second when a buffer of `size` bytes is summed."""
    buffer = torch.ones(size // _LINE, dtype=torch.int64, device=device)
    return buffer.numel() * _LINE / median_seconds(buffer.sum, device, passes)


@torch.no_grad()
def matrix_rate(
    shapes: Iterable[tuple[int, int]], rows: int, device: torch.device, dtype: torch.dtype, passes: int = 5
) -> float:
    """FLOP a second of products of `rows` rows with weights of these (inputs, outputs), one after the other.

    Shapes that come more than once are measured once and weighed by how often they come.
    """
    flops = seconds = 0.0
    for (inputs, outputs), count in Counter(shapes).items():
        x = torch.randn(rows, inputs, device=device, dtype=dtype)
        w = torch.randn(outputs, inputs, device=device, dtype=dtype)
        product = lambda x=x, w=w: F.linear(x, w)  # noqa: E731
        # A product of microseconds is repeated, so that a pass is longer than the clock's and the launch's own cost.
        repeats = max(1, round(2e-3 / max(1e-6, timed(product, device))))
        run = lambda product=product, n=repeats: [product() for _ in range(n)]  # noqa: E731
        seconds += count * median_seconds(run, device, passes) / repeats
        flops += count * 2.0 * rows * inputs * outputs
    return flops / seconds


def measure_apart(
    shapes: Iterable[tuple[int, int]],
    rows: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    square: int = 4096,
    buffer_bytes: int = 2**30,
    passes: int = 5,
) -> Ceilings:
    """All of them, measured in another process with as many threads as this one.

    Args:
        shapes: (inputs, outputs) of the model's linear layers.
        rows: of these products: tokens that go through a layer at once.
        square: rows, inputs and outputs of the large product.
        buffer_bytes: read to find the bandwidth; many times the last-level cache.
    """
    asked = {
        "shapes": list(shapes),
        "rows": rows,
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "square": square,
        "buffer_bytes": buffer_bytes,
        "passes": passes,
    }
    # A session of its own: Ctrl-C is for this process, which ends the other one.
    done = subprocess.run(
        command("templora.bench.ceilings"),
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
    )
    return Ceilings(**json.loads(done.stdout))


def _answer(asked: dict[str, Any]) -> Ceilings:
    """What `measure_apart` asked for, in the process that it started."""
    torch.set_num_threads(asked["threads"])
    shapes = [(inputs, outputs) for inputs, outputs in asked["shapes"]]
    device, dtype = torch.device(asked["device"]), getattr(torch, asked["dtype"])
    square, passes = asked["square"], asked["passes"]
    return Ceilings(
        memory_bandwidth(device, asked["buffer_bytes"], passes),
        matrix_rate([(square, square)], square, device, dtype, passes),
        matrix_rate(shapes, asked["rows"], device, dtype, passes),
    )


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_answer(json.load(sys.stdin)))))
