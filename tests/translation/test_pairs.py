"""Texts with their translations, in both layouts, and every way in which a file can be wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from templora.errors import OptionError, TextError
from templora.translation.languages import Language, language
from templora.translation.pairs import Pair, read_pairs, write_pairs

CHINESE, ENGLISH, GERMAN = (language("from", code) for code in ("zh", "en", "de"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pairs.jsonl"


def lines(file: Path, *rows: Any) -> str:
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(file)


def test_json_lines(file: Path) -> None:
    path = lines(file, {"source": "a", "target": "A", "other": 1}, "", {"target": "B\u2028", "source": "b"})
    (only,) = read_pairs(path)
    assert only.name == "pairs.jsonl"
    assert only.pairs == (Pair("a", "A", "pairs.jsonl"), Pair("b", "B\u2028", "pairs.jsonl"))
    assert (only.cuts, only.before) == ((0,), ())


def test_documents_and_chapters(file: Path) -> None:
    rows = [("1", "x"), ("1", "x"), ("1", "y"), ("2", "y"), ("1", "y")]
    path = lines(file, *({"source": d + c, "target": "t", "document": d, "chapter": c} for d, c in rows))
    one, two = read_pairs(path)
    assert (one.name, two.name) == ("1", "2")
    assert [pair.source for pair in one.pairs] == ["1x", "1x", "1y", "1y"]
    assert one.cuts == (0, 2)
    assert two.pairs == (Pair("2y", "t", "2", "y"),)


@pytest.mark.parametrize(
    ("source", "target", "wanted"),
    [
        (CHINESE, ENGLISH, ("他", "he")),
        (ENGLISH, CHINESE, ("he", "他")),
        (CHINESE, None, ("他", "he")),
        (None, CHINESE, ("he", "他")),
        (language("from", "zh-Hant"), language("to", "en-GB"), ("他", "he")),
    ],
)
def test_languages_as_keys(source: Language, target: Language, wanted: tuple[str, str], file: Path) -> None:
    (only,) = read_pairs(lines(file, {"id": 7, "zh": "他", "en": "he"}), source, target)
    assert (only.pairs[0].source, only.pairs[0].target) == wanted


def test_of_two_languages_one_must_be_said(file: Path) -> None:
    with pytest.raises(OptionError, match=r"^from: pairs.jsonl, line 1 has 'zh' and 'en': say which") as caught:
        read_pairs(lines(file, {"zh": "他", "en": "he"}))
    assert caught.value.option == "from"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "not JSON"),
        ("[" * 10, "not JSON"),
        ('{"source": ' + "[" * 100_000, "not JSON"),
        ("3", "must be an object"),
        ('"text"', "must be an object"),
        ({"source": "a"}, "has no 'source' and 'target', or two languages; it has 'source'"),
        ({}, "has no 'source' and 'target', or two languages; it has nothing"),
        ({"source": "a", "target": ""}, "'target' must be text that is not empty, not ''"),
        ({"source": "a", "target": 3}, "'target' must be text that is not empty, not 3"),
        ({"source": " \n", "target": "A"}, "'source' must be text"),
        ({"source": "\ud800", "target": "A"}, "'source' holds half a character"),
        ({"source": "a", "target": "A", "chapter": [1]}, "'chapter' must be text or a number"),
    ],
)
def test_a_wrong_line_is_named(row: Any, said: str, file: Path) -> None:
    with pytest.raises(TextError, match=r"^pairs.jsonl(, line 3)?: ") as caught:
        read_pairs(lines(file, {"source": "a", "target": "A"}, "", row))
    assert said in str(caught.value)
    assert ", line 3" in str(caught.value)


def test_a_language_that_is_not_there(file: Path) -> None:
    with pytest.raises(TextError, match=r"line 1: has no 'de'; it has 'zh', 'en'"):
        read_pairs(lines(file, {"zh": "他", "en": "he"}), CHINESE, GERMAN)
    with pytest.raises(TextError, match=r"has no 'source' and 'target', or two languages"):
        read_pairs(lines(file, {"zh": "他", "en": "he", "de": "er"}), CHINESE)


# GuoFeng's layout ----------------------------------------------------------------------------------------------------


def pair(number: int) -> dict[str, str]:
    return {"zh": f"句{number}", "en": f"sentence {number}"}


def segment(first: int, end: int, *contexts: int) -> dict[str, Any]:
    return {
        "contexts": {f"k{k}": [pair(i) for i in range(first - k, first)] for k in contexts},
        "inference": [pair(i) for i in range(first, end)],
    }


def test_guofeng(file: Path) -> None:
    path = lines(file, json.dumps([segment(10, 13, 1, 3), segment(13, 14, 1, 3, 5), segment(14, 16)]))
    (only,) = read_pairs(path, CHINESE, ENGLISH)
    assert [p.source for p in only.before] == ["句7", "句8", "句9"]
    assert [p.target for p in only.pairs] == [f"sentence {i}" for i in range(10, 16)]
    assert only.cuts == (0, 3, 4)


@pytest.mark.parametrize(
    ("segments", "said"),
    [
        ([segment(10, 12, 1), segment(13, 14, 1)], "segment 2: its context 'k1' is not what comes before it"),
        ([segment(10, 12, 1), segment(12, 14, 9)], "segment 2: its context 'k9' is not what comes before it"),
        (
            [{**segment(10, 12, 3), "contexts": {"k1": [pair(4)], "k3": [pair(7), pair(8)]}}],
            "segment 1: its context 'k1'",
        ),
        ([segment(10, 12), {"contexts": {}}], "segment 2: has no list 'inference'"),
        ([segment(10, 12), 3], "segment 2: has no list 'inference'"),
        ([{"contexts": [1], "inference": []}], "segment 1: 'contexts' must be an object of lists"),
        ([{"inference": [{"zh": "x"}]}], "segment 1, pair 1: has no 'en'; it has 'zh'"),
        ([{"contexts": {"k1": ["x"]}, "inference": []}], "segment 1, k1, pair 1: must be an object"),
        ([], "holds no pairs"),
        ([{"inference": []}], "holds no pairs"),
    ],
)
def test_a_wrong_segment_is_named(segments: list[Any], said: str, file: Path) -> None:
    with pytest.raises(TextError) as caught:
        read_pairs(lines(file, json.dumps(segments)), CHINESE, ENGLISH)
    assert str(caught.value).startswith("pairs.jsonl")
    assert said in str(caught.value)


# Writing -------------------------------------------------------------------------------------------------------------


def test_written_pairs_are_read_again(file: Path) -> None:
    sources, targets = ["他来了。", 'a "b"\\', "שלום"], ["He\u2028came.", "<1>x</1>", "👩‍👩‍👧"]
    write_pairs(str(file), sources, targets)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    assert [row["segment"] for row in rows] == [1, 2, 3]
    assert "他来了。".encode() in file.read_bytes()
    (only,) = read_pairs(str(file))
    assert [(p.source, p.target) for p in only.pairs] == list(zip(sources, targets, strict=True))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="cannot be written: No such file"):
        write_pairs(str(tmp_path / "none" / "x.jsonl"), ["a"], ["b"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["source", "target", "zh", "en", "id", "inference", "contexts", "k1"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(JSON, max_size=3), whole=st.booleans(), source=st.sampled_from([None, CHINESE]))
def test_whatever_comes_is_pairs_or_an_error(rows: list[Any], whole: bool, source: Language | None, file: Path) -> None:
    path = lines(file, json.dumps(rows)) if whole else lines(file, *(json.dumps(row) for row in rows))
    with contextlib.suppress(TextError, OptionError):
        assert all(aligned.pairs for aligned in read_pairs(path, source))
