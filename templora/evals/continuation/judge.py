"""How likely a reader that sees more finds what was written: a longer window, or another model.

The reader has read the book's last tokens, as many as its own window holds, and then predicts each text. Its tokens may
be others than the writer's, so figures are nats a word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from templora.config import TempLoraConfig
from templora.errors import OptionError
from templora.evals.continuation.study import Study
from templora.events import ChunkScored
from templora.reports.run_report import write_json
from templora.text import encode

if TYPE_CHECKING:
    from templora.engine.engine import Engine

WINDOW = 6144  # tokens that the reader sees, at most
_CHUNK = 512
_TOKENS = 1.2  # of the reader's, for each of the writer's, where they differ


def judge(
    study: Study, engine: Engine, progress: Callable[[int, int], None] = lambda *_: None, window: int = WINDOW
) -> str:
    """Adds to each sample of a study what a reader thinks of it, unless it is there.

    Args:
        study: whose samples are all there.
        engine: the reader's.
        progress: told samples done, of how many.
        window: of its own tokens, that it sees; when it begins, the book's last ones, as many as leave room for a text.

    Returns:
        What the reader is called in the samples.

    Raises:
        OptionError: the reader sees no more than the writer.
    """
    window = min(window, engine.model.max_positions)
    if engine.name == study.engine.name and window <= study.plan.config.window:
        raise OptionError("judge", f"{engine.name} wrote it, and sees no more when it judges: {window} tokens")
    name, chunk = f"{engine.name}, window {window:,}", min(_CHUNK, window // 4)
    config = TempLoraConfig(window=window, chunk_size=chunk, learning="off", mixture=False, rank=1, alpha=1.0)
    samples = sorted(study.plan.samples, key=lambda sample: (sample.book, sample.absorbed))
    # So much is read that a text fits behind it: a window that moves is computed anew.
    room = max(window // 2, window - chunk - int(_TOKENS * study.plan.written))
    begun: tuple[str, int] | None = None
    with engine.session(config) as session:
        opening = list(session.tokens)
        nothing = session.snapshot()
        read, tokens = nothing, opening
        for done, sample in enumerate(samples):
            progress(done, len(samples))
            document = study.document(sample)
            if document is None or name in document.get("judged", {}):
                continue
            if begun != (sample.book, sample.absorbed):
                session.restore(opening, nothing)
                text = study.before(sample, 2 * window)
                ids = encode(engine.tokenizer, text, special=False)[-room:]
                list(session.absorb_ids(ids, learn=False))
                read, tokens, begun = session.snapshot(), list(session.tokens), (sample.book, sample.absorbed)
            session.restore(tokens, read)
            ids = encode(engine.tokenizer, document["text"], special=False)
            document.setdefault("judged", {})[name] = _nll(session, ids)
            write_json(study.path(sample), document)
    return name


def _nll(session: Any, ids: Sequence[int]) -> dict[str, float]:
    events = session.score_ids(ids, base=True, adapted=False)
    scored = [event for event in events if isinstance(event, ChunkScored)]
    return {"nll": sum(event.base_nll or 0.0 for event in scored), "tokens": sum(event.targets for event in scored)}
