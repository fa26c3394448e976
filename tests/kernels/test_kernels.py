"""The compiled kernels against numpy."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from numba import njit, types
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

from templora.kernels import bf16, choosing, decode, decode_attention, digits, products, thread_team, vectors

# Called from Python.
ENTRIES = {
    decode.decode,
    thread_team._linger,
    choosing.entropy,
    choosing.penalised,
    choosing.likeliest,
    choosing.drawn,
}


def test_a_kernel_is_compiled_whole() -> None:
    """Or the process that compiles it would compute other bits than those that find it compiled (`bf16.PART`); but
    what may not be rearranged has the same bits however often it is compiled."""
    modules = (decode, decode_attention, products, thread_team, choosing)
    parts = {f for module in modules for f in vars(module).values() if isinstance(f, Dispatcher)} - ENTRIES
    assert len(parts) > 15
    strict = {part for part in parts if part.targetoptions.get("fastmath") is False}  # else it is as its caller has it
    assert strict == {f for f in vars(products).values() if isinstance(f, Dispatcher)}
    inlined = {part for part in parts if {"inline", "forceinline"} & set(part.targetoptions)}
    assert [part.py_func.__name__ for part in parts - inlined] == []


def floats_of_bfloat16(codes: np.ndarray) -> np.ndarray:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def matrix(format: int, rows: int, n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The stored arrays (codes, scale, minimum) of a random matrix, and its values."""
    random = np.random.default_rng(rows * n + format)
    blocks = n // vectors.BLOCK
    scale = random.uniform(0.5, 2, (rows, blocks)).astype(np.float16)
    least = random.uniform(-2, 2, (rows, blocks)).astype(np.float16)
    wide_scale, wide_least = (np.repeat(x.astype(np.float32), vectors.BLOCK, 1) for x in (scale, least))
    values = random.standard_normal((rows, n)).astype(np.float32)
    if format == vectors.FLOAT32:
        return [values, scale, least], values
    if format == vectors.BFLOAT16:
        codes = (values.view(np.uint32) >> 16).astype(np.uint16)
        return [codes, scale, least], floats_of_bfloat16(codes)
    if format in vectors.NIBBLES:
        most = 16 if format == vectors.INT4_BLOCKS else 32
        numbers = random.integers(0, most, (rows, blocks, 2, 16), dtype=np.uint8)
        packed = numbers[:, :, 0] & 15 | numbers[:, :, 1] << 4
        if format == vectors.INT5_BLOCKS:
            fifth = np.packbits(numbers.reshape(rows, blocks, 32) >> 4, -1, bitorder="little")
            packed = np.concatenate([packed, fifth], -1)
        return [packed, scale, least], numbers.reshape(rows, n) * wide_scale + wide_least
    codes = random.integers(*((-32, 32) if format == vectors.INT8_HALVES else (-128, 128)), (rows, n), dtype=np.int8)
    if format == vectors.INT8_BLOCKS:
        return [codes, scale, least], codes * wide_scale
    if format == vectors.INT8_HALVES:
        scale = random.uniform(0.5, 2, (rows, 2 * blocks)).astype(np.float16)
        return [codes, scale, least], codes * np.repeat(scale.astype(np.float32), vectors.BLOCK // 2, 1)
    by_row = random.uniform(0.5, 2, rows).astype(np.float32)
    return [codes, by_row, least], codes * by_row[:, None]


CASES = [(format, n) for format in range(7) for n in (32, 96, 576)]
CASES += [(format, n) for format in (vectors.FLOAT32, vectors.BFLOAT16, vectors.INT8_ROWS) for n in (5, 48, 50)]


def called(entry: int, *arguments: int) -> None:
    """What a step calls, called from here."""
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(arguments))
    kind(int(products.entries()[entry]))(*arguments)


