"""Texts in other encodings than UTF-8: read if it is said, or sure, which one it is, and refused if not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from passages import LANGUAGES

from templora.encodings import alphabets, finding
from templora.encodings.finding import Found, find
from templora.encodings.names import NAMES, known, marked, shown
from templora.errors import OptionError, TextError
from templora.text_files import decoded, read_notes, read_text

CASES = [(language, codec) for language, (codecs, _) in LANGUAGES.items() for codec in codecs]


def text_of(language: str, codec: str) -> tuple[str, bytes]:
    """A passage, as far as the encoding can write it."""
    raw = LANGUAGES[language][1].encode(codec, "ignore")
    return raw.decode(codec), raw


@pytest.mark.parametrize(("language", "codec"), CASES)
def test_the_encoding_of_a_passage_is_found(language: str, codec: str, tmp_path: Path) -> None:
    text, raw = text_of(language, codec)
    remarks: list[str] = []
    assert decoded("a.txt", raw, remarks=remarks) == text
    name = find(raw).name
    assert remarks == [f"a.txt: read as {name}"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(raw))
    assert read_text(str(tmp_path / "a.txt.gz")) == text
    assert decoded("a.txt", raw, encoding=codec) == text


@pytest.mark.parametrize(("language", "codec"), CASES)
@pytest.mark.parametrize("length", [20, 60, 150])
def test_pieces_of_it_are_never_read_wrong(language: str, codec: str, length: int) -> None:
    """Short ones may be refused, with what they may be in; East Asian ones of twenty characters are read."""
    whole = text_of(language, codec)[0]
    for start in range(0, max(1, len(whole) - length), max(1, len(whole) // 5)):
        text = whole[start : start + length]
        raw = text.encode(codec)
        found = find(raw)
        assert raw.isascii() or not found.damaged or length == 20
        if found.name:
            assert raw.decode(NAMES[found.name]) == text
        elif not raw.isascii():
            assert language not in ("zh", "zh-Hant", "ja", "ko"), text
            with pytest.raises(TextError, match=r"^a.txt: not UTF-8 text \(byte \d+\)"):
                decoded("a.txt", raw)


def test_signs_alone_are_enough() -> None:
    text = "“The keeper’s lamp,” he said — “it wasn’t lit.” Nobody’s boat came that winter, and nobody’s letter…"
    for codec in ("cp1252", "mac_roman"):
        assert decoded("a", text.encode(codec)) == text


def test_what_does_not_read_like_a_text() -> None:
    korean = LANGUAGES["ko"][1].encode("euc_kr")
    for codec, text in {
        "cp1252": "Le caf‚ du port, le caf‚ noir.",  # é in IBM850
        "iso8859-2": f"{LANGUAGES['pl'][1] * 9} \x84",  # a quote in windows-1250
        "cp1250": "dÈjeuner prÈs de la mÈre",  # é in macintosh
        "cp1254": "ışğ âîûâîûâîûâîû",  # few of the letters that Turkish has most of
        "gb18030": korean.decode("gb18030").replace(" ", ""),
        "euc_jp": "The lamp.",
        "koi8-r": "сЛНРПХРЕКЭ ЛЮЪЙЮ",
    }.items():
        assert not alphabets.test(codec)(text), codec


def test_a_character_or_two_are_not_enough() -> None:
    """They are the same in too few encodings that are not tried."""
    text = "The keeper climbed the stairs and said: “It is lit, and nobody came that winter.” Then he went back down."
    assert find(text.encode("cp1252")) == Found(likely=("windows-1252",))


def test_what_is_unsure_is_refused_with_what_it_may_be() -> None:
    text = "Perché il guardiano salì? Non c'era più nessuno, e però la luce c'era."
    with pytest.raises(TextError) as refused:
        decoded("faro.txt", text.encode("cp1252"))
    assert str(refused.value) == (
        "faro.txt: not UTF-8 text (byte 5), perhaps windows-1252 or windows-1250; "
        "convert it first, or name its encoding (translate --encoding)"
    )
    assert decoded("faro.txt", text.encode("cp1252"), encoding="windows-1252") == text
    with pytest.raises(TextError, match=r"not UTF-8 text \(byte 3\); convert it first"):
        decoded("a", b"caf\xe9")


@pytest.mark.parametrize("language", LANGUAGES)
def test_damaged_utf_8_is_nothing_else(language: str) -> None:
    """A byte that is broken, and a file that ends within a character."""
    raw = LANGUAGES[language][1].encode()
    at = next(i for i in range(len(raw) // 2, len(raw)) if raw[i] >= 0xC0)
    for harmed in (raw[:at] + b"\xff" + raw[at + 1 :], raw[: at + 1]):
        with pytest.raises(TextError, match=rf"^a: not UTF-8 text \(byte {at}\), but the rest is: a damaged file$"):
            decoded("a", harmed)


@pytest.mark.parametrize("codec", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_a_byte_order_mark_says_it(codec: str, tmp_path: Path) -> None:
    text, path = "\ufeffДиво. Лампа 灯\n", tmp_path / "a.txt"
    raw = text.encode(codec)
    assert decoded("a", raw) == decoded("a", raw, encoding=codec[:6].rstrip("-")) == text
    path.write_bytes(raw)
    assert read_text(str(path)) == read_notes(str(path)) == text[1:]
    path.write_bytes("\ufeff".encode(codec))
    assert read_notes(str(path)) == ""
    if codec != "utf-8":
        with pytest.raises(TextError, match=r"a: not UTF-\d\d-.E text \(byte \d+\), which its byte order mark says"):
            decoded("a", raw + b"\xff")


def test_utf_16_without_a_mark_must_be_named() -> None:
    raw = "The lamp, die Lampe.".encode("utf-16-le")
    with pytest.raises(TextError, match=r"^a: a binary file, not text; UTF-16 must be named \(--encoding\)$"):
        decoded("a", raw)
    assert decoded("a", raw, encoding="utf-16") == decoded("a", raw, encoding="UTF-16LE") == "The lamp, die Lampe."
    with pytest.raises(TextError, match=r"^a: a binary file, not text$"):
        decoded("a", "灯\0".encode() * 3)
    with pytest.raises(TextError, match="binary"):
        decoded("a", b"a\0b", encoding="cp1252")


def test_wider_sets_are_read_as_everyone_does() -> None:
    assert decoded("a", "镕①㊣".encode("gbk"), encoding="GB2312") == "镕①㊣"
    assert decoded("a", "①髙".encode("cp932"), encoding="Shift-JIS") == "①髙"
    assert decoded("a", "“It’s”".encode("cp1252"), encoding="latin-1") == "“It’s”"
    assert [known(name) for name in ("latin1", "GB2312", "utf-8-sig", "rot13", "idna", "a\0", "utf-7")] == [
        "iso8859-1", "gb2312", "utf-8", None, None, None, None
    ]  # fmt: skip
    assert all(known(name) and shown(codec) for name, codec in NAMES.items())
    assert marked(b"\xff\xfe\0\0") == "utf-32-le"


def test_another_name_is_refused_with_the_nearest_one() -> None:
    for name, hint in (("gb18303", "did you mean 'gb18030'?"), ("win-1251", "did you mean 'windows-1251'?")):
        with pytest.raises(OptionError, match=rf"^encoding: unknown encoding '{name}'; {hint[:-1]}\?$"):
            decoded("a", b"a", encoding=name)
    with pytest.raises(OptionError, match="known: big5, cp874, euc-jp"):
        decoded("a", b"a", encoding="???")
    with pytest.raises(TextError, match=r"^a: not EUC-JP text \(byte 1\), which --encoding says$"):
        decoded("a", b"a\xff", encoding="EUC-JP")


def test_of_a_large_text_passages_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """From all over it, though it begins with ASCII alone; all of it is read, and what is wrong in it is told."""
    text, _ = text_of("zh", "gb18030")
    for codec, front in (("gb18030", "All rights reserved.\n" * 40_000), ("gb18030", "")):
        raw = (front + f"{text}\n" * 2_000).encode(codec)
        sample = finding._sample(raw)
        assert 0 < len(sample) <= 1.1 * finding._SAMPLE
        assert find(raw) == Found("GB18030")
        with pytest.raises(TextError, match=rf"and as GB18030 damaged \(byte {len(raw)}\); convert it first"):
            decoded("a", raw + b"\xff")
    latin = ("The lamp was lit.\n" * 5_000 + "Où était le déjeuner de la mère, près de là ? À côté.\n") * 16
    assert find(latin.encode("cp1252")) == Found("windows-1252")
    for raw in (b"\xe9" * 200_000, b"a" * 200_000 + b"\xe9", b"\xe9 " * 200_000):
        assert find(raw).name is None


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=200) | st.text("äéęß灯日本ランプ등대Дива “”", max_size=60).map(lambda text: text.encode("utf-8"))
)
def test_whatever_comes_is_found_or_not(raw: bytes) -> None:
    found = find(raw)
    if found.name:
        raw.decode(NAMES[found.name])
    assert not (found.name and (found.likely or found.damaged))
