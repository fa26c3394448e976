"""`Study`: books are read, gone on with in several settings, and what is written is measured.

    book ─► read and learnt once, kept on disk ─► forked for each seed ─► written ─► measured ─► one JSON file

What takes long is a session on disk (`templora.store`), so whoever is stopped or killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from templora.config import TempLoraConfig
from templora.errors import OptionError, TextError
from templora.evals.continuation.figures import figures
from templora.evals.continuation.plan import SETTINGS, Sample, StudyPlan, slug
from templora.evals.continuation.voice import Voices
from templora.evals.measuring.run import Stopped
from templora.evals.measuring.texts import Text
from templora.events import Absorbed, Event, TokenEvent
from templora.reports.names import Book, words
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.runtime.files import sha256, told
from templora.store.store import SessionStore
from templora.text import decode, encode

if TYPE_CHECKING:
    from templora.engine.engine import Engine
    from templora.store.saved import SavedSession

SCHEMA = 1  # of the files
_MEASURED = 2  # grows when what is measured of a text changes: texts that are there are measured again
SLICE = 1000  # tokens of a long text that are measured together
_LATER = 100_000  # tokens of a book's later chapters that its voice is taken from
_MIN_LATER = 3  # texts as long as the written one that there must be of them


class _Shelf:
    """A book as the model reads it.

    Args:
        text: the book.
        ids: its tokens.
        tokenizer: of the model.
    """

    def __init__(self, text: Text, tokenizer: Any) -> None:
        self.text, self._tokenizer = text, tokenizer
        self.ids = encode(tokenizer, text.content, special=False)

    def part(self, begin: int, end: int) -> str:
        """The text of some of its tokens."""
        return decode(self._tokenizer, self.ids[begin:end])


def read_sample(path: Path) -> dict[str, Any]:
    """A sample's document.

    Raises:
        TextError: it cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ValueError("it is of another version of templora")
        Sample(*(document[name] for name in ("book", "absorbed", "setting", "seed")))
        [int(i) for i in document["ids"].split()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise TextError(f"{path}: cannot be read ({error}); delete it, and it is written again") from error
    assert isinstance(document, dict)
    return document


def _digest(adapter: Path) -> str:
    """What tells an adapter on disk from others."""
    with told(partial(OptionError, "adapter"), f"{adapter} cannot be read"):
        return sha256(*(sorted(adapter.iterdir()) if adapter.is_dir() else [adapter]))


# Told of a sample what is being done with it, and how many of how many tokens are done; `begins`: of how many samples.
Progress = Callable[[Sample, str, int, int], None]


class Study:
    """A study on its way.

    Args:
        plan: what is measured.
        engine: with which model.
        folder: of the results; goes on with what is there.
        progress: told now and then.
        stopping: asked after each event; if it says so, all that there is stays and `Stopped` is raised.

    Attributes:
        notes: what was left out, and why.

    Raises:
        OptionError: the folder holds another study's results.
        TextError: no book is long enough.
    """

    def __init__(
        self,
        plan: StudyPlan,
        engine: Engine,
        folder: Path,
        *,
        progress: Progress = lambda *_: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine, self.folder = engine, folder
        self._progress, self._stopping = progress, stopping
        self.notes: list[str] = []
        self._found: dict[tuple[str, int], Book] = {}
        self._books: dict[str, _Shelf] = {}
        longest = max(plan.absorbed)
        for text in plan.books:
            book = _Shelf(text, engine.tokenizer)
            needed = longest + _MIN_LATER * min(plan.written, SLICE) + plan.written
            if len(book.ids) < needed:
                self.notes.append(f"{text.name}: has {len(book.ids):,} tokens; {needed:,} are needed; it was left out")
            else:
                self._books[text.name] = book
        if not self._books:
            raise TextError(f"no book is long enough for this: {self.notes[0]}")
        positions = engine.model.max_positions
        settings = [name for name in plan.settings if SETTINGS[name].windows * plan.config.window <= positions]
        for name in plan.settings:
            if name not in settings:
                self.notes.append(f"{name}: longer than this model's {positions:,} positions; it was left out")
        self.plan = replace(plan, books=[book.text for book in self._books.values()], settings=settings)
        self._unfinished = folder / ".unfinished"
        self._store = SessionStore(self._unfinished / "sessions")
        self._claim()

    def _claim(self) -> None:
        """Makes the folder this study's, or finds that it is already."""
        plan, path = self.plan, self.folder / "study.json"
        wanted = {
            "schema": SCHEMA,
            "model": {"name": self.engine.name, "sha256": self.engine.model.fingerprint()},
            "config": plan.config.to_dict(),
            "sampling": asdict(plan.sampling),
            "written": plan.written,
            "adapter": _digest(plan.adapter) if plan.adapter else None,
            "books": {book.name: book.sha256 for book in plan.books},
        }
        wanted = json.loads(json.dumps(wanted))
        if path.exists():
            of_another_kind = (ValueError, LookupError, TypeError, AttributeError)
            with told(partial(OptionError, "out"), f"{path} cannot be read", *of_another_kind):
                # Of an earlier version it may lack what there is now.
                known = {"adapter": None, **json.loads(path.read_text(encoding="utf-8"))}
                known["config"] = TempLoraConfig.stored(known["config"]).to_dict()
                books = {**known["books"], **wanted["books"]}
                different = [name for name in wanted if name != "books" and known[name] != wanted[name]]
                different += [name for name, sha256 in known["books"].items() if books[name] != sha256]
            if different:
                raise OptionError("out", f"{self.folder} holds a study of another {different[0]}; choose a new folder")
            wanted["books"] = books
        self.folder.mkdir(parents=True, exist_ok=True)
        device = describe_device(self.engine.model.device, self.engine.threads)
        versions = self.engine.versions() | {"commit": source_commit()}
        write_json(path, wanted | {"device": device, "versions": versions})

    def run(self) -> None:
        """Writes and measures what is missing.

        Raises:
            Stopped: it was asked to stop.
        """
        samples = self.plan.samples
        for done, sample in enumerate(samples):
            self._progress(sample, "begins", done, len(samples))
            document = self.document(sample) or self._written(sample)
            if document.get("measured") != _MEASURED:
                found = self._measured(sample, [int(i) for i in document["ids"].split()])
                write_json(self.path(sample), document | found | {"measured": _MEASURED})
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def path(self, sample: Sample) -> Path:
        """The file of a sample."""
        return self.folder / f"{sample.key}.json"

    def document(self, sample: Sample) -> dict[str, Any] | None:
        """What is in that file; None if there is none.

        Raises:
            TextError: it cannot be read.
        """
        path = self.path(sample)
        return read_sample(path) if path.exists() else None

    def before(self, sample: Sample, tokens: int) -> str:
        """The last tokens, at most so many, that are read before a sample is written, as text."""
        return self._books[sample.book].part(max(0, sample.absorbed - tokens), sample.absorbed)

    # One text --------------------------------------------------------------------------------------------------

    def _written(self, sample: Sample) -> dict[str, Any]:
        """The document of a sample that is written now."""
        began = time.perf_counter()
        chunks: list[dict[str, Any]] = []
        if sample.setting == "author":
            ids = self._books[sample.book].ids[sample.absorbed : sample.absorbed + self.plan.written]
        else:
            ids, chunks = self._session_wrote(sample)
        seconds = time.perf_counter() - began
        said = " ".join(map(str, ids))  # in one line
        return {"schema": SCHEMA, **asdict(sample), "ids": said, "chunks": chunks, "seconds": seconds}

    def _measured(self, sample: Sample, ids: Sequence[int]) -> dict[str, Any]:
        """The figures of what was written."""
        tokenizer, window = self.engine.tokenizer, self.plan.config.window
        tokens = [*self._books[sample.book].ids[: sample.absorbed], *ids]
        slices = []
        for start in range(sample.absorbed, len(tokens), SLICE):
            part, before = tokens[start : start + SLICE], tokens[start - window : start]
            if len(part) == SLICE or start == sample.absorbed:
                text, near = decode(tokenizer, part), decode(tokenizer, before)
                slices.append(figures(text, part, near, self._known(sample), sample.book, self._voices))
        text = decode(tokenizer, ids)
        sizes = {"tokens": len(ids), "words": sum(1 for _ in words(text)), "bytes": len(text.encode())}
        return {**sizes, "slices": slices, "text": text}

    def _session_wrote(self, sample: Sample) -> tuple[list[int], list[dict[str, Any]]]:
        """The tokens that are written, and what became of each chunk that was learnt meanwhile."""
        name = sample.key
        if name in self._store and not any(act.kind == "write" for act in self._store.history(name).acts):
            self._store.discard(name)  # killed before it began to write
        saved = self._store.open(name, self.engine) if name in self._store else self._begun(sample)
        try:
            wanted, begun = self.plan.written, any(act.kind == "write" for act in saved.history.acts)
            events = saved.resume() if begun else saved.stream(max_new_tokens=wanted, sampling=self.plan.sampling)
            for event in events:
                if isinstance(event, TokenEvent):
                    self._watch(sample, "writing", wanted - saved.pending, wanted)
            write = next(act for act in saved.history.acts if act.kind == "write")
            learnt = [r.data for r in saved.history.records if r.kind == "learned" and r.data["end"] > write.start]
            chunks = [{name: data[name] for name in ("end", "committed", "reason")} for data in learnt]
            ids = list(write.ids)
        finally:
            saved.leave()
        self._store.discard(name)
        return ids, chunks

    def _begun(self, sample: Sample) -> SavedSession:
        """A session that has read what its setting says, and writes next."""
        setting, plan, book = SETTINGS[sample.setting], self.plan, self._books[sample.book]
        if setting.adapter == "own":
            self._store.fork(self._read(sample.book, sample.absorbed), sample.key)
            saved = self._store.open(sample.key, self.engine)
            saved.reseed(sample.seed)
            return saved
        adapter = self._adapter(self._other(sample.book), sample) if setting.adapter else None
        window = plan.config.window * setting.windows
        learning = plan.config.learning if setting.adapter else "off"
        config = replace(plan.config, window=window, seed=sample.seed, learning=learning)
        with contextlib.ExitStack() as stack:
            saved = stack.enter_context(self._store.create(sample.key, self.engine, config))
            for event in saved.absorb_events(book.part(max(0, sample.absorbed - window), sample.absorbed), learn=False):
                self._follow(sample, "reading", event)
            if adapter is not None:
                saved.load_adapter(adapter)
            stack.pop_all()
        return saved

    def _read(self, name: str, absorbed: int) -> str:
        """The session on disk that has read and learnt so much of a book."""
        session = f"{slug(name)}--{absorbed}--read"
        sample = Sample(name, absorbed, "own", 0)
        if session not in self._store:
            shorter = max((many for many in self.plan.absorbed if many < absorbed), default=None)
            if shorter is not None:
                self._store.fork(self._read(name, shorter), session)
            else:
                self._store.create(session, self.engine, self.plan.config).close()
        # Killed while it read, it does the rest of that when it is opened.
        opened = self._store.open(session, self.engine, progress=lambda *at: self._watch(sample, "reading", *at))
        with opened as saved:
            if self.plan.adapter and not saved.history.acts:
                saved.load_adapter(self.plan.adapter)
            done = max((mark["read"] for _, mark in saved.history.marks), default=0)
            if done < absorbed:
                text = self._books[name].part(done, absorbed)
                for event in saved.absorb_parts([(text, True)], mark={"read": absorbed}):
                    self._follow(sample, "reading and learning", event)
        return session

    def _adapter(self, name: str, sample: Sample) -> Path:
        """The folder of the adapter that has learnt so much of a book."""
        folder = self._unfinished / "adapters" / f"{slug(name)}--{sample.absorbed}"
        if not folder.exists():
            with self._store.open(self._read(name, sample.absorbed), self.engine) as saved:
                folder.parent.mkdir(parents=True, exist_ok=True)
                beside = folder.with_suffix(".part")
                shutil.rmtree(beside, ignore_errors=True)
                saved.save_adapter(beside)
            beside.rename(folder)
        return folder

    def _other(self, name: str) -> str:
        """The book whose adapter is another one's, for this book: the next one."""
        names = list(self._books)
        return names[(names.index(name) + 1) % len(names)]

    def _follow(self, sample: Sample, what: str, event: Event) -> None:
        if isinstance(event, Absorbed):
            self._watch(sample, what, event.done, event.total)

    def _watch(self, sample: Sample, what: str, done: int, total: int) -> None:
        self._progress(sample, what, done, total)
        if self._stopping():
            raise Stopped

    # The books -------------------------------------------------------------------------------------------------

    def _known(self, sample: Sample) -> Book:
        """What may come back from a sample's book."""
        key = sample.book, sample.absorbed
        if key not in self._found:
            others = {word for name, of in self._vocabularies.items() if name != sample.book for word in of}
            book = self._books[sample.book]
            read, alone = book.part(0, sample.absorbed), len(self._books) == 1
            self._found[key] = Book(read, book.text.content, None if alone else others)
        return self._found[key]

    @cached_property
    def _vocabularies(self) -> dict[str, set[str]]:
        """The words of each book, in lower case."""
        return {name: {w.text.lower() for w in words(book.text.content)} for name, book in self._books.items()}

    @cached_property
    def _voices(self) -> Voices:
        """The voices of the later chapters, which nobody is given to read."""
        begin, many = max(self.plan.absorbed) + self.plan.written, min(self.plan.written, SLICE)
        later = {name: book.part(begin, begin + _LATER) for name, book in self._books.items()}
        sizes = [sum(1 for _ in words(book.part(begin, begin + many))) for book in self._books.values()]
        return Voices(later, max(1, sum(sizes) // len(sizes)))
