"""One flaw stops no book: what a reader of books opens is translated, the rest stays as it is and is listed."""

from __future__ import annotations

import html
import io
import re
import struct
import tracemalloc
import zipfile
from collections.abc import Callable

import pytest
from books import BOMB, CONTAINER, ENCRYPTED, FILES, ONE, ONE_PATH, OPF, SOURCES, TWO, TWO_PATH, book, members
from growth import assert_linear

from templora.errors import TextError
from templora.translation.documents import archive as archive_module, package as package_module
from templora.translation.documents.epub import Epub
from templora.translation.documents.xhtml import with_attributes
from templora.translation.languages import language

GERMAN = language("to", "de")
Changes = dict[str, "bytes | str | None"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"META-INF/container.xml": None, "OEBPS/book.opf": None}, "META-INF/container.xml: missing"),
        ({"META-INF/container.xml": "<container/>", "OEBPS/book.opf": None}, "container.xml: names no package"),
        ({"META-INF/container.xml": "<", "OEBPS/book.opf": None}, "container.xml: names no package.*not well-formed"),
        ({"OEBPS/book.opf": None}, "META-INF/container.xml: names no package; OEBPS/book.opf: missing"),
        ({"OEBPS/book.opf": "<package>"}, "OEBPS/book.opf: not well-formed XML"),
        ({"OEBPS/book.opf": "<html/>"}, "OEBPS/book.opf: no package, but 'html'"),
        ({"OEBPS/book.opf": "<package/>"}, "OEBPS/book.opf: there is no text in the spine"),
        ({"META-INF/encryption.xml": ENCRYPTED.format("OEBPS/book.opf")}, r"book.opf: encrypted \(DRM\)"),
        ({"META-INF/container.xml": CONTAINER.replace("OEBPS/", "../x/"), "OEBPS/book.opf": None}, "../x/book.opf"),
        ({ONE_PATH: "", TWO_PATH: "<", "OEBPS/nav.xhtml": None, "OEBPS/toc.ncx": None}, "no text in it.*empty"),
    ],
)
def test_what_cannot_be_opened(changed: Changes, said: str) -> None:
    with pytest.raises(TextError, match=rf"^b\.epub: .*{said}"):
        Epub("b.epub", book(changed))


def named(given: str) -> Changes:
    """The first page under another name."""
    return {ONE_PATH: None, given: ONE}


def refers(to: str) -> Changes:
    """The manifest refers to the first page in another way."""
    return {"OEBPS/book.opf": OPF.replace("text/one.xhtml", to)}


def opf(old: str, new: str) -> Changes:
    assert old in OPF
    return {"OEBPS/book.opf": OPF.replace(old, new)}


