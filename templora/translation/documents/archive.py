"""The members of a zip archive: read through bounds whatever it says of itself, and written again, the others as they
are packed.
"""

from __future__ import annotations

import bz2
import contextlib
import copy
import html
import io
import itertools
import lzma
import posixpath
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from templora.errors import TextError
from templora.runtime.files import told
from templora.translation.documents.xhtml import MAX_LENGTH

EPUB, MIMETYPE, KIND = "EPUB", "mimetype", b"application/epub+zip"
# Members of a book; bytes of all that is unpacked of it, which are its texts; bytes that unpacking may take.
_MAX_MEMBERS, _MAX_TEXT, _MAX_MEMORY = 20_000, 1 << 28, 1 << 27
_ENCRYPTED, _STREAMED, _UTF8 = 1, 8, 0x800
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError, MemoryError)
_UNREADABLE = (*_DAMAGE, IndexError, KeyError, NotImplementedError, OverflowError, RuntimeError)


class Archive:
    """A zip archive. Nothing of it is ever written outside of another archive, whatever its members are called.

    Args:
        label: its name, for errors.
        raw: what it holds.
        what: it should be, for errors.

    Attributes:
        members: names, in order, and what the archive says of them. Of two of one name the last counts.
        problems: what is wrong with members that nobody asked for.

    Raises:
        TextError: it is no archive, or one of which members share their bytes, as nobody packs but who means harm.
    """

    def __init__(self, label: str, raw: bytes, what: str = EPUB) -> None:
        self._label, self._raw, self._what, self._left = label, raw, what, _MAX_TEXT
        self.members: dict[str, zipfile.ZipInfo] = {}
        self.problems: list[str] = []
        self._starts: dict[str, int] = {}  # of what is packed
        try:
            with zipfile.ZipFile(io.BytesIO(raw)) as archive:
                infos, self._comment = archive.infolist(), archive.comment
        except _UNREADABLE as error:
            raise TextError(f"{label}: the archive: no zip archive, so no {what}") from error
        if len(infos) > _MAX_MEMBERS:
            raise TextError(f"{label}: the archive: more than {_MAX_MEMBERS:,} members; no book has so many")
        for info in infos:
            self._take(_name(info), info)
        self._check_apart()
        self._folded: dict[str, str] = {}
        for name in self.members:
            self._folded.setdefault(_folded(name), name)

    def _take(self, name: str, info: zipfile.ZipInfo) -> None:
        held = self._raw[info.header_offset : info.header_offset + 30] if info.header_offset >= 0 else b""
        start = end = -1
        if held[:4] == b"PK\3\4" and len(held) == 30:
            start = info.header_offset + 30 + sum(struct.unpack_from("<2H", held, 26))
            end = start + info.compress_size
        if not 0 < start <= end <= len(self._raw):
            self.problems.append(f"{name}: cut off or damaged; left out")
            return
        if name in self.members:
            self.problems.append(f"{name}: in the archive twice; the last one counts")
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
            self.problems.append(f"{name}: its name leads out of the archive; left as it is")
        self.members[name], self._starts[name] = info, start

    def _check_apart(self) -> None:
        spans = sorted((self._starts[name], self.members[name].compress_size, name) for name in self.members)
        for (start, size, _), (after, _, name) in itertools.pairwise(spans):
            if start + size > after:
                raise TextError(f"{self._label}: {name}: overlaps another member; made to fill the memory")

    def find(self, reference: str, folder: str = "") -> str | None:
        """The name of the member that a reference leads to, as forgiving as readers are: escaped or not, with `\\` or
        `/`, composed or not, in the wrong case; from the folder or from the top. Nothing leads out.
        """
        ways = [way for way in (reference, unquote(reference), unquote(reference.partition("#")[0])) if way]
        paths = [posixpath.normpath(posixpath.join(base, way)) for base in (folder, "") for way in ways]
        for path in paths:
            if path in self.members:
                return path
        return next((self._folded[key] for key in map(_folded, paths) if key in self._folded), None)

    def read(self, name: str) -> bytes:
        """What a member holds.

        Raises:
            TextError: it is missing, encrypted, damaged or larger than a text; names it.
        """
        info = self.members.get(name)
        if info is None:
            raise TextError(f"{self._label}: {name}: missing")
        if info.flag_bits & _ENCRYPTED:
            raise TextError(f"{self._label}: {name}: encrypted; it cannot be read")
        most = min(MAX_LENGTH, self._left)
        start = self._starts[name]
        with told(TextError, f"{self._label}: {name}: damaged", *_DAMAGE):
            raw = _unpacked(info, self._raw[start : start + info.compress_size], most + 1)
        self._left -= min(len(raw), most)
        if len(raw) > most:
            what = f"larger than {MAX_LENGTH >> 20} MiB; no text is"
            if most < MAX_LENGTH:
                what = f"more than {_MAX_TEXT >> 20} MiB of text up to here; no book has so much"
            raise TextError(f"{self._label}: {name}: {what}")
        if len(raw) != info.file_size or zlib.crc32(raw) != info.CRC:
            raise TextError(f"{self._label}: {name}: damaged: not what was packed")
        return raw

    def written(self, changed: Mapping[str, bytes]) -> bytes:
        """The archive with other contents of some members; the others are copied as they are packed, in their order,
        with their dates. In an EPUB what says that it is one comes first and not packed, also if it was not there.

        Args:
            changed: contents by name.
        """
        changed, members = dict(changed), self.members
        if self._what == EPUB:
            with contextlib.suppress(TextError):
                changed[MIMETYPE] = self.read(MIMETYPE) if MIMETYPE in members else KIND
                members = {MIMETYPE: zipfile.ZipInfo(MIMETYPE)} | members
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.comment = self._comment
            for name, info in members.items():
                entry = copy.copy(info)
                entry.filename, entry.extra = name, b""
                if name not in changed:
                    self._copy(archive, entry)
                    continue
                stored = name == MIMETYPE or info.compress_type == zipfile.ZIP_STORED
                archive.writestr(entry, changed[name], zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)
                entry.external_attr = info.external_attr
        return target.getvalue()

    def _copy(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        """Copies a member as it is packed, which is beyond what zipfile does by itself."""
        start = self._starts[entry.filename]
        packed = self._raw[start : start + entry.compress_size]
        # Where a password is checked depends on whether the sizes follow.
        entry.flag_bits &= ~_UTF8 & (~0 if entry.flag_bits & _ENCRYPTED else ~_STREAMED)
        entry.header_offset = archive.start_dir
        assert archive.fp is not None
        archive.fp.seek(archive.start_dir)
        archive.fp.write(entry.FileHeader() + packed)
        if entry.flag_bits & _STREAMED:
            archive.fp.write(struct.pack("<4s3I", b"PK\7\x08", entry.CRC, entry.compress_size, entry.file_size))
        archive.start_dir = archive.fp.tell()
        archive.filelist.append(entry)


def _unpacked(info: zipfile.ZipInfo, packed: bytes, most: int) -> bytes:
    """What is packed, or as much of it as `most` bytes, whatever the archive says how much it is."""
    if info.compress_type == zipfile.ZIP_STORED:
        return packed[:most]
    unpacker: Any
    if info.compress_type == zipfile.ZIP_DEFLATED:
        unpacker = zlib.decompressobj(-15)
    elif info.compress_type == zipfile.ZIP_BZIP2:
        unpacker = bz2.BZ2Decompressor()
    elif info.compress_type == zipfile.ZIP_LZMA:
        (long,) = struct.unpack_from("<H", packed, 2)
        size = b"\xff" * 8 if info.flag_bits & 2 else struct.pack("<Q", info.file_size)
        packed = packed[4 : 4 + long] + size + packed[4 + long :]
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MAX_MEMORY)
    else:
        raise ValueError(f"packed in a way that is not known here ({info.compress_type})")
    found: bytes = unpacker.decompress(packed, most)
    if len(found) < most and not unpacker.eof:
        raise EOFError("it ends too early")
    return found


def _name(info: zipfile.ZipInfo) -> str:
    """A member's name. Many archives have UTF-8 without saying so, and zipfile reads that as the code page of old."""
    if not info.flag_bits & _UTF8:
        with contextlib.suppress(UnicodeError):
            return info.filename.encode("cp437").decode()
    return info.filename


def _folded(path: str) -> str:
    """What is alike in two paths that are written differently."""
    path = posixpath.normpath("/" + html.unescape(unquote(path)).replace("\\", "/")).lstrip("/")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
