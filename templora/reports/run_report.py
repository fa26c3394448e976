"""`TextReport`: a run's events, folded into the figures that reports, plots and receipts show."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.errors import TextError
from templora.events import ChunkLearned, ChunkScored, Event
from templora.metrics import Likelihood
from templora.runtime.files import told, written_whole
from templora.text import decode

if TYPE_CHECKING:
    import torch

    from templora.engine.engine import Engine
    from templora.runtime.metering import Meter
    from templora.session.session import Session

_LEARNED = ("committed", "version", "reason", "loss", "grad_norm", "update", "drift", "forgetting")


@dataclass
class TextReport:
    """One text of a run: what was predicted and what was learnt, chunk by chunk."""

    name: str
    base: Likelihood = field(default_factory=Likelihood)
    adapted: Likelihood = field(default_factory=Likelihood)
    mixed: Likelihood = field(default_factory=Likelihood)
    chunks: list[dict[str, Any]] = field(default_factory=list)
    words: int = 0
    utf8_bytes: int = 0
    committed: int = 0
    rejected: int = 0
    session: Session | None = None
    again: float = 0.0  # seconds in which a session became what it was, to go on from there
    before: Meter | None = None  # what it had spent until then

    def goes_on(self, session: Session, again: float) -> None:
        """What the session has spent up to now was spent by earlier runs, or in those seconds.

        Args:
            session: of the text.
            again: seconds.
        """
        self.again, self.before = again, session.meter.since(None)

    def add(self, event: Event) -> None:
        """Takes in an event; those that carry no figures are passed over."""
        if isinstance(event, ChunkScored):
            self.base.add(event.base_nll or 0.0, event.targets)
            self.adapted.add(event.adapted_nll or 0.0, event.targets)
            row = self._row(event.start, event.end)
            row |= {"targets": event.targets, "base_nll": event.base_nll, "adapted_nll": event.adapted_nll}
            if event.mixed_nll is not None:
                self.mixed.add(event.mixed_nll, event.targets)
                row["mixed_nll"] = event.mixed_nll
            row["seconds"] += event.seconds
        elif isinstance(event, ChunkLearned):
            row = self._row(event.start, event.end)
            row |= {name: getattr(event, name) for name in _LEARNED}
            row["seconds"] += event.seconds
            self.committed += event.committed
            self.rejected += not event.committed

    def _row(self, start: int, end: int) -> dict[str, Any]:
        """The row of the chunk that ends at `end`, or a new one; with parallel learning it may be the last but one."""
        for row in self.chunks[:-3:-1]:
            if row["start"] + row["tokens"] == end:
                return row
        row = {"index": len(self.chunks), "start": start, "tokens": end - start}
        row |= {"base_nll": None, "adapted_nll": None, "committed": False, "seconds": 0.0}
        self.chunks.append(row)
        return row

    @property
    def ours(self) -> Likelihood:
        """What this run predicts with: the mixture if there is one, else the adapter."""
        return self.mixed if self.mixed.tokens else self.adapted

    @property
    def predicted(self) -> list[tuple[int, int]]:
        """What was scored, as [start, end) of the text's tokens."""
        ends = [(c["start"] + c["tokens"], c["targets"]) for c in self.chunks if "targets" in c]
        return [(end - targets, end) for end, targets in ends]

    def finish(self, session: Session, tokenizer: Any) -> None:
        """Once the session is over: measures the text that was predicted."""
        self.session = session
        self.measure(decode(tokenizer, [i for start, end in self.predicted for i in session.tokens[start:end]]))

    def measure(self, text: str) -> None:
        """Counts words and bytes of the text that was predicted."""
        self.words, self.utf8_bytes = len(text.split()), len(text.encode())

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "tokens": self.base.tokens,
            "words": self.words,
            "bytes": self.utf8_bytes,
            "committed": self.committed,
            "rejected": self.rejected,
            **_pooled([self]),
            "chunks": self.chunks,
        }


