"""Documents: paragraphs out, translations in, everything else as it was. One file a kind."""

from __future__ import annotations

from pathlib import Path

from templora.errors import TextError
from templora.text_files import read_text
from templora.translation.documents.base import Document as Document
from templora.translation.documents.plain import PlainText

_KINDS = {".txt": PlainText}


def open_document(name: str) -> Document:
    """The document in a file; `-` is standard input, as text. (Until all kinds are there.)"""
    suffix = ".txt" if name == "-" else Path(name).suffix.lower()
    if suffix not in _KINDS:
        raise TextError(f"{name}: only {', '.join(_KINDS)} can be translated, not {suffix or 'a file without ending'}")
    text = read_text(name)
    return _KINDS[suffix](name, text.encode() if name == "-" else Path(name).read_bytes())
