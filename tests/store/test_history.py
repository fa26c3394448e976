"""What a log's records say of a text, whatever their order: rewinds drop what came after, and nothing else."""

from __future__ import annotations

from typing import Any

from conftest import small
from fuzzing import Reader
from hypothesis import given, strategies as st

from templora.store.history import History
from templora.store.log import Record

BEGIN: dict[str, Any] = {"model": {"name": "m", "fingerprint": "0"}, "opening": [1], "versions": {}}
HOW: dict[str, Any] = {"max_new_tokens": 5, "stop_at_end": False, "score": False, "sampling": {}}
RECORDS = st.one_of(
    st.integers(0, 9).map(lambda n: ("given", [65] * n, {"text": "A" * n})),
    st.just(("write", [], HOW)),
    st.integers(1, 5).map(lambda n: ("token", [66] * n, {"text": "B" * n})),
    st.just(("end", [], {"reason": "length", "text": ""})),
    st.just(("mark", [], {"text": "a note of one's own"})),
    st.just(("close", [], {})),
    st.just(("seed", [], {"seed": 3})),
    st.sampled_from(["", "a", "b"]).map(lambda text: ("notes", [], {"notes": text, "tokens": len(text)})),
    st.just(("adapter", [], {"file": "adapter-00000001.safetensors", "sha256": "0"})),
    st.just(("learned", [], {"index": 0, "end": 4, "committed": True, "version": 1})),
    st.just(("snapshot", [], {"file": "00000001.safetensors", "sha256": "0", "tokens": 4, "until": 3})),
    st.integers(1, 40).map(lambda to: ("rewind", [], {"to": to})),
)


def history(records: list[tuple[str, list[int], dict[str, Any]]], chunk_size: int = 4) -> History:
    made = History()
    made.add(Record(1, "begin", [], BEGIN | {"config": small(chunk_size=chunk_size).to_dict()}))
    for seq, record in enumerate(records, 2):
        made.read(Record(seq, *record))
    return made


def said(of: History) -> Any:
    return of.records, of.acts, of.tokens, of.chunks, of.snapshots, of.marks, of.text, of.chunk_texts, of.pending


@given(st.lists(RECORDS, max_size=30))
def test_what_is_rewound_might_never_have_been(records: list[tuple[str, list[int], dict[str, Any]]]) -> None:
    found = history(records)
    again = History()
    for record in found.records:  # the rewinds among them have nothing left to drop
        again.add(record)
    assert said(again) == said(found)
    assert found.tokens == [*found.opening, *(token for record in found.records for token in record.ids)]
    assert all(found.first(end) == found.records[: len(found.first(end))] for end in found.chunks)


def test_a_rewind_goes_to_the_end_of_whole_records() -> None:
    write = [("write", [], HOW), ("token", [66], {"text": "B"}), ("token", [66], {"text": "B"})]
    found = history([("given", [65] * 3, {"text": "AAA"}), *write, ("rewind", [], {"to": 4})])
    assert (found.text, found.chunks) == ("AAA", [4])
    assert [act.kind for act in found.acts] == ["given"]
    assert found.acts[0].ended == 2


def test_long_logs_take_no_longer_than_they_are_long() -> None:
    read = Reader("history")
    end = [("rewind", [], {"to": 41})]
    learned = [("learned", [], {"index": 0, "end": 41, "committed": True, "version": 1})]
    text = [("given", [65] * 40, {"text": "A" * 40})]
    tokens = [("write", [], HOW), *[("token", [66], {"text": "B"})] * 40_000]
    for records, size in (
        (text * 1000 + end * 20_000, 4),
        (text + learned * 20_000 + end * 20_000, 4),
        ((text + end) * 20_000, 40),
        (tokens, 4),
        (tokens, 2**40),
    ):
        read(lambda records=records, size=size: history(records, size), 50 * len(records))
