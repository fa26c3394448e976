"""Markdown: what is no text stays to the byte, and a translation is text however it looks."""

from __future__ import annotations

import re
import time

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


# Of each: the document, where `~` stands around what is text to be translated, one segment each.
KEPT = r"""
$$
x \
\frac{1}{2}
$$
----
~a paragraph~

\[
x = 1

y
\]
~and more~
----
\begin{align*}
a &= b \\
c
\end{align*} (1)

~next~
----
$$ E = mc^2 $$ {#eq:e}
~is known~
----
```math
\frac{1}{2}
```
----
> [!NOTE]
> ~the lamp is hot~
>
> > [!tip]- with a title
> > ~so be careful~
----
::: {.note #id}
~a text~
:::
----
:::tip[A title]{a=b}

~one~

::::details Another
- ~two~
::::
:::
----
:::{figure} lamp.png
:name: fig-lamp
:alt: x
~the lamp~
:::
~after it~
----
!!! warning "Hot lamp"
    ~do not touch it~

    - ~neither now~

        !!! note
            ~nor then~

~after~
----
??? note
    ~folded~
???+ danger inline "x"

    ~open~
----
=== "A tab"
    ~of it~

=== "Another"
    ```
    code
    ```
    ~text~
----
/// note | Title
~inside~
///
----
~lamp~
:   ~a thing that gives light~

    ~or not~

~sea~
~ocean~
: ~much water~
: ~more water~

~end~
----
# ~a heading~ {#id .class key="v w"}

~text~
{: .class}

~more~
{#id}
----
{% include x.html
   a="b" %}
~text~
{% if user %}
- ~item~
{% endif %}
{{< note >}}
~short~
{{< /note >}}
----
{% highlight ruby %}
puts "x"

end
{% endhighlight %}
~text~
----
import Lamp from './lamp'
import {
  A,
  B
} from "x";
export const meta = {
  a: 1
}

~text~

<Tabs
  values={[{a: {b: 1}}]}
>
~in a tab~
</Tabs>
{/* a
comment */}
~end~
----
---
title: x
---
~text~
----
{
 "title": "x",
 "a": {
 }
}
~text~
----
+++
title = 'x'
+++
# ~text~
----
% The title
% An Author

~text~
----
[TOC]
~text~
[[_TOC_]]
----
*[HTML]: Hyper Text
~text~
----
\newpage
~text~
\cleardoublepage
----
%% a comment

over lines %%
~text~
----
> $$
> x
> $$
> ~text~
----
1. ~one~
   $$
   x
   $$
   ~two~
2. ~three~
   :::note
   ~four~
   :::
----
| ~a~ | ~b~ |
|---|---|
| ~c~ | ~d~ |
"""


@pytest.mark.parametrize("text", [text.strip("\n") for text in KEPT.split("\n----\n")])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_markers_stay(text: str, ending: str) -> None:
    """To the byte; texts between them are paragraphs of their own."""
    text = text.replace("\n", ending)
    document = opened(text.replace("~", ""))
    pieces = text.split("~")
    assert [segment.text for segment in document.segments] == pieces[1::2]
    targets = [piece.upper() for piece in pieces[1::2]]
    wanted = "".join(piece.upper() if i % 2 else piece for i, piece in enumerate(pieces))
    assert document.render(targets, GERMAN).decode() == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("so $x$ and $$y$$ and \\(z_1\\, a\\) and \\[w\\] here", "so <1/> and <2/> and <3/> and <4/> here"),
        ("so $a*b$ and *c*$d*e$", "so <1/> and <2>c</2>"),
        ("costs $5 and $6, or US$7 and C$8", "costs $5 and $6, or US$7 and C$8"),
        ("he has 5$ and 6$, and $HOME/$USER", "he has 5$ and 6$, and $HOME/$USER"),
        ("pay $5 to $10 or $7k", "pay $5 to $10 or $7k"),
        ("the $n$-th and $n$th, ($x$), 数$x$的", "the <1/>-th and <2/>th, (<3/>), 数<4/>的"),
        ("so $`x_1`$ and $\\$5$ is \\$5", "so <1/> and <2/> is $5"),
        ("\\(a smile of hers\\) and \\[see the note\\](x)", "(a smile of hers) and [see the note](x)"),
        ("in \\begin{x}a\\\\b\\end{x} and \\ref{a_b} C:\\x", "in <1/> and <2/> C:\\x"),
        ("a {{ user.name }} b {% x %} c {{< d >}} e", "a <1/> b <2/> c <3/> e"),
        ('a ![x](y){width="5 cm"} b [c](d){.e} f', "a <1/> b <2>c</2> f"),
        ('a [b]{.c} d [e]({{< ref "f" >}}) g ![h]({% i %}) j', "a <1>b</1> d <2>e</2> g <3/> j"),
        ("a [[b]] c [[d|e]] f ![[g.png]] h [[1]](i)", "a <1>b</1> c <2>e</2> f <3/> h <4>[1]</4>"),
        ("a :smile: b :+1: c 10:30:45 d: e", "a <1/> b <2/> c 10:30:45 d: e"),
        ('a {kbd}`b` c :ref:`d` e :abbr[f]{title="g"} h', "a <1>b</1> c <2>d</2> e <3>f</3> h"),
        ("a [@b, p. 3] c <%= d %> e ${f} g {h} i", "a <1/> c <2/> e <3/> g <4/> i"),
        ("a <B c={d => e} /> f <G h={{i: 1}}>j</G> k", "a <1/> f <2>j</2> k"),
        ("a %%b%% c ^d-1", "a <1/> c"),
        ("import duties are high", "import duties are high"),
        ("export of lamps", "export of lamps"),
        ("!!! stop this now", "!!! stop this now"),
        ("the set {1, 2}, a : b", "the set {1, 2}, a : b"),
    ],
)
def test_what_is_no_text_within_a_paragraph(text: str, wanted: str) -> None:
    assert sources(text) == [wanted]
    assert same(text) == text
    shouted = translated(text, re.sub(r"(<[^>]*>)|(.)", lambda m: m[1] or m[2].upper(), wanted))
    assert re.sub(r"\\(?=[(\[\])$])", "", shouted).lower() == re.sub(r"\\(?=[(\[\])$])", "", text).lower()


