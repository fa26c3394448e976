"""EPUB: what is not text stays to the byte, and a book that was made to do harm is refused."""

from __future__ import annotations

import contextlib
import io
import random
import re
import zipfile
from collections.abc import Callable

import pytest
from growth import assert_linear
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents.epub import Epub
from templora.translation.documents.paragraphs import paragraphs
from templora.translation.documents.xhtml import parse, with_attributes
from templora.translation.languages import language

GERMAN, ARABIC, ENGLISH = (language("to", code) for code in ("de", "ar", "en"))
CONTAINER = (
    '<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    '<rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
OPF = """<?xml version="1.0" encoding="UTF-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">
  <metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
    <dc:title>The Lighthouse</dc:title>
    <dc:language id="l">en</dc:language>
  </metadata>
  <manifest>
    <item id="two" href="text/chapter%202.xhtml" media-type="application/xhtml+xml"/>
    <item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/>
    <item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
    <item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>
    <item id="css" href="style.css" media-type="text/css"/>
    <item id="img" href="lamp.png" media-type="image/png"/>
  </manifest>
  <spine toc="ncx"><itemref idref="one"/><itemref idref="two" linear="no"/></spine>
</package>
"""
ONE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" xml:lang="en" class='x'>
<head><title>The  Keeper</title><style>p { color: red }</style></head>
<body>
  <!-- a comment -->
  <h1 id="a">The <em>Keeper</em></h1>
  <p class="first">  <span class="cap">H</span>e lit&nbsp;the <b>lamp</b> &amp; slept<a
    epub:type="noteref" href="#n1"><sup>1</sup></a>.
  </p>
  <p>* * *</p>
  <p>1847</p>
  <div>Loose text<p>Inside</p>and after<br/>it.</div>
  <ul><li>Item <i>one</i><ul><li><p>Deep</p></li></ul></li></ul>
  <table><tr><th>Head</th><td>12</td><td>Cell &#8212; &#x201C;q&#x201D;</td></tr></table>
  <pre>pre <b>text</b></pre>
  <p>Run <code>ls &lt;dir&gt;</code> and <img src="../lamp.png" alt="A lamp"/> look.</p>
  <script>var x = "text";</script>
  <p><![CDATA[Raw < text]]> here</p>
  <svg xmlns="http://www.w3.org/2000/svg"><text>Drawn</text></svg>
  <p translate="no">Leave me</p>
  <aside id="n1" epub:type="footnote"><p>A <i><b>note</b></i>.</p></aside>
</body>
</html>
"""
TWO = (
    '<html xmlns="http://www.w3.org/1999/xhtml" lang="en" dir="ltr"><head><title>x</title></head>'
    "<body><h2>The Storm<br/>comes</h2>\r\n<p>He &lt;1&gt; ran.</p></body></html>"
)
NAV = """<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><head><title>t</title></head>
<body><nav epub:type="toc"><h2>Contents</h2><ol>
<li><a href="text/one.xhtml">The Keeper</a></li>
<li><a href="text/chapter%202.xhtml">The Storm comes</a></li>
<li><a href="text/one.xhtml#n1">Notes</a></li></ol></nav>
<nav epub:type="page-list"><ol><li><a href="text/one.xhtml">iv</a></li></ol></nav></body></html>
"""
NCX = """<?xml version="1.0"?>
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" xml:lang="en" version="2005-1">
<docTitle><text>The Lighthouse</text></docTitle><docAuthor><text>A. Finch</text></docAuthor>
<navMap><navPoint id="p1"><navLabel><text>The Keeper</text></navLabel><content src="text/one.xhtml"/></navPoint>
<navPoint id="p2"><navLabel><text>Notes</text></navLabel><content src="text/one.xhtml#n1"/></navPoint>
<navPoint id="p3"><navLabel><text>About &amp; more</text></navLabel><content src="text/one.xhtml"/></navPoint></navMap>
<pageList><pageTarget><navLabel><text>iv</text></navLabel></pageTarget></pageList></ncx>
"""
FILES = {
    "mimetype": b"application/epub+zip",
    "META-INF/container.xml": CONTAINER.encode(),
    "OEBPS/lamp.png": bytes(random.Random(0).randbytes(500)),
    "OEBPS/text/one.xhtml": ONE.encode(),
    "OEBPS/book.opf": OPF.encode(),
    "OEBPS/text/chapter 2.xhtml": TWO.encode(),
    "OEBPS/nav.xhtml": NAV.encode(),
    "OEBPS/toc.ncx": NCX.encode(),
    "OEBPS/style.css": b"p { margin: 0 }\r\n",
}
SOURCES = [
    "The <1>Keeper</1>",
    "<1>H</1>e lit\u00a0the <2>lamp</2> & slept<3/>.",
    "Loose text",
    "Inside",
    "and after<1/>it.",
    "Item <1>one</1>",
    "Deep",
    "Head",
    "Cell — “q”",
    "Run <1>ls <dir></1> and <2/> look.",
    "Raw < text here",
    "A <1>note</1>.",
    "The Storm<1/>comes",
    "He <1> ran.",
    "Contents",
    "Notes",
    "About & more",
]


def book(changed: dict[str, bytes | str | None] | None = None, **also: bytes) -> bytes:
    """An archive with some members changed, or left out (None)."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, raw in {**FILES, **(changed or {})}.items():
            if raw is not None:
                kind = zipfile.ZIP_STORED if name in ("mimetype", "OEBPS/lamp.png") else zipfile.ZIP_DEFLATED
                archive.writestr(zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6)), raw, kind)
    return target.getvalue()


