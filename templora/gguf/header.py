"""The header of a GGUF file, read whole and checked before anything in it is believed.

Nothing is mapped: a file that is cut while it is read is an error, not a signal. Counts and lengths are compared with
what is left of the file before they are used, so memory is a small multiple of the file's bytes whatever they say.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from templora.errors import ModelError
from templora.runtime.files import told

# Type of a value: its format. Beside them: 8, a string, and 9, an array.
_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8",
            12: "<f8"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_DIMENSIONS = 4  # llama.cpp's GGML_MAX_DIMS
_PLAIN = {0: "<f4", 1: "<f2", 24: "<i1", 25: "<i2", 26: "<i4", 27: "<i8", 28: "<f8"}
_SHARD = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Args:
        name: llama.cpp's.
        kind: its GGMLQuantizationType, as a number.
        shape: in torch's order.
        path: the file.
        offset, bytes: where it lies there.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    path: Path
    offset: int
    bytes: int

    def read(self) -> np.ndarray[Any, Any]:
        """Its numbers, or its rows of blocks as uint8 [..., bytes].

        Raises:
            ModelError: the file is gone, or has become shorter.
        """
        with told(ModelError, f"{self.path}: cannot be read"), self.path.open("rb") as file:
            file.seek(self.offset)
            data = np.fromfile(file, np.uint8, self.bytes)
        if len(data) < self.bytes:
            raise ModelError(f"{self.path}: this GGUF is truncated: {self.name} is cut off")
        if self.kind in _PLAIN:
            return data.view(_PLAIN[self.kind]).reshape(self.shape)
        return data.reshape(*self.shape[:-1], -1)


class GgufHeader:
    """What a GGUF says of itself.

    A file that is one of several (`NAME-00001-of-00003.gguf`) stands for all of them, if they lie beside it.

    Args:
        path: a .gguf file.

    Attributes:
        fields: key -> number, string, list of strings, or array of numbers.
        tensors: name -> where it is.
        paths: the files.

    Raises:
        ModelError: truncated, damaged, of another version, or one part of several that are not there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, Stored] = {}
        try:
            first = _Part(path)
            parts = self._parts(first)
        except ModelError as error:
            name = _SHARD.fullmatch(path.name)
            if name and "gguf-split" not in str(error):
                raise ModelError(f"{error}; this is {_part_of(int(name['number']), int(name['count']))}") from error
            raise
        self.fields: dict[str, Any] = parts[0].fields
        self.paths = [part.path for part in parts]
        for part in parts:
            for stored in part.tensors:
                if stored.name in self.tensors:
                    raise ModelError(f"{part.path}: this GGUF is damaged: {stored.name[:80]} is there twice")
                self.tensors[stored.name] = stored
        wanted = self.fields.get("split.tensors.count")
        if len(parts) > 1 and wanted is not None and wanted != len(self.tensors):
            raise ModelError(f"{path}: its {len(parts)} parts hold {len(self.tensors)} tensors, not {wanted}")

    def _parts(self, given: _Part) -> list[_Part]:
        count, number = given.fields.get("split.count", 0), given.fields.get("split.no", 0)
        if not isinstance(count, int) or not isinstance(number, int) or count < 2:
            return [given]
        if not 0 <= number < count:
            raise ModelError(f"{self.path}: this GGUF is damaged: split.no is {number}, split.count {count}")
        name = _SHARD.fullmatch(self.path.name)
        found: list[_Part] = []
        while name and int(name["count"]) == count and len(found) < count:
            path = self.path.with_name(f"{name['stem']}-{len(found) + 1:05d}-of-{count:05d}.gguf")
            if not path.is_file():
                break
            found.append(given if path == self.path else _Part(path))
        if len(found) < count:
            raise ModelError(f"{self.path}: this is {_part_of(number + 1, count)}")
        for at, part in enumerate(found):
            if (part.fields.get("split.no"), part.fields.get("split.count")) != (at, count):
                raise ModelError(f"{part.path}: this is not part {at + 1} of {count} of {self.path.name}")
        return found

    def text(self, key: str, default: str = "") -> str:
        """A string of the file.

        Raises:
            ModelError: it is something else.
        """
        value = self.fields.get(key, default)
        if not isinstance(value, str):
            raise ModelError(f"{self.path}: {key} is no text")
        return value


