"""Whatever an EPUB holds: it is opened or refused in a line, and what is not translated stays to the byte."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from collections.abc import Iterator

import pytest
from books import BOMB, ENCRYPTED, FILES, ONE, ONE_PATH, TWO_PATH, members
from fuzzing import Reader, fuzzed
from hypothesis import given, strategies as st

from templora.translation.documents.epub import Epub
from templora.translation.languages import language

READER = Reader("epub")
GERMAN, ARABIC = language("to", "de"), language("to", "ar")


@pytest.fixture(autouse=True, scope="module")
def saved() -> Iterator[None]:
    yield
    READER.save()


SNIPPETS = st.sampled_from(
    [
        b"", b"\0", b"&", b"&nbsp;", b"&x;", b"<", b">", b"/>", b"<b>", b"</p>", b"<p>", b"]]>", b"<![CDATA[", b"<!--",
        b"-->", b"<?x?>", b"<?xml version='1.1' encoding='utf-16'?>", b"<?xml version='1.0' encoding='latin-1'?>",
        b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\r\n", b"<sup>2</sup>", b"<ruby>a<rt>b</rt></ruby>", b"#",
        b"<svg/>", b"<a href='x' id='y'>7</a>", b"<navMap><navMap>", b"<itemref idref='one'/>", b"?", b"../../../",
        b"<item id='one' href='%2e%2e/x'/>", b"<item id='z' href='\\\\x\\y.xhtml' properties='nav'/>", b"%00", b"<nav>",
        b" dir='rtl' xml:lang='en'", b"<rootfile full-path='x'/>", b"<p>a</p>" * 20, b"<br/>" * 100, b"a " * 200,
        b"<!DOCTYPE html [<!ENTITY x '<i>y</i>'><!ENTITY y SYSTEM 'file:///etc/hosts'><!ENTITY z 'k'>]>",
        BOMB.encode(), b"<i>" * 150, b"</i>" * 150, b"<div>" * 40, b"\n" * 500,
    ]
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "", ".", "..", "/", "\\", "../x", "/etc/hosts", "C:\\x", "OEBPS\\text\\one.xhtml", "oebps/TEXT/ONE.xhtml",
        "OEBPS/text/%6Fne.xhtml", "OEBPS/text/one.xhtml/", "META-INF/encryption.xml", "mimetype", "o\u0308.xhtml",
        "x.opf", "OEBPS/x.xhtml", "?", "a" * 300,
    ]
)  # fmt: skip
CODECS = st.sampled_from(["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "shift_jis", "iso2022_jp", "cp1252", "utf-7"])
NUMBERS = st.sampled_from([0, 1, 8, 9, 12, 14, 99, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF]) | st.integers(0, 1 << 16)


@st.composite
def contents(draw: st.DrawFn, raw: bytes) -> bytes:
    """A member, a little changed."""
    held = raw
    for _ in range(draw(st.integers(1, 3))):
        at, length = draw(st.integers(0, len(held))), draw(st.sampled_from([0, 0, 1, 9, 200]))
        held = held[:at] + draw(SNIPPETS | st.binary(max_size=3)) + held[at + length :]
    kind = draw(st.sampled_from(["", "", "", "cut", "none", "codec", "token"]))
    if kind == "cut":
        held = held[: draw(st.integers(0, len(held)))]
    elif kind == "none":
        held = draw(st.sampled_from([b"", b" ", b"\0\0", b"<a/>", ENCRYPTED.format(ONE_PATH).encode(), BOMB.encode()]))
    elif kind == "codec":
        codec = draw(CODECS)
        held = held.decode("utf-8", "replace").encode(codec, "replace")
    elif kind == "token":
        words = [word for word in held.split() if word] or [b"x"]
        held = held.replace(draw(st.sampled_from(words)), draw(SNIPPETS | st.sampled_from(words)))
    return held


@st.composite
def books(draw: st.DrawFn) -> bytes:
    """A book of which one to three members have flaws."""
    held: list[tuple[str, bytes]] = list(FILES.items())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(held) - 1))
        name, raw = held[at]
        match draw(st.sampled_from(["change", "change", "change", "drop", "double", "rename", "add"])):
            case "change":
                held[at] = name, draw(contents(raw))
            case "drop" if len(held) > 1:
                del held[at]
            case "double":
                held.insert(draw(st.integers(0, len(held))), (name, draw(contents(raw))))
            case "rename":
                held[at] = draw(NAMES), raw
            case _:
                held.append((draw(NAMES), draw(contents(ONE.encode()))))
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, raw in held:
            archive.writestr(zipfile.ZipInfo(name), raw, draw(st.sampled_from([0, 8, 8, 8, 8, 8, 12])))
    return target.getvalue()


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """A book of which bytes of the archive were changed, most of them where it says what is in it."""
    raw = bytearray(draw(st.sampled_from(PACKED)))
    heads = [at for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in _found(raw, mark)]
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.sampled_from(heads)) + draw(st.integers(0, 50))
        at = draw(st.sampled_from([near, near, draw(st.integers(0, len(raw)))])) % len(raw)
        value = draw(NUMBERS)
        size = draw(st.sampled_from([1, 2, 4]))
        raw[at : at + size] = struct.pack("<Q", value)[:size]
    if draw(st.booleans()):
        at, length = draw(st.integers(0, len(raw))), draw(st.sampled_from([0, 0, 1, 100, len(raw)]))
        raw[at : at + length] = draw(st.binary(max_size=4) | st.just(bytes(raw[:200])))
    return bytes(raw)


def _found(raw: bytearray, mark: bytes) -> Iterator[int]:
    at = raw.find(mark)
    while at >= 0:
        yield at
        at = raw.find(mark, at + 1)


def _packed(kind: int, large: int) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name, raw in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), raw, kind)
        archive.writestr("OEBPS/large.xhtml", b" " * large, kind)
    return target.getvalue()


PACKED = [_packed(kind, large) for kind, large in ((0, 9), (8, 1 << 17), (12, 1 << 17), (14, 1 << 17))]


def check(raw: bytes) -> None:
    def read() -> tuple[Epub, bytes, bytes, Epub]:
        document = Epub("b.epub", raw)
        sources = [segment.text for segment in document.segments]
        same = document.render(sources, GERMAN)
        other = document.render([f"{text} Wort" for text in sources], ARABIC)
        return document, same, other, Epub("b.epub", other)

    found = READER(read, len(raw))
    if found is None:
        return
    document, same, other, again = found
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        last = {info.filename: info for info in archive.infolist()}
    with zipfile.ZipFile(io.BytesIO(same)) as archive:
        infos = archive.infolist()
    assert len({info.filename for info in infos}) == len(infos)
    for info in infos:
        held = last.get(info.filename)
        if held is not None and info.filename != "mimetype" and not info.filename.endswith(".opf"):
            assert (info.CRC, info.file_size, info.compress_size) == (held.CRC, held.file_size, held.compress_size)
    assert [segment.plain for segment in again.segments] == [f"{held.plain} Wort" for held in document.segments]
    assert len(other) < len(raw) + 100 * (len(again.segments) + len(infos)) + 10_000


@fuzzed
@given(books())
def test_books(raw: bytes) -> None:
    check(raw)


@fuzzed
@given(archives())
def test_archives(raw: bytes) -> None:
    check(raw)


def test_the_book_itself() -> None:
    check(PACKED[1])
    assert {ONE_PATH, TWO_PATH} < set(members(PACKED[1]))