AND_ONE = '<itemref idref="one"/>'
# What is wrong, which part of the text is lost by it, and what is said.
FLAWS: list[tuple[Changes, str, list[str]]] = [
    # A page that is left as it is.
    ({ONE_PATH: ""}, "one", [f"{ONE_PATH}: empty; left as it is"]),
    ({ONE_PATH: b"\0" * 9}, "one", [f"{ONE_PATH}: empty"]),
    ({ONE_PATH: "<html><body><p>a</p></body></html>".encode("utf-16-le") + b"x"}, "one", ["holds zero bytes"]),
    ({ONE_PATH: "no markup"}, "one", [f"{ONE_PATH}: not well-formed XML"]),
    ({ONE_PATH: "<html><p>open</html>"}, "one", [f"{ONE_PATH}: not well-formed XML: mismatched tag"]),
    ({ONE_PATH: "<html><body><p>a<br>b</body></html>"}, "one", [f"{ONE_PATH}: not well-formed XML"]),
    ({ONE_PATH: '<html xmlns="http://www.w3.org/1999/xhtml"/>'}, "one", []),
    ({ONE_PATH: "<html><head><title>x</title></head></html>"}, "one", []),
    ({ONE_PATH: "<svg><text>Drawn</text></svg>"}, "one", [f"{ONE_PATH}: a picture, no text"]),
    ({ONE_PATH: BOMB}, "one", [f"{ONE_PATH}: declares the entity 'b', which could be made to fill the memory"]),
    ({ONE_PATH: "<b>" * 5000 + "</b>" * 5000}, "one", ["elements in elements more than 200 deep"]),
    (
        {ONE_PATH: "<!DOCTYPE a [" + "<!ATTLIST a b CDATA 'c'>" * 101 + "]><a/>"},
        "one",
        ["more than 100 attributes"],
    ),
    ({"META-INF/encryption.xml": ENCRYPTED.format(ONE_PATH)}, "one", [f"{ONE_PATH}: encrypted (DRM)"]),
    ({"META-INF/encryption.xml": ENCRYPTED.format("/OEBPS/text/ONE.xhtml")}, "one", [f"{ONE_PATH}: encrypted (DRM)"]),
    # What is referred to and not there.
    ({ONE_PATH: None}, "one", ["text/one.xhtml: missing, though the spine names it"]),
    (refers("../../one.xhtml"), "one", ["../../one.xhtml: missing", f"{ONE_PATH}: the package does not name it"]),
    (refers("/etc/hosts"), "one", ["/etc/hosts: missing", ""]),
    (refers("http://example.org/one.xhtml"), "one", ["http://example.org/one.xhtml: missing", ""]),
    (refers("http://[one.xhtml"), "one", ["http://[one.xhtml: missing", ""]),
    (refers(""), "one", [": missing, though the spine names it", ""]),
    (opf(AND_ONE, AND_ONE + '<itemref idref="cover"/>'), "", ["the spine names 'cover'"]),
    (opf(AND_ONE, AND_ONE + "<itemref/>"), "", ["the spine names ''"]),
    (opf(AND_ONE, AND_ONE + '<itemref idref="img"/>'), "", ["lamp.png: image/png, no text"]),
    ({"OEBPS/nav.xhtml": None}, "nav", ["nav.xhtml: missing, though the package names it"]),
    ({"OEBPS/nav.xhtml": "<nav>"}, "nav", ["OEBPS/nav.xhtml: not well-formed"]),
    ({"OEBPS/toc.ncx": None}, "ncx", ["toc.ncx: missing, though the package names it"]),
    ({"OEBPS/toc.ncx": ""}, "ncx", ["OEBPS/toc.ncx: empty; left as it is"]),
    # Names.
    (named("OEBPS/TEXT/One.XHTML"), "", []),
    (named("OEBPS/text/./one.xhtml"), "", []),
    (named("OEBPS\\text\\one.xhtml"), "", []),
    (dict.fromkeys(FILES) | {name.replace("/", "\\"): raw for name, raw in FILES.items()}, "", []),
    (named("/OEBPS/text/one.xhtml"), "", ["/OEBPS/text/one.xhtml: its name leads out of the archive"]),
    (named("text/one.xhtml"), "", []),
    (refers("text\\one.xhtml"), "", []),
    (refers("./text/x/../one.xhtml#top"), "", []),
    (refers("/OEBPS/text/one.xhtml"), "", []),
    (refers(" text/one.xhtml\n"), "", []),
    (opf('<item id="one"', '<item id=" one "'), "", []),
    (refers("../../../OEBPS/text/one.xhtml"), "", []),
    (refers("text/%6Fne.xhtml"), "", []),
    ({**refers("text/o e.xhtml"), **named("OEBPS/text/o%20e.xhtml")}, "", []),
    ({**refers("text/o%20e.xhtml"), **named("OEBPS/text/o%20e.xhtml")}, "", []),
    ({**refers("text/o&amp;e.xhtml"), **named("OEBPS/text/o&e.xhtml")}, "", []),
    ({**refers("text/o&amp;amp;e.xhtml"), **named("OEBPS/text/o&e.xhtml")}, "", []),
    ({**refers("text/o&amp;e.xhtml"), **named("OEBPS/text/o&amp;e.xhtml")}, "", []),
    ({**refers("text/o&e.xhtml"), **named("OEBPS/text/o&e.xhtml")}, "", []),
    ({**refers("text/o\u0308.xhtml"), **named("OEBPS/text/\u00f6.xhtml")}, "", []),
    ({**refers("text/%C3%B6.xhtml"), **named("OEBPS/text/o\u0308.xhtml")}, "", []),
    ({**refers("text/1#2?.xhtml"), **named("OEBPS/text/1#2?.xhtml")}, "", []),
    ({**refers("a:b.xhtml"), **named("OEBPS/a:b.xhtml")}, "", []),
    ({"../outside.txt": b"x"}, "", ["../outside.txt: its name leads out of the archive; left as it is"]),
    # The package.
    ({"mimetype": None}, "", ["mimetype: missing; it is added"]),
    ({"mimetype": b"application/zip"}, "", ["mimetype: not application/epub+zip; left as it is"]),
    ({"mimetype": b"application/epub+zip\r\n"}, "", []),
    ({"META-INF/container.xml": None}, "", ["names no package that can be read; OEBPS/book.opf was taken"]),
    ({"META-INF/container.xml": "<container/>"}, "", ["names no package that can be read"]),
    (
        {"META-INF/container.xml": CONTAINER.replace("book", "bock")},
        "",
        ["OEBPS/bock.opf: missing", "names no package"],
    ),
    ({"META-INF/encryption.xml": "<"}, "", ["META-INF/encryption.xml: not well-formed"]),
    ({"META-INF/encryption.xml": ENCRYPTED.format("OEBPS/lamp.png")}, "", []),
    (opf("<dc:title>The Lighthouse", "<dc:title>The & Lighthouse"), "", []),
    (opf("<?xml version", "\n <?xml version"), "", []),
    (opf('media-type="application/xhtml+xml"/>\n    <item id="nav"', '/>\n    <item id="nav"'), "", []),
    (opf('<item id="css"', '<item id="one" href="style.css"/><item id="css"'), "", ["style.css: of no kind, no text"]),
    (opf('<itemref idref="two" linear="no"/>', ""), "", ["chapter 2.xhtml: not in the spine; translated after"]),
    ({"OEBPS/lost.xhtml": TWO}, "", ["OEBPS/lost.xhtml: the package does not name it; left as it is"]),
    ({"OEBPS/._one.xhtml": b"\0"}, "", []),
    ({"OEBPS/book.opf": re.sub(r"(?s)<metadata.*?</metadata>", "", OPF)}, "", []),
    ({"OEBPS/book.opf": re.sub(r"(</?)(?!dc:|\?|/)", r"\1opf:", OPF)}, "", []),
]


