"""Formats of weights, and LLVM's own vectors, for kernels whose loops numba would not vectorise.

format        codes                          value
FLOAT32       float32 [rows, n]              code
BFLOAT16      uint16  [rows, n]              the upper half of a float32
INT8_ROWS     int8    [rows, n]              scale[row] · code                      scale float32
INT8_BLOCKS   int8    [rows, n]              scale[row, block] · code               scale float16, blocks of 32
INT8_HALVES   int8    [rows, n]              the same with a scale for 16, as GGUF's Q6_K has
INT4_BLOCKS   uint8   [rows, n / 32, 16]     scale[row, block] · code + minimum[row, block]       GGUF's Q4_1:
                                             byte j holds elements j (low half) and j + 16 (high half) of a block
INT5_BLOCKS   uint8   [rows, n / 32, 20]     the same, and GGUF's Q5_1: four bytes more, bit j of which is element j's
                                             fifth
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config
from numba.core import cgutils

FLOAT32, BFLOAT16, INT8_ROWS, INT8_BLOCKS, INT8_HALVES, INT4_BLOCKS, INT5_BLOCKS = range(7)
BLOCK = 32
# Codes of a block.
BLOCK_BYTES = {
    FLOAT32: 128, BFLOAT16: 64, INT8_ROWS: 32, INT8_BLOCKS: 32, INT8_HALVES: 32, INT4_BLOCKS: 16, INT5_BLOCKS: 20
}  # fmt: skip
LANES = 16

_FEATURES = {} if config.CPU_NAME else llvmlite.binding.get_host_cpu_features()
# Whether this CPU multiplies bf16 and adds in fp32, sixteen pairs at once (AVX512-BF16).
DOTS = bool(_FEATURES.get("avx512bf16"))
if DOTS:
    llvmlite.binding.initialize_native_asmparser()  # llvmlite has no type for bf16

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def integer(number: int) -> ir.Constant:
    return ir.Constant(I64, number)


def lanes_at(builder: Any, address: Any, element: ir.Type, at: Any, align: int) -> Any:
    """`LANES` elements from element `at` on."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    return builder.load(builder.bitcast(pointer, vector(element).as_pointer()), align=align)


def fifth_bits(builder: Any, codes: Any, block: Any) -> Any:
    """Those of an INT5_BLOCKS block, as one number of 32 bits."""
    b = builder
    place = b.add(codes, b.add(b.mul(block, integer(BLOCK_BYTES[INT5_BLOCKS])), integer(LANES)))
    return b.load(b.inttoptr(place, I32.as_pointer()), align=1)


def with_fifth(builder: Any, codes: Any, bits: Any) -> Any:
    """`codes`, a vector of integers, and 16 more for those whose bit is set; as many bits as codes."""
    kind = codes.type
    mask = builder.bitcast(bits, vector(ir.IntType(1), kind.count))
    return builder.select(mask, builder.or_(codes, ir.Constant(kind, [16] * kind.count)), codes)


def widened(builder: Any, address: Any, element: ir.Type, at: Any, width: int) -> Any:
    """`width` numbers from element `at` on, as float32; a plain number for width 1."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    if width > 1:
        pointer = builder.bitcast(pointer, vector(element, width).as_pointer())
    value = builder.load(pointer, align=2 if element == F16 else 4)
    return value if element == F32 else builder.fpext(value, F32 if width == 1 else vector(F32, width))


def store(builder: Any, value: Any, address: Any, element: ir.Type, at: Any) -> None:
    """Writes a number, or a vector of them, from element `at` on."""
    pointer = builder.gep(builder.inttoptr(address, element.as_pointer()), [at])
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=2 if element == I16 else 4)


def spread(builder: Any, numbers: Any, lane: int = 0) -> Any:
    """All lanes the same: a number, or one lane of several."""
    if not isinstance(numbers.type, ir.VectorType):
        numbers = builder.insert_element(ir.Constant(vector(F32), ir.Undefined), numbers, ir.Constant(I32, 0))
    empty = ir.Constant(numbers.type, ir.Undefined)
    return builder.shuffle_vector(numbers, empty, ir.Constant(vector(I32), [lane] * LANES))


def halved(builder: Any, numbers: Any, lane: int) -> Any:
    """One lane of several in the first half of all lanes, and the next in the second."""
    lanes = [lane] * (LANES // 2) + [lane + 1] * (LANES // 2)
    empty = ir.Constant(numbers.type, ir.Undefined)
    return builder.shuffle_vector(numbers, empty, ir.Constant(vector(I32), lanes))


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x · y + z, rounded once."""
    name = f"llvm.fma.v{x.type.count}f32" if isinstance(x.type, ir.VectorType) else "llvm.fma.f32"
    call = cgutils.get_or_insert_function(builder.module, ir.FunctionType(x.type, [x.type] * 3), name)
    return builder.call(call, [x, y, z])


def dot(builder: Any, total: Any, x: Any, y: Any) -> Any:
    """total + the products of the two bf16 in each of 16 words: one instruction where there are `DOTS`."""
    if DOTS:
        kind = ir.FunctionType(vector(F32), [vector(F32), vector(I32), vector(I32)])
        return builder.call(ir.InlineAsm(kind, "vdpbf16ps $3, $2, $0", "=v,0,v,v"), [total, x, y])
    sixteen, upper = (ir.Constant(vector(I32), [n] * LANES) for n in (16, 0xFFFF0000))
    for half in (lambda word: builder.shl(word, sixteen), lambda word: builder.and_(word, upper)):
        one, other = (builder.bitcast(half(word), vector(F32)) for word in (x, y))
        total = fma(builder, one, other, total)
    return total


def total(builder: Any, x: Any) -> Any:
    """The sum of all lanes, in halves."""
    while x.type.count > 1:
        half = x.type.count // 2
        parts = [
            builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), ir.Constant(vector(I32, half), list(lanes)))
            for lanes in (range(half), range(half, 2 * half))
        ]
        x = builder.fadd(*parts)
    return builder.extract_element(x, ir.Constant(I32, 0))


def prefetch(builder: Any, address: Any, at: Any) -> None:
    """Asks for a byte's cache line ahead of its use."""
    pointer = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(call, [builder.inttoptr(builder.add(address, at), pointer), *(ir.Constant(I32, n) for n in (0, 3, 1))])
