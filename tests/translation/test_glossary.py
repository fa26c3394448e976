"""Terms are found where a reader would see them, and a translation is seen to keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from templora.errors import TextError
from templora.translation.glossary import Glossary, Term
from templora.translation.glossary_files import read_glossary, write_glossary
from templora.translation.proposals import Proposal


def read(folder: Path, text: str, name: str = "terms.txt") -> dict[str, str]:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return {term.source: term.target for term in read_glossary(str(path)).terms}


def found(text: str, *terms: str) -> list[str]:
    return [term.source for term in Glossary([Term(term, "x") for term in terms]).found(text)]


def test_lines_with_tabs(tmp_path: Path) -> None:
    text = '\ufeff# names\r\n\r\nlamp\tLampe\r\n  "the  keeper"\t der Wärter \r\nlamp\tLampe\r\nOslo\tOslo\r\n  # more'
    wanted = {"lamp": "Lampe", '"the keeper"': "der Wärter", "Oslo": "Oslo"}
    assert read(tmp_path, text) == read(tmp_path, text, "terms.tsv") == wanted


def test_csv(tmp_path: Path) -> None:
    text = '# names\nlamp,Lampe\n"Finch, Aldous","Finch, ""Al"""\n'
    assert read(tmp_path, text, "terms.CSV") == {"lamp": "Lampe", "Finch, Aldous": 'Finch, "Al"'}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lamp", "line 1: a term, a tab and its translation; not 'lamp'"),
        ("a\tb\tc", "line 1: a term"),
        ("x\ty\n\na\t ", "line 3: its translation is empty"),
        ("\tb", "line 1: the term is empty"),
        ("a\tb\n# c\na\tc", "line 3: 'a' is 'c' here, and 'b' in line 1; keep one"),
        ("a\tb\nb\ta", "line 1: a cycle: a → b → a"),
        ("x\ta\na\tb\nb\tc\nc\ta", "line 2: a cycle: a → b → c → a"),
    ],
)
def test_a_wrong_line_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TextError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'terms.txt'}, {said}")


@pytest.mark.parametrize("text", ['"a,b', 'a,"b"c', "a;b", "x" * 200_000 + ",y", "a,b\x01,"])
def test_no_csv(text: str, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"terms\.csv, line 1: "):
        read(tmp_path, text, "terms.csv")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_named_columns_in_any_order(suffix: str, tmp_path: Path) -> None:
    """Beside others; a term without a translation is none of the glossary's."""
    rows = [("Count", "Translation", "Term"), ("3", "Lampe", "lamp"), ("2", "", "keeper"), ("9", "Meer", "sea")]
    text = "\n".join(("," if suffix == ".csv" else "\t").join(row) for row in rows)
    assert read(tmp_path, text, f"terms{suffix}") == {"lamp": "Lampe", "sea": "Meer"}
    # Two columns without names are a term and its translation.
    assert read(tmp_path, "term,Termin", "terms.csv") == {"term": "Termin"}
    with pytest.raises(TextError, match="line 2: the term is empty"):
        read(tmp_path, "term\ttranslation\n\tLampe", "terms.tsv")


@pytest.mark.parametrize(
    "text",
    [
        '{"lamp": "Lampe", "sea": " Meer "}',
        '[{"term": "lamp", "translation": "Lampe"}, {"source": "sea", "target": "Meer", "note": 1}]',
        '[{"term": "lamp", "rendering": "Lampe"}, {"term": "x", "translation": ""}, {"term": "sea", "target": "Meer"}]',
    ],
)
def test_json(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text, "terms.json") == {"lamp": "Lampe", "sea": "Meer"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "not JSON"),
        ("3", "must be an object of terms"),
        ("[3]", "entry 1: must be an object"),
        ('[{"term": "a", "translation": 3}]', "entry 1: 'translation' must be text, not 3"),
        ('[{"term": "a"}]', "entry 1: 'translation' must be text, not None"),
        ('{"": "b"}', "entry 1: the term is empty"),
        ('[{"term": "a", "translation": "b"}, {"term": "a", "translation": "c"}]', "entry 2: 'a' is 'c' here"),
        ('{"x": "y", "a": "b", "b": "a"}', "entry 2: a cycle: a → b → a"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_wrong_json_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"terms\.json") as caught:
        read(tmp_path, text, "terms.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json"])
