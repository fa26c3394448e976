"""Terms and their renderings, in small texts whose translation is made word for word."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

import pytest

from templora.errors import OptionError
from templora.translation.quality import consistency as consistency_module, terms as terms_module
from templora.translation.quality.consistency import Consistency, TermUse, compare, consistency
from templora.translation.quality.terms import source_terms

NOUNS = {
    "软件包": "package",
    "内核": "kernel",
    "密码": "password",
    "服务器": "server",
    "文件系统": "filesystem",
    "文件": "file",
    "档案库": "archive",
    "编辑器": "editor",
    "林枫": "Lin Feng",
    "打印机": "printer",
}
VERBS = {"改变": "changes", "打开": "opens", "检查": "checks", "丢失": "loses", "隐藏": "hides"}
WHEN = {"昨天": "Yesterday", "现在": "Now", "通常": "Usually", "有时": "Sometimes"}
Segment = tuple[str, str, str, str]


def plan(many: int = 120) -> list[Segment]:
    """When, who, does, to what: every noun about as often as every other, no two of them bound together."""
    rng = random.Random(4)
    chosen = []
    for _ in range(many):
        who, what = rng.sample(list(NOUNS), 2)
        chosen.append((rng.choice(list(WHEN)), who, rng.choice(list(VERBS)), what))
    return chosen


SEGMENTS = plan()
CHINESE = [f"{when}，{who}会{does}一个{what}。" for when, who, does, what in SEGMENTS]


def english(otherwise: Mapping[str, Sequence[str]] | None = None, segments: Sequence[Segment] = SEGMENTS) -> list[str]:
    """Nouns as in the dictionary, but those in `otherwise` by each of their words in turn."""
    turns = dict.fromkeys(otherwise or {}, 0)

    def say(noun: str) -> str:
        if otherwise is None or noun not in otherwise:
            return NOUNS[noun]
        turns[noun] += 1
        return otherwise[noun][turns[noun] % len(otherwise[noun])]

    return [f"{WHEN[when]}, the {say(who)} {VERBS[does]} a {say(what)}." for when, who, does, what in segments]


def holding(noun: str) -> int:
    return sum(noun in (who, what) for _, who, _, what in SEGMENTS)


def use(found: Consistency, term: str) -> TermUse:
    return next(u for u in found.terms if u.term == term)


def test_one_name_for_each_thing() -> None:
    found = consistency(CHINESE, english(), NOUNS)
    assert found.share == found.found == 1
    assert found.entropy == found.copied == found.repeated == 0
    assert found.left_out == ()
    for noun, name in NOUNS.items():
        (rendering,) = use(found, noun).renderings
        assert name.lower() in rendering.text
        assert rendering.segments == use(found, noun).segments == holding(noun)


def test_two_names_for_one_thing() -> None:
    found = use(consistency(CHINESE, english({"软件包": ["bundle", "package", "package"]}), NOUNS), "软件包")
    assert [r.text for r in found.renderings] == ["package", "bundle"]
    many = holding("软件包")
    assert found.other == 0
    assert found.renderings[1].segments == many // 3
    assert found.share == (many - many // 3) / many
    p = found.share
    assert found.entropy == pytest.approx(-p * math.log2(p) - (1 - p) * math.log2(1 - p))


def test_a_name_that_is_not_repeated_is_another_rendering_each_time() -> None:
    words = [f"thing{number}" for number in range(99)]
    found = use(consistency(CHINESE, english({"软件包": words}), NOUNS), "软件包")
    assert found.renderings == ()
    assert found.other == found.segments == holding("软件包")
    assert found.share == 1 / found.segments
    assert found.entropy == pytest.approx(math.log2(found.segments))


def test_another_name_used_as_consistently_is_as_good() -> None:
    found = consistency(CHINESE, english({"软件包": ["bundle"], "内核": ["core"]}), NOUNS)
    assert found.share == 1
    assert "core" in use(found, "内核").renderings[0].text


def test_overall_is_weighted_by_segments() -> None:
    found = consistency(CHINESE, english({"软件包": ["package", "bundle"]}), ["软件包", "内核"])
    package, kernel = use(found, "软件包"), use(found, "内核")
    total = package.segments + kernel.segments
    assert package.segments != kernel.segments
    assert found.share == pytest.approx((package.commonest + kernel.segments) / total)
    assert found.entropy == pytest.approx(package.entropy * package.segments / total)
    assert found.as_dict()["terms"][0]["share"] == package.share


@pytest.mark.parametrize(
    "targets",
    [
        [""] * 120,
        ["The package opens the file of the kernel."] * 120,
        [("The package opens the file.", "A kernel, a server.")[i % 2] for i in range(120)],
        random.Random(2).sample(english(), 120),
    ],
    ids=["empty", "the same", "two in turn", "in the wrong order"],
)
def test_text_that_says_nothing_of_its_source_is_not_consistent(targets: list[str]) -> None:
    found = consistency(CHINESE, targets, NOUNS)
    assert found.share is not None
    assert found.found is not None
    assert found.share < 0.1
    assert found.found < 0.05
    assert len(found.terms) == len(NOUNS)


def test_what_is_as_common_elsewhere_is_no_rendering() -> None:
    """Each sentence is another one, but what they have in common does not go with the term."""
    targets = [f"The package number{i} opens the file word{i}." for i in range(120)]
    found = consistency(CHINESE, targets, NOUNS)
    assert all(u.renderings == () for u in found.terms)
    # As common in every segment without the term as with it, but for a few.
    targets = ["" if i % 10 == 0 and "软件包" not in CHINESE[i] else targets[i] for i in range(120)]
    assert use(consistency(CHINESE, targets, NOUNS), "软件包").renderings == ()


def test_what_is_rarer_with_the_term_is_no_rendering() -> None:
    """It sets the term's segments apart as well as its name would."""
    targets = [f"Always word{i}." if "软件包" not in CHINESE[i] or i % 2 else f"Word{i}." for i in range(120)]
    assert use(consistency(CHINESE, targets, ["软件包"]), "软件包").renderings == ()


