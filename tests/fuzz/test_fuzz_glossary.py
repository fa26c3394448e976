"""Glossaries, whatever their file holds, and the texts that their terms are looked for in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzzing import Reader, fuzzed
from hypothesis import example, given, strategies as st

from templora.translation.glossary_files import read_glossary

READER = Reader("glossary")

TERMS = st.one_of(
    st.sampled_from(["keeper", "Wärter", "lamp", "the lamp", "灯", "a", "A"]),
    st.sampled_from(["(", "\\", ".*", "<1>", '"', '"a"', "", " ", "#x"]),
    st.tuples(st.sampled_from(["a", " ", "a ", "e\u0301", "灯", "("]), st.integers(1, 3000)).map(lambda p: p[0] * p[1]),
    st.text(max_size=6),
)
LINES = st.one_of(
    st.tuples(TERMS, st.sampled_from(["\t", ",", "\t\t", "", ";"]), TERMS).map("".join),
    st.integers(0, 2000).map(lambda count: "\n".join(f"t{i}\tt{i + 1}" for i in range(count))),
    st.text(max_size=8),
)
FILES = st.one_of(
    st.tuples(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n", "\n\n", "\r"])).map(
        lambda pair: pair[1].join(pair[0]).encode("utf-8", "surrogatepass")
    ),
    st.binary(max_size=60),
)
PARAGRAPHS = st.lists(TERMS, max_size=6).map(" ".join)


@pytest.fixture(autouse=True, scope="module")
def _results() -> Iterator[None]:
    yield
    READER.save()


@fuzzed
@given(FILES, st.sampled_from([".tsv", ".csv", ".txt"]), PARAGRAPHS)
@example("\n".join(f"t{i}\tt{i + 1}" for i in range(3_000)).encode(), ".tsv", "t1 t2")
@example("\n".join(f"t{i},t{i + 1}" for i in range(1_000)).encode(), ".csv", "t1 " * 1_000)
@example(b'"' * 50_000 + b",a", ".csv", "a")
def test_any_file(tmp_path_factory: pytest.TempPathFactory, raw: bytes, ending: str, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(raw)
    glossary = READER(lambda: read_glossary(str(path)), len(raw))
    if glossary:
        found = READER(lambda: glossary.found(text), len(raw) + len(text))
        for term in found or ():
            READER(lambda term=term: term.kept_in(text), len(raw) + len(text))  # type: ignore[misc]