@pytest.mark.parametrize(("changes", "missing", "said"), FLAWS)
def test_one_flaw_stops_no_book(changes: Changes, missing: str, said: list[str]) -> None:
    document = Epub("b", book(changes))
    there = [segment.text for segment in document.segments]
    assert (
        there
        == {
            "": SOURCES,
            "one": ["The Storm<1/>comes", "He <1> ran.", "Contents", "The Keeper", "Notes", "About & more"],
            "nav": [*SOURCES[:14], "Notes", "About & more"],
            "ncx": SOURCES[:16],
        }[missing]
    )
    assert len(document.problems) == len(said), document.problems
    for problem in said:
        assert any(problem in held for held in document.problems), document.problems
    source = members(book(changes))
    done = members(document.render(there, GERMAN))
    assert set(source) <= set(done)
    assert {k: v for k, v in done.items() if k in source and ".opf" not in k} == {
        k: v for k, v in source.items() if ".opf" not in k
    }
    again = members(document.render([f"{text}!" for text in there], GERMAN))
    assert list(again) == list(done)
    assert Epub("b", book({**dict.fromkeys(FILES), **again})).segments[0].text == f"{there[0]}!"


def test_several_packages() -> None:
    other = '<rootfile full-path="o.opf" media-type="application/oebps-package+xml"/></rootfiles>'
    pdf = '<rootfiles><rootfile full-path="b.pdf" media-type="application/pdf"/>'
    container = CONTAINER.replace("</rootfiles>", other).replace("<rootfiles>", pdf)
    document = Epub("b", book({"META-INF/container.xml": container, "o.opf": OPF, "b.pdf": b"%PDF"}))
    assert [segment.text for segment in document.segments] == SOURCES
    assert document.problems == (
        "o.opf: another version of the book; left as it is",
        "b.pdf: another version of the book; left as it is",
    )


