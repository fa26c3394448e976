"""Numba kernels on torch's own threads.

torch's CPU operators run on the workers of libgomp, which go on spinning for a while after each operator. Threads of
any other kind would have to compete with them for the cores, so a kernel called between two operators of torch is best
run by the same workers: by `GOMP_parallel` of the very library that torch has loaded.

A kernel is a `numba.cfunc` of one argument, the address of its arguments: 64-bit integers (addresses, sizes) and
doubles, in slots of eight bytes. It asks `share` for the rows that are its own. Where torch brings no libgomp (macOS,
Windows), the same kernel runs on the calling thread, which then has all rows.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic

_THREAD, _THREADS = "omp_get_thread_num", "omp_get_num_threads"


@functools.cache
def _libgomp() -> Any:
    """The libgomp that torch has loaded; None if there is none."""
    for path in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*")):
        try:
            return ctypes.CDLL(str(path), mode=getattr(ctypes, "RTLD_NOLOAD", 0) | ctypes.RTLD_LOCAL)
        except OSError:
            continue
    return None


# What a kernel asks for its share of the work, where there is only one thread.
_alone_number = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 0)
_alone_count = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)


@functools.cache
def _bind() -> Any:
    """Tells the compiler where the two OpenMP functions are that kernels call; returns `GOMP_parallel` or None."""
    library = _libgomp()
    number, count = (library[_THREAD], library[_THREADS]) if library else (_alone_number, _alone_count)
    for name, function in ((_THREAD, number), (_THREADS, count)):
        llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    if not library:
        return None
    parallel = library.GOMP_parallel
    parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    parallel.restype = None
    return parallel


_bind()  # before any kernel is compiled or read from numba's cache
_thread_number = types.ExternalFunction(_THREAD, types.int32())
_thread_count = types.ExternalFunction(_THREADS, types.int32())


@njit(inline="always")
def share(rows: int) -> tuple[int, int]:
    """The rows [first, end) that the calling thread is to work on."""
    number, count = np.int64(_thread_number()), np.int64(_thread_count())
    return rows * number // count, rows * (number + 1) // count


def _slots_of(kind: Any) -> Any:
    """A function that makes a kernel's arguments slots of this kind."""

    @intrinsic
    def slots(_: Any, data: Any) -> Any:
        signature = types.CPointer(kind)(data)
        return signature, lambda c, builder, s, args: builder.bitcast(args[0], c.get_value_type(s.return_type))

    return slots


integers, doubles = _slots_of(types.int64), _slots_of(types.float64)


def _pointer_to(kind: Any) -> Any:
    @intrinsic
    def pointer(_: Any, address: Any) -> Any:
        signature = types.CPointer(kind)(types.int64)
        return signature, lambda c, builder, s, args: builder.inttoptr(args[0], c.get_value_type(s.return_type))

    return pointer


halves = _pointer_to(types.uint16)
floats = _pointer_to(types.float32)
longs = _pointer_to(types.int64)
words = _pointer_to(types.int32)
signed_bytes = _pointer_to(types.int8)


def run(kernel: Any, rows: int, *args: float | torch.Tensor, alone: bool = False) -> None:
    """Runs `kernel` on torch's threads, or `alone` on the caller's: waking others for little work costs more than it
    does, and they go on spinning. Its slots: the number of rows, then `args`, of tensors the address."""
    slots = np.empty(1 + len(args), np.int64)
    slots[0] = rows
    for i, arg in enumerate(args, 1):
        if isinstance(arg, float):
            slots[i : i + 1].view(np.float64)[0] = arg
        else:
            slots[i] = arg.data_ptr() if isinstance(arg, torch.Tensor) else arg
    parallel = _bind()
    data = slots.ctypes.data
    if parallel is None:
        kernel.ctypes(data)
    else:
        parallel(kernel.address, data, 1 if alone else min(rows, torch.get_num_threads()), 0)
