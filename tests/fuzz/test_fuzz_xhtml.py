"""Whatever a page of XHTML holds: it is read or refused in a line, and all but its text stays to the byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from books import BOMB, NAV, NCX, ONE, OPF, TWO
from fuzzing import Reader, fuzzed
from hypothesis import given, strategies as st

from templora.translation.documents.paragraphs import paragraphs
from templora.translation.documents.xhtml import Page, parse, with_attributes
from templora.translation.inline.markup import restore

READER = Reader("xhtml")


@pytest.fixture(autouse=True, scope="module")
def saved() -> Iterator[None]:
    yield
    READER.save()


TAGS = ["p", "i", "sup", "sub", "a", "div", "br", "code", "ruby", "rt", "svg", "nav", "x:b", "head", "td", "pre"]
WORDS = st.sampled_from(
    ["a", "lamp", " ", "\n", "é", "灯", "\u00a0", "&amp;", "&nbsp;", "&#65;", "&#0;", "&x;", "&", "&&", "<1>", "2", "+",
     "\x7f", "\x01", "]]>", "<![CDATA[ < & ]]>", "<!-- - -->", "<?y z?>", "&lt;1/&gt;", "\ufffe", "\U0001f600"]
)  # fmt: skip
ATTRIBUTES = st.sampled_from(
    ["", " id='q'", " href=\"x\"", " translate='no'", " epub:type='noteref'", " lang = 'en'", " lang='a' lang='b'",
     " b", " c='&'", " d='>'", " e='&lt;&x;'", "\n\tf='g'", " xml:lang='de' dir='rtl'"]
)  # fmt: skip


@st.composite
def elements(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    tag, attributes = draw(st.sampled_from(TAGS)), draw(ATTRIBUTES)
    held = "".join(draw(st.lists(inner, max_size=4)))
    end = draw(st.sampled_from([f"</{tag}>", f"</{tag}>", f"</{tag}>", f"</{tag} >", "", "</p>"]))
    return draw(st.sampled_from([f"<{tag}{attributes}>{held}{end}", f"<{tag}{attributes}/>", held]))


CONTENT = st.recursive(WORDS, elements, max_leaves=30)
PROLOGUES = st.sampled_from(
    ["", "", "\n", "\ufeff", "<?xml version='1.0'?>", " <?xml version='1.0'?>", "<?xml version='1.1'?>",
     "<!DOCTYPE html>", "<?xml version='1.0' encoding='utf-16'?>", "<?xml version='1.0' encoding='latin-1'?>",
     "<meta charset='shift_jis'>", "<!DOCTYPE html [<!ENTITY x 'y'>]>", 
     "<!DOCTYPE html [<!ENTITY x '<b>z</b>'>]>", BOMB.partition("]>")[0] + "]>",
     "<!DOCTYPE html PUBLIC 'a' 'b' [<!ENTITY % p SYSTEM 'q'>%p;<!ENTITY x SYSTEM 'file:///etc/hosts'>]>",
     "<!DOCTYPE html [" + "<!ATTLIST p x CDATA 'y'>" * 9 + "]>"]
)  # fmt: skip
CODECS = st.sampled_from(
    ["utf-8"] * 6 + ["utf-16", "utf-16-le", "utf-32", "cp1252", "shift_jis", "koi8-r", "iso2022_jp"]
)


@st.composite
def pages(draw: st.DrawFn) -> bytes:
    body = "".join(draw(st.lists(CONTENT, max_size=6))) * draw(st.sampled_from([1, 1, 1, 20]))
    deep = draw(st.sampled_from([0, 0, 0, 5, 60, 250]))
    tag = draw(st.sampled_from(TAGS))
    body = f"<{tag}>" * deep + body + f"</{tag}>" * deep
    text = draw(PROLOGUES) + draw(st.sampled_from(["<html><body>{}</body></html>", "<html>{}", "{}"])).format(body)
    return text.encode(draw(CODECS), "replace")


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    held = draw(st.sampled_from([ONE, TWO, NAV, NCX, OPF])).encode(draw(CODECS), "replace")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(held)))
        held = held[:at] + draw(st.binary(max_size=3) | CONTENT.map(str.encode)) + held[at + draw(st.integers(0, 5)) :]
    return held[: draw(st.just(len(held)) | st.integers(0, len(held)))]


def read(raw: bytes) -> None:
    def parsed() -> tuple[Page, list[tuple[int, int, str]], list[tuple[int, int, str]]]:
        page = parse("p", raw)
        found = list(paragraphs(page, page.root))
        targets = [f"{p.marked.text} Wort — é" for p in found]
        for held in found:
            for target in ("Wort", held.marked.plain, "</1>".join(held.marked.text.split()[::-1])):
                restore(held.marked, target, page.escaped)
        edits = [(p.start, p.end, restore(p.marked, t, page.escaped).text) for p, t in zip(found, targets, strict=True)]
        tag = page.text(page.root.start, page.root.inner[0])
        edits.append((page.root.start, page.root.inner[0], with_attributes(tag, {"lang": "de", "dir": None})))
        return page, edits, [(p.start, p.end, page.text(p.start, p.end)) for p in found]

    found = READER(parsed, len(raw))
    if found is None:
        return
    page, edits, same = found
    assert page.edited([]) == raw
    assert page.edited(same) == raw
    spans = [(start, end) for start, end, _ in sorted(edits)]
    assert all(start <= end for start, end in spans)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans)), spans
    again = READER(lambda: parse("p", page.edited(edits)), len(raw))
    assert again is not None
    texts = [f"{p.marked.plain} Wort — é" for p in paragraphs(page, page.root)]
    # Space of other kinds at the end of a mark stays there.
    assert [p.marked.plain.split() for p in paragraphs(again, again.root)] == [text.split() for text in texts]


@fuzzed
@given(pages())
def test_pages(raw: bytes) -> None:
    read(raw)


@fuzzed
@given(changed())
def test_changed_pages(raw: bytes) -> None:
    read(raw)
