"""Catalogues of gettext (.po, .pot): their messages, and where in the file the translations are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from templora.errors import TextError
from templora.text_files import BOM

_LINE = re.compile(r"([^\r\n]*)(\r\n?|\n|\Z)")
_STRING = re.compile(r'[ \t]*(?:(msgctxt|msgid_plural|msgid|msgstr(?:\[\d{1,2}\])?)[ \t]*)?"(.*)"[ \t]*')
_ESCAPE = re.compile(r'\\(?:x([\da-fA-F]{1,2})|([0-7]{1,3})|(.))|["\\]')
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", '"': '"', "\\": "\\"}
_ESCAPED = str.maketrans({character: f"\\{letter}" for letter, character in _LETTERS.items()})
_FUZZY = re.compile(r",[ \t]*fuzzy[ \t]*(?=,|\Z)")


@dataclass
class Message:
    """A message.

    Args:
        start: of its first line that is no comment, in the file.
        texts: what it says, by keyword: `msgid`, `msgid_plural`, `msgctxt`, and `msgstr` or `msgstr[0]`, `msgstr[1]`.
        spans: where its translations are, by keyword, without the end of the last line.
        flags: its lines of flags: where they begin, where the next line does, and what they say.
        newline: the end of its lines.
    """

    start: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)
    flags: list[tuple[int, int, str]] = field(default_factory=list)
    newline: str = "\n"

    @property
    def named(self) -> set[str]:
        """Its flags."""
        return {name.strip() for *_, line in self.flags for name in line[2:].split(",")}

    @property
    def untranslated(self) -> bool:
        """Whether a translation of it is missing, or is marked as one that may not fit."""
        return "fuzzy" in self.named or not all(self.texts[key] for key in self.spans)

    def translated(self, source: str, values: Mapping[str, str], *, fuzzy: bool) -> Iterator[tuple[int, int, str]]:
        """Edits of the file; what is translated already, and not marked as fuzzy, stays.

        Args:
            source: the file.
            values: all translations, by keyword.
            fuzzy: whether to mark them.
        """
        was = "fuzzy" in self.named
        kept = {key for key in self.spans.keys() & values.keys() if self.texts[key] and not was}
        lines = (
            source[slice(*self.spans[key])] if key in kept else _written(key, value, self.newline)
            for key, value in values.items()
        )
        spans = self.spans.values()
        yield min(spans)[0], max(spans)[1], self.newline.join(lines)
        if fuzzy and not was:
            at = self.flags[0][0] if self.flags else self.start
            yield (at, at + 2, "#, fuzzy,") if self.flags else (at, at, f"#, fuzzy{self.newline}")
        for at, behind, line in self.flags if was and not fuzzy else ():
            left = _FUZZY.sub("", f",{line[2:]}")[1:]
            yield (at + 2, at + len(line), left) if left.strip() else (at, behind, "")


def messages(label: str, text: str) -> Iterator[Message]:
    """The messages of a catalogue but for those that are obsolete, in order; its header is the one without a text.

    Args:
        label: its name, for errors.
        text: of it.

    Raises:
        TextError: it is no catalogue; names the line.
    """
    message, said, key = Message(), dict[str, list[str]](), ""
    for number, match in enumerate(_LINE.finditer(text), 1):
        at, line = match.start(), match[1]
        if number == 1 and line.startswith(BOM):
            at, line = at + 1, line[1:]
        bare = line.strip()
        if not bare:
            continue
        string = _STRING.fullmatch(line)
        if message.spans and (bare[0] == "#" or (string and string[1] in ("msgctxt", "msgid"))):
            yield _ended(label, number, message, said)
            message, said, key = Message(), {}, ""
        if bare[0] == "#":
            if bare.startswith("#~") and not said:
                message = Message()  # its flags were those of an obsolete one
            elif bare.startswith("#,"):
                message.flags.append((at + line.index("#"), match.end(), bare))
            continue
        if not string or not (string[1] or key) or string[1] in said:
            raise TextError(f"{label}: line {number}: {_NONE}: {bare[:40]!r}")
        if string[1]:
            if not said:
                message.start, message.newline = at, match[2] or "\n"
            key = string[1]
            said[key] = []
        said[key].append(_read(label, number, string[2]))
        if key.startswith("msgstr"):
            message.spans[key] = message.spans.get(key, (at,))[0], at + len(line)
    if said:
        yield _ended(label, number, message, said)


_NONE = "no line of a gettext catalogue"


def _ended(label: str, number: int, message: Message, said: Mapping[str, list[str]]) -> Message:
    message.texts = {key: "".join(lines) for key, lines in said.items()}
    first = "msgstr[0]" if "msgid_plural" in said else "msgstr"
    if "msgid" not in said or first not in said or (first == "msgstr" and len(message.spans) > 1):
        raise TextError(f"{label}: the message before line {number} lacks its msgid or its {first}")
    return message


def _read(label: str, number: int, string: str) -> str:
    """What a string of a catalogue says."""

    def character(match: re.Match[str]) -> str:
        if match.lastindex is None:
            raise TextError(f"{label}: line {number}: a quote or a backslash in a string that is not escaped")
        if match[3]:
            return _LETTERS.get(match[3], match[0])
        return chr(int(match[1], 16) if match[1] else int(match[2], 8))

    return _ESCAPE.sub(character, string) if "\\" in string or '"' in string else string


def _written(key: str, value: str, newline: str) -> str:
    """A translation, in lines as gettext breaks them where the text does."""
    lines = [f'"{line.translate(_ESCAPED)}"' for line in re.findall(r"[^\n]*\n|[^\n]+", value)]
    return f"{key} " + newline.join(['""', *lines] if len(lines) > 1 else lines or ['""'])
