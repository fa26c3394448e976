"""`warm_start`: an adapter that has learnt other texts, for new ones to begin from.

    texts ─► pieces, of each text in turn ─► sessions on disk, the rate falling ─► an adapter, in PEFT's format

Two fifths of what an adapter learns of a book is manner, which other books share. Whoever begins with that has it from
the first token on. In turn, so that no text is the last one, which would count most; and the last steps are small, so
that the very last chunks do not count most either.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from templora.errors import OptionError, TextError
from templora.events import ChunkLearned
from templora.runtime.files import told
from templora.store.store import SessionStore
from templora.text import encode, text_pieces

if TYPE_CHECKING:
    from templora.config import TempLoraConfig
    from templora.engine.engine import Engine

_PIECE = 4  # chunks of a text that are read in one go
# Up to which share of the pieces, and at which share of the rate. Each stage is a session of its own.
_STAGES = (0.75, 1.0), (0.875, 0.5), (1.0, 0.2)

Progress: TypeAlias = Callable[[int, int, ChunkLearned | None], None]


class WarmStart:
    """Texts that are learnt, one time each.

    Killed or left at any moment, it goes on when it is begun again with the same model, texts and config: what there is
    of it stays beside `out` until the adapter is there.

    Args:
        engine: the model.
        texts: to be learnt.
        out: a folder that is not there yet.
        config: of the session that learns; later ones must give their adapters the same shape.
        most: only so many of the first tokens of each text.

    Attributes:
        tokens: of all texts.

    Raises:
        OptionError: `out` is there already, or nothing is to be learnt.
        TextError: all texts together are shorter than a chunk.
    """

    def __init__(
        self, engine: Engine, texts: Sequence[str], out: Path, config: TempLoraConfig, most: int | None = None
    ) -> None:
        check(out, config)
        self._engine, self._out, self._config = engine, out, config
        self._pieces = _in_turn(engine.tokenizer, texts, most, _PIECE * config.chunk_size)
        self.tokens = sum(many for many, _ in self._pieces)
        if self.tokens < config.chunk_size:
            raise TextError(f"all texts have {self.tokens} tokens together, and a chunk has {config.chunk_size}")
        asked = [engine.identity(), config.to_dict(), [text for _, text in self._pieces]]
        self._name = "warm-start-" + hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
        self._store = SessionStore(out.with_name(out.name + ".unfinished"))

    def run(self, progress: Progress = lambda *_: None) -> tuple[int, int]:
        """Learns what is not learnt yet, and saves the adapter.

        Args:
            progress: told how many tokens of how many are learnt, and what became of a chunk. What it raises ends this,
                and nothing is lost.

        Returns:
            How many chunks were learnt, and how many were not.
        """
        store, begin, before = self._store, 0, 0
        start: Path | None = None  # what a stage begins with
        stages: list[str] = []
        for number, (share, rate) in enumerate(_STAGES):
            end = round(share * len(self._pieces))
            pieces, begin = self._pieces[begin:end], end
            if pieces:
                name = f"{self._name}-{number}"
                learnt = store.folder / f"{name}-adapter"
                if not (learnt / "adapter_config.json").exists():  # which is put there last
                    self._stage(name, pieces, rate, start, learnt, before, progress)
                stages, start, before = [*stages, name], learnt, before + sum(many for many, _ in pieces)
        if self._out.suffix == ".gguf":
            with store.open(stages[-1], self._engine) as saved:
                saved.save_adapter(self._out)
        elif start:  # that of the last stage: it is there whole, or not at all
            with told(partial(OptionError, "out"), f"{self._out} cannot be written"):
                start.rename(self._out)
        records = [record for name in stages for record in store.history(name).records if record.kind == "learned"]
        for name in stages:
            store.discard(name)
            shutil.rmtree(store.folder / f"{name}-adapter", ignore_errors=True)
        with contextlib.suppress(OSError):  # other texts may be learnt beside these
            store.folder.rmdir()
        committed = sum(record.data["committed"] for record in records)
        return committed, len(records) - committed

    def _stage(
        self,
        name: str,
        pieces: Sequence[tuple[int, str]],
        rate: float,
        start: Path | None,
        out: Path,
        before: int,
        progress: Progress,
    ) -> None:
        """Learns some pieces in a session of this name, from the adapter `start`, at a share of the rate, and saves
        what comes of it; `before` tokens were learnt in others."""
        store, config = self._store, self._config
        if rate < 1:
            full = config.learning_rate or config.rate_scale * self._engine.learning_rate(config)
            config = replace(config, learning_rate=rate * full)
        if name not in store:
            store.create(name, self._engine, config).close()
        many = len(store.history(name).tokens)

        def again(done: int, of: int) -> None:
            progress(before + many - of + done, max(before + many, self.tokens), None)

        # Killed while it read, it does the rest of that when it is opened.
        with store.open(name, self._engine, progress=again) as saved:
            if start and not saved.history.acts:
                saved.load_adapter(start)
            if not any(act.kind == "given" for act in saved.history.acts):
                for event in saved.absorb_parts([(text, True) for _, text in pieces]):
                    if isinstance(event, ChunkLearned):
                        progress(before + event.end, max(before + event.end, self.tokens), event)
            saved.close_chunk()
            saved.save_adapter(out)


def check(out: Path, config: TempLoraConfig) -> None:
    """Finds out early whether there could be an adapter there.

    Raises:
        OptionError: there could not.
    """
    if config.learning == "off":
        raise OptionError("learning", "must not be off: an adapter is to learn these texts")
    with told(partial(OptionError, "out"), f"{out} cannot be written", ValueError):
        there, writable = os.path.lexists(out), os.access(out.resolve().parent, os.W_OK | os.X_OK)
    if there:
        raise OptionError("out", f"{out} is there already; choose a new one")
    if not writable:
        raise OptionError("out", f"{out} cannot be written: there is no folder {out.parent} that takes new files")


def _in_turn(tokenizer: Any, texts: Sequence[str], most: int | None, size: int) -> list[tuple[int, str]]:
    """(tokens, text) of pieces of so many tokens, the first of each text, then the second of each, and so on."""
    shelves = []
    for text in texts:
        ids = encode(tokenizer, text, special=False)[:most]
        cuts = range(size, len(ids), size)
        lengths = [min(size, len(ids) - begin) for begin in (0, *cuts)]
        shelves.append(list(zip(lengths, text_pieces(tokenizer, [], ids, cuts), strict=True)))
    return [piece for pieces in zip_longest(*shelves) for piece in pieces if piece]