def members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def test_segments_in_reading_order() -> None:
    assert [segment.text for segment in Epub("b", book()).segments] == SOURCES


def test_what_is_no_text_stays_to_the_byte() -> None:
    """With its own text a book differs only in how characters are written that can be written in two ways."""
    done = members(Epub("b", book()).render(SOURCES, ENGLISH))
    wanted = dict(FILES)
    one = ONE.replace("&nbsp;", "\u00a0").replace("&#8212;", "—").replace("&#x201C;", "“").replace("&#x201D;", "”")
    one = one.replace("<![CDATA[Raw < text]]>", "Raw &lt; text").replace("slept<a\n", "slept<a\n")
    one = one.replace("class='x'>", "class='x' lang=\"en\">")
    wanted["OEBPS/text/one.xhtml"] = one.replace("<title>The  Keeper", "<title>The Keeper").encode()
    wanted["OEBPS/text/chapter 2.xhtml"] = TWO.replace('dir="ltr"', 'dir="ltr" xml:lang="en"').encode()
    wanted["OEBPS/nav.xhtml"] = NAV.replace('2007/ops">', '2007/ops" lang="en" xml:lang="en">').encode()
    assert list(done) == list(wanted)
    for name, raw in wanted.items():
        assert done[name].decode("latin-1") == raw.decode("latin-1"), name


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
    done = members(Epub("b", book()).render(SOURCES, language_))
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
    done = members(Epub("b", book({"OEBPS/text/chapter 2.xhtml": page})).render(SOURCES, GERMAN))
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

