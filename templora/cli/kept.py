"""`--session NAME`: what `write` does differently when the text is one that stays on disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from templora.cli.console import bar
from templora.cli.run import Run
from templora.config import TempLoraConfig
from templora.errors import ModelError, OptionError
from templora.events import Event
from templora.loading import find, held
from templora.store.edited import edited, reading
from templora.store.history import History
from templora.store.saved import SavedSession
from templora.store.store import SessionStore
from templora.text import decode, opening_ids

_LOADING = ("model", "dtype", "weights")


def how_it_was_loaded(store: SessionStore, history: History, options: Mapping[str, Any]) -> dict[str, Any]:
    """What this command line does not say of the model, from a session's log.

    A log may be anybody's. So it can name a model, which is then read as data alone (`named_by_file`), but none that
    came with the session, and it never says whether a model's Python is run.

    Args:
        store, history: of the session.
        options: of the command that is running.

    Raises:
        ModelError: the model that it names is in the folder of sessions, or not there.
        OptionError: code of a model is trusted that this command line does not name.
    """
    context, said = click.get_current_context(), history.begin["model"]
    unsaid = [o for o in _LOADING if context.get_parameter_source(o) in (None, ParameterSource.DEFAULT)]
    found = {option: said[option] for option in unsaid if option in said}
    if found.get("weights") == "auto":  # what it came to is said since it was not always the same
        found["weights"] = "unpacked"
    if "model" not in unsaid:
        return found
    found = {"model": said["name"], **found, "named_by_file": True}
    model = found["model"]
    if options["trust_remote_code"]:
        raise OptionError("trust_remote_code", f"say whose code: the session names {model!r}; give it as --model too")
    where = find(model)
    if isinstance(where, Path) and where.resolve().is_relative_to(store.folder.resolve()):
        raise ModelError(f"{model}: this model came with the sessions and is not read; name yours with --model")
    return found


class Kept:
    """A session on disk, begun by this command or gone on with.

    Args:
        options: the command's; how the model was loaded before is filled in, where it is not said.
        given: config fields from the command line.

    Attributes:
        there: it is on disk.
        before: tokens that it had when this run began.
        begun: and there is something of its text. What a run left that failed before that is begun anew.

    Raises:
        OptionError: they are not those that the session began with.
        StoreError: no session can have the name, or somebody uses it.
    """

    def __init__(self, options: dict[str, Any], given: dict[str, Any]) -> None:
        self.name: str = options["session"]
        self.store = SessionStore(options["sessions"])
        self._options = options
        self.store.check(self.name)
        self.there = self.name in self.store
        self.begun = self.there and not _is_empty(history := self.store.history(self.name))
        self._prompt, self._draft, self._again = "", False, False
        self.before = 0
        if not self.begun:
            return
        if options["adapter"] is not None and any(act.kind != "adapter" for act in history.acts):
            raise OptionError("adapter", f"session {self.name!r} has begun already, with an adapter of its own")
        begin = history.begin
        options.update(how_it_was_loaded(self.store, history, options))
        config = TempLoraConfig.stored(begin["config"])
        for option, value in given.items():
            if getattr(TempLoraConfig.stored(begin["config"] | {option: value}), option) != getattr(config, option):
                raise OptionError(option, f"session {self.name!r} began with {getattr(config, option)}, and keeps that")
        given.update(begin["config"])

    def read(self, prompt: str, draft: bool | None) -> None:
        """What is to be read before it is written on: a text that comes after the session's, or that one, edited.

        Args:
            prompt: the text.
            draft: which of them it is; None: whichever it is like.

        Raises:
            OptionError: it may be either.
        """
        self._prompt, chat = prompt, bool(self._options["chat"])
        if draft and (chat or not self.begun):
            raise OptionError("draft", "a draft is no turn of a chat" if chat else "there is nothing of the text yet")
        if not self.begun or not prompt or chat or draft is False:
            return
        history = self.store.history(self.name)
        given = "".join(act.data["text"] for act in history.given_last)
        if draft is None and history.pending and given.endswith(prompt):
            return  # the command that was cut short, once more
        found = "draft" if draft else reading(history, prompt)
        if found == "unclear":
            raise OptionError(
                "draft",
                f"session {self.name!r} has much of this text already: with --draft it takes that text's place from "
                "the first difference on, with --no-draft it comes after it, without a prompt the session goes on",
            )
        self._draft = found == "draft"

    def _take_up(self, run: Run, tokenizer: Any) -> None:
        """Takes back what a draft changed; the rest of it is what is to be read."""
        history = self.store.history(self.name)

        def whole(position: int) -> bool:
            return not decode(tokenizer, history.tokens[max(0, position - 8) : position]).endswith("\ufffd")

        draft = edited(history, self._prompt, whole, back=bool(self._options["draft"]))
        self._prompt, self._again = draft.rest, draft.again
        read = f"{len(draft.rest):,} characters of the prompt are read from there"
        if draft.chunks is not None:
            self.store.rewind(self.name, draft.chunks)
            stay = "1 chunk stays" if draft.chunks == 1 else f"{draft.chunks} chunks stay"
            note = f"an edited draft of the session's text: {stay}, what came after was taken back, and {read}"
        elif draft.rest:
            note = f"the prompt begins with the session's text, which stays: {read}"
        else:
            note = "the session has all of the prompt already, and goes on at its end; with --draft, at the prompt's"
        run.console.chunk(note)
        run.notes.append(note)

    @contextlib.contextmanager
    def open(self, run: Run, engine: Any, config: TempLoraConfig, notes: str | None = None) -> Iterator[SavedSession]:
        """The session, as it was left, but for the notes, where others are given. Of one that was begun here nothing
        stays if it comes to nothing."""
        if notes is None and self.there and not self.begun:  # what failed before there was a text had some
            notes = self.store.history(self.name).notes["notes"]
        if notes:  # refused before anything is taken back, or thrown away
            _check_notes(engine, config, notes)
        saved = self._opened(run, engine, config, notes or "")
        try:
            with saved:
                if notes is not None and self.begun:
                    self._change(run, saved, notes)
                if self._options["adapter"] is not None:
                    saved.load_adapter(self._options["adapter"])
                yield saved
        finally:
            if not self.begun and _is_empty(saved.history):
                self.store.discard(self.name)

    def _change(self, run: Run, saved: SavedSession, notes: str) -> None:
        """Has these notes stand in the session's windows; says so if others did."""
        before = saved.notes
        saved.set_notes(notes)
        if saved.notes != before:
            tokens = saved.history.notes["tokens"]
            run.notes.append(f"the session's notes were changed: {tokens:,} tokens" if tokens else "its notes are gone")
            run.console.chunk(run.notes[-1])

    def _opened(self, run: Run, engine: Any, config: TempLoraConfig, notes: str) -> SavedSession:
        options = self._options
        if not self.begun:
            if self.there:
                self.store.discard(self.name)
            source = {option: options[option] for option in _LOADING}
            where = find(options["model"])
            source["weights"] = held(where, options["device"], options["dtype"], options["weights"])
            if isinstance(where, Path):  # to be found from any folder
                source["model"] = os.path.abspath(where)
            return self.store.create(self.name, engine, config, source=source, keep=options["keep"], notes=notes)
        if self._draft:
            self._take_up(run, engine.tokenizer)
        run.console.chunk(f"going on with session {self.name} …")

        def progress(done: int, total: int) -> None:
            again = "doing again what came after the last snapshot"
            run.console.status(f"{bar(done, total)} {again}: {done:,}/{total:,}")

        began = time.perf_counter()
        saved = self.store.open(self.name, engine, keep=options["keep"], progress=progress)
        run.notes += saved.remarks
        run.texts[-1].goes_on(saved.session, time.perf_counter() - began)
        for event in saved.late:
            run.texts[-1].add(event)
        self.before = len(saved.tokens)
        return saved

    def report(self) -> dict[str, Any]:
        """What a run's report has of it: none of it if it is there no more."""
        if self.name not in self.store:
            return {}
        return {"session": {"name": self.name, "tokens_before": self.before}}

    def stream(self, saved: SavedSession, how: dict[str, Any]) -> tuple[int, Iterator[Event]]:
        """How many tokens are to be written after what `read` was told, and the events of writing them.

        A write that was cut short is gone on with if nothing else is asked for, or the same.
        """
        pending, prompt = saved.history.pending, self._prompt
        if pending and (self._again or self._is_asked_again(saved, prompt)):
            return saved.pending, saved.resume()
        if not saved.tokens and not prompt:
            raise OptionError("prompt", "there is nothing to go on from: give --prompt or --prompt-file")
        return how["max_new_tokens"], saved.stream(prompt, **how)

    def _is_asked_again(self, saved: SavedSession, prompt: str) -> bool:
        if not prompt:
            context = click.get_current_context()
            return context.get_parameter_source("tokens") == ParameterSource.DEFAULT
        given = [token for act in saved.history.given_last for token in act.ids]
        asked = saved.session.encode(prompt, chat=bool(self._options["chat"]))
        return given[-len(asked) :] == asked


def _check_notes(engine: Any, config: TempLoraConfig, notes: str) -> None:
    """Raises OptionError, or TextError, if a session cannot have these."""
    from templora.methods.base import Method
    from templora.session.notes import Notes

    Notes.of(notes, engine.encode, Method(), config, len(opening_ids(engine.tokenizer)))


def _is_empty(history: History) -> bool:
    """Whether nothing was given to a session, written or translated yet."""
    return all(
        record.kind in ("begin", "adapter", "seed", "notes") or (record.kind == "mark" and "translation" in record.data)
        for record in history.records
    )
