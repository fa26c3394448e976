"""Markdown: what is no text stays to the byte, and a translation is text however it looks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from templora.errors import TextError
from templora.translation.documents.commonmark import parser
from templora.translation.documents.markdown import Markdown
from templora.translation.languages import language

GERMAN = language("to", "de")
PLAIN = MarkdownIt("commonmark", {"maxNesting": 60}).enable(["table", "strikethrough"])


def opened(text: str) -> Markdown:
    return Markdown("x.md", text.encode())


def sources(text: str) -> list[str]:
    return [segment.text for segment in opened(text).segments]


def translated(text: str, *targets: str) -> str:
    return opened(text).render(targets, GERMAN).decode()


def same(text: str) -> str:
    return translated(text, *sources(text))


# What is text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("# The *Keeper* #\n\nLit.\n", ["The <1>Keeper</1>", "Lit."]),
        ("Two *lines*\nof it\n===\n\nand\n---\n", ["Two <1>lines</1> of it", "and"]),
        ("- one\n  more\n- [x] two\n  1. three\n\n     four\n", ["one more", "two", "three", "four"]),
        ("> quoted\n> text\nlazy\n> > deep\n", ["quoted text lazy", "deep"]),
        ("| a | *b* |\n|---|---|\n| 1 | c \\| d |\n", ["a", "b", "c | d"]),
        ("Run `ls *x*` now", ["Run <1>ls *x*</1> now"]),
        ("![alt](a.png) An ![alt](b.png) image", ["An <1/> image"]),
        ('See [the *text*](u "t") or [ref][R].\n\n[r]: /u\n', ["See <1>the <2>text</2></1> or <3>ref</3>."]),
        ("See <http://a.b/c_d> and <i>html</i><br>x", ["See <1>http://a.b/c_d</1> and <2>html</2><3/>x"]),
        ("Note[^1] here.\n\n[^1]: The note.\n[^2]: Word\n", ["Note<1/> here.", "The note.", "Word"]),
        ("a  \nb\\\nc\nd", ["a<1/>b<2/>c d"]),
        ("***both*** and **one *two***", ["<1>both</1> and <2>one <3>two</3></2>"]),
        ("&amp; &copy; \\* \\_x\\_ &lt;1&gt; *x*", ["& © * _x_ <1> <2>x</2>"]),
        ("~~gone~~ is gone", ["<1>gone</1> is gone"]),
        ("中文\n换行", ["中文换行"]),
        ("שלום **עולם** טוב\n\nمرحبا", ["שלום <1>עולם</1> טוב", "مرحبا"]),
        ("e\u0301 *👩‍👩‍👧* b", ["e\u0301 <1>👩‍👩‍👧</1> b"]),
        ("<b>open *and* not closed", ["open <1>and</1> not closed"]),
    ],
)
def test_segments(text: str, wanted: list[str]) -> None:
    assert sources(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: The *book*\n---\n",
        "+++\ntitle = 'x'\n+++",
        "```py\nprint('x')\n```",
        "    indented code",
        "~~~\nnever closed",
        "<div>\nhtml\n</div>",
        "<!-- comment -->",
        "[ref]: http://x.org 'title'",
        "* * *\n\n1984\n\n---",
        "`only code`",
        "![image](x.png)",
    ],
)
def test_what_is_no_text(text: str) -> None:
    assert sources(text) == []
    assert same(text + "\n\nx\r\n") == text + "\n\nx\r\n"


# What is written -----------------------------------------------------------------------------------------------------

BOOK = """---
title: "A *book*"
---
# The *Keeper* #

