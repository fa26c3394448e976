"""Plans and templates, whatever their files hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from fuzzing import Reader, fuzzed
from hypothesis import example, given, strategies as st

from templora.errors import OptionError
from templora.evals.measuring.plan import read_plan
from templora.translation.template import read_template

READER = Reader("toml")

NAMES = st.sampled_from(
    re.findall(
        r"\S+",
        "task books texts tokens models config sweep methods to from pairs targets weights template repetition_penalty "
        'method adapters rank recipe start glossary pair ask x "é"',
    )
)
HOLES = ["{source}", "{target}", "\\n", "{terms}", "{glossary}", "{source_language}", "{", "}", "{x}", "a", "é"]
TEXTS = st.lists(st.sampled_from(HOLES), max_size=8).map(lambda parts: f'"{"".join(parts)}"')
ODD = [
    *("1", "-1", "0", "true", "nan", "inf", "1e999", "0x" + "f" * 5000, "9" * 5000, "9223372036854775808", '"all"', ""),
    *("1979-05-27T07:32:00Z", "1979-99-99", '"translation"', '"sliding_window"', '"gpt2"', '"de"', "''", '"""a\n"""'),
]
VALUES = st.recursive(
    st.one_of(
        TEXTS,
        st.sampled_from(ODD),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda held: f"[{', '.join(held)}]"),
        st.dictionaries(NAMES, inner, max_size=2).map(
            lambda held: "{" + ", ".join(f"{k} = {v}" for k, v in held.items()) + "}"
        ),
    ),
    max_leaves=6,
)  # fmt: skip
LINES = st.one_of(
    st.tuples(NAMES, VALUES).map(" = ".join),
    st.tuples(NAMES, TEXTS).map(" = ".join),
    NAMES.map("[{}]".format),
    st.just("[[methods]]"),
    st.tuples(NAMES, st.integers(1, 2000)).map(lambda pair: f"{'.'.join([pair[0]] * pair[1])} = 1"),
    st.tuples(st.sampled_from(["[", "[[", "{a=", "a.", "#", '"""', "'"]), st.integers(1, 2000)).map(
        lambda pair: f"a = {pair[0] * pair[1]}"
    ),
    st.text(max_size=20),
)
FILES = st.one_of(
    st.lists(LINES, max_size=8).map("\n".join).map(str.encode),
    st.tuples(st.lists(LINES, max_size=4), st.binary(max_size=20), st.integers(0, 300)).map(
        lambda parts: (
            "\n".join(parts[0]).encode()[: parts[2]] + parts[1] + "\n".join(parts[0]).encode()[parts[2] :]
        )
    ),
    st.binary(max_size=100),
)  # fmt: skip


class _Tokenizer:
    bos_token = "<s>"
    chat_template = "x"

    def apply_chat_template(self, turns: list[dict[str, str]], **_: object) -> str:
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns) + "<assistant>"


@pytest.fixture(autouse=True, scope="module")
def _results() -> Iterator[None]:
    yield
    READER.save()


@fuzzed
@given(FILES)
@example(b"tokens = 0x" + b"f" * 5000)
@example(b"a = " + b"[" * 60_000)
@example(b"a." * 20_000 + b"b = 1")
@example(b"texts" + b".a" * 20 + b" = 1")
def test_any_file(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(raw)
    READER(lambda: read_plan(str(path)).cells([]), len(raw))
    for tokenizer in (_Tokenizer(), object()):
        READER(partial(read_template, str(path), tokenizer, "English", "German"), len(raw))


def test_a_file_too_large_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"# \n" * 100_000)
    with pytest.raises(OptionError, match=r"large\.toml cannot be read: larger than 64 KiB"):
        read_plan(str(path))
