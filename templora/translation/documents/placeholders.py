"""What a message for a program holds that is no text: placeholders, tags, references to characters."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from templora.translation.inline.marking import Around, Inline, Thing
from templora.translation.inline.marks import Mark

_SHARED = (
    r"(?P<close></(?P<closed>[A-Za-z][\w:.-]*|\d+)\s*>)|(?P<open><(?P<opened>[A-Za-z][\w:.-]*|\d+)(?:\s[^<>]*)?>)"
    r"|(?P<kept><[A-Za-z/!][^<>]*>|&(?:\w+|#\w+);"  # other tags, addresses; references to characters
    r"|(?<![\w-])--?[A-Za-z][\w-]*(?:=\w+)?"  # options of programs
    r"|\$\{[^{}\s]*\}|\$\(\w+\)|\$\w+|{braces}|{percent})"
)
_BRACES = r"\{[^{}\s\"'<>]*\}"
_PERCENT = r"%(?:\{\w+\}|(?:\(\w+\)|<\w+>)?[-+#0'.*$\d]*[A-Za-z]\w*%?|L?\d{1,2}%?)"
_DIRECTIVE = (
    r"%(?:\{\w+\}|(?:\(\w+\)|<(?!PRI)\w+>)?(?:\d+\$)?[-+ #0'I]*(?:\*(?:\d+\$)?|\d+)?(?:\.(?:\*(?:\d+\$)?|\d*))?"
    r"(?:hh?|ll?|[Lqjztw])?(?:[A-Za-z@]|<PRI\w+>))"
)
# What takes the next argument, whichever that is.
_NEXT = r"%[-+ #0'I\d.*]*(?:hh?|ll?|[Lqjztw])?(?:[A-Za-ln-z@]|<PRI\w+>){end}|\{(?=[:!}])[^{}]*\}"
_OTHER = re.compile(r"%\d+\$|\{\d")
_TAKEN = re.compile("\0(\\d+)\0([^\0]*)\0")  # by its number; texts hold no zero bytes
_FIELD = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_VOID = re.compile(r"<(?:br|hr|img|input|wbr)\b|.*/>\Z", re.IGNORECASE | re.DOTALL)
# Messages with text in placeholders, in the format of ICU and Java; too much for tags.
CHOICE = re.compile(r"\{\s*\w+\s*,\s*(?:plural|select|selectordinal|choice)\b")
_DEEPEST = 20


@dataclass(frozen=True)
class Format:
    """How a program reads a message.

    Args:
        pattern: of what is no text in it.
        takes: of what takes the next argument.
        escapes: characters of a text that are written otherwise, because the program would read them.
        numbers: whether arguments can be taken by their numbers.
    """

    pattern: re.Pattern[str]
    takes: re.Pattern[str]
    escapes: Mapping[str, str]
    numbers: bool = False

    def escape(self, text: str) -> str:
        return "".join(self.escapes.get(character, character) for character in text)

    def items(self, text: str, count: Iterator[int] | None) -> list[Inline]:
        """A message as text and markup.

        Args:
            text: of it, or of a part of it.
            count: of the arguments; None where they are taken by number or name.
        """
        back = {written: character for character, written in self.escapes.items()}
        open_: list[tuple[str, str, list[Inline]]] = [("", "", [])]
        at = 0
        for match in self.pattern.finditer(text):
            items = open_[-1][2]
            items.append(text[at : match.start()])
            at = match.end()
            held = match[0]
            if match["escaped"]:
                items.append(back[held])
                continue
            if count:
                held = self.takes.sub(lambda taken: f"\0{next(count)}\0{taken[0]}\0", held)
            if match["open"] and not _VOID.match(held) and len(open_) < _DEEPEST:
                open_.append((match["opened"], held, []))
            elif match["close"] and match["closed"] == open_[-1][0]:
                name, opening, inner = open_.pop()
                open_[-1][2].append(Around(Mark(opening, held, wraps=True, link=name == "a"), inner))
            else:
                items.append(_kept(held))
        open_[-1][2].append(text[at:])
        found = open_[0][2]
        for _, opening, inner in open_[1:]:
            found += [_kept(opening), *inner]
        return found

    def ordered(self, source: str, text: str) -> tuple[str, bool]:
        """A translation whose placeholders take the arguments that they took in the source, by their numbers if they
        are in another order; and whether all that is no text is there once, and can be where it is. If placeholders
        cannot have numbers they are in the order of the source.
        """
        taken = [(int(match[1]), match[2]) for match in _TAKEN.finditer(text)]
        bare = _TAKEN.sub(r"\2", text)
        sound = self.things(source) == self.things(bare)
        if taken == sorted(taken):
            return bare, sound
        others = any(map(self.takes.search, self.things(_TAKEN.sub("", text))))  # all have numbers, or none
        if self.numbers and not others and not any("*" in held for _, held in taken):
            return _TAKEN.sub(lambda match: _numbered(match[2], int(match[1])), text), sound
        left = iter(sorted(taken))
        return _TAKEN.sub(lambda _: next(left)[1], text), False

    def things(self, text: str) -> Counter[str]:
        """What of a message is no text."""
        return Counter(match[0] for match in self.pattern.finditer(text) if not match["escaped"])


def counted(text: str) -> Iterator[int] | None:
    """Numbers for the arguments of a message, if it does not say them itself."""
    return None if _OTHER.search(text) else itertools.count(1)


def _numbered(taken: str, number: int) -> str:
    return f"{{{number - 1}{taken[1:]}" if taken[0] == "{" else f"%{number}${taken[1:]}"


def _kept(text: str) -> Thing:
    return Thing(Mark(text, shown="" if _VOID.match(text) else _TAKEN.sub(r"\2", text)))


def _format(
    escapes: Mapping[str, str], *, braces: str = _BRACES, percent: str = _PERCENT, end: str = "", numbers: bool = False
) -> Format:
    shared = _SHARED.replace("{braces}", braces).replace("{percent}", percent)
    written = "|".join(re.escape(held) for held in escapes.values()) or r"(?!)"
    takes = re.compile(_NEXT.replace("{end}", end))
    return Format(re.compile(f"(?P<escaped>{written})|{shared}"), takes, escapes, numbers)


_PLAIN = _format({}, end=r"(?![\w%])")
_PRINTF = _format({"%": "%%"}, percent=_DIRECTIVE)
_NUMBERED = _format({"%": "%%"}, percent=_DIRECTIVE, numbers=True)
_FIELDS = _format({"{": "{{", "}": "}}"}, braces=_FIELD, numbers=True)
_JAVA = _format({"'": "''", "{": "'{'", "}": "'}'"}, braces=_FIELD)
_FORMATS = {
    **dict.fromkeys(["c-format", "objc-format", "php-format", "perl-format", "awk-format", "tcl-format"], _NUMBERED),
    **dict.fromkeys(["python-format", "lua-format", "javascript-format", "ruby-format", "elisp-format"], _PRINTF),
    **dict.fromkeys(["gcc-internal-format", "gfc-internal-format", "librep-format", "go-format"], _PRINTF),
    **dict.fromkeys(["python-brace-format", "csharp-format", "c++-format", "rust-format"], _FIELDS),
    "java-format": _JAVA,
}


def format_of(flags: Set[str]) -> Format:
    """The format that the flags of a message name; else one that knows the placeholders of all, and escapes nothing."""
    return next((held for name, held in _FORMATS.items() if name in flags), _PLAIN)