def test_what_is_escaped_stays_so() -> None:
    """Other readers than ours may need it: `\\$`."""
    text = "From \\$5 to \\$6, snake\\_case, 2&nbsp;km &lt; 3. End"
    assert translated(text, "VON $5 BIS $6, A_B, 2\u00a0KM < 3. ENDE") == (
        "VON \\$5 BIS \\$6, A\\_B, 2&nbsp;KM &lt; 3. ENDE"
    )
    assert translated("1\\. No item.", "Kein Punkt. Nein.") == "Kein Punkt. Nein."


@pytest.mark.parametrize("target", [" <1> Die Lampe </1> brennt ", "<1>\u3000Die Lampe</1> brennt\u00a0"])
def test_no_white_space_at_the_ends_of_a_block(target: str) -> None:
    text = "* one\n  * **Lamp** burns\n    * nested\n"
    assert translated(text, "eins", target, "innen") == "* eins\n  * **Die Lampe** brennt\n    * innen\n"


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


@pytest.mark.parametrize("tag", ["abbr", "ARTICLE", "a-b", "b", "bdo", "i", "ins", "s", "span"])
def test_a_tag_that_begins_like_a_link_is_none(tag: str) -> None:
    """What is no link may be around one."""
    done = translated(f"The <{tag} id=x>HTML</{tag}> and [the site](u)", "Das <1>HTML und <2>die Seite</2></1>")
    assert done == f"Das <{tag} id=x>HTML und [die Seite](u)</{tag}>"


def test_a_link_is_in_no_other() -> None:
    done = translated("The <A\nhref=v>HTML</A> and [the site](u) are", "Das <1>HTML und <2>die Seite</2></1> sind")
    assert done == "Das <A\nhref=v>HTML und die Seite</A> [sind](u)"


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
        (": no definition", "\\: no definition"),
        ("::: no container", "\\::: no container"),
        ("!!! no", "!!! no"),
        ('!!! no "admonition"', '\\!!! no "admonition"'),
        ('=== "no tab"', '\\=== "no tab"'),
        ("[!NOTE] no alert", "\\[!NOTE\\] no alert"),
        ("{{< no >}}", "\\{\\{< no >}}"),
        ("{% no %} x", "\\{% no %} x"),
        ("no $x$ and ${y}", "no \\$x\\$ and \\$\\{y}"),
        ("no \\(x\\) and \\ref{y}", "no \\\\(x\\\\) and \\ref\\{y}"),
        ("no :smile: [[x]] [@y]", "no \\:smile: \\[\\[x\\]\\] \\[@y\\]"),
        ("import 'no'", "&#105;mport 'no'"),
        ("\\newpage", "\\\\newpage"),
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
    "text",
    ["<b>" * 2_000 + "x" + "</b>" * 2_000, "|a" * 2_000 + "|\n" + "|-" * 2_000 + "|\n" + "|a" * 2_000 + "|\n\nx",
     "|a" * 900 + "|\n" + "|-" * 900 + "|\n" + "a\n" * 900 + "\nx", "<br>" * 3_000 + "x"],
)  # fmt: skip
def test_bombs(text: str) -> None:
    """No deep recursion, and nothing that takes the square of its length: each took seconds, or ended in an error."""
    start = time.process_time()
    assert sources(text)[-1][-1] in "x>"
    assert time.process_time() - start < 1
    assert same(text) == text


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"", "empty"), (b"\xef\xbb\xbf \n", "empty"), (b"\xff\xff", "not UTF-8"), (b"a\0", "a binary file")],
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
