"""The method on the embedded model: what tiny random models cannot show. Marked `real`."""

from __future__ import annotations

import functools
import math
import warnings
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import templora
from templora import ChunkLearned, ChunkScored, SamplingParams
from templora.engine.engine import Engine
from templora.gguf.file import GgufFile
from templora.learning.pending import PendingUpdate
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL, folder_of, is_whole
from templora.models.causal import CausalModel
from templora.runtime.threads import bits_depend_on_threads

pytestmark = pytest.mark.real

# A page of our own, with names and turns that come back.
STORY = """
Maren Holt kept the ferry at Lower Quay, and the ferry kept her. Every morning she unhooked the chain, every evening she
hooked it again, and between the two she carried over whoever rang the bell on the far bank. The bell had been cast
from the wreck of the Adamant, and it said so on its lip. People rang it twice if they were in a hurry and once if
they were not, and Maren Holt came at the same pace for both.
On the day the surveyor came the bell rang three times. "Nobody rings three times," said Maren Holt, and unhooked the
chain. The surveyor stood on the far bank with a tripod, a red notebook and a dog that did not care for boats. He asked
what the river was called. "The river," said Maren Holt. He wrote it down in the red notebook.
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return templora.load()


def test_loading_again_is_fast(engine: Engine) -> None:
    """The GGUF is unpacked once; reading the copy must not unpack it again."""
    assert is_whole(folder_of(BUILTIN_MODELS[DEFAULT_MODEL]))
    again = templora.load()
    assert again.model.fingerprint() == engine.model.fingerprint()
    assert again.load_seconds < 5


@pytest.fixture(scope="module")
def unpacked() -> Engine:
    return templora.load(weights="unpacked")


def test_weights_are_those_that_transformers_unpacks(unpacked: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What that asks of gguf for each of 400 modules is the same each time; what is refused has tests of its own."""
    monkeypatch.setattr(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map))
    monkeypatch.setattr("templora.gguf.file.foreign_tensors", lambda *_: None)
    path = BUILTIN_MODELS[DEFAULT_MODEL].path()
    assert path is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = GgufFile(path)._through_transformers(torch.bfloat16)
    assert CausalModel(wanted).fingerprint() == unpacked.model.fingerprint()


def test_the_files_own_blocks_predict_as_the_unpacked_weights(engine: Engine, unpacked: Engine) -> None:
    """Bit for bit: what is unpacked from them is the same."""
    ids = torch.tensor([engine.tokenizer(STORY)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(engine.model.module(ids).logits, unpacked.model.module(ids).logits)


def test_fresh_adapter_is_the_base(engine: Engine) -> None:
    ids = engine.tokenizer(STORY)["input_ids"]
    with engine.session(engine.config(chunk_size=512, window=1024)) as session:
        (scored,) = [e for e in session.score_ids(ids) if isinstance(e, ChunkScored)]
    assert scored.adapted_nll == scored.base_nll


def test_learning_a_text_lowers_its_perplexity(engine: Engine) -> None:
    config = engine.config(chunk_size=96, window=192)
    with engine.session(config) as session:
        score = session.score(STORY * 3)
    assert score.base.nll / score.base.tokens > math.log(2)
    assert score.reduction > 0.10
    assert session.receipt is not None
    assert session.receipt.base_unchanged


def test_greedy_stream_without_learning_is_generate(engine: Engine) -> None:
    """In fp32: in bf16 ties are broken by the last bit, which depends on how many rows a product has."""
    fp32 = templora.load(dtype="float32")
    prompt = STORY[:300]
    ids = fp32.tokenizer(prompt)["input_ids"]
    with fp32.session(fp32.config(learning="off")) as session:
        from templora.text import end_ids

        ends = end_ids(fp32.tokenizer, fp32.generation_config)
        session.write(prompt, max_new_tokens=48, sampling=SamplingParams(temperature=0, repetition_penalty=1.0))
        written = session.tokens
    wanted = fp32.model.module.generate(
        torch.tensor([ids]), max_new_tokens=48, do_sample=False, suppress_tokens=ends, pad_token_id=2
    )
    assert written == wanted[0].tolist()


def test_same_seed_same_text(engine: Engine) -> None:
    def run(seed: int, tokens: int = 40) -> tuple[list[int], list[Any]]:
        with engine.session(engine.config(seed=seed, chunk_size=32, window=96)) as session:
            events = list(session.stream(STORY[:200], max_new_tokens=tokens, score=True))
            figures: list[Any] = [(e.loss, e.grad_norm) for e in events if isinstance(e, ChunkLearned)]
            figures += [(e.base_nll, e.adapted_nll) for e in events if isinstance(e, ChunkScored)]
            return session.tokens, figures

    first = run(1)
    assert len(first[1]) >= 4  # two chunks, scored and learnt
    assert run(1) == first
    other = run(2, 20)[0]
    assert other != first[0][: len(other)]


def test_a_gguf_file_by_path_is_the_built_in_model(engine: Engine, tmp_path: Path) -> None:
    from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL

    path = BUILTIN_MODELS[DEFAULT_MODEL].path()
    assert path is not None
    link = tmp_path / "another-name.gguf"  # as in the hub's cache, where every file is a link
    link.symlink_to(path)
    assert templora.load(link).model.fingerprint() == engine.model.fingerprint()


def test_learning_one_chunk_later_is_the_same_whenever_it_runs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, also with another number of threads (with AMX, where bits depend on torch's threads, the same)."""
    found = []
    real = PendingUpdate.start
    for early in (False, True):
        engine.threads = 1 if early or bits_depend_on_threads() else 2
        if early:
            monkeypatch.setattr(PendingUpdate, "start", lambda self, *a: (real(self, *a), self.stage()))
        with engine.session(engine.config(learning="parallel", chunk_size=32, window=64, dropout=0.05)) as session:
            scored = [e.adapted_nll for e in session.score_events(STORY[:300]) if isinstance(e, ChunkScored)]
            session.write(max_new_tokens=32)
            assert session.version >= 2
            found.append((scored, session.tokens, session.slot.state.weights))
    engine.threads = None
    assert found[0][:2] == found[1][:2]
    assert torch.equal(found[0][2], found[1][2])