He lit `ls  -l` a **lamp** and [a link](http://x.org/a_b "T *i*") then ![img](a.png) walked.

Setext *two*
===

- item one
- [x] task __done__ now
  1. nested [ref][r], [short] and [Coll][]
> quoted text   
>> deeper

| Head *a* | b \\| c |
|---|:-:|
| x | y `a\\|b` z |

    code block

```py
print("*x*")
```

<div>html</div>

A note[^1] here <b>bold *it*</b> and a<br>b.

[^1]: The *note* text.
[^2]: Word

[r]: http://ref.org "t"
[short]: /s
[coll]: <c d>

1984. Year, snake_case, 2 * 3 * 4, a < b & c
"""


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("beginning", ["", "\ufeff"])
def test_its_own_text_gives_the_document_again(ending: str, beginning: str) -> None:
    text = beginning + BOOK.replace("\n", ending)
    assert same(text) == text
    assert same(text.rstrip()) == text.rstrip()


def test_pieces_are_the_document() -> None:
    document = opened(BOOK)
    targets = [segment.text.upper() for segment in document.segments]
    pieces = [document.piece(i, target) for i, target in enumerate(targets)]
    whole = document.render(targets, GERMAN).decode()
    assert document.opening + "".join(pieces) == whole
    assert whole.endswith("[coll]: <c d>\n\n1984. YEAR, SNAKE_CASE, 2 * 3 * 4, A < B & C\n")
    assert document.render(targets[:2], GERMAN).decode() == document.opening + pieces[0] + pieces[1]
    assert document.streams


def test_markup_is_where_the_translation_has_it() -> None:
    text = 'He *lit* [a lamp](u_v "t") `x`  \nand slept\n'
    assert translated(text, "<3>x</3> <2>eine Lampe</2><4/>er <1>schlief</1>") == (
        '`x` [eine Lampe](u_v "t")  \ner *schlief*\n'
    )


def test_lines_of_a_quote_keep_their_beginning() -> None:
    text = "> He lit  \n> the *lamp*\n> `now\n> then` on\n\nx"
    assert translated(text, "Er<1/>zündete <3>now then</3> die <2>Lampe</2> an") == (
        "> Er  \n> zündete `now\n> then` die *Lampe* an\n\n"
    )


def test_a_link_whose_text_was_its_label_keeps_its_destination() -> None:
    text = "See [The Lamp], [the *Key*][] and [x][R].\n\n[the lamp]: /l\n[the *key*]: /k\n[r]: /r\n"
    done = translated(text, "Siehe <1>Die Lampe</1>, <2>der <3>Schlüssel</3></2>, <4>y</4>.")
    assert done.startswith("Siehe [Die Lampe][The Lamp], [der *Schlüssel*][the *Key*], [y][R].")
    done = translated(text, "Siehe <1>The Lamp</1>, <2>the <3>Key</3></2>, <4>x</4>.")
    assert done.startswith("Siehe [The Lamp], [the *Key*][], [x][R].")


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("# no heading", "\\# no heading"),
        ("#hashtag", "#hashtag"),
        ("- no item", "\\- no item"),
        ("+ no item", "\\+ no item"),
        ("* no item", "\\* no item"),
        ("1. no item", "1\\. no item"),
        ("12) no item", "12\\) no item"),
        ("> no quote", "\\> no quote"),
        ("---", "\\---"),
        ("``` no fence", "\\`\\`\\` no fence"),
        ("~~~ no fence", "\\~\\~\\~ no fence"),
        ("*no* emphasis", "\\*no\\* emphasis"),
        ("_no_ emphasis", "\\_no\\_ emphasis"),
        ("snake_case_word and 2 * 3", "snake_case_word and 2 * 3"),
        ("`no code`", "\\`no code\\`"),
        ("[no](link) ![no](image)", "\\[no\\](link) !\\[no\\](image)"),
        ("[r] is no link", "\\[r\\] is no link"),
        ("[r]: no definition", "\\[r\\]: no definition"),
        ("[^1]: no note[^1]", "\\[^1\\]: no note\\[^1\\]"),
        ("<b>no tag</b> <!-- --> <http://x.y>", "\\<b>no tag\\</b> \\<!-- --> \\<http://x.y>"),
        ("&amp; no &copy; entity & co", "\\&amp; no \\&copy; entity & co"),
        ("a \\* b \\", "a \\\\\\* b \\\\"),
        ("~~no~~ 1~2", "\\~\\~no\\~\\~ 1~2"),
        ("a | b", "a | b"),
        ("two\n\nparagraphs", "two paragraphs"),
        ("    no code", "no code"),
    ],
)
def test_a_translation_is_text_however_it_looks(target: str, wanted: str) -> None:
    done = translated("source\n\n[r]: /u\n", target)
    assert done == f"{wanted}\n\n[r]: /u\n"
    inline = PLAIN.parse(done)[1]
    assert "".join(token.content for token in inline.children or []) == " ".join(target.split())
    assert [token.type for token in PLAIN.parse(done)] == ["paragraph_open", "inline", "paragraph_close"]


@pytest.mark.parametrize(
    ("text", "target", "wanted"),
    [
        ("# A", "Learn C #", "# Learn C \\#"),
        ("# A", "1. Anfang", "# 1. Anfang"),
        ("# A", "# B", "# # B"),
        ("A\n===", "1. Anfang", "1\\. Anfang\n==="),
        ("- [ ] a", "[x] b", "- [ ] [x] b"),
        ("|a|b|\n|-|-|\n", "x | y", "|x \\| y|"),
        ("|a|b|\n|-|-|\n", "x \\| y", "|x \\\\\\| y|"),
        ("|a|b|\n|-|-|\n", "back\\", "|back\\ |"),
    ],
)
def test_escapes_depend_on_the_block(text: str, target: str, wanted: str) -> None:
    assert translated(text, target).startswith(wanted)


@pytest.mark.parametrize(
    ("text", "target", "wanted"),
    [
        ("It is **great** stuff", "这是<1>“重要”</1>的", "这是<strong>“重要”</strong>的"),
        ("It is **great** stuff", "这是<1>重要</1>的", "这是**重要**的"),
        ("It is _great_ stuff", "这是<1>重要</1>的", "这是*重要*的"),
        ("It is *great* stuff", "Es ist<1> groß </1>hier", "Es ist *groß* hier"),
        ("It *is* *great*", "<1>Es</1><2>ist</2>", "<em>Es</em><em>ist</em>"),
        ("a\\\nb *c*", "A <2>C</2><1/>", "A *C*<br>"),
    ],
)
def test_emphasis_is_emphasis_where_it_comes_to_stand(text: str, target: str, wanted: str) -> None:
    assert translated(text, target) == wanted


def test_what_cannot_stand_where_the_model_put_it_is_moved() -> None:
    text = "See [a lamp](u) and [a key](v) there"
    restored = opened(text).restored(0, "Siehe <1>Lampe und <2>Schlüssel</2></1> dort")
    assert re.findall(r"\]\((.)\)", restored.text) in (["u", "v"], ["v", "u"])
    assert restored.moved == 1
    assert opened(text).moved(0, "alles weg") == 2


def test_chapters() -> None:
    document = opened("Preface\n\n# One\n\ntext\n\nTwo *of* it\n---\n\nmore\n\n- item\n")
    assert [document.chapter(i) for i in range(6)] == ["", "One", "One", "Two of it", "Two of it", "Two of it"]


def test_very_deep_markup_is_left_alone() -> None:
    text = "*a " * 500 + "b" + " c*" * 500 + "\n\nnext\n"
    assert sources(text)[-1] == "next"
    assert same(text) == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"", "empty"), (b"\xef\xbb\xbf \n", "empty"), (b"\xff\xfe", "not UTF-8"), (b"a\0", "a binary file")],
)
def test_no_text(raw: bytes, said: str) -> None:
    with pytest.raises(TextError, match=rf"^x\.md: {said}"):
        Markdown("x.md", raw)


# Whatever comes ------------------------------------------------------------------------------------------------------

WORDS = [
    *("word", "lamp", "灯", "שלום", "e\u0301", "1984", ".", "“a”", " ", "  ", "\n", "\n\n", "\r\n", "\t", "    "),
    *(
        "*",
        "**",
        "_",
        "__",
        "~~",
        "`",
        "``",
        "[",
        "]",
        "(",
        ")",
        "[x]",
        "[x][y]",
        "![i](j)",
        "](k)",
        "<u>",
        "</u>",
        "<br>",
    ),
    *(
        "# ",
        "## ",
        "> ",
        "- ",
        "1. ",
        "- [ ] ",
        "---",
        "===",
        "```",
        "|",
        "|-|-|",
        "\\",
        "&amp;",
        "<http://a.b>",
        "[^1]",
    ),
    *(
        "\n[x]: /z\n",
        "\n[^1]: ",
        "\n| a | b |\n|---|---|\n| c | ",
        "\n```\ncode *x*\n```\n",
        "<!-- c -->",
        "<1>",
        "</2>",
    ),
]
DOCUMENTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map("".join)


def read(text: str) -> list[Token]:
    """Another reader than ours, where there are no footnotes, which it does not know."""
    return (parser() if "[^" in text else PLAIN).parse(text)


def structure(text: str) -> list[object]:
    """The blocks of a document, its code and its destinations."""
    found: list[object] = []
    for token in read(text):
        found.append((token.type, token.tag, token.markup))
        if token.type in ("fence", "code_block", "html_block"):
            found.append(token.content)
        for child in token.children or []:
            if child.type == "code_inline":
                found.append(child.content)
            elif child.type in ("link_open", "image"):
                found.append(sorted(child.attrs.items()))
    return found


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS)
def test_its_own_text_keeps_the_structure(text: str) -> None:
    if not text.removeprefix("\ufeff").strip():
        return
    done = same(text)
    assert structure(done) == structure(text)
    assert [s.replace(" ", "") for s in sources(done)] == [s.replace(" ", "") for s in sources(text)]
    assert same(done) == done


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS, st.lists(DOCUMENTS, min_size=8, max_size=8), st.data())
def test_any_translation_keeps_the_blocks(text: str, targets: list[str], data: st.DataObject) -> None:
    document = opened(f"x{text}")
    for i, segment in enumerate(document.segments[: len(targets)]):
        tags = "".join(mark.tagged("opening" if mark.wraps else "whole") for mark in segment.marks)
        targets[i] = "w" + data.draw(st.sampled_from(["", tags])) + targets[i]
    done = document.render(targets[: len(document.segments)], GERMAN).decode()
    if len(document.segments) > len(targets):
        return

    def blocks(text: str) -> list[tuple[str, str]]:
        return [(token.type, token.tag) for token in read(text)]

    assert blocks(done) == blocks(f"x{text}")
