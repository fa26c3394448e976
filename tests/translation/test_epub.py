"""EPUB: what is not text stays to the byte, and a book that was made to do harm is refused."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile

import pytest
from books import FILES, ONE, ONE_PATH, OPF, SOURCES, TWO, book, members
from growth import assert_linear
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents.epub import Epub
from templora.translation.documents.paragraphs import paragraphs
from templora.translation.documents.xhtml import parse, with_attributes
from templora.translation.languages import language

GERMAN, ARABIC, ENGLISH = (language("to", code) for code in ("de", "ar", "en"))


def test_segments_in_reading_order() -> None:
    assert [segment.text for segment in Epub("b", book()).segments] == SOURCES


def test_what_is_not_translated_stays_to_the_byte() -> None:
    """With its own text a book is what it was, however that is written, but for the language that it says it is in."""
    done = members(Epub("b", book()).render(SOURCES, ENGLISH))
    assert list(done) == list(FILES)
    for name, raw in FILES.items():
        assert done[name].decode("latin-1") == raw.decode("latin-1"), name


def test_what_is_no_text_stays_to_the_byte() -> None:
    """A translation differs in its text, and in how characters are written that can be written in two ways."""
    targets = [*SOURCES]
    targets[9] += "!"
    done = members(Epub("b", book()).render(targets, ENGLISH))
    one = ONE.replace("class='x'>", "class='x' lang=\"en\">").replace("look.</p>", "look.!</p>")
    assert done == {**FILES, "OEBPS/text/one.xhtml": one.encode()}
    done = members(Epub("b", book()).render([f"{text}!" for text in SOURCES], ENGLISH))
    wanted = done["OEBPS/text/one.xhtml"].decode()
    assert "lit\u00a0the" in wanted
    assert "<p>Raw &lt; text here!</p>" in wanted
    assert "<td>12</td><td>Cell — “q”!</td>" in wanted


def test_nothing_translated_changes_the_language_alone() -> None:
    done = members(Epub("b", book()).render([], GERMAN))
    wanted = {**FILES, "OEBPS/book.opf": OPF.replace(">en<", ">de<").encode()}
    assert done == wanted


def test_members_keep_their_order_dates_and_packing() -> None:
    raw = Epub("b", book({"mimetype": None})).render(SOURCES, GERMAN)  # it comes first though it was not there
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        infos = archive.infolist()
    assert raw[30:58] == b"mimetypeapplication/epub+zip"
    assert [info.filename for info in infos] == list(FILES)
    assert {info.date_time for info in infos[1:]} == {(2020, 2, 3, 4, 5, 6)}
    assert [info.compress_type == zipfile.ZIP_STORED for info in infos] == [True, False, True] + [False] * 6
    assert Epub("b", book()).render(SOURCES, GERMAN) == Epub("b", book()).render(SOURCES, GERMAN)


def test_a_translation() -> None:
    targets = [f"{text.upper()} <ü&" for text in SOURCES]
    targets[1] = "Er schlief<3/>, nachdem er die <2>Lampe</2> angezündet hatte <1>!</1>"
    done = members(Epub("b", book()).render(targets, GERMAN))
    one, two = done["OEBPS/text/one.xhtml"].decode(), done["OEBPS/text/chapter 2.xhtml"].decode()
    assert '<h1 id="a">THE <em>KEEPER</em> &lt;ü&amp;</h1>' in one
    assert (
        '<p class="first">  Er schlief<a\n    epub:type="noteref" href="#n1"><sup>1</sup></a>, nachdem er die '
        '<b>Lampe</b> angezündet hatte <span class="cap">!</span>\n  </p>'
    ) in one
    assert "<p>RUN <code>ls &lt;dir&gt;</code> AND <img" in one
    assert "<p>* * *</p>\n  <p>1847</p>" in one
    assert "<p>A <i><b>NOTE</b></i>. &lt;ü&amp;</p>" in one
    assert "<p>HE &lt;1&gt; RAN. &lt;ü&amp;</p>" in two
    assert "<title>THE KEEPER &lt;ü&amp;</title>" in one


def test_labels_are_translated_as_the_headings_they_repeat() -> None:
    targets = [f"[{i}]{text[:0]}" for i, text in enumerate(SOURCES)]
    targets[0], targets[12] = "Der <1>Wärter</1>", "Der Sturm<1/>kommt"
    done = members(Epub("b", book()).render(targets, GERMAN))
    nav, ncx = done["OEBPS/nav.xhtml"].decode(), done["OEBPS/toc.ncx"].decode()
    assert re.findall("<a[^>]*>(.*?)</a>", nav) == ["Der Wärter", "Der Sturm kommt", "[15]", "iv"]
    assert re.findall("<text>(.*?)</text>", ncx) == ["The Lighthouse", "A. Finch", "Der Wärter", "[15]", "[16]", "iv"]
    assert '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" xml:lang="de" ' in ncx


def test_half_a_translation() -> None:
    done = members(Epub("b", book()).render(["X"], GERMAN))
    one = done["OEBPS/text/one.xhtml"].decode()
    assert '<h1 id="a"><em>X</em></h1>' in one
    assert "<b>lamp</b> &amp; slept" in one
    assert done["OEBPS/text/chapter 2.xhtml"] == TWO.encode()
    assert done["OEBPS/nav.xhtml"].decode().count("X") == 1


@pytest.mark.parametrize("to", [GERMAN, ARABIC])
def test_the_language_and_direction_are_said(to: object) -> None:
    language_ = ARABIC if to is ARABIC else GERMAN
    targets = [f"{text}!" for text in SOURCES]
    done = members(Epub("b", book()).render(targets, language_))
    one, two = done["OEBPS/text/one.xhtml"].decode(), done["OEBPS/text/chapter 2.xhtml"].decode()
    opf = done["OEBPS/book.opf"].decode()
    code = language_.code
    assert f'<dc:language id="l">{code}</dc:language>' in opf
    assert f'xml:lang="{code}"' in one
    assert f' lang="{code}"' in one
    assert ('dir="rtl"' in one) == ('dir="rtl"' in two) == ("rtl" in opf) == language_.right_to_left
    # And back: what was set goes again.
    back = members(Epub("b", book({**done})).render(SOURCES, ENGLISH))
    assert b"rtl" not in b"".join(back.values())


def test_a_body_that_says_its_language_is_told_the_new_one() -> None:
    page = TWO.replace("<body>", '<body lang="en" dir="rtl" class="k">')
    targets = [f"{text}!" for text in SOURCES]
    done = members(Epub("b", book({"OEBPS/text/chapter 2.xhtml": page})).render(targets, GERMAN))
    assert '<body lang="de" class="k">' in done["OEBPS/text/chapter 2.xhtml"].decode()


@pytest.mark.parametrize("codec", ["utf-16", "iso-8859-1", "windows-1252", "utf-8-sig"])
def test_other_encodings(codec: str) -> None:
    said = {"utf-8-sig": "utf-8"}.get(codec, codec)
    page = f'<?xml version="1.0" encoding="{said}"?>\n' + TWO.replace("ran", "rän")
    document = Epub("b", book({"OEBPS/text/chapter 2.xhtml": page.encode(codec)}))
    assert "He <1> rän." in [segment.text for segment in document.segments]
    targets = [*SOURCES]
    targets[13] = "Er lief — schön"
    done = members(document.render(targets, GERMAN))["OEBPS/text/chapter 2.xhtml"].decode(codec)
    dash = "—" if codec in ("utf-16", "windows-1252", "utf-8-sig") else "&#8212;"
    assert f"<p>Er lief {dash} schön</p>" in done
    assert done.startswith(page[:60])


def test_ruby_is_read_without_its_readings() -> None:
    page = TWO.replace("He &lt;1&gt; ran.", "彼は<ruby>走<rp>(</rp><rt>はし</rt><rp>)</rp></ruby>った。")
    document = Epub("b", book({"OEBPS/text/chapter 2.xhtml": page}))
    assert "彼は走った。" in [segment.text for segment in document.segments]


def test_references_to_notes_are_not_shown_and_other_numbers_are() -> None:
    text = 'A<a epub:type="noteref" href="#n">12345</a> b <a href="#n">[7]</a> c<sup>2</sup> <a href="#n">1984</a> d.'
    page = TWO.replace("He &lt;1&gt; ran.", text)
    document = Epub("b", book({"OEBPS/text/chapter 2.xhtml": page}))
    assert "A<1/> b <2/> c<3/> <4>1984</4> d." in [segment.text for segment in document.segments]


def test_chapters() -> None:
    document = Epub("b", book())
    assert [document.chapter(i) for i in (0, 1, 11, 12, 13, 14)] == [
        "The Keeper",
        "The Keeper",
        "The Keeper",
        "The Storm comes",
        "The Storm comes",
        "",
    ]


def test_lost_markup_is_counted() -> None:
    document = Epub("b", book())
    assert document.moved(1, "nothing left") == 3
    assert document.restored(13, "a < b & c").text == "a &lt; b &amp; c"


def test_a_name_in_utf8_that_does_not_say_so() -> None:
    """Many archives are packed so; zipfile reads such names as code page 437."""
    opf = OPF.replace("chapter%202", "kapitel-ä")
    raw = book({"OEBPS/book.opf": opf, "OEBPS/text/chapter 2.xhtml": None, "OEBPS/text/kapitel-ä.xhtml": TWO})
    name = "OEBPS/text/kapitel-ä.xhtml".encode()
    at = 0
    patched = bytearray(raw)
    while (at := patched.find(name, at)) >= 0:
        header = at - (30 if patched[at - 30 : at - 26] == b"PK\3\4" else 46)
        flags = header + (6 if header == at - 30 else 8)
        patched[flags + 1] &= ~0x08
        at += 1
    assert "OEBPS/text/kapitel-ä.xhtml" in members(Epub("b", bytes(patched)).render(SOURCES, GERMAN))


# Broken, or made to do harm ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"PK", b"no archive", book()[:-30], book()[:200]])
def test_no_archive(raw: bytes) -> None:
    with pytest.raises(TextError, match=r"^b\.epub: the archive: no zip archive"):
        Epub("b.epub", raw)


def changed(raw: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    held = bytearray(raw)
    for at, new in changes:
        held[at % len(held) : at % len(held) + len(new)] = new
    return bytes(held)


BYTES = st.binary(min_size=1, max_size=3) | st.sampled_from([b"<b>", b"</p>", b"/>", b"&lt;", b"<!--", b"]]>", b">"])
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), BYTES), max_size=6)


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.sampled_from([None, ONE_PATH, "OEBPS/book.opf", "OEBPS/nav.xhtml", "OEBPS/toc.ncx"]))
def test_whatever_comes_is_a_book_or_a_text_error(changes: list[tuple[int, bytes]], path: str | None) -> None:
    """And what is written can be read again, with the same text."""
    raw = changed(book(), changes) if path is None else book({path: changed(FILES[path], changes)})
    with contextlib.suppress(TextError):
        document = Epub("b", raw)
        done = document.render([segment.text for segment in document.segments], GERMAN)
        again = [segment.plain for segment in Epub("b", done).segments]
        assert again == [segment.plain for segment in document.segments]


HEAD, FOOT = '<html xmlns="http://www.w3.org/1999/xhtml"><body>', "</body></html>"


@pytest.mark.parametrize(
    ("before", "repeated", "behind"),
    [
        ("", "<p>The lamp was lit, and he <i>saw</i> it come.</p>\n", ""),
        ("<p>", "\n", "a</p>"),
        ("<p>a", "\n", "</p>"),
        ("<p>", "<br/>", "a</p>"),
        ("<p>a", " <i> </i>", "b</p>"),
        ("<p>a", "<i>b</i>&amp; ", "</p>"),
        ("<p>a", "&#65;\n&nbsp;", "</p>"),
        ("<p>", "<i>" * 99 + "a" + "</i>" * 99, "</p>"),
        ("<div>" * 90, "<i>a<p>b</p></i>", "</div>" * 90),
        ("<p>" + "<a>" * 190, "12345", "</a>" * 190 + "b</p>"),
        ("<p ", " \n", ">a</p>"),
        ("<p title='", "&amp;", "'>a</p>"),
        ("<!--", "&&-&", "--><p>a</p>"),
        ("<p>a", "&", "</p>"),
        ("<p>a<![CDATA[", "&<", "]]></p>"),
        ("<p>a", "<![CDATA[b]]>", "</p>"),
    ],
)
def test_time_grows_with_the_page(before: str, repeated: str, behind: str) -> None:
    def made(many: int) -> bytes:
        return f"{HEAD}{before}{repeated * (many // len(repeated))}{behind}{FOOT}".encode()

    def read(raw: bytes) -> None:
        page = parse("p", raw)
        assert list(paragraphs(page, page.root))

    assert_linear(made, read, 4_000)


def test_time_grows_with_a_tag() -> None:
    wanted = {"lang": "de"}
    assert with_attributes("<html" + " \n" * 9 + ">", wanted) == '<html lang="de">'
    assert with_attributes("<a b='1'\n lang = 'en' c='>'/>", wanted) == "<a b='1'\n lang = \"de\" c='>'/>"
    for repeated in (" ", " a='b'", "\na= 'lang=\"en\"' "):
        assert_linear(
            lambda many, held=repeated: f"<html{held * many}>", lambda tag: with_attributes(tag, wanted), 2000
        )