def times(
    format: int, arrays: list[np.ndarray], first: int, last: int, x: np.ndarray, dots: int, at: int
) -> np.ndarray:
    """`products.times` for texts x [texts, n]: [texts, 14], 7 where nothing is written."""
    texts, n = x.shape
    in_halves, in_order, lying = np.zeros((3, max(1, x.size)), np.uint16)
    sums = np.zeros(4 * texts * (n // vectors.BLOCK) + 1, np.float32)
    y = np.full((texts, 14), 7, np.float32)
    a, b, c = (array.ctypes.data for array in arrays)
    orders, s = [array.ctypes.data for array in (in_halves, in_order, lying)], sums.ctypes.data
    blocks = n // vectors.BLOCK
    for text in range(texts):
        at_text = n * text
        to = [order + 2 * at_text for order in orders]
        called(products.PREPARE, x.ctypes.data + 4 * at_text, blocks, *to, s + 16 * blocks * text, dots)
    of = format, a, b, c, first, last, n
    called(products.TIMES, *of, x.ctypes.data, *orders, s, dots, texts, y.ctypes.data + 4 * at, 14)
    return y


@pytest.mark.parametrize("dots", {0, int(vectors.DOTS)})
@pytest.mark.parametrize(("format", "n"), CASES)
def test_products(format: int, n: int, dots: int) -> None:
    """Any rows, of up to eight texts, into any place of the result, and nothing beside it; each text to the bits that
    it has alone, and each row to those that it has in any other range."""
    arrays, values = matrix(format, 11, n)
    x = np.random.default_rng(0).standard_normal((8, n)).astype(np.float32)
    wanted = x @ values.T
    near = 5e-3 if dots and format == vectors.BFLOAT16 else 5e-5 if format in digits.FORMATS else 2e-5
    found = times(format, arrays, 2, 9, x, dots, 3)
    np.testing.assert_allclose(found[:, 3:10], wanted[:, 2:9], rtol=near, atol=near * np.abs(wanted).max())
    assert (found[:, :3] == 7).all()
    assert (found[:, 10:] == 7).all()
    for texts in (1, 2, 3, 5):
        some = np.ascontiguousarray(x[8 - texts :])
        assert np.array_equal(times(format, arrays, 2, 9, some, dots, 3), found[8 - texts :])
    for first, last in ((2, 3), (4, 9), (7, 9)):
        assert np.array_equal(times(format, arrays, first, last, x, dots, 0)[:, : last - first],
                              found[:, first + 1 : last + 1])  # fmt: skip


@pytest.mark.parametrize("format", digits.FORMATS)
def test_a_text_in_digits_is_off_by_little(format: int) -> None:
    """A step of a block's largest number, at most half of it; numbers beside a large one included, in their block
    alone."""
    arrays, values = matrix(format, 4, 96)
    x = np.random.default_rng(5).standard_normal((1, 96)).astype(np.float32)
    x[0, 7], x[0, 40:64] = -500, 1e-3
    largest = np.repeat(np.abs(x).reshape(3, 32).max(1), 32)
    bound = np.abs(values) @ (largest / 2 / 32_512) + 1e-6 * np.abs(values * x).sum(1)
    found, wanted = times(format, arrays, 0, 4, x, 0, 0)[0, :4], values.astype(np.float64) @ x[0]
    assert (np.abs(found - wanted) < bound).all()
    assert (found != wanted.astype(np.float32)).any()  # which floats would have come nearer to


@pytest.mark.parametrize("format", digits.FORMATS)
@pytest.mark.parametrize("number", [0.0, 1e-42, float("nan"), float("inf"), -float("inf")])
def test_blocks_of_nothing_and_numbers_that_are_none(format: int, number: float) -> None:
    arrays, values = matrix(format, 4, 96)
    x = np.ones((1, 96), np.float32)
    x[0, 32:64] = number
    found = times(format, arrays, 0, 4, x, 0, 0)[0, :4]
    if np.isfinite(number):
        np.testing.assert_allclose(found, values[:, :32].sum(1) + values[:, 64:].sum(1), rtol=1e-5, atol=1e-3)
    else:
        assert not np.isfinite(found).any()


@pytest.mark.skipif(not (vectors.VNNI and vectors.BYTES), reason="this CPU has one way alone")
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_both_ways_to_multiply_bytes(lanes: int) -> None:
    def made(vnni: bool) -> Any:
        @intrinsic
        def dot(typing: Any, total: Any, unsigned: Any, signed: Any) -> Any:
            def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
                zero = vectors.integer(0)
                given = [vectors.lanes_at(b, at, vectors.I8, zero, 1, 4 * lanes) for at in args[1:]]
                so_far = vectors.lanes_at(b, args[0], vectors.I32, zero, 4, lanes)
                vectors.store(b, vectors.byte_dot(b, so_far, *given, vnni=vnni), args[0], vectors.I32, zero)
                return context.get_dummy_value()

            return types.void(*[types.int64] * 3), generate

        @njit
        def run(total: int, unsigned: int, signed: int) -> None:
            dot(total, unsigned, signed)

        return run

    random = np.random.default_rng(lanes)
    unsigned, signed = random.integers(0, 64, 4 * lanes, np.uint8), random.integers(-128, 128, 4 * lanes, np.int8)
    unsigned[:2], signed[:2] = 63, -128
    wanted = 5 + (unsigned.astype(int) * signed).reshape(-1, 4).sum(1)
    for vnni in (False, True):
        total = np.full(lanes, 5, np.int32)
        made(vnni)(total.ctypes.data, unsigned.ctypes.data, signed.ctypes.data)
        assert total.tolist() == wanted.tolist()


@pytest.mark.parametrize("format", [vectors.FLOAT32, vectors.BFLOAT16])
@pytest.mark.parametrize("n", [8, 64, 80, 128])
@pytest.mark.parametrize("count", [1, 7])
def test_weighted_rows(format: int, n: int, count: int) -> None:
    (codes, _, _), values = matrix(format, 9, n)
    p = np.random.default_rng(1).standard_normal((7, 9)).astype(np.float32)
    y = np.full((7, n + 3), 7, np.float32)
    at = codes.ctypes.data, 2, count, n
    called(products.TRANSPOSED, format, *at, 7, p.ctypes.data, 9, y.ctypes.data, n + 3)
    np.testing.assert_allclose(y[:, :n], p[:, :count] @ values[2 : 2 + count], rtol=1e-5, atol=1e-5)
    assert (y[:, n:] == 7).all()
    alone = np.zeros(n, np.float32)
    for text in range(7):
        called(products.TRANSPOSED, format, *at, 1, p[text].ctypes.data, 0, alone.ctypes.data, 0)
        assert np.array_equal(alone, y[text, :n])


def test_exponential() -> None:
    x = np.linspace(-80, 80, 2001).astype(np.float32)
    ours = np.array([bf16.exp(v) for v in x])
    np.testing.assert_allclose(ours, np.exp(x.astype(np.float64)), rtol=2e-5)
    assert bf16.exp(np.float32(0)) == 1
    assert 0 < bf16.exp(np.float32(-1000)) < 1e-37


@pytest.mark.parametrize("n", [3, 64])
@pytest.mark.parametrize("number", [1.0, -2.0, 1.00390625, 1.01171875, 3.3895e38, 1e-40, float("inf")])
def test_bfloat16_is_rounded_as_torch_does(n: int, number: float) -> None:
    """Ties to even among them: 1.00390625 and 1.01171875 lie half-way."""
    codes = np.full(n + 2, 9, np.uint16)
    decode_attention.store(codes.ctypes.data, 1, np.full(n, number, np.float32), n, vectors.BFLOAT16)
    wanted = torch.tensor([number]).bfloat16().view(torch.uint16).item()
    assert codes.tolist() == [9, *[wanted] * n, 9]


def test_counters_count_every_addition() -> None:
    @njit(nogil=True)
    def many(sync: np.ndarray) -> None:
        for _ in range(200_000):
            thread_team.finish(sync, 1)

    sync = np.zeros(2 * thread_team.STRIDE, np.int64)
    threads = [threading.Thread(target=many, args=(sync,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sync.sum() == 600_000
    thread_team.wait(sync, 1, 600_000)  # returns


def test_pieces_are_claimed_once_and_then_no_more() -> None:
    sync = np.zeros(2 * thread_team.STRIDE, np.int64)
    assert [thread_team.claim(sync, 1, 3) for _ in range(5)] == [0, 1, 2, 3, 3]
    for _ in range(3):
        thread_team.finish(sync, 1)
    thread_team.wait(sync, 1, 3)  # returns
    assert thread_team.claim(sync, 0, 1) == 0


def test_a_team_runs_its_kernel_on_every_worker_and_ends_its_threads() -> None:
    seen: list[tuple[int, str]] = []
    there = threading.Barrier(3, timeout=20)

    def kernel(worker: int, word: str) -> None:
        seen.append((worker, word))
        there.wait()

    three = thread_team.Team(3)
    threads = [t for t in threading.enumerate() if t.name.startswith("templora-")]
    three.run(kernel, "all")
    there.reset()
    assert sorted(seen) == [(0, "all"), (1, "all"), (2, "all")]
    seen.clear()
    three.run(lambda worker, word: seen.append((worker, word)), "one", workers=1)
    assert seen == [(0, "one")]
    own = threads[-2:]
    del three
    for thread in own:
        thread.join(20)
        assert not thread.is_alive()


def test_no_helper_outlives_the_program() -> None:
    """One that is still in a kernel is waited for: Python would end it half-way, and now and then abort the process."""
    program = """
import atexit, threading, time
helpers = lambda: sum(t.name.startswith("templora-") for t in threading.enumerate())
atexit.register(lambda: print(helpers()))  # called after all that is registered later
from templora.kernels.thread_team import Team
two = Team(2)
two.run(lambda worker: time.sleep(worker * 0.5))
print(helpers())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
