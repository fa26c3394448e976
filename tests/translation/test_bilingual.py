"""Documents with both languages: each source stands as it was, and nothing around it changes."""

from __future__ import annotations

import csv
import io
import re
from itertools import groupby

import pytest
from books import FILES, book, members
from hypothesis import given, settings, strategies as st
from test_markdown import DOCUMENTS, PLAIN, read

from templora.errors import OptionError
from templora.translation.documents import Document, lay_out, open_document
from templora.translation.documents.aligned import AlignedPairs
from templora.translation.documents.bilingual import Pair
from templora.translation.documents.paragraphs import paragraphs
from templora.translation.documents.xhtml import Element, Text, parse
from templora.translation.inline.characters import one_line
from templora.translation.languages import language

ENGLISH, GERMAN, ARABIC = (language("to", code) for code in ("en", "de", "ar"))
LAYOUTS = ("both", "below", "side")


def opened(name: str, raw: bytes, layout: str) -> Document:
    document = open_document(name, raw)
    lay_out(document, layout, ENGLISH)
    return document


def written(name: str, text: str, layout: str, *targets: str) -> str:
    """With these translations, or with the sources in capitals."""
    document = opened(name, text.encode(), layout)
    capitals = [re.sub(r"[^<>]+(?![^<]*>)", lambda word: word[0].upper(), s.text) for s in document.segments]
    made = document.render(targets or capitals, GERMAN)
    pieces = "".join([document.opening, *(document.piece(i, t) for i, t in enumerate(targets or capitals))])
    assert made.decode() == pieces, "it can be written in pieces"
    return pieces


# Text ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "both", "below"),
    [
        ("One\ntwo, three.\n\n\nFour.  \n", "One\nONE\ntwo, three.\nTWO, THREE.\n\n\nFour.\n\nFOUR.  \n", None),
        ("  One.\r\n\r\nTwo", "  One.\r\n\r\n  ONE.\r\n\r\nTwo\r\n\r\nTWO", None),
        ("- One\n12. Two\n> > Three\n", "- One\n  ONE\n12. Two\n    TWO\n> > Three\n> > THREE\n", None),
        ("\ufeffOne ..... 12\n", "\ufeffOne / ONE ..... 12\n", "\ufeffONE / One ..... 12\n"),
        ("a\tb\n", "a / A\tb / B\n", "A / a\tB / b\n"),
        ("\n\nOne\n\n1847\n", "\n\nOne\n\nONE\n\n1847\n", "\n\nONE\n\nOne\n\n1847\n"),
        ("One\n1847\nTwo\n", "One\nONE\n1847\nTwo\nTWO\n", None),
        ("　灯。\n　塔。\n", "　灯。\n　灯!\n　塔。\n　塔!\n", None),
    ],
)  # fmt: skip
def test_text(text: str, both: str, below: str | None) -> None:
    targets = ["灯!", "塔!"] if "灯" in text else []
    assert written("a.txt", text, "both", *targets) == both
    if below:
        assert written("a.txt", text, "below") == below


def test_wrapped_lines_stay_as_they_are() -> None:
    lines = "The keeper of the lamp climbed the stairs to see whether the\n" * 3 + "lamp was lit.\n"
    made = written("a.txt", f"{lines}\nNobody.\n", "both", "Der Wärter.", "Niemand.")
    assert made == f"{lines}\nDer Wärter.\n\nNobody.\n\nNiemand.\n"


def test_text_side_by_side_is_a_table() -> None:
    text = '\ufeff* * *\r\n  1. "Who\r\n\r\nis\there?"   \r\n\r\n1847\r\nTwo ..... 12\r\n'
    made = written("a.txt", text, "side")
    assert made.startswith("\ufeff* * *\t* * *\r\n")
    rows = list(csv.reader(io.StringIO(made.removeprefix("\ufeff"), newline=""), "excel-tab"))
    assert rows == [
        ["* * *", "* * *"], ['1. "Who', '1. "WHO'], ["is", "IS"], ['here?"', 'HERE?"'], ["1847", "1847"],
        ["Two ..... 12", "TWO ..... 12"],
    ]  # fmt: skip


WORDS = ["The lamp. ", "a b", "灯。", "\n", "\n\n", "\r\n", "\r", "  ", "- ", "> ", "3. ", "\t", " ..... 12", '"', "—"]


def test_a_table_has_the_last_line_too() -> None:
    for end, row in (("* * *", "* * *\t* * *\n"), ("1847\n\n", "1847\t1847\n"), ("", "")):
        assert written("a.txt", f"One .... 12\n{end}", "side") == f"One .... 12\tONE .... 12\n{row}"
    assert written("a.txt", "One .... 12", "side") == "One .... 12\tONE .... 12\n"
    document = opened("a.txt", b"\n*\nOne", "side")
    assert document.opening == "*\t*\n"
    lay_out(document, "both", ENGLISH)
    assert document.opening == "\n*\n"


