"""HTML: what browsers read as text is translated, whatever the file looks like; all else stays to the byte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from growth import assert_linear
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents import open_document, tag_soup
from templora.translation.documents.html import Html, Xhtml
from templora.translation.inline.marks import Mark
from templora.translation.languages import language

GERMAN, ARABIC = language("to", "de"), language("to", "ar")
EXAMPLES = sorted((Path(__file__).parents[2] / "experiments/documents/html").iterdir())

PAGE = """<!DOCTYPE html>
<HTML LANG=en class=no-js>
<head>
<meta name="description" content="Lamps &amp; keepers">
<meta property=OG:Title content='Lamps'><meta name=keywords content=lamp><meta name=viewport content="width=1">
<title>The  keeper &copy 2020 <b></title>
<link rel=stylesheet title="Dark" href=x.css>
<style>p > b { color: red }</style>
<script>if (a < b) { document.write("<p>No</p>"); }</script>
<BODY class="x">
<!--[if IE]><p>Old</p><![endif]-->
<h1>The <em>Keeper</em></h1>
<p>A&nbsp;<a href=f.html?a=1&copy=2 title="Go there">link</a> and <img src=x.png alt='A lamp "x"'> image
<p>Two &lt;b&gt; <b>bold <i>and</b> crossed</i> text<br>line two
<ul><li>One<li>Two <code title=Hint>x &lt; 1</code> end<li translate=no>Leave <img alt="This"><li>Four</ul>
<table><tr><td>A<td>B<tr><th>C</table>
<dl><dt>Term<dd>Meaning<dt>Other<dd class=notranslate>Acme</dl>
<select><option>Red<option selected>Green</select>
<input type=submit value=Send> <input placeholder="Your name" value="no">
<pre>pre <b>text</b></pre>
<textarea aria-label="Write">in area <p>no</textarea>
<svg><title>Icon</title><path d="M0"/><text>Drawn</text></svg>
<my-card>Custom <my-tag>text</my-tag></my-card>
<div>Loose <span class="x notranslate">Acme</span> text<p>Inside</p>and after</p>more</div>
<template><p>T</p></template><noscript>Turn it on</noscript><kbd>Enter</kbd>
<a name=x>Anchor <b>never closed
</body></html>
"""
SOURCES = [
    "Lamps & keepers", "Lamps", "The keeper © 2020 <b>", "The <1>Keeper</1>", "A\u00a0<1>link</1> and <2/> image",
    "Go there", 'A lamp "x"', "Two <b> <1>bold <2/>and</1> crossed<3/> text<4/>line two", "One", "Two <1>x < 1</1> end",
    "Hint", "Four",
    "A", "B", "C", "Term", "Meaning", "Other", "Red", "Green", "Send", "Your name", "Write", "Custom <1>text</1>",
    "Loose <1>Acme</1> text", "Inside", "and after", "more", "Turn it on", "<1>Enter</1> <2/>Anchor <3/>never closed",
]  # fmt: skip


def texts(raw: str | bytes, kind: type[Html] = Html) -> list[str]:
    return [segment.text for segment in kind("p", raw if isinstance(raw, bytes) else raw.encode()).segments]


def written(raw: str, change: str = "!", kind: type[Html] = Html) -> str:
    document = kind("p", raw.encode())
    return document.render([segment.text + change for segment in document.segments], GERMAN).decode()


def test_segments() -> None:
    assert texts(PAGE) == SOURCES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_with_its_own_text_a_page_is_what_it_was(path: Path) -> None:
    for raw in (PAGE.encode(), path.read_bytes(), path.read_bytes().replace(b"\n", b"\r\n")):
        document = open_document(path.name, raw)
        sources = [segment.text for segment in document.segments]
        assert len(sources) > 5
        assert document.render(sources, ARABIC) == document.render([], ARABIC) == raw


def test_what_is_no_text_stays_to_the_byte() -> None:
    document, sources = Html("p", PAGE.encode()), [*SOURCES]
    sources[8] += "!"
    wanted = PAGE.replace("LANG=en", 'LANG="de"').replace("<li>One", "<li>One!")
    done = document.render(sources, GERMAN).decode()
    assert done == wanted.replace("<head>", '<head><meta charset="utf-8">')
    for meta in ("<meta charset=utf-8>", "<meta content='text/html; charset=UTF-8' http-equiv=Content-Type>"):
        page = PAGE.replace("<head>", f"<head>\n{meta}")
        assert Html("p", page.encode()).render(sources, GERMAN).decode() == wanted.replace("<head>", f"<head>\n{meta}")


def test_a_translation() -> None:
    document, more = Html("p", PAGE.encode()), " <ü> &quot; \"'"
    targets = [f"Z {text}{more}" for text in SOURCES]
    targets[4] = "<2/> Ein <1>Verweis</1>"
    done = document.render(targets, GERMAN).decode()
    assert "<title>Z The keeper © 2020 &lt;b&gt; &lt;ü&gt; &amp;quot; \"'</title>" in done
    assert '<img src=x.png alt="Z A lamp &quot;x&quot; &lt;ü&gt; &amp;quot; &quot;\'"> Ein ' in done
    assert '<a href=f.html?a=1&copy=2 title="Z Go there &lt;ü&gt; &amp;quot; &quot;\'">Verweis</a>\n' in done
    again = sorted(segment.plain for segment in Html("p", done.encode()).segments)
    plain = [f"Z {segment.plain}{more}" for segment in document.segments]
    assert again == sorted([*plain[:4], "Ein Verweis", *plain[5:]])
    for kept in re.findall(
        r"(?s)<script.*?</script>|<svg.*</svg>|<pre.*</pre>|<!--.*?-->|<template.*</template>", PAGE
    ):
        assert kept in done


def test_the_language_and_direction_are_said() -> None:
    page = '<html dir=LTR\nlang=en xml:lang="en"><body dir=ltr lang="en" title="Hi"><p>A</p>'
    done = Html("p", page.encode()).render(["B", "C"], ARABIC)
    assert done == b'<html dir="rtl"\nlang="ar" xml:lang="ar"><body dir="rtl" lang="ar" title="B"><p>C</p>'
    back = Html("p", done).render(["Hi", "A"], GERMAN)
    assert back == b'<html\nlang="de" xml:lang="de"><body lang="de" title="Hi"><p>A</p>'
    assert Html("p", b"<p>A").render(["B"], GERMAN) == b"<p>B"


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        # What is not closed, and what closes nothing.
        ("<p>A<p>B", ["A", "B"]),
        ("<p translate=no>A<p>B", ["B"]),
        ("<p translate=no>A<ul><li>B", ["B"]),
        ("<ul><li translate=no>A<ul><li>B</ul>C<li>D</ul>E", ["D", "E"]),
        ("<tr><td translate=no>A<td>B<tr translate=no><td>C<tbody><tr><td>D", ["B", "D"]),
        ("<table translate=no><tr><td>A</div></p></table>B", ["B"]),
        ("<div translate=no><p>A</span></div>B", ["B"]),
        ("<tr translate=no><td>A<tr><td>B", ["B"]),
        ("<div translate=no><table><tr><td>A</div>B</table></div>C", ["C"]),
        ("<p translate=NO title=A>B</p>C", ["C"]),
        ("<dd translate=no>A<dt>B", ["B"]),
        ("<dl><dt translate=no>A<dd>B<dl translate=no><dt>C<dd>D</dl>E</dl>", ["B", "E"]),
        ("<select><option translate=no>A<option>B<optgroup label=C>D", ["B", "C", "D"]),
        ("<optgroup translate=no label=A><option>B<optgroup label=C>D", ["C", "D"]),
        ("<h1 translate=no>A<h2>B</h3>C", ["B", "C"]),
        ("<h1 translate=no>A</h2>B", ["B"]),
        ("<button translate=no>A<p>B</button>C", ["C"]),
        ("<ruby>A<rt>x<rp>y</ruby>B", ["AB"]),
        ("<ruby>A<rt>x<rb>B</ruby>C", ["ABC"]),
        ("A</p>B", ["A", "B"]),
        ("A</i>B", ["A<1/>B"]),
        ("<i>A</i></i>B", ["<1>A</1><2/>B"]),
        ("<b>A<p>B</b>C</p>D", ["A", "B<1/>C", "D"]),
        ("<p>A<code>B<p>C", ["A<1>B</1>", "C"]),
        ("<head><title>A</title><p>B", ["A", "B"]),
        ("<head><title>A</title>B", ["A", "B"]),
        ("<title>A</title><meta charset=utf-8>B", ["A", "B"]),
        ("<head>\n<title>A</title></head>B", ["A", "B"]),
        # Tags.
        ("<P\n>A</P\n>B", ["A", "B"]),
        ("A<br/>B<br / >C<hr/>D", ["A<1/>B<2/>C", "D"]),
        ("<img alt=A/><img alt='B>'><img alt = \"C\" alt=x><img alt>", ["A/", "B>", "C"]),
        ("<i title=it's>A", ["it's", "A"]),
        ("<i title=&quot;A&copy=&copy;&ampx>B", ['"A&copy=©&x', "B"]),
        ("<i =title=A>B</i =>C", ["<1>B</1>C"]),
        ("A <3 & B <é> </3> C<D", ["A <3 & B <é> <1/> C"]),
        ("<o:p>A</o:p>B", ["<1>A</1>B"]),
        ("<svg><g/><title/></svg>A<svg/>B<svg/>", ["A<1/>B"]),
        # What is cut off is no text.
        ("A<!--B", ["A"]), ("A<p title='B>C", ["A"]), ("A<p title=B", ["A"]), ("A<!B", ["A"]), ("A</", ["A"]),
        ("A<script>B", ["A"]), ("A<textarea>B", ["A"]), ("<title>A<p>B", ["A<p>B"]), ("A<plaintext>B</p>C", ["A"]),
        # Comments and scripts.
        ("<!-->A<!--->B<!--<p>C--!>D<!-- -- > -->E", ["A<1/>B<2/>D<3/>E"]),
        ("A<?x y?>B<![CDATA[C]]>D</ p>E</>F", ["A<1/>B<2/>D<3/>E<4/>F"]),
        ("<script>a</scriptx>'</SCRIPT >A", ["A"]),
        ("<script><!-- '<script>' '</script>' B --></script>A", ["A"]),
        ("<script><!-- B </script>A", ["A"]),
        ("<script><!-- --> '<script>' </script>A", ["A"]),
        ("<style></p>A</style>B<iframe><p>C</iframe>D", ["B<1/>D"]),
        # Characters.
        ("A&ampB&lt;C&notin;&#x41;&#65&nonsense;&#128;", ["A&B<C∉AA&nonsense;€"]),
        (f"A&#{'9' * 5000};B", ["A\ufffdB"]),
        ("\ufeff<p>A", ["A"]),
    ],
)  # fmt: skip
def test_as_browsers_read_it(page: str, wanted: list[str]) -> None:
    assert texts(page) == wanted
    assert Html("p", page.encode()).render(wanted, GERMAN).decode() == page
    assert sorted(texts(written(page))) == sorted(f"{text}!" for text in wanted)


def test_markup_without_an_end_stays_at_its_place() -> None:
    """Elsewhere it would change what comes behind: bold text for the rest of the page."""
    assert written("<p>A <b>B<p>C") == "<p>A <b>B!<p>C!"
    document = Html("p", b"<p>A <code>ls<p>B <i>C</i> D")
    assert document.render(["<1>ls</1> Z", "<1>E</1>"], GERMAN) == b"<p><code>ls</code> Z<p><i>E</i>"


def test_labels_in_a_paragraph_go_where_their_tags_go() -> None:
    page = b'<p>See <a href=a title="One">this</a> or <a href=b title="Two">that</a>.<img alt="Two">'
    document = Html("p", page)
    targets = ["<2>Das</2> und <1>dies</1>.", "Eins", "Zwei", "Drei"]
    wanted = '<p><a href=b title="Zwei">Das</a> und <a href=a title="Eins">dies</a>.<img alt="Drei">'
    assert document.render(targets, GERMAN).decode() == wanted
    assert document.render([document.segments[0].text, "Eins"], GERMAN) == page.replace(b"One", b"Eins")
    assert Mark("<A NAME=x>", wraps=True).needed


def test_chapters() -> None:
    document = Html("p", b"<title>T</title>A<h2>One</h2><p title=Hint>B<h3>Two <i>x</i></h3>C")
    assert [document.chapter(i) for i in range(7)] == ["", "", "One", "One", "One", "Two x", "Two x"]


# Encodings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "said", "written_"),
    [
        ("utf-8", "", "ü—"), ("utf-8-sig", "", "ü—"), ("utf-16", "", "ü—"), ("utf-16-le", "", "ü—"),
        ("cp1252", "windows-1252", "ü—"),
        ("latin-1", "iso-8859-1", "ü&#8212;"), ("gb18030", "gb2312", "ü&#8212;"), ("cp1252", "utf-8", "&#252;&#8212;"),
    ],
)  # fmt: skip
def test_encodings(codec: str, said: str, written_: str) -> None:
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={said}">' if said else ""
    word = {"gb18030": "灯塔", "utf-16-le": "A"}.get(codec, "Café")
    raw = f"<html><head>{meta}</head><p>{word}<p>B".encode(codec)
    document = Html("p", raw)
    assert [segment.text for segment in document.segments] == [word, "B"]
    assert document.render([word, "B"], GERMAN) == raw
    wanted = raw.decode(codec).replace("<html>", '<html lang="de">')
    assert document.render([word, "ü—"], GERMAN).decode(codec) == wanted[:-1] + written_


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "p: empty"),
        (b" \n", "p: empty"),
        (b"<p>a\0b", "p: not sound utf-8: it holds zero bytes"),
        (b"GIF89a\0\0\1\xff", "zero bytes"),
        (b"<svg>" * 300 + b"a", "p: elements in elements more than 200 deep"),
        (b"<p>a" + b" " * (1 << 25), "p: larger than 32 MiB"),
    ],
)
def test_what_cannot_be_read(raw: bytes, said: str) -> None:
    with pytest.raises(TextError, match=said):
        Html("p", raw)


def test_more_elements_than_any_page_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tag_soup, "MAX_ELEMENTS", 20)
    assert texts("<p>A" * 20) == ["A"] * 20
    with pytest.raises(TextError, match="p: more than 20 elements; no text has so many"):
        texts("<p>A" * 21)


# XHTML ---------------------------------------------------------------------------------------------------------------

LETTER = (
    '<html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head><body><p><a id="x"/>A<p/>{}</p></body>'
)
LETTER += "</html>"


def test_xhtml_is_read_as_xml() -> None:
    page = LETTER.format('B<script src="x"/>C<b title="&lt;D&gt;">E</b>')
    assert texts(page, Xhtml) == ["T", "A", "B<1/>C<2>E</2>", "<D>"]
    assert texts(page) == ["T", "A", "B"]  # there the script has no end
    wanted = page.replace("T<", "T!<").replace("A<", "A!<").replace("</b>", "</b>!").replace("D&gt;", "D&gt;!")
    assert written(page, "!", Xhtml) == wanted.replace("xhtml", 'xhtml" lang="de', 1)
    assert type(open_document("a.xhtml", page.encode())) is Xhtml
    assert type(open_document("a.HTM", page.encode())) is Html


def test_xhtml_that_is_none_is_read_as_html() -> None:
    assert texts(LETTER.format("B<br>C"), Xhtml) == ["T", "A", "B<1/>C"]
    with pytest.raises(TextError, match="p: empty"):
        Xhtml("p", b"")


# Whatever comes ------------------------------------------------------------------------------------------------------

PIECES = [*re.findall(r"<!--|-->|<[^>]+>|&\w+;?|\s+|\w+|.", PAGE), "<p", "'", "</b>", "</table>", "<head>", "\r", "é"]
PIECES.remove("<code title=Hint>")  # one that is never closed has what is written behind it


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(PIECES) | st.text(st.characters(codec="utf-8", categories="LNPZ"), max_size=3), max_size=25
    )
)
def test_text_never_becomes_markup(pieces: list[str]) -> None:
    raw = "".join(pieces)
    if not raw.strip():
        return
    document = Html("p", raw.encode())
    sources = [segment.text for segment in document.segments]
    assert document.render(sources, GERMAN).decode() == raw
    done = document.render([f"{text} </p><b>&lt\"'" for text in sources], GERMAN)
    again = sorted(segment.plain for segment in Html("p", done).segments)
    assert again == sorted(f"{segment.plain} </p><b>&lt\"'" for segment in document.segments)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=20).map(lambda held: "".join(held).encode()))
def test_any_bytes_are_a_page_or_a_text_error(raw: bytes) -> None:
    for kind in (Html, Xhtml):
        try:
            document = kind("p", raw)
        except TextError:
            continue
        assert document.render([segment.text for segment in document.segments], GERMAN) == raw


@pytest.mark.parametrize(
    "repeated",
    ["<", "<a", "<!", "<!--", "</", "<p>a", "<i>a", "<div>", "</i>", "a ", "<p a", "<p a=b ", "<p a='", "&#1", "=",
     "<script>", "<script><!--<script>", "<ul><li>", "<table><tr><td>", "<b><p></b>", "<img alt='a'>",
     "<title>", "<svg/>"],
)  # fmt: skip
def test_time_grows_with_the_page(repeated: str) -> None:
    def made(many: int) -> bytes:
        return b"<p title=a>a" + repeated.encode() * many

    def read(raw: bytes) -> None:
        document = Html("p", raw)
        document.render(["x" for _ in document.segments], GERMAN)

    assert_linear(made, read, 300)
