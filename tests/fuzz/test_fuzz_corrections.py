"""Corrections, whatever their file holds."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from fuzzing import Reader, fuzzed
from hypothesis import example, given, strategies as st

from templora.translation.pairs import read_corrections

READER = Reader("corrections")
SOURCES = ["The <1>keeper</1> lit the lamp.", "Nobody came.", "Nobody came.", "灯"]

VALUES = st.recursive(
    st.one_of(
        st.sampled_from([*SOURCES, "", " ", "\ud800", "\0", "a\nb", 0, 1, 2, 4, 5, -1, 1.0, True, None, 10**30]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)
KEYS = st.sampled_from(["segment", "source", "target", "x"])
RIGHT = st.tuples(st.integers(0, 3), st.text(max_size=8)).map(
    lambda pair: {"segment": pair[0] + 1, "source": SOURCES[pair[0]], "target": pair[1]}
)
WRONG = st.tuples(RIGHT, st.dictionaries(KEYS, VALUES, max_size=2)).map(lambda pair: {**pair[0], **pair[1]})
LINES = st.one_of(
    st.one_of(RIGHT, WRONG, VALUES).map(json.dumps),
    st.tuples(st.sampled_from(["[", '{"a":', "9", "-", '"\\u', "1e9", " "]), st.integers(1, 20_000)).map(
        lambda pair: pair[0] * pair[1]
    ),
    st.tuples(RIGHT.map(json.dumps), st.integers(0, 80)).map(lambda pair: pair[0][: pair[1]]),
)
FILES = st.one_of(
    st.tuples(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n", "\n\n", "\r", "\u2028"])).map(
        lambda pair: pair[1].join(pair[0]).encode("utf-8", "surrogatepass")
    ),
    st.binary(max_size=60),
)


@pytest.fixture(autouse=True, scope="module")
def _results() -> Iterator[None]:
    yield
    READER.save()


@fuzzed
@given(FILES, st.sampled_from([".jsonl", ".jsonl.gz", ".xz"]))
@example(b"[" * 100_000, ".jsonl")
@example(b'{"segment": ' + b"9" * 5000 + b"}", ".jsonl")
def test_any_file(tmp_path_factory: pytest.TempPathFactory, raw: bytes, ending: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz{ending}"
    path.write_bytes(raw)
    found = READER(lambda: read_corrections(str(path), SOURCES), len(raw))
    assert all(0 <= index < len(SOURCES) and target for index, target in (found or {}).items())
