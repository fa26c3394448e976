"""Subtitles stay in step: timings, counters and styles as they were, as many lines in each cue."""

from __future__ import annotations

from pathlib import Path

import pysubs2
import pytest
from hypothesis import given, settings, strategies as st

from templora.errors import TextError
from templora.translation.documents import Document, open_document
from templora.translation.languages import language

GERMAN = language("to", "de")
SRT = """1
00:00:01,000 --> 00:00:04,000
The <i>keeper</i> climbed
the stairs of the tower.

2
00:00:04,500 --> 00:00:06,000 X1:40 Y1:20
- Who goes there?
- Nobody.

3
00:00:07,000 --> 00:00:08,000
♪ 1847 ♪

4
00:00:09.100 --> 00:00:11.200
{\\an8}<font color="#ff0000">Light</font> the lamp!
"""
VTT = """WEBVTT - Tower
Kind: captions

STYLE
::cue { color: lime }

NOTE The keeper --> is old

intro
00:01.000 --> 00:04.000 align:start position:10%
<v Keeper>Salt &amp; <b>sea</b></v>, he said

00:05.000 --> 01:00:06.000
A <00:05.500>word <c.loud>now</c>.
Another
"""
ASS = """[Script Info]
Title: Tower
[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:04.00,Default,,0,0,0,,{\\an8}The keeper, old,\\Nclimbed {\\i1}slowly{\\i0}.
Comment: 0,0:00:01.00,0:00:04.00,Default,,0,0,0,,not this
Dialogue: 0,0:00:05.00,0:00:06.00,Default,Ann,0,0,0,,{\\p1}m 0 0 l 100 0{\\p0}
Dialogue: 0,0:00:07.00,0:00:08.00,Default,,0,0,0,,Good\\hnight!
"""
FILES = {"a.srt": SRT, "a.vtt": VTT, "a.ass": ASS}


def document(name: str, text: str | bytes) -> Document:
    return open_document(name, text if isinstance(text, bytes) else text.encode())


def texts(name: str, text: str | bytes) -> list[str]:
    return [segment.text for segment in document(name, text).segments]


def written(name: str, text: str, **targets: str) -> str:
    """With these translations in place of the sources that have them."""
    made = document(name, text)
    return made.render([targets.get(s.text, s.text) for s in made.segments], GERMAN).decode()


def test_what_is_translated() -> None:
    assert texts("a.srt", SRT) == [
        "The <1>keeper</1> climbed the stairs of the tower.",
        "Who goes there?",
        "Nobody.",
        "<1>Light</1> the lamp!",
    ]
    assert texts("a.vtt", VTT) == [
        "<1>Salt & <2>sea</2></1>, he said",
        "A <1/>word <2>now</2>. Another",
    ]
    assert texts("a.ass", ASS) == ["The keeper, old, climbed <1/>slowly<2/>.", "Good\u00a0night!"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_is_not_changed_stays_to_the_byte(name: str, end: str, mark: str) -> None:
    raw = (mark + FILES[name].replace("\n", end)).encode()
    made = document(name, raw)
    assert made.render([segment.text for segment in made.segments], GERMAN) == raw
    assert texts(name, raw) == texts(name, FILES[name])
    # And so does all that is no text when it is changed.
    changed = made.render(["Ja"] * len(made.segments), GERMAN).decode()
    assert changed.startswith(mark)
    assert changed.count(end) + 1 >= len(raw.decode().split(end)) - 3


def test_two_lines_stay_two() -> None:
    target = "Der <1>Wärter</1> stieg die Treppe des Turms hinauf."
    found = written("a.srt", SRT, **{texts("a.srt", SRT)[0]: target})
    assert "\nDer <i>Wärter</i> stieg die\nTreppe des Turms hinauf.\n\n2\n" in found
    assert found.endswith(SRT[SRT.index("2\n00:00:04") :])
    # Where no word ends there is one line; without spaces lines end between characters.
    assert "\n4\n" in written("a.srt", SRT, **{texts("a.srt", SRT)[0]: "Hinauf!"})
    chinese = written("a.srt", SRT, **{texts("a.srt", SRT)[0]: "守塔人慢慢地爬上了塔楼的楼梯。"})
    first, second = chinese.split("\n")[2:4]
    assert first.replace("<i>", "").replace("</i>", "") + second == "守塔人慢慢地爬上了塔楼的楼梯。"
    assert abs(len(second) - 8) <= 1


def test_speakers_keep_their_lines_and_dashes() -> None:
    found = written("a.srt", SRT, **{"Who goes there?": "Wer da?", "Nobody.": "Niemand."})
    assert "\n- Wer da?\n- Niemand.\n" in found


@pytest.mark.parametrize("target", ["1 --> 2", "a\n\nb", "x --> 00:00:02,000", "7", "{x}\\N", "<b>&</b>"])
@pytest.mark.parametrize("name", FILES)
def test_no_translation_breaks_the_file(name: str, target: str, tmp_path: Path) -> None:
    made = document(name, FILES[name])
    out = made.render([target] * len(made.segments), GERMAN).decode()
    assert times(out) == times(FILES[name])


def times(text: str) -> list[tuple[int, int, str]]:
    return [(line.start, line.end, line.style) for line in pysubs2.SSAFile.from_string(text)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.lists(st.text(max_size=30), min_size=4, max_size=4))
def test_times_stay_whatever_is_written(name: str, targets: list[str]) -> None:
    made = document(name, FILES[name])
    out = made.render(targets[: len(made.segments)], GERMAN).decode()
    assert times(out) == times(FILES[name])


CUE = st.tuples(
    st.sampled_from(["", "1\n", "x\n"]),
    st.sampled_from(["00:00:01,000 --> 00:00:02,000", "0:1:02.5 --> 0:1:03.5 A:1", "1:02:03,1-->1:02:03,2", "--> x"]),
    st.lists(st.sampled_from(["A word", "- yes", "", " ", "<i>so", "</i> it", "7", "{\\an8}Hm", "字幕"]), max_size=4),
).map(lambda c: c[0] + c[1] + "\n" + "\n".join(c[2]) + "\n\n")


@settings(max_examples=100, deadline=None)
@given(st.lists(CUE, max_size=5).map("".join), st.sampled_from(["a.srt", "a.vtt"]))
def test_whatever_a_file_holds(text: str, name: str) -> None:
    raw = ("WEBVTT\n\n" * (name == "a.vtt") + text).encode()
    try:
        made = document(name, raw)
    except TextError:
        return
    assert made.render([segment.text for segment in made.segments], GERMAN) == raw


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.srt", "The keeper.\n", "a.srt: no SubRip subtitles: there is no line with a time in it"),
        ("a.vtt", "WEBVTT\n\nNOTE x\n", "a.vtt: no WebVTT subtitles"),
        ("a.ass", "[Events]\nFormat: Text\n", "a.ass: no SubStation Alpha subtitles"),
        ("a.srt", "", "empty"),
    ],
)
def test_what_is_none(name: str, text: str, said: str) -> None:
    with pytest.raises(TextError, match=said):
        document(name, text)


def test_a_large_file_takes_no_time_to_speak_of() -> None:
    text = "".join(f"{n}\n00:00:01,000 --> 00:00:02,000\n{'<i>' * 40}a{'x ' * 40}\n\n" for n in range(3000))
    made = document("a.srt", text)
    assert len(made.segments) == 3000
    assert len(document("a.srt", "00:00:01,000 --> 00:00:02,000\n" + "<" * 100_000 + "{\\" * 100_000).segments) == 0
