"""gettext catalogues (.po, .pot): messages without a translation get one."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from templora.errors import TextError
from templora.text_files import decoded
from templora.translation.documents.base import Document
from templora.translation.documents.catalogue import Message, messages
from templora.translation.documents.placeholders import CHOICE, Format, counted, format_of
from templora.translation.documents.plain import pieces
from templora.translation.documents.xhtml import ascii_codec
from templora.translation.inline.characters import UNSPACED, one_line
from templora.translation.inline.marking import mark_up
from templora.translation.inline.marks import Part
from templora.translation.inline.markup import Marked, Restored, arrange
from templora.translation.languages import Language

_CHARSET = re.compile(rb"(\"Content-Type:[^\"\n]*?\bcharset=)([\w.:-]{1,40})", re.IGNORECASE)
_FIELD = {name: re.compile(rf'(?<=["n]){name}:[^"\\]*') for name in ("Language", "Plural-Forms")}
_PLURAL = re.compile(r"nplurals\s*=\s*([1-9])\s*;\s*plural\s*=\s*([^;\n]{1,500})")
# The letter of a key that opens a menu or presses a button: _File, E&xit.
_OPENS = r"{0}[A-Za-z](?!\w*;)"
_KEY = r"(?<!\w)(?:[A-Z][a-z]*{0}(?=[a-z])|{0}(?=[^\W_]))(?!\w+;)"
_TENS = "n%10==1 && n%100!=11 ? 0 : n%10>=2 && n%10<=4 && (n%100<10 || n%100>=20) ? 1 : 2"
_FORMS = {
    "nplurals=1; plural=0;": "id ja ko lo ms my th vi zh",
    "nplurals=2; plural=(n != 1);": "bg ca da de el en eo es et eu fi gl hu it nb nl nn no pt sv tr",
    "nplurals=2; plural=(n > 1);": "fr pt-BR",
    f"nplurals=3; plural=({_TENS});": "be bs hr ru sr uk",
    f"nplurals=3; plural=({_TENS.replace('n%10==1 && n%100!=11', 'n==1')});": "pl",
    "nplurals=3; plural=(n==1) ? 0 : (n>=2 && n<=4) ? 1 : 2;": "cs sk",
    "nplurals=6; plural=(n==0 ? 0 : n==1 ? 1 : n==2 ? 2 : n%100>=3 && n%100<=10 ? 3 : n%100>=11 ? 4 : 5);": "ar",
}
_OFTEN = 5  # numbers of the first 200, as gettext counts
_PLURALS = {code: form for form, codes in _FORMS.items() for code in codes.split()}


@dataclass(frozen=True)
class _Text:
    """A text of a message.

    Args:
        held: what it says.
        parts: where its paragraphs are in it, and their segments.
    """

    held: str
    parts: Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class _Forms:
    """How a language forms plurals.

    Args:
        many: forms that there are.
        single: the one for a single thing; -1 if all are one.
        rare: whether it is for hardly any other number, so that it need not say the number.
    """

    many: int
    single: int
    rare: bool


class Po(Document):
    """A catalogue. Its segments are the paragraphs of its messages that have no translation yet, or one that is marked
    as fuzzy; a plural is a message of its own.

    Args:
        label: its name, for errors.
        raw: what it holds.

    Raises:
        TextError: it is no catalogue, or in another encoding than it says; names the line.
    """

    def __init__(self, label: str, raw: bytes) -> None:
        self._source, self._codec = _decoded(label, raw)
        self._found: list[Marked] = []
        self._formats: list[Format] = []
        self._keys: list[str] = []
        self._messages: list[tuple[Message, list[_Text]]] = []
        self.problems: list[str] = []
        held = list(messages(label, self._source))
        self._header = next((m for m in held if not m.texts["msgid"] and "msgctxt" not in m.texts), None)
        if self._header is None:
            self.problems.append("there is no header, which would say the language and the encoding")
        signs = [sign for sign in "_&" if any(re.match(_OPENS.format(sign), m.texts["msgid"]) for m in held)]
        for message in held:
            if message is not self._header and message.untranslated:
                self._take(message, signs)
        self.segments = tuple(self._found)

    def _take(self, message: Message, signs: Sequence[str]) -> None:
        format_, texts = format_of(message.named), list[_Text]()
        for key in ("msgid", "msgid_plural"):
            if held := message.texts.get(key):
                if CHOICE.search(held):
                    self.problems.append(f"{held[:40]!r}: a choice between texts; left as it is")
                    return
                texts.append(_Text(held, list(self._parts(held, format_, signs))))
        if texts and any(text.parts for text in texts):
            self._messages.append((message, texts))

    def _parts(self, held: str, format_: Format, signs: Sequence[str]) -> Iterator[tuple[int, int, int]]:
        count = counted(held)
        for start, end, source in pieces(held):
            key = ""
            for sign in signs:
                there = [*re.finditer(_KEY.format(sign), source)]
                if len(there) == 1 == source.count(sign):
                    at = there[0].end() - 1
                    key, source = source[at : at + 2], source[:at] + source[at + 1 :]
            if marked := mark_up(format_.items(source, count)):
                yield start, end, len(self._found)
                self._found.append(marked)
                self._formats.append(format_)
                self._keys.append(key)

    def restored(self, index: int, target: str) -> Restored:
        """A translation as the document holds it, but that each placeholder says which argument it takes."""
        parts, moved = arrange(self.segments[index], target)
        if key := self._keys[index]:
            parts = _with_key(parts, key)
        escape = self._formats[index].escape
        return Restored("".join(escape(part) if isinstance(part, str) else part.source for part in parts), moved)

    def render(self, targets: Sequence[str], to: Language) -> bytes:
        """The catalogue; a message of which a paragraph is not translated yet, or is empty, stays as it is."""
        edits, forms = list[tuple[int, int, str]](), self._forms(to)
        for message, texts in self._messages:
            segments = [segment for text in texts for *_, segment in text.parts]
            if segments[-1] >= len(targets) or not all(targets[segment].strip() for segment in segments):
                continue
            if all(self._same(segment, targets) for segment in segments):
                continue
            said, sound = zip(*(self._said(text, targets) for text in texts), strict=True)
            values = {"msgstr": said[0]}
            if len(said) > 1:
                things = [format_of(message.named).things(text.held) for text in texts]
                single = forms.single if forms.rare or things[0] == things[1] else -1
                values = {f"msgstr[{form}]": said[form != single] for form in range(forms.many)}
            edits += message.translated(self._source, values, fuzzy=not all(sound))
        if edits and self._header:
            edits.append((*self._header.spans["msgstr"], self._headed(self._header, to)))
        found, at = [], 0
        for start, end, new in sorted(edits):
            found += [self._source[at:start], new]
            at = end
        text = "".join((*found, self._source[at:]))
        try:
            return text.encode(self._codec)
        except UnicodeEncodeError:
            return _CHARSET.sub(rb"\1UTF-8", text.encode(), count=1)

    def _same(self, segment: int, targets: Sequence[str]) -> bool:
        return one_line(targets[segment]).strip() == self.segments[segment].text

    def _said(self, text: _Text, targets: Sequence[str]) -> tuple[str, bool]:
        """A text's translation, and whether all that is no text is where the model put it."""
        found, at, moved = list[str](), 0, 0
        for start, end, segment in text.parts:
            restored = self.restored(segment, targets[segment])
            found += [text.held[at:start], text.held[start:end] if self._same(segment, targets) else restored.text]
            at = end
            moved += restored.moved
        format_ = self._formats[text.parts[0][2]] if text.parts else format_of(set())
        said, sound = format_.ordered(text.held, "".join((*found, text.held[at:])))
        return said, sound and not moved

    def _forms(self, to: Language) -> _Forms:
        said = _PLURAL.search(self._header.texts["msgstr"] if self._header else "") or _PLURAL.search(_plural_of(to))
        if said is None:
            problem = f"how {to.name} forms plurals is not known here: complete Plural-Forms, and check the plurals"
            if problem not in self.problems and any(len(texts) > 1 for _, texts in self._messages):
                self.problems.append(problem)
            return _Forms(2, 0, rare=True)
        many = int(said[1])
        try:
            form = gettext.c2py(said[2])
            single = form(1) if many > 1 else -1
            return _Forms(many, single, rare=sum(form(number) == single for number in range(200)) < _OFTEN)
        except (ValueError, ArithmeticError):
            return _Forms(many, -1, rare=False)

    def _headed(self, header: Message, to: Language) -> str:
        """The header in the language of the translation."""
        start, end = header.spans["msgstr"]
        text = _FIELD["Language"].sub(f"Language: {to.code.replace('-', '_')}", self._source[start:end], count=1)
        text = text.replace("charset=CHARSET", "charset=UTF-8", 1)
        if not _PLURAL.search(header.texts["msgstr"]) and _plural_of(to):
            said = f"Plural-Forms: {_plural_of(to)}"
            text, there = _FIELD["Plural-Forms"].subn(said, text, count=1)
            text += "" if there else f'{header.newline}"{said}\\n"'
        return text


