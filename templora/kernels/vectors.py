"""Formats of weights, and LLVM's own vectors, for kernels whose loops numba would not vectorise.

format        codes                          value
FLOAT32       float32 [rows, n]              code
BFLOAT16      uint16  [rows, n]              the upper half of a float32
INT8_ROWS     int8    [rows, n]              scale[row] · code                      scale float32
INT8_BLOCKS   int8    [rows, n]              scale[row, block] · code               scale float16, blocks of 32
INT8_HALVES   int8    [rows, n]              the same of codes from -32 to 31, and a scale for 16, as GGUF's Q6_K has
INT4_BLOCKS   uint8   [rows, n / 32, 16]     scale[row, block] · code + minimum[row, block]       GGUF's Q4_1:
                                             byte j holds elements j (low half) and j + 16 (high half) of a block
INT5_BLOCKS   uint8   [rows, n / 32, 20]     the same, and GGUF's Q5_1: four bytes more, bit j of which is element j's
                                             fifth
"""

from __future__ import annotations

from collections.abc import Sequence
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
NIBBLES = INT4_BLOCKS, INT5_BLOCKS  # formats with two codes a byte, and a minimum
LANES = 16


def _features() -> dict[str, bool]:
    """Of the CPU that is compiled for, which numba may have been told (NUMBA_CPU_FEATURES=+avx2,+fma)."""
    if config.CPU_NAME is None and config.CPU_FEATURES is None:
        return dict(llvmlite.binding.get_host_cpu_features())
    return {each.strip()[1:]: each.strip()[0] == "+" for each in (config.CPU_FEATURES or "").split(",") if each.strip()}


_FEATURES = _features()
# Whether this CPU multiplies bf16 and adds in fp32, sixteen pairs at once (AVX512-BF16), in less time than it takes to
# widen and multiply them: those with AMX do not.
DOTS = bool(_FEATURES.get("avx512bf16")) and not _FEATURES.get("amx-bf16")
# Whether it multiplies bytes and adds in 32 bits, 64 at once (AVX512-VNNI); or can be made to (AVX2).
VNNI = bool(_FEATURES.get("avx512vnni") and _FEATURES.get("avx512vl"))
BYTES = VNNI or bool(_FEATURES.get("avx2"))
if DOTS or VNNI:
    llvmlite.binding.initialize_native_asmparser()  # llvmlite has no type for bf16

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()


def vector(element: ir.Type, lanes: int = LANES) -> ir.VectorType:
    return ir.VectorType(element, lanes)


def integer(number: int) -> ir.Constant:
    return ir.Constant(I64, number)


def lanes_at(
    builder: Any, address: Any, element: ir.Type, at: Any, align: int, lanes: int = LANES, of: ir.Type | None = None
) -> Any:
    """Some elements from element `at` on, or from where that element of another type, `of`, would be."""
    pointer = builder.gep(builder.inttoptr(address, (of or element).as_pointer()), [at])
    return builder.load(builder.bitcast(pointer, vector(element, lanes).as_pointer()), align=align)


def same(kind: ir.Type, number: Any) -> ir.Constant:
    """A constant, the same in all lanes."""
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)


def nibbles(builder: Any, format: int, codes: Any, block: Any, count: int = 1) -> list[Any]:
    """The codes of `count` blocks of `NIBBLES` as bytes: the lower halves of all blocks, and the upper ones."""
    b, at, fifths = builder, builder.mul(block, ir.Constant(block.type, BLOCK_BYTES[format])), []
    if format == INT4_BLOCKS:
        pairs = lanes_at(b, codes, I8, at, 1, 16 * count)
    else:
        words = 5 * count
        first = lanes_at(b, codes, I32, at, 1, min(words, LANES), of=I8)
        rest = first
        if words > LANES:
            rest = lanes_at(b, codes, I32, b.add(at, ir.Constant(at.type, 4 * (words - LANES))), 1, of=I8)

        def taken(some: range | list[int]) -> Any:
            lanes = [n if n < LANES else n + 2 * LANES - words for n in some]
            return b.shuffle_vector(first, rest, ir.Constant(vector(I32, len(lanes)), lanes))

        pairs = b.bitcast(taken([n for n in range(words) if n % 5 < 4]), vector(I8, 16 * count))
        bits = b.bitcast(taken(range(4, words, 5)), vector(I16, 2 * count))
        for n in (0, 1):
            half = b.shuffle_vector(bits, bits, ir.Constant(vector(I32, count), list(range(n, 2 * count, 2))))
            fifths.append(b.bitcast(half, vector(ir.IntType(1), 16 * count)))
    parts = [b.and_(pairs, same(pairs.type, 15)), b.lshr(pairs, same(pairs.type, 4))]
    for n, fifth in enumerate(fifths):
        parts[n] = b.select(fifth, b.or_(parts[n], same(pairs.type, 16)), parts[n])
    return parts


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
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align={I8: 1, I16: 2}.get(element, 4))


