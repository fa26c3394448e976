"""What numba lacks: reading and writing at an address, and atomic counters.

Weights belong to torch; kernels see them as an address and a format, and copy nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _reader(element: ir.Type, kind: types.Type) -> Callable[[int, int], Any]:
    """A function (address, index) -> element `index` of the array at `address`."""

    @intrinsic
    def read(typing: Any, address: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], element.as_pointer())
            return builder.load(builder.gep(pointer, [args[1]]))

        return kind(types.int64, types.int64), generate

    return read


def _writer(element: ir.Type, kind: types.Type) -> Callable[[int, int, Any], None]:
    """A procedure (address, index, value)."""

    @intrinsic
    def write(typing: Any, address: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            pointer = builder.inttoptr(args[0], element.as_pointer())
            builder.store(args[2], builder.gep(pointer, [args[1]]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, kind), generate

    return write


read_int8 = _reader(ir.IntType(8), types.int8)
read_uint16 = _reader(ir.IntType(16), types.uint16)
read_float32 = _reader(ir.FloatType(), types.float32)
write_uint16 = _writer(ir.IntType(16), types.uint16)
write_float32 = _writer(ir.FloatType(), types.float32)


@intrinsic
def address(typing: Any, array: Any) -> Any:
    """Where an array of floats begins."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


@intrinsic
def call(typing: Any, function: Any, args: Any) -> Any:
    """Calls the procedure at an address with int64s, a tuple of them."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        word = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [word] * args.count)
        numbers = cgutils.unpack_tuple(builder, given[1], args.count)
        builder.call(builder.inttoptr(given[0], kind.as_pointer()), numbers)
        return context.get_dummy_value()

    return types.void(types.int64, args), generate


def _counter(builder: Any, context: Any, signature: Any, args: Any) -> Any:
    array = cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0])
    return builder.gep(array.data, [args[1]])


_COUNTERS = types.Array(types.int64, 1, "C")


@intrinsic
def fetch_add(typing: Any, counters: Any, index: Any, amount: Any) -> Any:
    """Adds to counters[index] and returns what it was, as one step."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _counter(builder, context, signature, args), args[2], "seq_cst")

    return types.int64(_COUNTERS, types.int64, types.int64), generate


@intrinsic
def load_acquire(typing: Any, counters: Any, index: Any) -> Any:
    """counters[index], and with it everything written before it was last added to."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_counter(builder, context, signature, args), "acquire", 8)

    return types.int64(_COUNTERS, types.int64), generate