def test_a_text_that_gets_stuck_is_not_rewarded() -> None:
    """From the middle on one sentence for everything, where one term is found more often than elsewhere."""
    segments = [
        *SEGMENTS[:60],
        *(("现在", "打印机", does, what) for _, _, does, what in SEGMENTS[60:] if what != "打印机"),
    ]
    chinese = [f"{when}，{who}会{does}一个{what}。" for when, who, does, what in segments]
    good = english(segments=segments)
    stuck = [*good[:60], *["Now, the printer is out of ink again."] * (len(good) - 60)]
    before, after = (use(consistency(chinese, texts, NOUNS), "打印机") for texts in (good, stuck))
    assert before.share == 1
    assert after.share < 0.3
    assert consistency(chinese, stuck, NOUNS).repeated == len(good) - 60


def test_two_segments_may_say_the_same() -> None:
    """A sentence that the source repeats, or says in two ways, counts; one in three ways does not."""
    targets = [*english(), *english()[:9], *english()[:9]]
    found = consistency([*CHINESE, *CHINESE[:9], *(f"{text[:-1]}吧。" for text in CHINESE[:9])], targets, NOUNS)
    assert (found.repeated, found.share) == (0, 1)
    three = [*CHINESE, *(f"{text[:-1]}{end}。" for end in "吧啊" for text in CHINESE[:9])]
    assert consistency(three, targets, NOUNS).repeated == sum(target in english()[:9] for target in targets) >= 27


def test_a_text_that_is_not_translated_shows() -> None:
    found = consistency(CHINESE, CHINESE, NOUNS)
    assert found.share == found.copied == 1
    half = [a if i % 2 else b for i, (a, b) in enumerate(zip(CHINESE, english(), strict=True))]
    assert 0.4 < (consistency(CHINESE, half, NOUNS).copied or 0) < 0.6