@pytest.mark.parametrize(
    ("page", "text", "written"),
    [
        ('<!DOCTYPE html [<!ENTITY nbsp "&#160;"><!ENTITY w "lamp">]>{}a&nbsp;&w;{}', "a\u00a0lamp", "ä\u00a0lamp"),
        ("{}a&nbsp;&hellip;{}", "a\u00a0…", "ä\u00a0…"),
        ('<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "xhtml11.dtd">{}a&nbsp;b{}', "a\u00a0b", "ä\u00a0b"),
        ('<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/hosts">]>{}a &x; b{}', "a <1/> b", "ä &x; b"),
        ('<!DOCTYPE html [<!ENTITY x "<b>c</b>">]>{}a &x; b{}', "a <1/> b", "ä &x; b"),
        ('<!DOCTYPE html [<!ENTITY % p SYSTEM "p"> %p; <!ENTITY amp "&#38;#38;">]>{}a &amp; b{}', "a & b", "ä &amp; b"),
        ("{}a &nonsense; b{}", "a <1/> b", "ä &nonsense; b"),
        ("{}a & b&c{}", "a & b&c", "ä &amp; b&amp;c"),
        ("{}a\x0bb\uffff{}\0\0", "a b", "ä b"),
        ('\n<?xml version="1.0"?>{}a b{}', "a b", "ä b"),
        ('<?xml version="1.1"?>{}a b{}', "a b", "ä b"),
        ('<?xml version="1.0" encoding="utf-16"?>{}a é{}', "a é", "&#228; &#233;"),
        ('<?xml version="1.0" encoding="iso-8859-1"?>{}a é{}', "a é", "&#228; &#233;"),
        ('<?xml version="1.0" encoding="shift_jis"?>{}a b{}', "a b", "&#228; b"),
        ('<?xml version="1.0" encoding="nope"?>{}a b{}', "a b", "&#228; b"),
        ('\ufeff<?xml version="1.0" encoding="iso-8859-1"?>{}a é{}', "a é", "ä é"),
    ],
)
def test_pages_that_are_nearly_right(page: str, text: str, written: str) -> None:
    document = Epub("b", book({ONE_PATH: page.format("<html><body><p>", "</p></body></html>")}))
    texts = [segment.text for segment in document.segments]
    assert texts[0] == text
    done = members(document.render([texts[0].replace("a", "ä", 1), *texts[1:]], GERMAN))[ONE_PATH].decode()
    before, after = page.split("{}")[0], f"</p></body></html>{page.split('{}')[2]}"
    assert done == f'{before}<html lang="de" xml:lang="de"><body><p>{written}{after}'


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        ("cp1252", "utf-8"), ("cp1252", ""), ("cp1252", "iso-8859-1"), ("utf-16-le", ""), ("utf-16-be", "utf-16"),
        ("cp932", "shift_jis"), ("gb18030", "gb2312"), ("koi8-r", "koi8-r"), ("iso2022_jp", "iso-2022-jp"),
        ("utf-32", "utf-32"), ("cp1252", "idna"), ("mac-roman", "macintosh"),
    ],
)  # fmt: skip
def test_whatever_a_page_says_it_is_in(codec: str, said: str) -> None:
    word = {"cp932": "灯台①", "gb18030": "灯塔", "koi8-r": "маяк", "iso2022_jp": "灯台"}.get(
        codec, "caf\u00e9 \u201cl\u201d"
    )
    declared = f'<?xml version="1.0" encoding="{said}"?>' if said else ""
    raw = f"{declared}<html><body><p>{word}</p><p>next</p></body></html>".encode(codec)
    document = Epub("b", book({ONE_PATH: raw}))
    texts = [segment.text for segment in document.segments]
    assert texts[0] == word
    done = members(document.render([texts[0], "Ende — ö", *texts[2:]], GERMAN))[ONE_PATH].decode(codec)
    assert html.unescape(done).endswith(f"<body><p>{word}</p><p>Ende — ö</p></body></html>")
    assert word in done  # as it was written
    assert members(document.render(texts, GERMAN))[ONE_PATH] == raw


# Archives ------------------------------------------------------------------------------------------------------------


def test_a_member_twice() -> None:
    target = io.BytesIO(book())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(target, "a") as archive:
        archive.writestr(ONE_PATH, TWO)
    document = Epub("b", target.getvalue())
    assert document.segments[0].text == "The Storm<1/>comes"  # what unpacking the archive gives
    assert document.problems == (f"{ONE_PATH}: in the archive twice; the last one counts",)
    with zipfile.ZipFile(io.BytesIO(document.render(["X"], GERMAN))) as archive:
        assert archive.namelist().count(ONE_PATH) == 1


def patched(change: Callable[[bytearray, int], None]) -> bytes:
    """With the entry of the first page in the directory changed."""
    raw = bytearray(book())
    change(raw, raw.rindex(ONE_PATH.encode()) - 46)
    return bytes(raw)


def entry(at: int, form: str, value: int) -> bytes:
    return patched(lambda raw, start: struct.pack_into(form, raw, start + at, value))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (entry(24, "<I", 0x7FFFFFFF), "damaged: not what was packed"),
        (entry(24, "<I", 9), "damaged: not what was packed"),
        (entry(16, "<I", 9), "damaged: not what was packed"),
        (entry(20, "<I", 20), "damaged: it ends too early"),
        (entry(8, "<H", 1), "encrypted; it cannot be read"),
        (entry(10, "<H", 9), "damaged: packed in a way that is not known here (9)"),
        (entry(10, "<H", 12), "damaged: Invalid data stream"),
        (entry(10, "<H", 14), "damaged: "),
        (entry(42, "<I", 5), "cut off or damaged; left out"),
        (entry(42, "<I", 0x7FFFFFFF), "cut off or damaged; left out"),
        (entry(20, "<I", 0x7FFFFFFF), "cut off or damaged; left out"),
    ],
)
def test_a_member_that_cannot_be_unpacked(raw: bytes, said: str) -> None:
    document = Epub("b", raw)
    assert any(held.startswith(f"{ONE_PATH}: {said}") for held in document.problems), document.problems
    assert document.segments[0].text == "The Storm<1/>comes"
    with zipfile.ZipFile(io.BytesIO(document.render(["X"], GERMAN))) as archive:
        assert archive.read(TWO_PATH) != TWO.encode()
        assert (ONE_PATH in archive.namelist()) == ("left out" not in said)


