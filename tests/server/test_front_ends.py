"""What front ends do to a conversation: swipe, edit, forget, ask for titles, put lore between messages. Nothing is
learnt but what they kept: the adapter is, to the bit, what it is of a session that only ever saw that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TEXT
from serving import Serving, serving
from test_openai import ASCII, call

from templora.store.store import SessionStore

LONG_ONE = "Tell me more. " + TEXT  # several chunks


class Chat:
    """A conversation as a front end holds it."""

    def __init__(self, server: Serving, **headers: str) -> None:
        self.server, self.headers = server, headers
        self.messages: list[dict[str, str]] = []
        self.session = ""

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def ask(self, messages: list[dict[str, str]] | None = None) -> str:
        """An answer, which the front end has not kept yet."""
        body = {
            "model": "tiny:temp",
            "messages": messages or self.messages,
            "max_tokens": 40,
            "ignore_eos": True,
            "logit_bias": ASCII,
        }
        status, said, told = call(self.server, "POST", "/v1/chat/completions", body, **self.headers)
        assert status == 200, said
        self.session, self.kept = told["x-templora-session"], told.get("x-templora-kept", "yes")
        return str(said["choices"][0]["message"]["content"])

    def turn(self, text: str) -> str:
        """Asks, and keeps the answer."""
        self.user(text)
        said = self.ask()
        self.messages.append({"role": "assistant", "content": said})
        return said


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as made:
        yield made


def text_of(server: Serving, name: str) -> str:
    return str(call(server, "GET", f"/v1/sessions/{name}/text")[1])


def check_only_what_was_kept_is_learnt(server: Serving, name: str, tmp_path: Path) -> None:
    """Goes over what counts of the log once more, from its beginning."""
    known = server.directory.tenant("").known[name]
    assert known.saved is not None
    store, learnt = SessionStore(tmp_path), known.saved.session.adapter_weights()
    assert known.saved.session.version > 0
    store.fork(name, "again")
    for snapshot in (tmp_path / "again" / "files").iterdir():
        snapshot.unlink()
    with store.open("again", server.directory.engine) as again:
        assert again.tokens == known.saved.tokens
        assert again.session.adapter_weights().equal(learnt)


def test_swipes(server: Serving, tmp_path: Path) -> None:
    chat = Chat(server)
    chat.turn(LONG_ONE)
    chat.user(LONG_ONE)
    swiped = {chat.ask() for _ in range(4)}
    assert len(swiped) == 4
    kept = chat.ask()
    chat.messages.append({"role": "assistant", "content": kept})
    chat.turn("And then?")
    text = text_of(server, chat.session)
    assert kept in text
    assert not any(said in text for said in swiped - {kept})
    check_only_what_was_kept_is_learnt(server, chat.session, tmp_path)


def test_an_edit_in_the_past(server: Serving, tmp_path: Path) -> None:
    chat = Chat(server)
    first = chat.turn(LONG_ONE)
    second = chat.turn(LONG_ONE)
    session = chat.session
    chat.messages[1]["content"] = "An answer of my own."
    chat.user("Go on.")
    chat.headers = {"x-templora-session": session}  # without it, it might be anybody's who began so
    chat.ask()
    text = text_of(server, session)
    assert chat.session == session
    assert "An answer of my own." in text
    assert first not in text
    assert second in text  # the client has it still: it is read again, as given
    check_only_what_was_kept_is_learnt(server, session, tmp_path)


def test_old_messages_that_were_left_out(server: Serving, tmp_path: Path) -> None:
    chat = Chat(server)
    for i in range(4):
        chat.turn(f"Message {i}. " + TEXT)
    session, before = chat.session, text_of(server, chat.session)
    chat.messages = chat.messages[3:]
    chat.turn("Do you remember?")
    assert chat.session == session
    assert text_of(server, session).startswith(before)
    check_only_what_was_kept_is_learnt(server, session, tmp_path)


def test_titles_tags_and_summaries(server: Serving, tmp_path: Path) -> None:
    chat = Chat(server, **{"x-openwebui-chat-id": "7d1"})
    chat.turn(LONG_ONE)
    before = text_of(server, chat.session)
    for ask in ("Make a title for this:\n" + TEXT, "Three tags, please."):
        chat.ask([{"role": "user", "content": ask}])
        assert chat.kept == "no"
        assert text_of(server, chat.session) == before
    chat.turn("Go on.")
    assert chat.kept == "yes"
    check_only_what_was_kept_is_learnt(server, chat.session, tmp_path)


def test_lore_between_messages(server: Serving, tmp_path: Path) -> None:
    """It stands in every window, wherever it was put, as long as it is sent; it is no part of the text."""
    chat = Chat(server)
    chat.messages.append({"role": "system", "content": "Keep lamps."})
    chat.turn(LONG_ONE)
    session = chat.session
    known = server.directory.tenant("").known[session]
    for lore in ("Ann: old", "Bob: new"):
        chat.user("Who is here?")
        sent = [*chat.messages[:-1], {"role": "system", "content": lore}, chat.messages[-1]]
        chat.messages.append({"role": "assistant", "content": chat.ask(sent)})
        assert chat.session == session
        assert known.saved is not None
        assert known.saved.notes == f"<|im_start|>system\nKeep lamps.\n\n{lore}<|im_end|>\n"
    text = text_of(server, session)
    assert not any(lore in text for lore in ("Keep lamps", "Ann", "Bob"))
    assert text.count("Who is here?") == 2
    check_only_what_was_kept_is_learnt(server, session, tmp_path)
