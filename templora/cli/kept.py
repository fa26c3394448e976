"""`--session NAME`: what `write` does differently when the text is one that stays on disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from templora.cli.console import bar
from templora.cli.run import Run
from templora.config import TempLoraConfig
from templora.errors import OptionError
from templora.events import Event
from templora.store.saved import SavedSession
from templora.store.store import SessionStore

_LOADING = ("model", "dtype", "weights", "trust_remote_code")


class Kept:
    """A session on disk, begun by this command or gone on with.

    Args:
        options: the command's; how the model was loaded before is filled in, where it is not said.
        given: config fields from the command line.

    Raises:
        OptionError: they are not those that the session began with.
    """

    def __init__(self, options: dict[str, Any], given: dict[str, Any]) -> None:
        self.name: str = options["session"]
        self.store = SessionStore(options["sessions"])
        self._options = options
        self.begun = self.name in self.store
        if self.begun:
            self._take_over(options, given)

    def _take_over(self, options: dict[str, Any], given: dict[str, Any]) -> None:
        history = self.store.history(self.name)
        if options["adapter"] is not None and any(act.kind != "adapter" for act in history.acts):
            raise OptionError("adapter", f"session {self.name!r} has begun already, with an adapter of its own")
        begin = history.begin
        context = click.get_current_context()
        for option in _LOADING:
            if context.get_parameter_source(option) == ParameterSource.DEFAULT and option in begin["model"]:
                options[option] = begin["model"][option]
        config = TempLoraConfig.stored(begin["config"])
        for option, value in given.items():
            if getattr(TempLoraConfig.stored(begin["config"] | {option: value}), option) != getattr(config, option):
                raise OptionError(option, f"session {self.name!r} began with {getattr(config, option)}, and keeps that")
        given.update(begin["config"])

    def open(self, run: Run, engine: Any, config: TempLoraConfig) -> SavedSession:
        """The session, as it was left."""
        options = self._options
        if not self.begun:
            source = {option: options[option] for option in _LOADING}
            saved = self.store.create(self.name, engine, config, source=source, keep=options["keep"])
        else:
            run.console.chunk(f"going on with session {self.name} …")

            def progress(done: int, total: int) -> None:
                again = "doing again what came after the last snapshot"
                run.console.status(f"{bar(done, total)} {again}: {done:,}/{total:,}")

            saved = self.store.open(self.name, engine, keep=options["keep"], progress=progress)
            run.notes += saved.notes
        if options["adapter"] is not None:
            self._start_from(saved, options["adapter"])
        return saved

    def _start_from(self, saved: SavedSession, adapter: str) -> None:
        try:
            saved.load_adapter(adapter)
        except BaseException:
            saved.close()
            if not self.begun:
                self.store.discard(self.name)
            raise

    def stream(self, saved: SavedSession, prompt: str, how: dict[str, Any]) -> tuple[int, Iterator[Event]]:
        """How many tokens are to be written, and the events of writing them.

        A write that was cut short is gone on with if nothing else is asked for, or the same.
        """
        pending = saved.history.pending
        if pending and self._is_asked_again(saved, prompt):
            return saved.pending, saved.resume()
        if not saved.tokens and not prompt:
            raise OptionError("prompt", "there is nothing to go on from: give --prompt or --prompt-file")
        return how["max_new_tokens"], saved.stream(prompt, **how)

    def _is_asked_again(self, saved: SavedSession, prompt: str) -> bool:
        if not prompt:
            context = click.get_current_context()
            return context.get_parameter_source("tokens") == ParameterSource.DEFAULT
        given: list[int] = []
        for act in saved.history.acts[:-1]:
            given = given + act.ids if act.kind == "given" else []
        chat = bool(self._options["chat"])
        return given[-len(saved.session.encode(prompt, chat=chat)) :] == saved.session.encode(prompt, chat=chat)
