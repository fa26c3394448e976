"""Files that say what is not so. `fuzz/test_fuzz_gguf` has many more of them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from ggufs import write_gguf

from templora import ModelError
from templora.gguf.header import GgufHeader


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(tensors: int, fields: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, fields) + rest


ARCH = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")


def tensor(name: bytes, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


ALIGNMENT = text(b"general.alignment")
HOSTILE = {
    "another file": (b"GGML" + bytes(100), "not a GGUF file"),
    "cut in its first bytes": (b"GGUF\3", "truncated"),
    "version 99": (header(0, 0, version=99), "of version 99"),
    "big-endian": (header(0, 0, version=3 << 24), "other byte order"),
    "fields": (header(0, 2**63, ARCH), "it says that it holds"),
    "tensors": (header(10**8, 1, ARCH + bytes(4096)), "it says that it holds"),
    "a string of 2**63": (header(0, 1, struct.pack("<Q", 2**63) + b"x" * 20), "truncated"),
    "a long array": (header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 0, 2**62)), "truncated"),
    "empty strings": (
        header(0, 1, text(b"a") + struct.pack("<IIQ", 9, 8, 10**9) + bytes(800)),
        "it says that it holds",
    ),
    "arrays in arrays": (
        header(0, 1, text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50),
        "array of a type",
    ),
    "a type of value": (header(0, 1, text(b"a") + struct.pack("<I", 77) + bytes(9)), r"of a type \(77\)"),
    "a key twice": (header(0, 2, ARCH * 2), "there twice"),
    "no UTF-8": (header(0, 1, text(b"\xff") + struct.pack("<I", 0) + b"\0"), "not UTF-8"),
    "dimensions": (header(1, 1, ARCH + text(b"t") + struct.pack("<I", 2**31) + bytes(40)), "2147483648 dimensions"),
    "an empty tensor": (header(1, 1, ARCH + tensor(b"t", (0, 4))), "shape"),
    "no whole blocks": (header(1, 1, ARCH + tensor(b"t", (33,), 2) + bytes(99)), "shape"),
    "beyond all sizes": (header(1, 1, ARCH + tensor(b"t", (2**40, 2**40))), "truncated"),
    "beyond the file": (header(1, 1, ARCH + tensor(b"t", (4,), offset=2**62)), "truncated"),
    "a type of tensor": (header(1, 1, ARCH + tensor(b"t", (4,), 999) + bytes(99)), r"type \(999\)"),
    "between its places": (header(1, 1, ARCH + tensor(b"t", (4,), offset=3) + bytes(99)), "begin where it may"),
    "over another": (
        header(2, 1, ARCH + tensor(b"t", (16,)) + tensor(b"u", (16,), offset=32) + bytes(199)),
        "over another",
    ),
    "a tensor twice": (
        header(2, 1, ARCH + tensor(b"t", (8,)) + tensor(b"t", (8,), offset=32) + bytes(99)),
        "there twice",
    ),
    "alignment 0": (header(0, 2, ARCH + text(b"general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
    "alignment of words": (
        header(0, 2, ARCH + text(b"general.alignment") + struct.pack("<I", 8) + text(b"x")),
        "power of two",
    ),
}


@pytest.mark.parametrize("label", HOSTILE)
def test_what_is_not_so_is_refused(label: str, tmp_path: Path) -> None:
    content, says = HOSTILE[label]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ModelError, match=says) as said:
        GgufHeader(tmp_path / "m.gguf")
    assert len(str(said.value)) < 500


def test_a_file_that_is_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path)
    last = max(GgufHeader(path).tensors.values(), key=lambda t: t.offset)
    whole = path.read_bytes()
    path.write_bytes(whole[: last.offset + last.bytes - 1])
    with pytest.raises(ModelError, match=f"truncated: {last.name} is cut off"):
        last.read()
    for length in range(0, last.offset, 997):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"truncated|not a GGUF"):
            GgufHeader(path)