LINES = st.lists(st.sampled_from(WORDS), max_size=25).map("".join)


@settings(max_examples=200, deadline=None)
@given(LINES, st.sampled_from(LAYOUTS), st.booleans())
def test_any_text(text: str, layout: str, bom: bool) -> None:
    text = "\ufeff" * bom + text
    if not text.removeprefix("\ufeff").strip():
        return
    document = opened("a.txt", text.encode(), layout)
    sources = [segment.text for segment in document.segments]
    targets = [f"Ж{i}Ж" for i in range(len(sources))]
    made = document.render(targets, GERMAN).decode()
    assert re.findall("Ж\\d+Ж", made) == targets
    if layout == "side":
        rows = list(csv.reader(io.StringIO(made.removeprefix("\ufeff"), newline=""), "excel-tab"))
        assert all(len(row) == 2 for row in rows)
        assert not any("Ж" in row[0] for row in rows)
        return
    assert document.render(sources, GERMAN).decode() == text
    # Without the translations, and without what they are set apart by, it is what it was.
    assert re.sub(r"Ж\d+Ж|\s|/|>", "", made) == re.sub(r"\s|/|>", "", text)
    place = 0
    for held in document._held:  # type: ignore[attr-defined]
        place = made.index(held, place) + len(held)


# Markdown ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "both"),
    [
        ("One *two*\nthree.\n\nFour.\n", "One *two*\nthree.\n\nONE *TWO* THREE.\n\nFour.\n\nFOUR.\n"),
        ("# One {#a .b}\nTwo\n===\r\n", "# One / ONE {#a .b}\nTwo / TWO\n===\r\n"),
        ("- one\n  more\n  - [ ] two\n\n  par\n", "- one\n  more<br/>ONE MORE\n  - [ ] two<br/>TWO\n\n  par<br/>PAR\n"),
        ("> one\n> > two\\\\\n", "> one<br/>ONE\n> > two\\\\ <br/>TWO\\\\\n"),
        ("| a | `b` c |\n|---|---|\n| d | 1 |\n", "| a<br/>A | `b` c<br/>`b` C |\n|---|---|\n| d<br/>D | 1 |\n"),
        ("|a \\| b|\n|-|\n", "|a \\| b<br/>A \\| B|\n|-|\n"),
        ("Term\n: It\n\n[^1]: Note\n", "Term<br/>TERM\n: It<br/>IT\n\n[^1]: Note<br/>NOTE\n"),
        ("!!! note\n    One\n\n:::\nTwo\n:::\n", "!!! note\n    One<br/>ONE\n\n:::\nTwo\n\nTWO\n:::\n"),
    ],
)  # fmt: skip
def test_markdown(text: str, both: str) -> None:
    assert written("a.md", text, "both") == both


def test_markdown_the_other_way_round() -> None:
    text = "# One {#a}\n\nTwo.\n\n- three\n"
    assert written("a.md", text, "below") == "# ONE / One {#a}\n\nTWO.\n\nTwo.\n\n- THREE<br/>three\n"