BOMB = '<!DOCTYPE html [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><html><body><p>&b;</p></body></html>'
ENCRYPTED = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
    '<enc:EncryptedData><enc:CipherData><enc:CipherReference URI="{}"/></enc:CipherData></enc:EncryptedData>'
    "</encryption>"
)
ONE_PATH = "OEBPS/text/one.xhtml"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"META-INF/container.xml": None}, "META-INF/container.xml: missing"),
        ({"META-INF/container.xml": "<container/>"}, "META-INF/container.xml: names no package"),
        ({"OEBPS/book.opf": None}, "OEBPS/book.opf: missing"),
        ({"OEBPS/book.opf": "<package>"}, "OEBPS/book.opf: not well-formed XML"),
        ({"OEBPS/book.opf": "<package/>"}, "OEBPS/book.opf: there is no text in the spine"),
        ({"OEBPS/book.opf": OPF.replace('idref="one"', 'idref="nine"')}, "the spine names 'nine'"),
        ({ONE_PATH: None}, f"{ONE_PATH}: missing, though the spine names it"),
        ({"OEBPS/nav.xhtml": None}, "OEBPS/nav.xhtml: missing, though the package names it"),
        ({ONE_PATH: "<html><p>open</html>"}, f"{ONE_PATH}: not well-formed XML: mismatched tag"),
        ({ONE_PATH: "no markup"}, f"{ONE_PATH}: not well-formed XML"),
        ({ONE_PATH: ""}, f"{ONE_PATH}: empty"),
        ({ONE_PATH: BOMB}, f"{ONE_PATH}: declares the entity 'b', which could be made to fill the memory"),
        ({ONE_PATH: "<b>" * 5000 + "</b>" * 5000}, f"{ONE_PATH}: elements in elements more than 200 deep"),
        ({ONE_PATH: b"<p>" + b" " * (1 << 25) + b"</p>"}, f"{ONE_PATH}: larger than 32 MiB"),
        ({"OEBPS/book.opf": OPF.replace("text/one.xhtml", "../../one.xhtml")}, "leads out of the archive"),
        ({"OEBPS/book.opf": OPF.replace("text/one.xhtml", "/etc/hosts")}, "leads out of the archive"),
        ({"OEBPS/book.opf": OPF.replace("text/one.xhtml", "%2e%2e/%2e%2e/one.xhtml")}, "leads out of the archive"),
        ({"META-INF/container.xml": CONTAINER.replace("OEBPS/", "../")}, "leads out of the archive"),
        ({"../outside.txt": b"x"}, "../outside.txt: leads out of the archive"),
        ({"META-INF/encryption.xml": ENCRYPTED.format(ONE_PATH)}, f"{ONE_PATH}: encrypted \\(DRM\\)"),
        ({"META-INF/encryption.xml": ENCRYPTED.format("OEBPS/text/chapter%202.xhtml")}, "chapter 2.xhtml: encrypted"),
        ({"mimetype": b"application/zip"}, "mimetype: not application/epub\\+zip"),
    ],
)
def test_broken(changed: dict[str, bytes | str | None], said: str) -> None:
    with pytest.raises(TextError, match=rf"^b\.epub: .*{said}"):
        Epub("b.epub", book(changed))


def test_obscured_fonts_are_no_encryption() -> None:
    raw = book({"META-INF/encryption.xml": ENCRYPTED.format("OEBPS/font.otf")})
    assert Epub("b", raw).segments


@pytest.mark.parametrize("raw", [b"", b"PK", b"no archive", book()[:-30], book()[:200]])
def test_no_archive(raw: bytes) -> None:
    with pytest.raises(TextError, match=r"^b\.epub: the archive: no zip archive"):
        Epub("b.epub", raw)


def test_a_member_twice() -> None:
    target = io.BytesIO(book())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(target, "a") as archive:
        archive.writestr("mimetype", b"x")
    with pytest.raises(TextError, match="mimetype: in the archive twice"):
        Epub("b", target.getvalue())


def _patched(change: Callable[[bytearray, int], None]) -> bytes:
    """With the entry of the first page in the directory changed."""
    raw = bytearray(book())
    change(raw, raw.rindex(ONE_PATH.encode()) - 46)
    return bytes(raw)


def test_an_archive_that_unpacks_to_more_than_a_book() -> None:
    raw = _patched(lambda raw, at: raw.__setitem__(slice(at + 24, at + 28), b"\xff\xff\xff\x7f"))
    with pytest.raises(TextError, match="more than 1024 MiB unpacked"):
        Epub("b", raw)


def test_an_encrypted_member() -> None:
    with pytest.raises(TextError, match=f"{ONE_PATH}: encrypted"):
        Epub("b", _patched(lambda raw, at: raw.__setitem__(at + 8, 1)))


def test_a_damaged_member() -> None:
    raw = bytearray(book())
    raw[raw.index(b"one.xhtml") + 60] ^= 0xFF
    with pytest.raises(TextError, match=f"{ONE_PATH}: damaged"):
        Epub("b", bytes(raw))


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