def test_a_name_of_two_words_is_not_half_of_it() -> None:
    """What is in both, "Lin", would make them one."""
    found = use(consistency(CHINESE, english({"林枫": ["Lin Feng", "Lin Fan"]}), NOUNS), "林枫")
    assert sorted(r.text for r in found.renderings) == ["lin fan", "lin feng"]
    assert found.commonest == (holding("林枫") + 1) // 2


def test_an_adjective_makes_no_other_name() -> None:
    found = use(consistency(CHINESE, english({"内核": ["kernel", "new kernel", "kernel itself"]}), NOUNS), "内核")
    assert [r.text for r in found.renderings] == ["kernel"]


def test_forms_of_a_word_are_one() -> None:
    otherwise = {"软件包": ["package", "packages"], "档案库": ["Archive", "archive’s"], "文件": ["entry", "entries"]}
    found = consistency(CHINESE, english(otherwise), NOUNS)
    assert [r.text for r in use(found, "文件").renderings] == ["entry"]
    assert found.share == 1
    # An ending is one only if the rest is a word of the text.
    found = consistency(CHINESE, english({"林枫": ["Xia", "Xian"], "内核": ["Fen", "Feng"]}), NOUNS)
    assert use(found, "林枫").commonest == (holding("林枫") + 1) // 2
    assert use(found, "内核").commonest == (holding("内核") + 1) // 2


def test_a_term_inside_a_longer_one_is_not_used() -> None:
    terms = ["文件", "文件系统"]
    found = consistency(CHINESE, english(), terms)
    assert use(found, "文件").segments == holding("文件")
    assert use(found, "文件").share == 1
    # Without the longer one in the list it is another way to say it.
    alone = use(consistency(CHINESE, english(), ["文件"]), "文件")
    assert alone.segments == sum("文件" in text for text in CHINESE) > holding("文件")
    assert {r.text for r in alone.renderings} == {"file", "filesystem"}


def test_terms_compete() -> None:
    """Where the name of one is not repeated, that of its constant neighbour is not taken for it."""
    segments = [
        (when, "内核" if who == "密码" else who, does, "密码" if who == "密码" else what)
        for when, who, does, what in SEGMENTS
    ]
    segments = [s for s in segments if s[1] != s[3]]
    chinese = [f"{when}，{who}会{does}一个{what}。" for when, who, does, what in segments]
    targets = english({"密码": [f"thing{i}" for i in range(99)]}, segments)
    assert "kernel" in use(consistency(chinese, targets, ["密码"]), "密码").renderings[0].text
    assert all("kernel" not in r.text for r in use(consistency(chinese, targets, NOUNS), "密码").renderings)


def test_what_stands_in_the_source_is_not_a_rendering() -> None:
    """A name that is copied goes with a term that it stands beside, in both languages."""
    chinese = [text.replace("软件包", "软件包 dpkg") for text in CHINESE]
    targets = english({"软件包": [f"thing{i} dpkg" for i in range(99)]})
    assert use(consistency(chinese, targets, NOUNS), "软件包").renderings == ()


def test_but_the_name_of_the_term_itself_may() -> None:
    found = consistency(english(), english(), NOUNS.values())
    assert found.share == found.copied == 1
    assert use(found, "Lin Feng").renderings[0].text == "lin feng"


def test_into_a_language_without_spaces() -> None:
    found = consistency(english(), CHINESE, NOUNS.values())
    assert found.share == 1
    assert use(found, "Lin Feng").renderings[0].text == "林枫"
    assert "软件包" in use(found, "package").renderings[0].text
    changed = [text.replace("服务器", "服务端") if i % 2 else text for i, text in enumerate(CHINESE)]
    server = use(consistency(english(), changed, NOUNS.values()), "server")
    # Not 服务, which is in both.
    assert {r.text for r in server.renderings} == {"服务器", "服务端"}


