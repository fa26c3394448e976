"""The report of a whole session, from its log: all its runs together, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from templora.events import ChunkLearned, ChunkScored
from templora.metrics import repetition
from templora.reports.run_report import TextReport
from templora.store.history import History, text_of


def account(history: History) -> dict[str, Any]:
    """What `report.build_report` says of one run, of all of a session that a log can tell.

    Perplexities are of what was scored: writes that were asked for a report. Of the seconds only those of learning and
    scoring are in a log.
    """
    text = TextReport("written")
    position = len(history.opening)
    pieces: list[tuple[int, int, str]] = []  # what was given and written: tokens [start, end), text
    own: list[int] = []
    spoken: list[str] = []
    seconds = {"score": 0.0, "learn": 0.0}
    for record in history.records:
        if record.kind == "learned":
            learned = _event(ChunkLearned, record.data)
            text.add(learned)
            seconds["learn"] += learned.seconds
        elif record.kind == "scored":
            scored = _event(ChunkScored, record.data)
            text.add(scored)
            seconds["score"] += scored.seconds
        elif record.kind in ("token", "end"):
            own += record.ids
            spoken.append(record.data["text"])
        pieces.append((position, position + len(record.ids), text_of(record)))
        position += len(record.ids)
    spans = text.predicted
    inside = [piece for start, end, piece in pieces if end > start and any(a <= start and end <= b for a, b in spans)]
    text.measure("".join(inside))
    begin, notes = history.begin, history.notes
    return {
        "command": "sessions export",
        "tokens": len(own),
        **({"notes": {"text": notes["notes"], "tokens": notes["tokens"]}} if notes["tokens"] else {}),
        "prompt_tokens": len(history.tokens) - len(own),
        "config": begin["config"],
        "model": {"name": begin["model"]["name"], "sha256": begin["model"]["fingerprint"]},
        "versions": begin["versions"],
        **{key: value for key, value in text.to_dict().items() if key not in ("name", "tokens")},
        "seconds": seconds,
        "repetition": repetition(own, "".join(spoken)),
    }


def _event(kind: Any, data: Mapping[str, Any]) -> Any:
    """The event that a record was made of, by this version or another."""
    known = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in data.items() if key in known})