def test_members_that_share_their_bytes() -> None:
    with pytest.raises(TextError, match="overlaps another member; made to fill the memory"):
        Epub("b", entry(42, "<I", 0))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_bomb_is_unpacked_no_further_than_a_text_is_long(kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the archive says that it is small; and one that is no text is not unpacked at all."""
    monkeypatch.setattr(archive_module, "MAX_LENGTH", 1 << 22)
    target = io.BytesIO(book({ONE_PATH: None}))
    with zipfile.ZipFile(target, "a", kind) as archive:
        for name in (ONE_PATH, "OEBPS/bomb.png"):
            with archive.open(name, "w") as file:
                for _ in range(16):
                    file.write(b" " * (1 << 20))
    raw = bytearray(target.getvalue())
    struct.pack_into("<I", raw, raw.rindex(ONE_PATH.encode()) - 22, 1000)
    tracemalloc.start()
    document = Epub("b", bytes(raw))
    done = document.render(["X"], GERMAN)
    assert tracemalloc.get_traced_memory()[1] < 22 << 20
    tracemalloc.stop()
    assert len(done) < 2 * len(raw)
    assert document.problems[0] == f"{ONE_PATH}: larger than 4 MiB; no text is; left as it is"


def test_the_others_stay_packed_as_they_are() -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = b"ours"
        for at, (name, raw) in enumerate(FILES.items()):
            archive.writestr(name, raw, [0, 8, 12, 14][at % 4])
    document = Epub("b", target.getvalue())
    done = document.render([*SOURCES[:13], "X", *SOURCES[14:]], GERMAN)
    changed = {TWO_PATH, "OEBPS/book.opf"}
    assert {name for name, raw in members(done).items() if raw != FILES[name]} == changed
    with zipfile.ZipFile(target) as old, zipfile.ZipFile(io.BytesIO(done)) as new:
        assert new.comment == b"ours"
        for name in FILES:
            packing = [archive.getinfo(name).compress_type for archive in (old, new)]
            assert name in changed or packing[0] == packing[1]


def test_texts_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "_MAX_TEXT", sum(map(len, FILES.values())) - len(FILES["OEBPS/toc.ncx"]))
    document = Epub("b", book())
    assert document.problems == (
        "OEBPS/toc.ncx: more than 0 MiB of text up to here; no book has so much; left as it is",
    )
    monkeypatch.setattr(package_module, "_MAX_ELEMENTS_IN_ALL", 40)
    problems = Epub("b", book()).problems
    assert re.fullmatch(rf"{ONE_PATH}: more than \d+ elements; no text has so many; left as it is", problems[0])


def test_many_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """In time that grows with their number; more than any book has are refused."""

    def made(many: int) -> bytes:
        items = "".join(f'<item id="x{i}" href="x/{i}.xhtml" media-type="application/xhtml+xml"/>' for i in range(many))
        refs = "".join(f'<itemref idref="x{i}"/>' for i in range(many))
        package = OPF.replace("</manifest>", f"{items}</manifest>").replace("</spine>", f"{refs}</spine>")
        return book({"OEBPS/book.opf": package, **{f"OEBPS/x/{i}.xhtml": "<p>a</p>" for i in range(many)}})

    assert_linear(made, lambda raw: Epub("b", raw).render(["X"], GERMAN), 40)
    monkeypatch.setattr(archive_module, "_MAX_MEMBERS", 8)
    with pytest.raises(TextError, match="more than 8 members; no book has so many"):
        Epub("b", book())


def test_a_start_tag_with_control_characters_gets_its_attributes() -> None:
    """They are read as spaces, so they are spaces where an attribute is put in."""
    tag = '<html\x01xmlns="http://www.w3.org/1999/xhtml"\x7flang="en" dir="ltr">'
    changed = with_attributes(tag, {"lang": "de", "dir": None, "id": "x"})
    assert changed == '<html xmlns="http://www.w3.org/1999/xhtml" lang="de" id="x">'