def test_a_filesystem_is_not_a_file_and_a_system() -> None:
    """文件 is the name of another term in the same segment, but not within this one's own."""
    chinese = [text.replace("编辑器", "系统") for text in CHINESE]
    source = [text.replace("editor", "system") for text in english()]
    found = consistency(source, chinese, ["file", "system", "filesystem"])
    assert found.share == 1
    assert use(found, "filesystem").renderings[0].text == "文件系统"


def test_what_cannot_be_measured_is_left_out() -> None:
    sources = [*CHINESE, "他独自在甲板上。"]
    found = consistency(sources, [*english(), "He is alone on deck."], ["软件包", "甲板", "不在", "。", "会"])
    assert [u.term for u in found.terms] == ["软件包"]
    # Once; never; no letter; nearly everywhere.
    assert found.left_out == ("甲板", "不在", "会")
    assert consistency(CHINESE[:2], english()[:2], NOUNS).terms == ()
    # However long the text: what is said once is always said the same.
    assert consistency(["甲板", *["。"] * 9999], ["deck", *[""] * 9999], ["甲板"]).left_out == ("甲板",)
    assert consistency(CHINESE, english(), []).share is None
    with pytest.raises(OptionError, match="targets: 2 translations for 120 segments"):
        consistency(CHINESE, english()[:2], NOUNS)


def test_terms_of_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole words that are repeated, no parts of them, and nothing of the grammar at either end."""
    found = source_terms(CHINESE)
    assert set(NOUNS) <= set(found)
    assert not {"软件", "件包", "件系统", "文件系", "会改变", "服务"} & set(found)
    assert not any(
        term.startswith("的") or term.endswith("的") for term in source_terms([t.replace("会", "的") for t in CHINESE])
    )
    assert source_terms([]) == []
    monkeypatch.setattr(terms_module, "_MOST", 3)
    assert source_terms(CHINESE) == found[:3]
    monkeypatch.setattr(terms_module, "_LEAST", 121)
    assert source_terms(CHINESE) == []


def test_characters_that_meet_by_chance_are_no_terms() -> None:
    rng = random.Random(9)
    assert source_terms(["".join(rng.choices("甲乙丙丁", k=12)) for _ in range(100)]) == []


def test_terms_that_clump_come_before_words_that_are_spread() -> None:
    """Both are as frequent; one is spoken of in one place."""
    rng = random.Random(3)
    fill = [chr(0x4E00 + n) for n in range(0, 9000, 7)]
    texts = []
    for number in range(200):
        word = "灯塔" if 80 <= number < 120 and number % 2 else "毕竟" if number % 10 == 0 else ""
        texts.append("".join(rng.sample(fill, 6)) + word + "".join(rng.sample(fill, 6)))
    assert source_terms(texts) == ["灯塔", "毕竟"]


def test_katakana_is_a_word() -> None:
    words = ["アプリケーション", "カーネル", "パスワード"]
    rng = random.Random(5)
    texts = [
        f"{rng.choice('今昔後前')}、{words[i % 3]}{rng.choice('をがはに')}{rng.choice('見書読聞')}た。"
        for i in range(60)
    ]
    assert set(words) <= set(source_terms(texts))


def test_terms_of_english() -> None:
    rng = random.Random(6)
    verbs, ends = ["saw", "met", "left", "heard"], ["at noon", "again", "in town", "by chance"]
    people = ["Lin Feng", "Old Marten", "the lighthouse keeper", "Asuna"]
    texts = [f"Then the boy {rng.choice(verbs)} {people[i // 5 % 4]} {rng.choice(ends)}." for i in range(100)]
    found = source_terms(texts)
    assert {"lin feng", "old marten", "lighthouse keeper", "asuna"} <= set(found)
    # Parts of a name; what is at its edge; function words; the first word of a sentence.
    assert not {"lin", "feng", "the lighthouse keeper", "the", "then"} & set(found)
    # Names before words in lower case that clump as much.
    assert found.index("lin feng") < found.index("lighthouse keeper")


def test_a_glossary_s_terms_are_found_in_every_form() -> None:
    sources = [text.replace("package", form) for form in ("Packages", "PACKAGE", "package’s") for text in english()]
    found = consistency([*sources, *english()], CHINESE * 4, ["Package"])
    assert use(found, "Package").segments == 4 * holding("软件包")
    assert consistency(english(), CHINESE, ["pack"]).terms == ()


def test_two_systems_on_the_same_terms() -> None:
    worse = english({"软件包": ["package", "bundle"], "内核": ["kernel", "core", "heart"]})
    found = compare(CHINESE, worse, english(), NOUNS)
    before, after = consistency(CHINESE, worse, NOUNS), consistency(CHINESE, english(), NOUNS)
    assert found["baseline"] == before.as_dict()
    assert found["system"] == after.as_dict()
    assert found["difference"] == pytest.approx((after.share or 0) - (before.share or 0))
    low, high = found["interval"]
    assert 0 <= low < found["difference"] < high
    back = compare(CHINESE, english(), worse, NOUNS)
    assert back["difference"] == pytest.approx(-found["difference"])
    same = compare(CHINESE, worse, worse, NOUNS)
    assert (same["difference"], same["interval"]) == (0, [0, 0])


def test_the_interval_is_of_terms_drawn_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written out: of 400 draws nine lie below it and nine above."""
    worse = english({noun: [name, f"thing{i}", name][: 2 + i % 2] for i, (noun, name) in enumerate(NOUNS.items())})
    monkeypatch.setattr(consistency_module, "SAMPLES", 400)
    monkeypatch.setattr(consistency_module, "SEED", 3)
    found = compare(CHINESE, worse, english(), NOUNS)
    rng = random.Random(3)
    pairs = list(zip(found["baseline"]["terms"], found["system"]["terms"], strict=True))
    drawn = []
    for _ in range(400):
        draw = rng.choices(pairs, k=len(pairs))
        both = [sum(u["share"] * u["segments"] for u in side) for side in zip(*draw, strict=True)]
        drawn.append((both[1] - both[0]) / sum(u["segments"] for u, _ in draw))
    drawn.sort()
    assert found["interval"] == pytest.approx([drawn[9], drawn[390]])
    assert drawn[0] < drawn[9] < drawn[390] < drawn[399]