def _part_of(number: int, count: int) -> str:
    return (
        f"part {number} of {count} of a GGUF: put all of them side by side under the names they were made with "
        f"(…-{number:05d}-of-{count:05d}.gguf), or join them: llama.cpp's gguf-split --merge"
    )


class _Part:
    """One file: its fields and tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, Any] = {}
        self.tensors: list[Stored] = []
        with told(ModelError, f"{path}: cannot be read"), path.open("rb") as self._file:
            self._size = os.fstat(self._file.fileno()).st_size
            self._read()

    def _read(self) -> None:
        if self._take(4) != b"GGUF":
            raise ModelError(f"{self.path}: not a GGUF file")
        version = self._number("<I")
        if version not in (2, 3):
            why = "written for a machine of the other byte order" if version & 0xFFFF == 0 else f"of version {version}"
            raise ModelError(f"{self.path}: this GGUF is {why}; versions 2 and 3 in little-endian order are read")
        tensors, fields = self._number("<Q"), self._number("<Q")
        self._expect(tensors, 8 + 4 + 4 + 8)
        self._expect(fields, 8 + 4 + 1)
        for _ in range(fields):
            key = self._string("a key")
            if key in self.fields:
                raise self._damaged(f"{key[:80]} is there twice")
            self.fields[key] = self._value(key, self._number("<I"))
        infos = [self._info() for _ in range(tensors)]
        alignment = self.fields.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {str(alignment)[:40]}, not a power of two")
        start = -(-self._file.tell() // alignment) * alignment
        self.tensors = [self._placed(*info, start, alignment) for info in infos]
        end = 0
        for stored in sorted(self.tensors, key=lambda s: s.offset):
            if stored.offset < end:
                raise self._damaged(f"{stored.name} lies over another tensor")
            end = stored.offset + stored.bytes

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name")
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _DIMENSIONS:
            raise self._damaged(f"{name[:80]} has {dimensions} dimensions")
        shape = tuple(reversed(struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))))
        return name, shape, self._number("<I"), self._number("<Q")

    def _placed(self, name: str, shape: tuple[int, ...], kind: int, offset: int, start: int, alignment: int) -> Stored:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if kind not in {*GGMLQuantizationType}:
            raise ModelError(f"{self.path}: {name[:80]} is of a type ({kind}) that is not known here")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if 0 in shape or shape[-1] % block:
            raise self._damaged(f"{name[:80]} has the shape {list(shape)}, which its type does not allow")
        stored = Stored(name, kind, shape, self.path, start + offset, prod(shape) // block * size)
        if offset % alignment:
            raise self._damaged(f"{name[:80]} does not begin where it may")
        if stored.offset + stored.bytes > self._size:
            raise ModelError(f"{self.path}: this GGUF is truncated: {name[:80]} ends beyond the file")
        return stored

    def _value(self, key: str, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalars(kind, 1)[0].item()
        if kind == _STRING:
            return self._string(key[:80])
        if kind != _ARRAY:
            raise self._damaged(f"{key[:80]} is of a type ({kind}) that there is not")
        item, count = self._number("<I"), self._number("<Q")
        if item in _SCALARS:
            return self._scalars(item, count)
        if item != _STRING:
            raise self._damaged(f"{key[:80]} is an array of a type ({item}) that there is not")
        self._expect(count, 8)
        return [self._string(key[:80]) for _ in range(count)]

    def _scalars(self, kind: int, count: int) -> np.ndarray[Any, Any]:
        form = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(count * form.itemsize), form)

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _string(self, what: str) -> str:
        try:
            return self._take(self._number("<Q")).decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"{what} is not UTF-8") from error

    def _expect(self, count: int, least: int) -> None:
        """Whether so many things of at least so many bytes can be there."""
        if count * least > self._size - self._file.tell():
            raise ModelError(f"{self.path}: this GGUF is truncated or damaged: it says that it holds {count:,} entries")

    def _take(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise ModelError(f"{self.path}: this GGUF is truncated or damaged: it ends within its header")
        data = self._file.read(count)
        if len(data) < count:
            raise ModelError(f"{self.path}: this GGUF is truncated: it ends within its header")
        return data

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self.path}: this GGUF is damaged: {what}")