def shared(builder: Any, numbers: Any, some: range, lanes: int = LANES) -> Any:
    """A vector of `lanes`: of some lanes of `numbers`, or of the one number, each has as many, one after the other."""
    if not isinstance(numbers.type, ir.VectorType):
        numbers = builder.insert_element(ir.Constant(vector(F32), ir.Undefined), numbers, ir.Constant(I32, 0))
    of = ir.Constant(vector(I32, lanes), [lane for lane in some for _ in range(lanes // len(some))])
    return builder.shuffle_vector(numbers, ir.Constant(numbers.type, ir.Undefined), of)


def spread(builder: Any, numbers: Any, lane: int = 0) -> Any:
    """All lanes the same: a number, or one lane of several."""
    return shared(builder, numbers, range(lane, lane + 1))


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


def _halves(builder: Any, x: Any) -> list[Any]:
    half = x.type.count // 2
    lanes = (ir.Constant(vector(I32, half), list(range(first, first + half))) for first in (0, half))
    return [builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), some) for some in lanes]


def byte_dot(builder: Any, total: Any, unsigned: Any, signed: Any, vnni: bool = VNNI) -> Any:
    """total [n] + the sums of four products each of bytes [4 n]: whole numbers, n being 4, 8 or 16.

    Without `vnni` two products must not sum to more than 16 bits: with |signed| up to 128, unsigned to 127.
    """
    b, lanes = builder, total.type.count
    if vnni:
        words = [b.bitcast(each, total.type) for each in (unsigned, signed)]
        kind = ir.FunctionType(total.type, [total.type] * 3)
        return b.call(ir.InlineAsm(kind, "vpdpbusd $3, $2, $0", "=v,0,v,v"), [total, *words])
    if lanes == LANES:  # no instruction is as wide
        parts = [_halves(b, each) for each in (total, unsigned, signed)]
        one, other = (byte_dot(b, t, u, s, vnni=False) for t, u, s in zip(*parts, strict=True))
        return b.shuffle_vector(one, other, ir.Constant(vector(I32), list(range(LANES))))
    shorts = vector(I16, 2 * lanes)
    names = ("avx2.pmadd.ub.sw", "avx2.pmadd.wd") if lanes == 8 else ("ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd")
    kinds = ir.FunctionType(shorts, [unsigned.type] * 2), ir.FunctionType(total.type, [shorts] * 2)
    pairs, fours = (
        cgutils.get_or_insert_function(b.module, kind, f"llvm.x86.{name}")
        for kind, name in zip(kinds, names, strict=True)
    )
    products = b.call(pairs, [unsigned, signed])
    return b.add(total, b.call(fours, [products, ir.Constant(shorts, [1] * shorts.count)]))


def total(builder: Any, x: Any, more: Sequence[Any] = ()) -> Any:
    """The sum of all lanes, in halves; of fewer lanes, and of a number, too, which are added when as many are left."""
    while isinstance(x.type, ir.VectorType):
        x = builder.fadd(*_halves(builder, x))
        x = builder.extract_element(x, ir.Constant(I32, 0)) if x.type.count == 1 else x
        for each in more:
            x = builder.fadd(x, each) if each.type == x.type else x
    return x


def four_totals(builder: Any, x: list[Any]) -> Any:
    """`total` of each of four vectors of 16 lanes, to the same bits, in less than half of the instructions."""

    def added(one: Any, other: Any, part: int, half: int) -> Any:
        """In parts of so many lanes, what is `half` lanes apart."""
        starts = range(0, 2 * one.type.count if other is not one else one.type.count, part)
        low = [start + n for start in starts for n in range(half)]
        lanes = (ir.Constant(vector(I32, len(low)), [n + apart for n in low]) for apart in (0, half))
        return builder.fadd(*(builder.shuffle_vector(one, other, some) for some in lanes))

    eights = added(x[0], x[1], 16, 8), added(x[2], x[3], 16, 8)
    fours = added(*eights, part=8, half=4)
    pairs = added(fours, fours, 4, 2)
    return added(pairs, pairs, 2, 1)


def prefetch(builder: Any, address: Any, at: Any) -> None:
    """Asks for a byte's cache line ahead of its use."""
    pointer = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(call, [builder.inttoptr(builder.add(address, at), pointer), *(ir.Constant(I32, n) for n in (0, 3, 1))])