def test_without_terms_there_is_no_comparison() -> None:
    assert compare(CHINESE, english(), english(), [])["difference"] is None
    one = compare(CHINESE, english(), english(), ["内核"])
    assert (one["difference"], one["interval"]) == (0, None)


def test_the_same_whatever_the_order_of_sets() -> None:
    code = (
        "from templora.translation.quality.consistency import compare;"
        "from templora.translation.quality.terms import source_terms;"
        "from test_consistency import CHINESE, english;"
        "print(compare(CHINESE, english({'内核': ['core', 'kernel']}), english(), source_terms(CHINESE)))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.path.dirname(__file__), "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1
    assert "内核" in said.pop()


def test_a_book_takes_seconds() -> None:
    """1,700 segments of 60 characters and 200 terms, each in about 40 of them."""
    rng = random.Random(8)
    names = [chr(0x5000 + 3 * n) + chr(0x5001 + 3 * n) for n in range(200)]
    drawn = [rng.sample(range(200), 5) for _ in range(1700)]
    sources = ["，".join(names[n] + chr(rng.randint(0x6000, 0x9000)) * 9 for n in row) for row in drawn]
    targets = [" ".join(f"the word{n} is a thing{rng.randint(1, 99)}," for n in row) for row in drawn]
    start = time.perf_counter()
    found = consistency(sources, targets, [*source_terms(sources), *names])
    assert time.perf_counter() - start < 10
    assert set(names) <= {u.term for u in found.terms}
    assert all(use(found, name).share == 1 for name in names)