def _decoded(label: str, raw: bytes) -> tuple[str, str]:
    """A catalogue's text, and the encoding that its header names."""
    said = _CHARSET.search(raw)
    name = said[2].decode() if said else "CHARSET"
    codec = "utf-8" if name == "CHARSET" else ascii_codec(name.encode())
    if codec == "utf-8":
        return decoded(label, raw), codec
    try:
        text = raw.decode(codec or "ascii")
        if codec is None or text.encode(codec) != raw:
            raise ValueError
    except ValueError as error:
        raise TextError(f"{label}: no text in {name}, as its header says; convert it to UTF-8 first") from error
    return decoded(label, text.encode()), codec


def _plural_of(to: Language) -> str:
    return _PLURALS.get(to.code) or _PLURALS.get(to.code.split("-")[0], "")


def _with_key(parts: Sequence[Part], key: str) -> list[Part]:
    """A translation with a key: in front of its first letter, or behind it all where no keyboard has such letters."""
    found = list(parts)
    for index, part in enumerate(found):
        if isinstance(part, str) and (letter := re.search(r"[^\W\d_]", part)):
            if UNSPACED.match(letter[0]) or "\uac00" <= letter[0] <= "\ud7a3":
                last = found[-1] if isinstance(found[-1], str) else ""
                bare = last.rstrip(" .…:：")
                found[len(found) - bool(last) :] = [f"{bare}({key.upper()}){last[len(bare) :]}"]
            else:
                found[index] = f"{part[: letter.start()]}{key[0]}{part[letter.start() :]}"
            break
    return found