def test_markdown_side_by_side_is_a_table() -> None:
    """Paragraphs in a row are one; what is in other blocks is not in it."""
    text = "# One\nTwo | *three*\nfour `a|b`.\n\nFive.\n```\ncode\n```\nSix.\n\n- seven\n\n[Eight](u 'a\nb')\n"
    row = "|  |  |\n|---|---|\n| "
    assert written("a.md", text, "side") == (
        f"# One / ONE\n\n{row}Two \\| *three* four `a\\|b`. | TWO \\| *THREE* FOUR `a\\|b`. |\n| Five. | FIVE. |\n\n"
        f"```\ncode\n```\n\n{row}Six. | SIX. |\n\n- seven<br/>SEVEN\n\n[Eight](u 'a\nb')\n\n[EIGHT](u 'a\nb')\n"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_texts_in_one_cell_make_no_markup_of_each_other(layout: str) -> None:
    signs = ["`", "*", "_", "[a", "](b)", "<i", "$x", "~~", "\\", "**b", "``", ":a", "&amp", "<!-- a", "{{", "[[a"]
    for one in signs:
        for other in signs:
            text = f"| a {one} b |\n|---|\n"
            document = opened("a.md", text.encode(), layout)
            if [segment.text for segment in document.segments] != [f"a {one} b"]:
                continue  # it is markup by itself
            made = document.render([f"c {other} d"], GERMAN).decode()
            cell = next(token for token in PLAIN.parse(made) if token.type == "inline").children or []
            texts = "".join("\n" if t.type == "html_inline" else t.content for t in cell if t.type != "html_comment")
            wanted = [f"a {one} b", f"c {other} d"]
            assert texts.split("\n") == (wanted[::-1] if layout == "below" else wanted), (made, cell)


def test_markup_in_such_a_cell_is_where_the_model_had_it() -> None:
    document = opened("a.md", b"| a ` *b* |\n|---|\n", "target")
    assert document.restored(0, "c ` <1>d</1>").text == "c ` *d*"
    lay_out(document, "both", ENGLISH)
    assert document.moved(0, "c ` <1>d</1>") == 0
    assert document.piece(0, "c ` <1>d</1>").startswith("a ` *b*<br/>c &#96; *d* |")


@settings(max_examples=250, deadline=None)
@given(DOCUMENTS, st.lists(DOCUMENTS, min_size=8, max_size=8), st.sampled_from(["both", "below"]))
def test_any_markdown_keeps_its_blocks(text: str, targets: list[str], layout: str) -> None:
    """But that paragraphs in no other block are two."""
    text = f"x{text}"
    document = opened("a.md", text.encode(), layout)
    many = len(document.segments)
    assert document.render([segment.text for segment in document.segments], GERMAN).decode() == text
    if many > len(targets):
        return
    made = document.render([f"w{target}" for target in targets[:many]], GERMAN).decode()

    def blocks(text: str) -> list[tuple[str, str]]:
        outer = [(t.type, t.tag, t.level - (t.type == "inline")) for t in read(text)]
        paragraphs = groupby(outer, lambda b: b[2] == 0 and b[0] in ("paragraph_open", "inline", "paragraph_close"))
        return [b[:2] for top, group in paragraphs for b in ([*group][:3] if top else group)]

    assert blocks(made) == blocks(text)
    place = 0
    for held in document._held:  # type: ignore[attr-defined]
        place = made.index(held, place) + len(held)


@settings(max_examples=150, deadline=None)
@given(DOCUMENTS, st.lists(DOCUMENTS, min_size=8, max_size=8))
def test_any_markdown_side_by_side(text: str, targets: list[str]) -> None:
    document = opened("a.md", f"x{text}".encode(), "side")
    many = len(document.segments)
    if many > len(targets):
        return
    made = document.render([f"w{target}" for target in targets[:many]], GERMAN).decode()
    kinds = [token.type for token in read(made)]
    before = [token.type for token in read(f"x{text}")]
    kept = ("heading_open", "bullet_list_open", "list_item_open", "fence", "html_block", "blockquote_open", "hr")
    assert [kind for kind in kinds if kind in kept] == [kind for kind in before if kind in kept]
    assert len(document._cells) <= kinds.count("td_open") / 2  # type: ignore[attr-defined]


# EPUB and XHTML ------------------------------------------------------------------------------------------------------

PAGE = (
    '<html xmlns="http://www.w3.org/1999/xhtml"><head/><body>'
    '<h1 id="a">One</h1><p class="b" id="c"> <i id="d">Two</i> three. </p><div>Four<p>Five</p></div>'
    '<ul><li>Six</li></ul><p lang="fr">Sept</p><nav> <a id="e" href="#a"> <i>Eight</i></a></nav></body></html>'
)


def page(text: str, pair: Pair) -> str:
    """A page with each of its sources in capitals."""
    read = parse("p", text.encode())
    edits = []
    for slot in paragraphs(read, read.root):
        assert not (slot.element and slot.element.children), "it keeps no page in memory"
        raw = read.text(slot.start, slot.end)
        edits += pair.edits(read, slot, re.sub(r">[^<]+<|^[^<]+|[^>]+$", lambda found: found[0].upper(), raw))
    return read.edited(edits).decode()


def test_a_page() -> None:
    en, de = 'lang="en" xml:lang="en"', 'lang="de" xml:lang="de"'
    assert page(PAGE, Pair("both", ENGLISH, GERMAN)).partition("<body>")[2] == (
        f'<h1 id="a" {en}>One</h1>\n<h1 {de}>ONE</h1>'
        f'<p class="b" id="c" {en}> <i id="d">Two</i> three. </p>\n<p class="b" {de}> <i>TWO</i> THREE. </p>'
        f"<div><span {en}>Four</span><br/>FOUR<p {en}>Five</p>\n<p {de}>FIVE</p></div>"
        f'<ul><li><span {en}>Six</span><br/>SIX</li></ul><p lang="fr">Sept</p>\n<p {de}>SEPT</p>'
        '<nav> <a id="e" href="#a"> <i>Eight / EIGHT</i></a></nav></body></html>'
    )
    below = page(PAGE, Pair("below", ENGLISH, GERMAN)).partition("<body>")[2]
    assert below.startswith(f'<h1 {de}>ONE</h1>\n<h1 id="a" {en}>One</h1>')
    assert f"<div>FOUR<br/><span {en}>Four</span><p {de}>FIVE</p>\n<p {en}>Five</p></div>" in below
    assert '<a id="e" href="#a"> <i>EIGHT / Eight</i></a>' in below
    side = page(PAGE, Pair("side", ENGLISH, GERMAN)).partition("<body>")[2]
    cell = '<td style="width: 50%; vertical-align: top">'
    assert side.startswith(f'<h1 id="a" {en}>One</h1>\n<h1 {de}>ONE</h1><table class="side" style="width: 100%"><tr>')
    assert f"<tr>{cell}<p {en}>Five</p></td>{cell}<p {de}>FIVE</p></td></tr></table></div>" in side


def test_directions_are_said_where_they_differ() -> None:
    text = '<html><body><p>One</p><p dir="ltr">Two</p></body></html>'
    made = page(text, Pair("both", ENGLISH, ARABIC))
    assert '<p lang="en" xml:lang="en" dir="ltr">One</p>\n<p lang="ar" xml:lang="ar" dir="rtl">ONE</p>' in made
    assert '<p dir="rtl" lang="ar" xml:lang="ar">TWO</p>' in made
    made = page('<html><body><p dir="rtl">One</p></body></html>', Pair("both", ENGLISH, GERMAN))
    assert '<p dir="rtl" lang="en" xml:lang="en">One</p>\n<p dir="ltr" lang="de" xml:lang="de">ONE</p>' in made
    made = page('<html><body><p dir="rtl">One</p></body></html>', Pair("both", ENGLISH, ARABIC))
    assert '<p dir="rtl" lang="en" xml:lang="en">One</p>\n<p dir="rtl" lang="ar" xml:lang="ar">ONE</p>' in made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_elements_that_stand_where_only_some_may(layout: str) -> None:
    text = (
        '<x:html xmlns:x="u"><x:body><x:hgroup><x:h1>One</x:h1></x:hgroup><x:details><x:summary><x:p>Two</x:p>'
        "</x:summary></x:details><x:table><x:caption><x:p>Three</x:p></x:caption></x:table><x:p>Four</x:p></x:body></x:html>"
    )
    done = page(text, Pair(layout, ENGLISH, GERMAN))
    assert not re.search(r"</?(?!x:)\w", done), "they have the prefix of the others"
    made = parse("p", done.encode()).root
    assert made.attributes == {"xmlns:x": "u"}
    names = [(node.name, node.text) for node in made.nodes() if isinstance(node, Element)]
    both = ("ONEOne", "TWOTwo") if layout == "below" else ("OneONE", "TwoTWO")
    assert [text for name, text in names if name in ("h1", "summary")] == list(both)
    assert sum(name == "table" for name, _ in names) == (2 if layout == "side" else 1), "none in a caption"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_book(layout: str) -> None:
    raw = book()
    document = opened("a.epub", raw, layout)
    sources = [segment.text for segment in document.segments]
    untouched = {**members(open_document("a.epub", raw).render([], GERMAN))}
    assert members(document.render(sources, GERMAN)) == untouched, "what is its own translation stands once"
    assert members(document.render([], GERMAN)) == untouched
    made = members(document.render([f"{text}!" for text in sources], GERMAN))
    assert {name for name in made if made[name] != untouched[name]} == {
        f"OEBPS/{name}" for name in ("text/one.xhtml", "text/chapter 2.xhtml", "nav.xhtml", "toc.ncx")
    }
    labels = {"The Keeper", "The Storm comes", "Contents", "Notes"}  # which are on one line with their translations
    for name in made:
        if not name.endswith("xhtml"):
            continue
        before, after = (parse(name, files[name]).root for files in (FILES, made))
        ids = [e.attributes["id"] for e in after.nodes() if isinstance(e, Element) and "id" in e.attributes]
        assert ids == [e.attributes["id"] for e in before.nodes() if isinstance(e, Element) and "id" in e.attributes]
        texts = {one_line(node.data).strip() for node in after.nodes() if isinstance(node, Text)}
        assert texts >= {one_line(node.data).strip() for node in before.nodes() if isinstance(node, Text)} - labels
    assert (
        made["OEBPS/toc.ncx"].count(b"About &amp; more! / About &amp; more<" if layout == "below" else b"more / About")
        == 1
    )


# All of them ---------------------------------------------------------------------------------------------------------


def test_what_has_no_such_layout_says_which_have() -> None:
    with pytest.raises(
        OptionError, match=r"^layout: side is for \.txt, \.md, \.markdown, \.epub.*; this document has target$"
    ):
        lay_out(AlignedPairs([]), "side", ENGLISH)
    lay_out(AlignedPairs([]), "target", ENGLISH)
