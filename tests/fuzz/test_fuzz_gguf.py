"""GGUF files that say anything: models, and adapters."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import Reader, fuzzed
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from hypothesis import given, strategies as st

from templora.gguf.file import GgufFile, as_asked
from templora.gguf.header import GgufHeader
from templora.lora.gguf import load_gguf_adapter, save_gguf_adapter
from templora.lora.slot import Layout
from templora.lora.targets import Target, first_weights
from templora.testing import tiny_model

READER = Reader("gguf", seconds=3.0, memory=60.0)
BASE = tiny_model()
LAYOUT = Layout((Target("model.layers.0.self_attn.q_proj", 32, 32), Target("model.layers.1.mlp.up_proj", 32, 48)), 2)
FRESH = first_weights(LAYOUT.targets, 2, 0)
COUNTS = st.sampled_from(
    [0, 1, 2, 3, 4, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]
)


@pytest.fixture(autouse=True, scope="module")
def saved() -> Iterator[None]:
    yield
    READER.save()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def model(folder: Path) -> bytes:
    write_gguf(folder / "sound.gguf", kind=Kind.Q4_0)
    take(folder / "sound.gguf")  # imports what it needs
    return (folder / "sound.gguf").read_bytes()


@pytest.fixture(scope="module")
def adapter(folder: Path) -> bytes:
    save_gguf_adapter(folder / "adapter.gguf", LAYOUT, FRESH, 4.0, BASE)
    return (folder / "adapter.gguf").read_bytes()


def take(path: Path) -> Any:
    """All that loading a model takes from its file, but for the model itself."""
    file = GgufFile(path)
    names = file._tensors
    _ = file.config, file.tokenizer
    for name in list(names or ())[:3]:
        as_asked(file.exact(name), packed=True)
    return file


def read_model(folder: Path, raw: bytes) -> None:
    path = folder / "m.gguf"
    path.write_bytes(raw)
    READER(lambda: take(path), len(raw))


def read_adapter(folder: Path, raw: bytes) -> None:
    path = folder / "a.gguf"
    path.write_bytes(raw)
    found = READER(lambda: load_gguf_adapter(path, LAYOUT, 4.0, FRESH, BASE), len(raw))
    assert found is None or (found.shape == FRESH.shape and bool(found.isfinite().all()))


def start_of_tensors(raw: bytes, folder: Path) -> int:
    path = folder / "where.gguf"
    path.write_bytes(raw)
    return min(t.offset for t in GgufHeader(path).tensors.values())


def spoilt(data: st.DataObject, raw: bytes, header: int) -> bytes:
    """Bytes, numbers of 4 or 8 bytes, lengths; cut, doubled, or with something in between."""
    out = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(header, len(out)) - 1) | st.integers(0, len(out) - 1))
        match data.draw(st.sampled_from(["byte", "word", "long", "cut", "insert", "remove"])):
            case "byte":
                out[at] = data.draw(st.integers(0, 255))
            case "word":
                out[at : at + 4] = struct.pack("<I", data.draw(COUNTS) % 2**32)
            case "long":
                out[at : at + 8] = struct.pack("<Q", data.draw(COUNTS))
            case "cut":
                del out[max(1, at) :]
            case "insert":
                out[at:at] = data.draw(st.binary(max_size=12))
            case "remove":
                del out[at : at + data.draw(st.integers(1, 12))]
        out = out or bytearray(b"G")
    return bytes(out)


@fuzzed
@given(st.data())
def test_a_spoilt_model(folder: Path, model: bytes, data: st.DataObject) -> None:
    read_model(folder, spoilt(data, model, start_of_tensors(model, folder)))


@fuzzed
@given(st.data())
def test_a_spoilt_adapter(folder: Path, adapter: bytes, data: st.DataObject) -> None:
    read_adapter(folder, spoilt(data, adapter, start_of_tensors(adapter, folder)))


KEYS = [
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length", "rope.freq_base",
    "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.dimension_count",
    "vocab_size", "attention.sliding_window", "attention.sliding_window_pattern", "final_logit_softcapping",
    "expert_count", "new", ".general.type", ".general.name", ".general.alignment", ".split.count", ".split.no",
    ".tokenizer.ggml.bos_token_id", ".tokenizer.ggml.eot_token_id", ".tokenizer.ggml.eos_token_ids",
    ".tokenizer.ggml.pre", ".tokenizer.ggml.add_bos_token", ".tokenizer.ggml.scores", ".tokenizer.chat_template",
    ".tokenizer.ggml.add_space_prefix", ".tokenizer.ggml.precompiled_charsmap", ".tokenizer.ggml.unknown_token_id",
]  # fmt: skip
VALUES = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 300), st.booleans(), st.floats(width=32), st.text(max_size=12),
    st.sampled_from(["yarn", "linear", "none", "adapter", "smollm", "llama-bpe", 0, 1, 2, 4, 8, 0.0, 1.0, None]),
    st.lists(st.integers(0, 300), min_size=1, max_size=5), st.lists(st.text(max_size=4), min_size=1, max_size=3),
)  # fmt: skip


@fuzzed
@given(
    st.sampled_from(["llama", "qwen2", "qwen3", "gemma3"]),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.dictionaries(
        st.sampled_from(["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight", "output.bias", "é"]),
        st.lists(st.integers(1, 40), min_size=1, max_size=3),
        max_size=2,
    ),
    st.sampled_from(["", "", "", "block_count", "blk.0.attn_q.weight", "token_embd.weight", "output.weight"]),
)
def test_a_model_that_says_other_things(
    folder: Path, family: str, keys: dict[str, Any], shapes: dict[str, list[int]], without: str
) -> None:
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    try:
        write_gguf(folder / "said.gguf", family, keys=keys, tensors=tensors, without=without)
    except (ValueError, struct.error):  # what the writer itself refuses
        return
    read_model(folder, (folder / "said.gguf").read_bytes())


def test_a_sound_one_is_read(folder: Path, model: bytes, adapter: bytes) -> None:
    """So that the others are spoilt, not this test."""
    (folder / "m.gguf").write_bytes(model)
    take(folder / "m.gguf")
    (folder / "a.gguf").write_bytes(adapter)
    assert torch.equal(load_gguf_adapter(folder / "a.gguf", LAYOUT, 4.0, FRESH, BASE), FRESH)
