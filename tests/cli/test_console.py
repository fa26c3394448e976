"""The panel, on an emulated terminal: what streams above it is what a terminal shows without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pyte
import pytest
from hypothesis import given, settings, strategies as st

from templora.cli import console as module, streams
from templora.cli.console import Console, Pace
from templora.cli.terminal import Cursor, fitted


class Terminal:
    """A stream into an emulated terminal."""

    encoding = "utf-8"

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=100_000)
        self._stream = pyte.Stream(self.screen)

    def write(self, text: str) -> int:
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 77

    def resize(self, columns: int, rows: int) -> None:
        self.screen.resize(rows, columns)

    @property
    def lines(self) -> list[str]:
        """All that was shown, from the first line on."""
        held = [*self.screen.history.top, *(self.screen.buffer[y] for y in range(self.screen.lines))]
        found = ["".join(line[x].data for x in range(max([*line, 0]) + 1)).rstrip() for line in held]
        while found and not found[-1]:
            found.pop()
        return found


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("TERM", "xterm")
    yield monkeypatch
    streams.watching.clear()


def attach(patched: pytest.MonkeyPatch, columns: int, rows: int) -> Terminal:
    terminal = Terminal(columns, rows)
    patched.setattr(sys, "stdout", terminal)
    patched.setattr(sys, "stderr", terminal)
    size = lambda _: os.terminal_size((terminal.screen.columns, terminal.screen.lines))  # noqa: E731
    patched.setattr(module.os, "get_terminal_size", size)
    return terminal


# What terminals draw as wide as pyte does: emoji of several characters are no matter of ours there.
LETTERS = st.one_of(
    st.text("abc xyz", min_size=1, max_size=30),
    st.text("灯塔看守人。、", min_size=1, max_size=20),
    st.text("🙂🔥a", min_size=1, max_size=8),
    st.sampled_from(
        ["e\u0301", "\n", "\n\n", "“Wer da?” ", "한국어", "\u1112\u1161\u11ab", "नमस्ते", "שלום", " ", "½—…×", "a\tb"]
    ),
)


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(LETTERS, min_size=1, max_size=40),
    columns=st.integers(20, 200),
    rows=st.integers(6, 12),
    said=st.sampled_from(["STATUS", "STATUS " + "█░·" * 90, "STATUS 灯塔" * 40]),
)
def test_what_streams_is_what_is_shown(pieces: list[str], columns: int, rows: int, said: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TERM", "xterm")
        plain, terminal = Terminal(columns, rows), attach(patched, columns, rows)
        with Console() as console:
            console.status(said, now=True)
            assert terminal.screen.display[-1].startswith("STATUS")
            for piece in pieces:
                plain.write(piece)
                streams.print_out(piece)
                console.status(said, now=True)
            console.line("")
        # Whether a line that ends with an accent in the last column has ended, terminals do not agree.
        assert terminal.lines == plain.lines


@pytest.mark.parametrize("columns", [20, 40, 80, 101, 200])
def test_a_line_of_any_length_loses_no_letter(patched: pytest.MonkeyPatch, columns: int) -> None:
    for letters in ("abcdefghij", "灯塔看守人爬上楼梯"):
        terminal = attach(patched, columns, 12)
        text = (letters * 60)[:450]
        with Console() as console:
            for letter in text:
                streams.print_out(letter)
                console.status("STATUS", now=True)
            console.line("receipt")
        assert "".join(terminal.lines[:-1]) == text
        assert terminal.lines[-1] == "receipt"


@pytest.mark.parametrize(
    "sizes", [[(60, 20)], [(30, 20), (90, 20)], [(40, 30)], [(25, 24), (60, 40)], [(8, 20), (50, 20)]]
)
def test_a_terminal_that_is_resized_is_left_clean(patched: pytest.MonkeyPatch, sizes: list[tuple[int, int]]) -> None:
    terminal = attach(patched, 40, 20)
    with Console() as console:
        for number, size in enumerate([(40, 20), *sizes]):
            terminal.resize(*size)
            for line in range(30):
                streams.print_out(f"text {number}")
                console.status("STATUS", now=True)
                streams.print_out(f"-{line}\n")
                console.status("STATUS", now=True)
        assert terminal.screen.display[-1].rstrip() == "STATUS"
        assert set(terminal.screen.display[-2]) == {"─"}
        console.line("receipt")
    wanted = [f"text {number}-{line}" for number in range(len(sizes) + 1) for line in range(30)]
    found = [line for line in terminal.lines if line]
    if min(columns for columns, _ in sizes) > 20:
        assert found == [*wanted, "receipt"]
    assert not any("─" in line or "STATUS" in line for line in found)


def test_a_small_or_dumb_terminal_has_no_panel(patched: pytest.MonkeyPatch) -> None:
    terminal = attach(patched, 40, 5)
    with Console() as console:
        console.status("STATUS", now=True)
        terminal.resize(40, 20)
        console.status("STATUS", now=True)
        assert terminal.screen.display[-1].startswith("STATUS")
        terminal.resize(40, 4)
        console.status("STATUS", now=True)
        streams.print_out("text\n")
        console.line("receipt")
    assert "receipt" in terminal.lines


def test_text_that_goes_elsewhere_moves_no_cursor(patched: pytest.MonkeyPatch, capsys: Any) -> None:
    terminal = attach(patched, 40, 20)
    patched.setattr(sys, "stdout", open(os.devnull, "w"))  # noqa: SIM115
    with Console() as console:
        for _ in range(3):
            streams.print_out("x" * 40)
            console.status("STATUS", now=True)
        assert terminal.screen.display[-1].startswith("STATUS")
        console.line("receipt")
    sys.stdout.close()
    assert terminal.lines == ["receipt"]


def test_where_the_cursor_may_stand() -> None:
    cursor = Cursor(10)
    assert cursor.at_start
    cursor.feed("abcdefghij")
    assert cursor.may_be_last
    cursor.feed("k")
    assert not cursor.may_be_last
    assert not cursor.at_start
    cursor.feed("\n")
    assert cursor.at_start
    cursor.feed("灯塔看守…")  # perhaps two columns wide
    assert cursor.may_be_last
    cursor.feed("\nab\x1b[3C")  # whatever that does
    assert cursor.may_be_last
    cursor.feed("\nabcdefghijklmno")
    cursor.resize(15)
    assert cursor.may_be_last
    assert fitted("a灯b", 2) == "a"


def test_the_time_left_is_that_of_recent_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that took an hour to read, 8 tokens of 1 s, a chunk of 4 s; then all of it ten times as fast."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    pace = Pace()
    assert pace.left(token=5) == "?"
    now += 3600
    pace.took("read", 100)
    for _ in range(8):
        now += 1
        pace.took("token", 1)
    now += 4
    pace.took("chunk", 1)
    assert pace.each("token") == 1
    assert pace.left(token=100, chunk=100 / 8) == "2 min 30 s"
    for _ in range(8):
        now += 0.1
        pace.took("token", 1)
        now += 0.4
        pace.took("chunk", 1)
    assert pace.left(token=100, chunk=100 / 8) == "15 s"
    now += 50
    pace.start()
    now += 0.1
    pace.took("token", 1)
    assert pace.left(token=100, chunk=100 / 8) == "15 s"