def test_what_is_proposed_is_read_again(suffix: str, tmp_path: Path) -> None:
    proposals = [
        Proposal('the "keeper", old', "Wärter", 3, "…the\tkeeper,\nwho"),
        Proposal("sea", "", 2, "the sea", ("See", "Meer")),
    ]
    path = tmp_path / f"terms{suffix}"
    write_glossary(proposals, path)
    assert {t.source: t.target for t in read_glossary(str(path)).terms} == {'the "keeper", old': "Wärter"}
    assert "See; Meer" in path.read_text(encoding="utf-8")


def test_a_term_may_be_its_own_translation_and_others_may_share_one(tmp_path: Path) -> None:
    assert len(read(tmp_path, "a\ta\nb\ta\nc\tb")) == 3


@pytest.mark.parametrize(
    ("text", "terms", "wanted"),
    [
        ("The lamp and the lamplight", ["lamp"], ["lamp"]),
        ("The lamplight", ["lamp"], []),
        ("LAMP!", ["lamp"], ["lamp"]),
        ("the finch, a Finch", ["Finch"], ["Finch"]),
        ("the finch", ["Finch"], []),
        ("lighthouse keeper, keeper", ["keeper", "lighthouse keeper"], ["lighthouse keeper", "keeper"]),
        ("a lighthouse keeper", ["keeper", "lighthouse keeper"], ["lighthouse keeper"]),
        ("b a b a", ["a", "b"], ["b", "a"]),
        ("a b c", ["a b", "b c"], ["a b"]),
        ("他点亮了灯塔的灯", ["灯塔", "灯"], ["灯塔", "灯"]),
        ("他用Windows系统", ["windows"], ["windows"]),
        ("The <1>Aldous</1> Finch<2/>", ["Aldous Finch"], ["Aldous Finch"]),
        ("Aldous\u00a0Finch", ["Aldous Finch"], ["Aldous Finch"]),
        ("cafe\u0301", ["caf\u00e9"], ["caf\u00e9"]),
        ("C++ and C", ["C++", "C"], ["C++", "C"]),
        ("(a.b)", ["a.b"], ["a.b"]),
        ("axb", ["a.b"], []),
        ("שלום עולם", ["עולם"], ["עולם"]),
        ("March and march", ["march", "March"], ["March", "march"]),
    ],
)
def test_terms_in_a_text(text: str, terms: list[str], wanted: list[str]) -> None:
    assert found(text, *terms) == wanted


@pytest.mark.parametrize(
    ("target", "text", "kept"),
    [
        ("Wärter", "Die Wärters kamen", True),
        ("Wärter", "der WÄRTER", True),
        ("Wärter", "der Torwärter", False),
        ("Wärter", "der <1>Wär</1>ter", True),
        ("Straße", "STRASSE", True),
        ("灯塔", "在灯塔里", True),
        ("灯塔", "在塔里", False),
        ("Finch", "芬奇Finch说", True),
        ("كتاب", "والكتاب هنا", True),  # with "and" and "the" written on to it
        ("ספר", "הספר", True),
        ("caf\u00e9", "le cafe\u0301", True),
        ("der Wärter", "der  Wärter", True),
    ],
)
def test_a_term_is_kept(target: str, text: str, kept: bool) -> None:
    assert Term("x", target).kept_in(text) is kept


def test_many_terms_are_looked_for_quickly() -> None:
    glossary = Glossary([Term(f"term{i}", "x") for i in range(5000)])
    for i in range(100):
        assert [term.source for term in glossary.found(f"here is term{i} " * 20)] == [f"term{i}"]
