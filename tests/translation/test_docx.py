"""Word documents: what is not text stays to the byte, and whatever a model writes, they can be opened."""

from __future__ import annotations

import contextlib
import io
import re
import zipfile
from pathlib import Path

import docx
import pytest
from docx.document import Document as WordDocument
from growth import assert_linear
from hypothesis import given, settings, strategies as st
from lxml import etree
from word_files import (
    BEGUN,
    BOLD,
    BREAK,
    CITY,
    CODE,
    CONTENTS,
    FILES,
    KIND,
    LINK,
    NAMES,
    SOURCES,
    TAB,
    XML,
    W,
    bookmark,
    box,
    change,
    complex_field,
    control,
    document,
    field,
    link,
    paragraph,
    relationships,
    run,
    with_body,
)

from templora.errors import TextError
from templora.translation.documents import open_document
from templora.translation.documents.docx import Docx
from templora.translation.languages import language

GERMAN, ARABIC, CHINESE, ENGLISH = (language("to", code) for code in ("de", "ar", "zh", "en"))
MAIN = "word/document.xml"
REFERENCE = complex_field("REF x", run("Table"))


def members(raw: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert archive.testzip() is None
        return {info.filename: archive.read(info) for info in archive.infolist()}


def body(raw: bytes) -> str:
    return re.sub(r"(?s).*<w:body>(.*)</w:body>.*", r"\1", members(raw)[MAIN].decode())


def written(content: str, target: str, properties: str = "", to: str = "de") -> str:
    """What is in a paragraph for a translation of it."""
    done = Docx("d", with_body(f"<w:p>{properties}{content}</w:p>")).render([target], language("to", to))
    return body(done).removeprefix("<w:p>").removesuffix("</w:p>")


def opened(raw: bytes) -> WordDocument:
    return docx.Document(io.BytesIO(raw))


def shape(word: WordDocument) -> list[object]:
    """What of a document is no text."""
    tables = [[[cell.paragraphs[0].style.name for cell in row.cells] for row in table.rows] for table in word.tables]
    sections = [(section.page_width, section.orientation, section.start_type) for section in word.sections]
    styles = [(paragraph.style.name, paragraph.alignment) for paragraph in word.paragraphs]
    return [styles, tables, len(word.inline_shapes), sections]


# What is promised ----------------------------------------------------------------------------------------------------


def test_segments_in_reading_order() -> None:
    document_ = Docx("d", document())
    assert [segment.text for segment in document_.segments] == SOURCES
    assert document_.problems == ()


@pytest.mark.parametrize("targets", [SOURCES, [], SOURCES[:5], [f" {text}\n" for text in SOURCES]])
def test_with_its_own_text_it_is_what_it_was(targets: list[str]) -> None:
    for to in (ENGLISH, GERMAN, ARABIC):
        assert Docx("d", document()).render(targets, to) == document()


def test_one_paragraph_is_changed_and_nothing_else() -> None:
    targets = [*SOURCES]
    targets[1] = "Er zündete die <Lampe> & ging ]]>."
    done = members(Docx("d", document()).render(targets, GERMAN))
    source = FILES[MAIN].decode()
    wanted = source.replace("He lit the lamp.", "Er zündete die &lt;Lampe&gt; &amp; ging ]]&gt;.", 1)
    styles = FILES["word/styles.xml"].replace(b"en-GB", b"de")
    assert done == {**FILES, MAIN: wanted.encode(), "word/styles.xml": styles}
    assert list(done) == list(FILES)


def test_others_are_copied_as_they_are_packed() -> None:
    """Also in ways that nobody packs a document in; and each member keeps its date and its order."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.comment = b"ours"
        for at, (name, raw) in enumerate(FILES.items()):
            archive.writestr(zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6)), raw, [8, 0, 12, 14][at % 4])
    done = Docx("d", target.getvalue()).render(["X"], GERMAN)
    with zipfile.ZipFile(target) as old, zipfile.ZipFile(io.BytesIO(done)) as new:
        assert new.comment == b"ours"
        assert [(i.filename, i.date_time) for i in new.infolist()] == [
            (i.filename, i.date_time) for i in old.infolist()
        ]
        for info in new.infolist():
            if info.filename not in (MAIN, "word/styles.xml"):
                assert info.compress_type == old.getinfo(info.filename).compress_type


@pytest.mark.parametrize(("content", "text"), CONTENTS)
def test_what_is_within_a_paragraph(content: str, text: str | None) -> None:
    document_ = Docx("d", with_body(f"<w:p>{content}</w:p>"))
    assert [segment.text for segment in document_.segments] == [text] * (text is not None)
    if text is None:
        return
    # All that is no text is there once, and in the order of the source.
    done = body(document_.render([f"{text}!"], GERMAN))
    things = r"<w:(?:tab|br|drawing|fldChar|instrText|bookmark\w+|footnoteRef\w+|sym|del|comment\w+)\b[^>]*>|<m:t>|abc"
    assert re.findall(things, done) == re.findall(things, content)
    assert opened(document_.render([f"{text}!"], GERMAN)).paragraphs[0].text


TEXT = '<w:t xml:space="preserve">'


@pytest.mark.parametrize(
    ("content", "target", "wanted"),
    [
        (run("a ") + run("b", BOLD), "<1>x</1> y", run("x", BOLD) + run(" y")),
        (run("so be ", LINK) + run("it", BOLD), "a <b> <1>c</1>", run("a &lt;b&gt; ", LINK) + run("c", BOLD)),
        ("<w:r><w:t>a</w:t></w:r>" + TAB + run("b"), "y<1/>x", run("y") + TAB + run("x")),
        (run("a ") + link(run("b", LINK)) + run(" c"), "c <1>b</1>", run("c ") + link(run("b", LINK))),
        ("<w:r><w:t>e</w:t><w:noBreakHyphen/></w:r>", "E\u2011", f"<w:r>{TEXT}E</w:t><w:noBreakHyphen/></w:r>"),
        (run("a ") + REFERENCE + run(" d"), "<1>Bild</1> d", REFERENCE + run(" d")),
        (change("ins", run("new")), "neu", change("ins", run("neu"))),
        (run("gone") + change("del", run("x")), "weg", run("weg") + change("del", run("x"))),
        (run("only"), "", ""),
        (run("a") + run("        ") + run("b"), "b a<1/>", run("b a") + run("        ")),
        (run("a") + run("    ") * 2 + run("b"), "b<1/> a", run("b") + run("    ") * 2 + run(" a")),
        ("<w:r><w:t>a </w:t></w:r>" + CITY, "<1>Rom</1>", CITY.replace("Rome", "Rom")),
        (run("do ") + run("ls ", CODE) + run("now"), "jetzt <1>dir</1>", run("jetzt ") + run("ls", CODE)),
        (CITY + BREAK + control("text", run("in")), "<2/><1>b</1>", None),
    ],
)
def test_a_translation(content: str, target: str, wanted: str | None) -> None:
    done = written(content, target)
    assert done == wanted or (wanted is None and "<w:sdtPr><w:text/></w:sdtPr>" in done)


def test_what_begins_stays_in_front_of_what_ends() -> None:
    """Where the model has it the other way round, it goes where it was."""
    document_ = Docx("d", with_body(f"<w:p>{run('one ')}{bookmark(run('two'))}{run(' three')}</w:p>"))
    assert document_.moved(0, "drei <1/>zwei<2/> eins") == 0
    assert document_.moved(0, "drei <2/>zwei<1/> eins") == 2
    done = body(document_.render(["drei <2/>zwei<1/> eins"], GERMAN))
    assert re.findall("bookmark[A-Z][a-z]+", done) == ["bookmarkStart", "bookmarkEnd"]
    assert opened(document_.render(["drei <2/>zwei<1/> eins"], GERMAN)).paragraphs[0].text == "drei zwei eins"


def test_a_text_that_is_there_twice_is_translated_alike() -> None:
    document_ = Docx("d", document())
    targets = [f"{text}!" for text in SOURCES]
    at = SOURCES.index("Twice")
    targets[at : at + 2] = "Eins", "Zwei"
    done = body(document_.render(targets, GERMAN))
    boxes = re.findall(r"<w:txbxContent>(.*?)</w:txbxContent>", done)[-4:]
    assert [re.findall("<w:t [^>]*>(.*?)<", held) for held in boxes] == [
        ["In a box!", "Eins", "Zwei"],
        ["In a box!", "Eins", "Zwei"],
        ["Alone!"],
        ["For old programs!"],
    ]
    assert done.count("The Keeper!") == 2  # of the table of contents, with its link and number
    assert re.search(r"The Keeper!</w:t></w:r><w:r><w:tab/></w:r>.*?<w:t [^>]*>4</w:t>", done)


def test_a_box_is_not_taken_for_what_reads_the_same_elsewhere() -> None:
    source = paragraph("Same") + f"<w:p>{box(paragraph('Same'))}</w:p>"
    done = body(Docx("d", with_body(source)).render(["A", "B"], GERMAN))
    assert done == paragraph("A") + f"<w:p>{box(paragraph('B'))}</w:p>"


@pytest.mark.parametrize("outer", [True, False])
def test_a_box_and_the_paragraph_around_it(outer: bool) -> None:
    """Each may be translated without the other."""
    targets = [*SOURCES]
    at = SOURCES.index("Beside <1/>the box") + (not outer)
    targets[at] = "Neben <1/>dem Kasten" if outer else "Darin"
    done = body(Docx("d", document()).render(targets, GERMAN))
    source = body(document())
    if outer:
        assert done == source.replace("Beside ", "Neben ").replace("the box", "dem Kasten")
    else:
        assert done == source.replace("In a box", "Darin")


def test_boxes_in_boxes() -> None:
    inner = box(paragraph("inner"))
    middle = box(f"<w:p>{run('middle')}{inner}</w:p>")
    source = f"<w:p>{run('outer')}{middle}</w:p>"
    document_ = Docx("d", with_body(source))
    assert [segment.text for segment in document_.segments] == ["outer", "middle", "inner"]
    for targets in (["A", "B", "C"], ["A", "middle", "C"], ["outer", "B", "inner"], ["A"], ["outer", "middle", "C"]):
        wanted = source
        for text, target in zip(("outer", "middle", "inner"), targets, strict=False):
            wanted = wanted.replace(text, target)
        assert body(document_.render(targets, GERMAN)) == wanted


def test_a_dropped_initial_is_one_with_its_paragraph() -> None:
    drop = '<w:pPr><w:framePr w:dropCap="drop" w:lines="3"/></w:pPr>'
    large, source = "<w:sz w:val='99'/>", f"<w:p>{drop}{{}}</w:p><w:p>{{}}</w:p>"
    raw = with_body(source.format(run("\u201cT", large), run("he ") + run("keeper", BOLD)))
    document_ = Docx("d", raw)
    assert [segment.text for segment in document_.segments] == ["\u201cThe <1>keeper</1>"]
    assert document_.render(["\u201cThe <1>keeper</1>"], GERMAN) == raw
    done = body(document_.render(["\u201eDer <1>Wärter</1>"], GERMAN))
    assert done == source.format(run("\u201eD", large), run("er ") + run("Wärter", BOLD))
    assert body(document_.render(["<1>Ich</1>"], GERMAN)) == source.format(run("I", large), run("ch", BOLD))
    assert opened(document_.render([""], GERMAN)).paragraphs[0].text == ""
    for behind in (f"<w:p>{run('12')}</w:p>", ""):  # nothing that it could be one with
        alone = Docx("d", with_body(f"<w:p>{drop}{run('T', large)}</w:p>{behind}"))
        assert [segment.text for segment in alone.segments] == ["T"]


def test_chapters() -> None:
    document_ = Docx("d", document())
    found = {text: document_.chapter(i) for i, text in enumerate(SOURCES)}
    assert [found[text] for text in ("He lit the lamp.", "In a box", "Part two", "Alone", "Unbound", "Head")] == [
        "The Keeper",
        "The Keeper",
        "Part two",
        "Part two",
        "Part two",
        "",
    ]


def test_what_is_a_heading() -> None:
    styles = ["Part", "Low", "Own", "Normal", "Heading2", "Unknown"]
    body_ = "".join(paragraph(name, f'<w:pPr><w:pStyle w:val="{name}"/></w:pPr>') for name in styles)
    document_ = Docx("d", with_body(body_))
    assert [document_.chapter(i) for i in range(6)] == ["Part", "Part", "Own", "Own", "Heading2", "Heading2"]


def test_a_link_is_not_put_into_another() -> None:
    """Whichever of the three kinds it is of."""
    simple = f"<w:fldSimple w:instr=' HYPERLINK x'>{run('b', LINK)}</w:fldSimple>"
    for kind in (link(run("b", LINK)), complex_field("HYPERLINK x", run("b", LINK)), simple):
        document_ = Docx("d", with_body(f"<w:p>{run('a and ')}{kind}{link(run('c'))}</w:p>"))
        assert [mark.link for mark in document_.segments[0].marks] == [True, True]
        assert document_.moved(0, "x <1>y <2>z</2></1>") == 1


def test_lost_marks_are_counted() -> None:
    document_ = Docx("d", document())
    at = SOURCES.index("See <1><2>the</2> <3>site</3></1>")
    assert document_.moved(at, "nothing left") == 3
    assert document_.moved(at, "Siehe <1><2>die</2> <3>Seite</3></1>") == 0
    assert document_.restored(1, "a < b").text == run("a &lt; b")


def test_another_prefix_and_the_other_standard() -> None:
    page = f"{XML}<w:document {NAMES}><w:body>{paragraph('Hello')}{paragraph('there')}</w:body></w:document>"
    strict = page.replace(
        "http://schemas.openxmlformats.org/wordprocessingml/2006/", "http://purl.oclc.org/ooxml/wordprocessingml/"
    )
    other = page.replace("w:", "ns0:").replace("xmlns:w=", "xmlns:ns0=")
    utf16 = page.replace("UTF-8", "UTF-16").encode("utf-16")
    for held in (strict, other, utf16):
        done = members(Docx("d", document({MAIN: held})).render(["Ça va — ж"], GERMAN))[MAIN]
        wanted = held if isinstance(held, str) else held.decode("utf-16")
        assert done.decode("utf-16" if held is utf16 else "utf-8") == wanted.replace("Hello", "Ça va — ж")


# Languages -----------------------------------------------------------------------------------------------------------


def test_the_language_is_said() -> None:
    done = members(Docx("d", document()).render(["X"], CHINESE))["word/styles.xml"]
    assert done == FILES["word/styles.xml"].replace(b'"en-GB" w:eastAsia="en-US"', b'"zh" w:eastAsia="zh"')
    source = run("one", '<w:lang w:val="en-US" w:bidi="he"/>')
    assert written(source, "eins") == run("eins", '<w:lang w:val="de" w:bidi="he"/>')


TURNED, CHANGED = "<w:pPr><w:bidi/></w:pPr>", "<w:rPrChange><w:rPr/></w:rPrChange>"
STYLED = '<w:pPr><w:pStyle w:val="N"/>{}<w:jc w:val="left"/></w:pPr>'


@pytest.mark.parametrize(
    ("properties", "held", "wanted"),
    [
        ("", "", (TURNED, "<w:rtl/>")),
        ("<w:pPr/>", "<w:b/><w:bdr/>", (TURNED, "<w:b/><w:bCs/><w:bdr/><w:rtl/>")),
        ("<w:pPr></w:pPr>", "<w:sz w:val='9'/>", (TURNED, "<w:sz w:val='9'/><w:szCs w:val='9'/><w:rtl/>")),
        (STYLED.format(""), "<w:rtl w:val='0'/><w:bCs/>", (STYLED.format("<w:bidi/>"), "<w:bCs/><w:rtl/>")),
        ('<w:pPr><w:bidi w:val="0"/></w:pPr>', f"<w:i/>{CHANGED}", (TURNED, f"<w:i/><w:iCs/><w:rtl/>{CHANGED}")),
        (TURNED, "<w:b/><w:bCs w:val='0'/>", (TURNED, "<w:b/><w:bCs w:val='0'/><w:rtl/>")),
    ],
)
def test_from_right_to_left(properties: str, held: str, wanted: tuple[str, str]) -> None:
    assert written(run("a", held), "ب", properties, "ar") == wanted[0] + run("ب", wanted[1])


def test_and_back() -> None:
    done = written(run("شمعة", "<w:rtl/>"), "Kerze", "<w:pPr><w:bidi/></w:pPr>")
    assert done == '<w:pPr><w:bidi w:val="0"/></w:pPr>' + run("Kerze", '<w:rtl w:val="0"/>')


# Real readers --------------------------------------------------------------------------------------------------------


def made() -> bytes:
    """A document that python-docx makes."""
    word = docx.Document()
    word.add_heading("The Keeper", 0)
    word.add_heading("The lamp", 1)
    word.add_paragraph("He lit ").add_run("the lamp").bold = True
    word.add_paragraph("One", "List Bullet")
    word.add_paragraph("Two", "List Number")
    table = word.add_table(2, 2, "Table Grid")
    for at, cell in enumerate([cell for row in table.rows for cell in row.cells]):
        cell.text = f"Cell {at}"
    table.cell(0, 0).add_table(1, 1).cell(0, 0).text = "Within"
    word.add_section().footer.paragraphs[0].text = "Below\tthe line"
    word.sections[0].header.paragraphs[0].text = "Above"
    target = io.BytesIO()
    word.save(target)
    return target.getvalue()


def test_what_python_docx_makes() -> None:
    raw = made()
    document_ = open_document("a.docx", raw)
    texts = [segment.text for segment in document_.segments]
    assert document_.render(texts, GERMAN) == raw
    done = opened(document_.render([text.upper() for text in texts], GERMAN))
    assert shape(done) == shape(opened(raw))
    assert [held.text for held in done.paragraphs] == [held.text.upper() for held in opened(raw).paragraphs]
    assert [held.bold for held in done.paragraphs[2].runs] == [None, True]
    assert done.tables[0].cell(1, 1).text == "CELL 3"
    assert done.tables[0].cell(0, 0).tables[0].cell(0, 0).text == "WITHIN"
    assert [held.header.paragraphs[0].text for held in done.sections] == ["ABOVE"] * 2
    assert done.sections[1].footer.paragraphs[0].text == "BELOW\tTHE LINE"


SHAPE = shape(opened(document()))
TAGS = ["<1>", "</1>", "<2/>", "</2>", "<2>", "<1/>", "<3>", "<9>"]
ODD = ["]]>", "<", "&amp;", "\0", "\x0b", "\ud800", "\uffff", "\u2011", " ", "word", "ب", "</w:t>"]
PARTS_OF_TARGETS = st.sampled_from([*TAGS, *ODD])
TARGETS = st.lists(
    st.lists(PARTS_OF_TARGETS | st.text(max_size=4), max_size=9).map("".join),
    min_size=len(SOURCES),
    max_size=len(SOURCES),
)


@settings(max_examples=25, deadline=None)
@given(TARGETS, st.sampled_from([GERMAN, ARABIC]))
def test_whatever_a_model_writes(targets: list[str], to: object) -> None:
    """The document opens, has the shape that it had, every object once, and fields and bookmarks in their order."""
    done = Docx("d", document()).render(targets, ARABIC if to is ARABIC else GERMAN)
    assert shape(opened(done)) == SHAPE
    for name, raw in members(done).items():
        if name.endswith((".xml", ".rels")):
            for text in etree.fromstring(raw).iter(f"{{{W}}}t"):
                above = [element.tag.rpartition("}")[2] for element in text.iterancestors()]
                assert above[0] == "r"
                assert above[1] in (
                    "p",
                    "hyperlink",
                    "ins",
                    "moveFrom",
                    "sdtContent",
                    "smartTag",
                    "fldSimple",
                    "rt",
                    "rubyBase",
                )
    texts, sources = body(done), body(document())
    for kept in ("<w:tab/>", "<w:drawing>", "<w:footnoteReference", "<w:hyperlink ", "<w:del ", "<m:oMath>", "<w:sdt>"):
        assert texts.count(kept) == sources.count(kept)
    edges = r'<w:(?:bookmark\w+|fldChar w:fldCharType="\w+")'
    for before, after in zip(sources.split("<w:jc "), texts.split("<w:jc "), strict=True):
        assert re.findall(edges, after) == re.findall(edges, before)
    assert Docx("d", done).problems == ()


def test_examples() -> None:
    """Our own, as they are in `experiments`."""
    found = sorted((Path(__file__).parents[2] / "experiments" / "documents" / "docx").glob("*.docx"))
    assert len(found) == 5
    for path in found:
        raw = path.read_bytes()
        document_ = Docx(path.name, raw)
        assert document_.problems == ()
        texts = [segment.text for segment in document_.segments]
        assert len(texts) > 10
        assert document_.render(texts, GERMAN) == raw
        done = document_.render([f"{text}!" for text in texts], GERMAN)
        assert shape(opened(done)) == shape(opened(raw))
        assert [segment.text for segment in Docx("d", done).segments] == [f"{text}!" for text in texts]


# Broken, or made to do harm ------------------------------------------------------------------------------------------

BOMB = '<!DOCTYPE w [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
OTHER = "xmlns:w='http://schemas.openxmlformats.org/spreadsheetml/2006/main'"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"PK", "the archive: no zip archive, so no Word document"),
        (b"some text", "the archive: no zip archive, so no Word document"),
        (document()[:-40], "the archive: no zip archive"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
            r"no \.docx, .*; it has a password, or is a \.doc of old: save",
        ),
        (b"{\\rtf1 a}", "it is RTF"),
        (document({"_rels/.rels": None, "[Content_Types].xml": None}), "no Word document: nothing in the archive says"),
        (document({"_rels/.rels": "<"}), ""),
        (document({"_rels/.rels": None}), ""),
        (document({MAIN: None}), "document.xml: missing, though _rels/.rels names it"),
        (document({MAIN: "<w:document"}), "word/document.xml: not well-formed XML"),
        (document({MAIN: b"\0\1"}), "word/document.xml: not"),
        (document({MAIN: f"<w:document {OTHER}/>"}), "word/document.xml: no text of Word, but 'document'"),
        (document({MAIN: f"<w:workbook {NAMES}/>"}), "word/document.xml: no text of Word, but 'workbook'"),
        (document({MAIN: f"{BOMB}<w:document {NAMES}><w:p>&b;</w:p></w:document>"}), "declares the entity 'b'"),
        (with_body("<w:p>" * 300 + "</w:p>" * 300), "word/document.xml: elements in elements more than 200 deep"),
    ],
)
def test_what_cannot_be_opened(raw: bytes, said: str) -> None:
    with pytest.raises(TextError, match=rf"^d\.docx: .*{said}") if said else contextlib.nullcontext():
        Docx("d.docx", raw)


@pytest.mark.parametrize(
    ("path", "held", "said"),
    [
        ("word/header1.xml", "<w:hdr>", "word/header1.xml: not well-formed XML: no element found"),
        ("word/footnotes.xml", None, "/word/footnotes.xml: missing, though word/_rels/document.xml.rels names it"),
        ("word/styles.xml", "", "word/styles.xml: empty"),
        ("word/_rels/document.xml.rels", "no", "word/_rels/document.xml.rels: not well-formed"),
    ],
)
def test_a_part_that_cannot_be_read_stays(path: str, held: str | None, said: str) -> None:
    raw = document({path: held})
    document_ = Docx("d", raw)
    assert any(problem.startswith(said) for problem in document_.problems), document_.problems
    done = members(document_.render(["X", "Y"], GERMAN))
    assert done.get(path) == members(raw).get(path)
    assert "Y</w:t>" in done[MAIN].decode()


def test_what_is_left_is_listed() -> None:
    rels = relationships(("chart", "charts/chart1.xml"), ("diagramData", "diagrams/data1.xml"))
    changed = {
        "word/_rels/document.xml.rels": rels,
        "word/charts/chart1.xml": "<c/>",
        "word/diagrams/data1.xml": "<d/>",
    }
    assert Docx("d", document(changed)).problems == (
        "word/charts/chart1.xml: a chart; left as it is",
        "word/diagrams/data1.xml: a diagram; left as it is",
    )


def test_macros_stay() -> None:
    types = FILES["[Content_Types].xml"].decode()
    types = types.replace(f"{KIND}.document.main+xml", "application/vnd.ms-word.document.macroEnabled.main+xml")
    rels = relationships(("header", "header1.xml"))
    macros = bytes(range(256)) * 4
    raw = document(
        {
            "[Content_Types].xml": types,
            "_rels/.rels": None,
            "word/_rels/document.xml.rels": rels,
            "word/vbaProject.bin": macros,
        }
    )
    document_ = open_document("a.docm", raw)
    done = members(document_.render(["X", "Y"], GERMAN))
    assert done["word/vbaProject.bin"] == macros
    assert done["[Content_Types].xml"] == types.encode()


def test_parts_that_are_named_twice_or_are_each_other() -> None:
    twice, other = [("header", "header1.xml")] * 3, ("header", "https://a.b/header2.xml")
    rels = relationships(*twice, other, ("footnotes", "document.xml"), ("styles", "document.xml"))
    document_ = Docx("d", document({"word/_rels/document.xml.rels": rels}))
    texts = [segment.text for segment in document_.segments]
    assert texts.count("Head") == texts.count("Unbound") == 1
    assert document_.problems == ()
    assert "X</w:t>" in body(document_.render(["X", "X"], GERMAN))


def changed(raw: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    held = bytearray(raw)
    for at, new in changes:
        held[at % len(held) : at % len(held) + len(new)] = new
    return bytes(held)


BYTES = st.binary(min_size=1, max_size=3) | st.sampled_from(
    [b"<w:p>", b"</w:r>", b"/>", b"&lt;", b"<!--", b"]]>", b">"]
)
CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), BYTES), max_size=4)


@settings(max_examples=60, deadline=None)
@given(CHANGES, st.sampled_from([None, *FILES]))
def test_whatever_comes_is_a_document_or_a_text_error(changes: list[tuple[int, bytes]], path: str | None) -> None:
    raw = changed(document(), changes) if path is None else document({path: changed(FILES[path], changes)})
    with contextlib.suppress(TextError):
        document_ = Docx("d", raw)
        texts = [segment.text for segment in document_.segments]
        assert document_.render(texts, GERMAN) == raw
        again = Docx("d", document_.render([f"{text} x" for text in texts], GERMAN))
        assert len(again.segments) == len(texts)


@pytest.mark.parametrize(
    ("before", "repeated", "behind"),
    [
        ("", paragraph("He lit the lamp."), ""),
        ("<w:p>", run("a ") + run("b ", BOLD), "</w:p>"),
        ("<w:p>" + run("a"), TAB, "</w:p>"),
        ("<w:p>" + run("a"), run("          "), run("b") + "</w:p>"),
        ("<w:p>" + run("a"), field("begin"), run("b") + "</w:p>"),
        ("<w:p>" + run("a"), field("begin") + TAB + field("end"), run("b") + "</w:p>"),
        ("<w:p>", complex_field("REF x", run("a")), run("b") + "</w:p>"),
        ("<w:p>", complex_field("HYPERLINK x", run("a")) + run("c"), run("b") + "</w:p>"),
        ("<w:p>", "<w:bookmarkStart/>" + run("a"), "</w:p>"),
        ("<w:p>" + run("a"), box(paragraph("b")), "</w:p>"),
        (f"<w:p>{BEGUN}", control("text", run("a")), "</w:p>"),
    ],
)
def test_time_grows_with_the_document(before: str, repeated: str, behind: str) -> None:
    def made(many: int) -> bytes:
        return with_body(before + repeated * (many // len(repeated)) + behind)

    def work(raw: bytes) -> None:
        document_ = Docx("d", raw)
        document_.render(["x y <1/>" for _ in document_.segments], GERMAN)

    assert_linear(made, work, 8_000)


def test_time_grows_with_fields_in_fields() -> None:
    def made(many: int) -> bytes:
        return with_body(f"<w:p>{field('begin') * many}{run('a')}{field('end') * many}{run('b')}</w:p>")

    assert_linear(made, lambda raw: Docx("d", raw).render(["x"], GERMAN), 500)
    assert [segment.text for segment in Docx("d", made(300)).segments] == ["b"]