def _pooled(texts: Sequence[TextReport]) -> dict[str, Any]:
    """What each predicted over all of these texts; the mixture only where there is one."""
    words, utf8_bytes = sum(t.words for t in texts), sum(t.utf8_bytes for t in texts)
    found = {}
    for name in ("base", "adapted", "mixed"):
        parts: list[Likelihood] = [getattr(text, name) for text in texts]
        chunks = [chunk for part in parts for chunk in part.chunk_nll]
        whole = Likelihood(sum(part.nll for part in parts), sum(part.tokens for part in parts), chunks)
        found[name] = whole.summary(words, utf8_bytes) if whole.tokens or name != "mixed" else None
    return found


def build_report(engine: Engine, texts: Sequence[TextReport], tokens: int, total_seconds: float) -> dict[str, Any]:
    """The JSON document of a run over one or several texts, whose figures are pooled at the top.

    NLLs are in nats, seconds in seconds, memory in bytes; `flops` are counted as `runtime.metering` says. `prepare` is
    the making of the compiled decode step, compilation included. All of it is of this run alone: `again` are the
    seconds in which a session on disk became what it was.
    """
    from templora.layers.quantized import count_weights
    from templora.runtime.metering import PHASES, peak_memory_bytes

    sessions = [t.session for t in texts if t.session is not None]
    receipts = [s.receipt for s in sessions]
    meters = [t.session.meter.since(t.before) for t in texts if t.session is not None]
    seconds: dict[str, float] = {p: sum(m.seconds[p] for m in meters) for p in PHASES}
    flops: dict[str, float] = {p: sum(m.flops[p] for m in meters) for p in PHASES}
    model, notes = engine.model, sessions[0].loop.text.notes if sessions else None
    return {
        "tokens": tokens,
        **({"notes": {"text": notes.text, "tokens": len(notes)}} if notes else {}),
        "config": sessions[0].config.to_dict() if sessions else None,
        "model": {
            "name": engine.name,
            "architecture": type(model.module).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": count_weights(model.module),
            "positions": model.max_positions,
            "sha256": receipts[0].fingerprint if receipts and receipts[0] else None,
        },
        "device": describe_device(model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
        **_pooled(texts),
        "committed": sum(t.committed for t in texts),
        "rejected": sum(t.rejected for t in texts),
        "chunks": texts[0].chunks if len(texts) == 1 else [c | {"text": t.name} for t in texts for c in t.chunks],
        "texts": [t.to_dict() for t in texts] if len(texts) > 1 else [],
        "seconds": {
            "load": engine.load_seconds,
            "prepare": engine.prepare_seconds,
            **seconds,
            **({"again": again} if (again := sum(t.again for t in texts)) else {}),
            "total": total_seconds,
        },
        "flops": {**flops, "total": sum(flops.values())},
        "peak_memory_bytes": peak_memory_bytes(model.device),
        "base_unchanged": bool(receipts) and all(r is not None and r.base_unchanged for r in receipts),
        "discarded": bool(receipts) and all(r is not None and r.discarded for r in receipts),
    }


def source_commit() -> str | None:
    """The commit this package runs from, with `-dirty` if it was edited; None outside a git checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe_device(device: torch.device, threads: int | None = None) -> str:
    """The device in words: the GPU's name, or the processor and how many threads are used, by torch's own setting if
    not told."""
    import torch

    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"cpu: {name}, {threads or torch.get_num_threads()} threads"


def to_json(document: dict[str, Any]) -> str:
    """JSON that every parser reads: a figure that is not finite becomes null."""
    return json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Writes a report so that a reader sees all of it or the old one.

    Raises:
        TextError: it cannot be written.
    """
    # File names that are not UTF-8 become JSON escapes.
    raw = (to_json(document) + "\n").encode("utf-8", "backslashreplace")
    with told(TextError, f"{path}: the report cannot be written"):
        if path.exists() and not path.is_file():
            path.write_bytes(raw)  # a device is written to, never replaced
            return
        with written_whole(path) as beside:
            beside.write_bytes(raw)
