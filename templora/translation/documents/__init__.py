"""Documents: paragraphs out, translations in, everything else as it was. One file a kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from templora.errors import OptionError, TextError, nearest
from templora.text_files import decoded, read_bytes
from templora.translation.documents.aligned import AlignedPairs
from templora.translation.documents.base import Document as Document, FlatDocument
from templora.translation.documents.docx import Docx
from templora.translation.documents.epub import Epub
from templora.translation.documents.html import Html, Xhtml
from templora.translation.documents.markdown import Markdown
from templora.translation.documents.plain import PlainText
from templora.translation.documents.po import Po
from templora.translation.documents.subtitles import SubRip, SubStation, WebVtt
from templora.translation.languages import Language
from templora.translation.pairs import read_pairs

_KINDS: dict[str, Callable[[str, bytes], Document]] = {
    ".txt": PlainText,
    ".md": Markdown,
    ".markdown": Markdown,
    ".epub": Epub,
    ".srt": SubRip,
    ".vtt": WebVtt,
    ".ass": SubStation,
    ".ssa": SubStation,
    ".docx": Docx,
    ".docm": Docx,
    ".html": Html,
    ".htm": Html,
    ".xhtml": Xhtml,
    ".po": Po,
    ".pot": Po,
}
_PAIRS = (".jsonl", ".json")


def lay_out(document: Document, layout: str, source: Language) -> None:
    """Has a document written in this layout (`Document.layouts`).

    Args:
        source: the language that it is in.

    Raises:
        OptionError: it cannot be; names the kinds that can.
    """
    if layout not in document.layouts:
        kinds = [suffix for suffix, kind in _KINDS.items() if layout in getattr(kind, "layouts", ())]
        raise OptionError(
            "layout", f"{layout} is for {', '.join(kinds)}; this document has {', '.join(document.layouts)}"
        )
    document.lay_out(layout, source)


def open_document(
    path: str,
    raw: bytes | None = None,
    *,
    source: Language | None = None,
    target: Language | None = None,
    encoding: str | None = None,
    remarks: list[str] | None = None,
) -> Document:
    """The document in a file; `-` is standard input, as text.

    Args:
        path: of the file; the end of its name says what kind it is.
        raw: what it holds, if it is read already.
        source, target: the languages, which may be the keys of aligned pairs.
        encoding, remarks: as for `decoded`, of a document that is one text. What is made of it is in UTF-8.

    Raises:
        TextError: it cannot be read, is damaged, or is of a kind that is not known here.
        OptionError: there is no such encoding, or the document says itself which one it is in.
    """
    label = "standard input" if path == "-" else path or "''"
    suffix = ".txt" if path == "-" else Path(path).suffix.lower()
    if suffix in _PAIRS:
        return AlignedPairs(read_pairs(path, source, target, encoding=encoding, remarks=remarks))
    if suffix not in _KINDS:
        hint = f"; {nearest(suffix, _KINDS)}" if suffix else ""
        kinds = ", ".join((*_KINDS, *_PAIRS))
        raise TextError(f"{label}: only {kinds} can be translated, not {suffix or 'a file without ending'}{hint}")
    kind, raw = _KINDS[suffix], read_bytes(path, label) if raw is None else raw
    if isinstance(kind, type) and issubclass(kind, FlatDocument):
        raw = decoded(label, raw, encoding=encoding, remarks=remarks).encode()
    elif encoding:
        raise OptionError("encoding", f"a {suffix} says itself which one it is in")
    return kind(label, raw)
