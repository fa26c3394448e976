"""Markup comes back whole whatever the model wrote: each mark once, well nested, and no word is lost."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from growth import assert_linear
from hypothesis import given, settings, strategies as st

from templora.translation.inline.characters import one_line
from templora.translation.inline.marking import Around, Inline, Thing, mark_up
from templora.translation.inline.marks import Mark
from templora.translation.inline.markup import Marked, Restored, plain, restore


def em(*inner: Inline, name: str = "em", link: bool = False) -> Around:
    return Around(Mark(f"[{name}]", f"[/{name}]", wraps=True, link=link), inner, Mark(f"[{name}/]"))


def image(name: str = "img") -> Thing:
    return Thing(Mark(f"[{name}/]"))


def code(text: str) -> Thing:
    return Thing(Mark(f"[code={text}/]", shown=one_line(text)))


def marked(*content: Inline) -> Marked:
    found = mark_up(content)
    assert found is not None
    return found


def back(held: Marked, target: str) -> Restored:
    return restore(held, target, lambda text: text.replace("[", "(["))


KEEPER = marked("The ", em("keeper"), " lit ", code("lamp 2"), " at", image(), " ", em("six", name="b"), ".")


# What the model sees -------------------------------------------------------------------------------------------------


def test_markup_is_numbered_in_order() -> None:
    assert KEEPER.text == "The <1>keeper</1> lit <2>lamp 2</2> at<3/> <4>six</4>."
    assert [mark.number for mark in KEEPER.marks] == [1, 2, 3, 4]
    assert [mark.opening for mark in KEEPER.marks] == ["[em]", "[code=lamp 2/]", "[img/]", "[b]"]
    assert KEEPER.plain == "The keeper lit lamp 2 at six."


def test_a_tag_in_the_text_is_text() -> None:
    held = marked("a <1> b ", em("c"), " </3> ", em("d"))
    assert held.text == "a <1> b <2>c</2> </3> <4>d</4>"
    assert [mark.number for mark in held.marks] == [2, 4]
    assert back(held, "</3> <4>D</4> A <1> B <2>C</2>") == Restored("</3> [em]D[/em] A <1> B [em]C[/em]")
    assert marked("a <7> b").plain == "a <7> b"


@pytest.mark.parametrize("invented", ["x <7>y</7> z", "x <7/>y z", "x y </ 9 >z", "x <7>y z", "x ＜7＞y z"])
def test_a_tag_that_the_source_lacks_goes(invented: str) -> None:
    assert back(marked("a b"), invented).text == "x y z"
    assert back(marked("a ", em("b")), "<1>x</1> " + invented).text == "[em]x[/em] x y z"


def test_white_space_is_collapsed_across_markup() -> None:
    assert marked(" a\n  b ", em(" c\t"), "  d ", image(), "  e").text == "a b <1>c </1>d <2/> e"
    assert marked("中文\n  ", em("字\n"), "好").text == "中文<1>字</1>好"
    assert marked("中文\nword\n字 字").text == "中文 word 字 字"
    assert marked("한국\n말").text == "한국 말"
    assert marked("a\u00a0b").text == "a\u00a0b"  # somebody chose it


def test_markup_at_the_ends_is_not_shown() -> None:
    held = marked(image("first"), " ", em(em(" all of it ", name="b"), name="a"), image("last"))
    assert held.text == "all of it"
    assert not held.marks
    assert back(held, "alles").text == "[first/] [a][b] alles [/b][/a][last/]"


def test_code_at_the_ends_is_shown() -> None:
    assert marked(code("ls"), " lists").text == "<1>ls</1> lists"


def test_markup_around_markup_alone_is_one() -> None:
    held = marked("a ", em(em("b", name="y"), name="x"), " c ", em(code("d"), name="z"))
    assert held.text == "a <1>b</1> c <2>d</2>"
    assert back(held, "<2>D</2> <1>B</1>").text == "[z/] [x][y]B[/y][/x]"


def test_markup_without_text_is_a_thing() -> None:
    assert marked("a ", em(), em(" "), em(image()), " b").text == "a <1/><2/><3/> b"
    assert back(marked("a ", em(image()), " b"), "A <1/> B").text == "A [em/] B"


@pytest.mark.parametrize(
    "content", [[], [""], [" \n"], ["1984 – 3.5 %"], ["* * *"], [code("print")], [image()], [em("…"), " ", code("a b")]]
)
def test_nothing_to_translate(content: list[Inline]) -> None:
    assert mark_up(content) is None


# What comes back -----------------------------------------------------------------------------------------------------


def test_sound_tags_are_used_where_they_are() -> None:
    target = "Um <4>sechs</4> zündete der <1>Wärter</1> <3/>die <2>lamp 2</2> an."
    text = "Um [b]sechs[/b] zündete der [em]Wärter[/em] [img/]die [code=lamp 2/] an."
    assert back(KEEPER, target) == Restored(text)


@pytest.mark.parametrize(
    "tag", ["< 1 >Wärter</ 1 >", "＜1＞Wärter＜/1＞", "<١>Wärter</١>"], ids=["spaces", "wide", "Arabic digits"]
)
def test_tags_are_read_forgivingly(tag: str) -> None:
    assert back(marked("the ", em("keeper")), f"der {tag}!").text == "der [em]Wärter[/em]!"


@pytest.mark.parametrize("written", ["Lampe 2", "", "lamp2", "lamp 2 <1>x</1>", "<3/>"])
def test_code_comes_back_as_it_was(written: str) -> None:
    assert back(KEEPER, f"Der <1>W</1> <2>{written}</2> um <3/> <4>sechs</4>.").text.count("[code=lamp 2/]") == 1


def test_text_that_code_tags_swallowed_is_kept() -> None:
    swallowed = "Der <1>W</1> zündete <2>alle Lampen an, die er im ganzen Haus finden konnte</2><3/> <4>6</4>"
    restored = back(KEEPER, swallowed)
    assert "alle Lampen an, die er im ganzen Haus finden konnte" in restored.text.replace(" [code=lamp 2/]", "")
    assert restored.text.count("[code=lamp 2/]") == 1
    assert restored.moved == 1


def test_text_is_escaped_and_markup_is_not() -> None:
    assert back(marked("a ", em("b")), "[x] <1>[y]</1>").text == "([x] [em]([y][/em]"


def test_lost_markup_goes_to_the_same_words() -> None:
    held = marked("Look, ", em("Aldous Finch"), " ran ", code("x1"), " and ran and ran and ran and ran.")
    assert back(held, "Seht nur, wie er immer rannte, Aldous Finch, und x1!") == Restored(
        "Seht nur, wie er immer rannte, [em]Aldous Finch[/em], und [code=x1/]!", 2
    )
    twice = back(held, "Aldous Finch und Aldous Finch <2>x1</2> rannten und rannten")
    assert twice.text.startswith("[em]Aldous Finch[/em] und Aldous")  # the nearer one


def test_lost_markup_goes_as_far_into_the_text_as_it_was() -> None:
    held = marked("one two three ", em("four five"), " six seven", image(), " eight nine ten")
    restored = back(held, "eins zwei drei vier fünf sechs sieben acht neun zehn.")
    assert restored == Restored("eins zwei drei [em]vier fünf[/em] sechs sieben[img/] acht neun zehn.", 2)


def test_lost_markup_leaves_punctuation_and_spaces_out() -> None:
    held = marked("one two three four five six seven eight ", em("nine"), ".")
    assert back(held, "eins zwei drei vier „fünf sechs sieben acht neun“.").text.endswith("acht [em]neun[/em]“.")
    held = marked("a lamp ", em("burns"))
    assert back(held, "一盏灯在燃烧。").text == "一盏灯在[em]燃烧[/em]。"


def test_a_lost_code_span_gets_spaces() -> None:
    held = marked("run ", code("ls -l"), " now please")
    assert back(held, "bitte jetzt ausführen").text == "bitte [code=ls -l/] jetzt ausführen"
    assert back(held, "现在请运行它吧").text.replace("[code=ls -l/]", "") == "现在请运行它吧"


def test_a_dropped_initial_stays_one_letter() -> None:
    held = marked(em("T"), "he keeper lit the lamp.")
    assert back(held, "Der Wärter zündete die Lampe an.").text == "[em]D[/em]er Wärter zündete die Lampe an."
    assert back(marked("Only ", em("I"), " know that now."), "Nur ich weiß das jetzt.").text == (
        "Nur [em]ich[/em] weiß das jetzt."
    )


@pytest.mark.parametrize(
    ("target", "moved"),
    [
        ("<1>a", 1),  # never closed
        ("a</1>", 1),  # never opened
        ("</1>a<1>", 1),  # the wrong way round
        ("<1></1> a", 1),  # around nothing
        ("<1>a</1> <1>b</1>", 1),  # doubled: the first one stays
        ("<1/>a", 1),  # wraps nothing
        ("<1><1>a</1></1>", 1),
        ("a", 1),
        ("", 1),
        ("<1>a</1>", 0),
    ],
)
def test_broken_tags(target: str, moved: int) -> None:
    restored = back(marked("x ", em("y")), target)
    assert restored.moved == moved
    assert re.sub(r"\[/?em]", "", restored.text) == re.sub("</?1/?>", "", target).strip()
    assert re.findall(r"\[/?em]", restored.text) == (["[em]", "[/em]"] if target else [])


def test_crossing_tags_are_taken_apart() -> None:
    held = marked("a ", em("b", name="x"), " c ", em("d", name="y"))
    assert back(held, "<1>one <2>two</1> three</2>") == Restored("[x]one two[/x] [y]three[/y]", 1)


def test_another_nesting_is_the_models_to_choose() -> None:
    held = marked("a ", em("b ", em("c", name="y"), name="x"), " d")
    assert back(held, "A <2>C <1>B</1></2> D") == Restored("A [y]C [x]B[/x][/y] D")


def test_links_are_never_in_links() -> None:
    held = marked("a ", em("b", name="x", link=True), " c ", em("d", name="y", link=True))
    for target in ("<1>one <2>two</2></1> three four", "one two three four", "<1>one two three four</1>"):
        text = back(held, target).text
        assert re.findall(r"\[/?[xy]]", text) in (["[x]", "[/x]", "[y]", "[/y]"], ["[y]", "[/y]", "[x]", "[/x]"])
        assert re.sub(r"\[/?[xy]]", "", text) == plain(held, target)


def test_a_link_that_is_one_with_other_markup_is_still_a_link() -> None:
    held = marked("a ", em(em("b", name="y", link=True), name="x"), " c ", em("d", name="z", link=True))
    assert back(held, "<1>one <2>two</2></1> three") == Restored("[x][y]one two[/y][/x] [z]three[/z]", 1)


def test_lost_markup_crosses_nothing() -> None:
    """Its place reaches from within one mark over another to what is behind that."""
    around = [em(code("x"), name="a"), em(image(), code("keeper"), image(), name="b")]
    held = marked("keeper ", *around, em(image(), em("keeper keeper keeper word", image(), name="c"), name="d"))
    target = "keeper <1>x</1><2><3/><4>keeper</4>keeper<5/></2><6><7/><8>keeper keeper keeper</6> word<9/>"
    restored = back(held, target)
    assert restored.moved == 1
    found, stack = re.findall(r"\[/?[bcd]]", restored.text), [""]
    for tag in found:
        if "/" in tag:
            assert stack.pop() == tag.replace("/", "")
        else:
            stack.append(tag)
    assert len(found) == 6


def test_what_a_source_nests_wrongly_stays_so() -> None:
    held = marked("a ", em("b ", em("c", name="y", link=True), " d", name="x", link=True))
    assert back(held, held.text).text == "a [x]b [y]c[/y] d[/x]"


def test_characters_that_no_document_can_hold_go() -> None:
    assert back(marked("a"), "x\x00y\ud800z\n\nw").text == "xyz w"


@pytest.mark.parametrize("text", ["שלום <1>עולם</1> טוב", "مرحبا <1>بالعالم</1>", "e\u0301 <1>n\u0303</1> 👩‍👩‍👧"])
def test_other_scripts(text: str) -> None:
    assert back(marked("good ", em("day")), text) == Restored(text.replace("<1>", "[em]").replace("</1>", "[/em]"))


def raised(*inner: Inline, tag: str = "sup", more: str = "", link: bool = False) -> Around:
    return Around(Mark(f"<{tag}{more}>", f"</{tag}>", wraps=True, link=link), inner)


FORMULA = marked(
    "The ion Na", raised("+"), " and H", raised("2", tag="sub"), "O met on the 1", raised("st"), " of May; x",
    raised("i", tag="sub"), raised("2"), " rose.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("Wort", "Wort"),
        ("", ""),
        ("Das Ion traf am Morgen Wasser und es stieg.", "Das Ion traf am Morgen Wasser und es stieg."),
        ("Na+ und H2O am 1. Mai; xi2!", "Na<sup>+</sup> und H<sub>2</sub>O am 1. Mai; x<sub>i</sub><sup>2</sup>!"),
        ("2 Na, 12 H25O, xi25, a + b, i + i", "2 Na, 12 H25O, xi25, a + b, i + i"),
        ("Na<1>trium</1> und H<2>Wasser</2>O am 1<3>. Mai</3>", "Natrium und HWasserO am 1. Mai"),
        ("Na<1>+</1>, H<2>2</2>O, 1<3>er</3>", "Na<sup>+</sup>, H<sub>2</sub>O, 1<sup>er</sup>"),
    ],
)
def test_what_is_raised_goes_around_its_own_text_alone(target: str, wanted: str) -> None:
    assert back(FORMULA, target).text == wanted


def test_what_wraps_no_letter_goes_around_no_word() -> None:
    held = marked("See ", em("34.1", name="n"), " and ", em("12", name="a", link=True), " there.")
    assert back(held, "Siehe dort nach.").text == "Siehe dort [a]12[/a] nach."
    assert back(held, "Siehe 34.1 und 12 dort.").text == "Siehe [n]34.1[/n] und [a]12[/a] dort."
    held = marked("A note", raised("a", more=' id="r1"'), " here.")
    assert back(held, "Eine Anmerkung hier.").text == 'Eine Anmerkung<sup id="r1">a</sup> hier.'


@pytest.mark.parametrize("target", ["Wort", "ein Wort", "a <9>b", "好"])
def test_lost_markup_is_not_heaped_on_a_word(target: str) -> None:
    held = marked(
        "so ", *(item for i in range(60) for item in (em(f"the{i % 3}", name=f"m{i}"), " ", raised("x"), " "))
    )
    text = back(held, target).text
    assert re.sub(r"\[/?m\d+]", "", text) == plain(held, target)
    assert not re.search(r"\]\[m", text)


def test_a_mark_of_six_digits() -> None:
    held = marked("a <99999> b <999999> ", em("c"), " ", *[em("d"), " "] * 2, "e")
    assert back(held, held.text).moved == 0
    deep = Marked("a <100000>b</100000>", (Mark("[", "]", number=100_000, wraps=True),))
    assert back(deep, "A <100000>B</100000>").text == "A [B]"


def test_time_grows_with_the_markup_that_was_lost() -> None:
    def lost(many: int) -> Marked:
        return marked(
            *(item for i in range(many) for item in (em("keeper"), " of ", code(f"x{i}"), image(), " lamps "))
        )

    assert_linear(lost, lambda held: back(held, "Wort " * len(held.marks)), 150)
    assert_linear(lost, lambda held: back(held, held.text), 150)
    assert_linear(lambda many: [*[image()] * many, "a", *[image()] * many], lambda content: marked(*content), 1000)


# Whatever comes ------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["keeper", "the", "lamp, ", " ", "。", "灯", "e\u0301", "<1>", "</2>", "《", "שלום", "3.", "\n"]
)
TEXT = st.lists(WORDS, max_size=4).map(" ".join)
CONTENT = st.recursive(
    TEXT | st.builds(Thing, st.just(Mark("O"))) | st.builds(lambda t: code(t.strip() or "x"), TEXT),
    lambda inner: st.builds(
        lambda i, link: Around(Mark("O", "C", wraps=True, link=link), i, Mark("O")),
        st.lists(inner, max_size=4),
        st.booleans(),
    ),
    max_leaves=12,
)


def numbered(content: Inline, count: list[int]) -> Inline:
    """With sources that tell the marks apart: {1} and {/1}."""
    if isinstance(content, str):
        return content
    count[0] += 1
    own = f"{{{count[0]}}}"
    if isinstance(content, Thing):
        return Thing(Mark(own, shown=content.mark.shown))
    end = own.replace("{", "{/")
    mark = Mark(own, end, wraps=True, link=content.mark.link)
    inner = [numbered(item, count) for item in content.inner]
    return Around(mark, inner, Mark("".join(sources(inner)).join((own, end))))


def sources(content: list[Inline]) -> list[str]:
    return [
        "" if isinstance(item, str) else item.mark.opening if isinstance(item, Thing) else item.whole.opening
        for item in content
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(CONTENT, max_size=6), st.data())
def test_the_markup_comes_back_whole(content: list[Inline], data: st.DataObject) -> None:
    tree = [numbered(item, count) for count in [[0]] for item in content]
    held = mark_up(tree)
    if held is None:
        return
    all_marks = re.findall(r"\{\d+}", "".join(sources(tree)))
    pieces = re.split(r"(</?\d+/?>|\s)", held.text)
    tags = [part for part in pieces if part.startswith("<")]
    target = held.text
    if not data.draw(st.booleans(), label="identity"):
        junk = st.sampled_from([*pieces, *tags, *tags, "<9>", "</1>", "<2/>", "word", " ", "好"])
        target = data.draw(st.permutations(pieces).map("".join) | st.lists(junk, max_size=30).map("".join))
    restored = restore(held, target, lambda text: text)
    found = re.findall(r"\{/?\d+}", restored.text)
    there, needed = Counter(tag for tag in found if "/" not in tag), "".join(m.opening for m in held.marks if m.needed)
    assert not there - Counter(all_marks)
    gone = Counter(all_marks) - there  # where there are no words for it, or others have them
    assert not (gone and target == held.text)
    assert not any(tag in needed for tag in gone)
    stack = []
    for tag in found:  # well-formed
        if "/" in tag:
            assert stack.pop() == tag.replace("/", "")
        elif tag.replace("{", "{/") in found:
            stack.append(tag)
    assert not stack
    words = re.sub(r"\{/?\d+}|\s", "", restored.text)
    if not any(mark.shown for mark in held.marks):
        wanted = re.sub(r"\s", "", plain(held, target))
        if any(mark.link and mark.wraps for mark in held.marks):  # one around signs alone brings them back
            words, wanted = ("".join(c for c in text if c.isalpha()) for text in (words, wanted))
        assert words == wanted
    if target == held.text:
        assert restored.moved == 0
        assert one_line(re.sub(r"\{/?\d+}", "", restored.text)).strip() == re.sub(
            r"\s+", " ", "".join(_plain_of(held, target))
        )


def _plain_of(held: Marked, target: str) -> str:
    """Without marks' tags and what they keep."""
    for mark in held.marks:
        if mark.shown:
            target = target.replace(mark.tagged("whole"), "")
        for edge in ("opening", "closing", "whole"):
            target = target.replace(mark.tagged(edge), "")
    return one_line(target).strip()
