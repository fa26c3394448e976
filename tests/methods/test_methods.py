"""Ways to keep the context: each is what its paper says, and leaves the model as it was."""

from __future__ import annotations

import copy
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from templora.chunks import Chunk
from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import ConfigError, ModelError, OptionError
from templora.events import ChunkScored
from templora.methods import METHODS, make_method
from templora.methods.adapters import SOURCES, adapter_source, shuffled_sentences, shuffled_tokens
from templora.methods.attention_sinks import AttentionSinks
from templora.methods.base import Method
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.methods.extended_positions import SCALINGS, ExtendedPositions
from templora.methods.kv_compression import KvCompression
from templora.testing import FAMILIES, byte_tokenizer, tiny_engine, tiny_model

IDS = [(7 * i * i + 3 * i) % 251 for i in range(224)]
OFF = {"learning": "off", "mixture": False}


def config(**options: Any) -> TempLoraConfig:
    sizes = {"window": 64, "chunk_size": 32, "rank": 4, "alpha": 4.0, "learning_rate": 0.01}
    return TempLoraConfig(**(sizes | options))


def one_layer() -> Any:
    """A model whose keys and values depend on their own token alone."""
    import transformers as hf

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.LlamaForCausalLM(
            hf.LlamaConfig(
                vocab_size=260,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                bos_token_id=None,
                eos_token_id=256,
            )
        )
    for parameter in model.parameters():
        parameter.data.mul_(3.0) if parameter.dim() > 1 else None
    return model.eval()


def base_nlls(engine: Engine, method: Method, settings: TempLoraConfig, ids: list[int] = IDS) -> list[float]:
    with engine.session(settings, method=method) as session:
        found = [e.base_nll for e in session.score_ids(ids, adapted=False) if isinstance(e, ChunkScored)]
    assert session.receipt is not None
    assert session.receipt.base_unchanged
    assert session.receipt.discarded
    return [x for x in found if x is not None]


def nll(model: Any, context: list[int], targets: list[int], positions: list[int] | None = None) -> float:
    """Of `targets` after `context`, by the model's own forward pass."""
    ids = torch.tensor([[*context, *targets]])
    where = None if positions is None else torch.tensor([positions])
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1], position_ids=where).logits[0].double()
    return float(F.cross_entropy(logits[len(context) - 1 :], torch.tensor(targets), reduction="sum"))


def test_every_method_runs_with_every_adapter_and_leaves_no_trace() -> None:
    for name in METHODS:
        if name == "kv_compression":  # needs KVPress; below, with a press of our own
            continue
        for source in (SOURCES["none"], SOURCES["own"], SOURCES["shuffled"]):
            engine = tiny_engine()
            before = copy.deepcopy(engine.model.module.state_dict())
            modules = [n for n, _ in engine.model.module.named_modules()]
            settings = config() if source.learns else config(**OFF)
            lesson = source.lesson(engine.tokenizer, 1) if source.lesson else None
            with engine.session(settings, method=make_method(name), lesson=lesson) as session:
                scored = [e for e in session.score_ids(IDS) if isinstance(e, ChunkScored)]
                session.write(max_new_tokens=40)
            assert sum(e.targets for e in scored) == len(IDS) - 1
            assert session.receipt is not None
            assert session.receipt.base_unchanged
            assert session.receipt.discarded
            after = engine.model.module.state_dict()
            assert all(torch.equal(before[k], after[k]) for k in before)
            assert modules == [n for n, _ in engine.model.module.named_modules()]


@pytest.mark.parametrize("method", [AttentionSinks(), KvCompression("Newest", 2.0), ExtendedPositions("dynamic")])
def test_a_text_within_the_window_is_read_as_ever(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_kvpress(monkeypatch)
    settings, ids = config(window=128, **OFF), IDS[:120]
    assert base_nlls(tiny_engine(), method, settings, ids) == base_nlls(tiny_engine(), Method(), settings, ids)


# Attention sinks ----------------------------------------------------------------------------------------------------


def test_sinks_are_the_first_tokens_and_the_last_ones_at_neighbouring_positions() -> None:
    """In one layer nothing of a dropped token is left in the others, so it is a text without it."""
    model = one_layer()
    engine = Engine(model, byte_tokenizer())
    found = base_nlls(engine, AttentionSinks(), config(**OFF))
    for index, start in enumerate(range(64, len(IDS), 32), 2):
        recent = IDS[start - 32 + 4 : start]  # window − Δ entries, four of which are the sinks
        expected = nll(model, [*IDS[:4], *recent], IDS[start : start + 32])
        assert found[index] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt2"])
def test_keys_can_be_turned_in_every_rotary_family(family: str) -> None:
    assert AttentionSinks().problem(tiny_engine(family).model, config()) is None


def test_sinks_say_which_models_cannot() -> None:
    assert "no rotary positions" in (AttentionSinks().problem(tiny_engine("gpt2").model, config()) or "")
    engine = tiny_engine()
    rotary = engine.model.module.model.rotary_emb
    engine.model.module.model.rotary_emb = _Upside(rotary)
    assert "do not turn" in (AttentionSinks().problem(engine.model, config()) or "")
    with pytest.raises(ModelError, match="attention_sinks does not work here"):
        engine.session(config(), method=AttentionSinks())


class _Upside(torch.nn.Module):
    """Positions that count backwards and twice."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.rope_type = inner, "default"

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        return self.inner(x, position_ids**2)


# Extended positions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_positions_are_those_of_a_model_configured_so(scaling: str) -> None:
    """The session's likelihoods against transformers' own model with these rope parameters."""
    ids = IDS[:200]
    engine = tiny_engine(positions=128)
    settings = config(window=256, chunk_size=200, **OFF)
    found = base_nlls(engine, ExtendedPositions(scaling, 2.0), settings, ids)
    scaled = copy.deepcopy(engine.model.module.config)
    scaled.rope_parameters |= {"rope_type": scaling, "factor": 2.0, "original_max_position_embeddings": 128}
    if scaling != "dynamic":
        scaled.max_position_embeddings = 256
    reference = type(engine.model.module)(scaled)
    reference.load_state_dict(engine.model.module.state_dict())
    assert sum(found) == pytest.approx(nll(reference.eval(), ids[:1], ids[1:]), rel=1e-5)
    plain = nll(engine.model.module, ids[:1], ids[1:])
    assert abs(sum(found) - plain) > 0.05


@pytest.mark.parametrize("learning", ["off", "cascaded"])
def test_dynamic_positions_are_those_of_one_pass_over_all_before(learning: str) -> None:
    """Each chunk by transformers' own model, reading anew: no key is left turned by the frequencies of a shorter text,
    whether or not an adapter makes caches stale."""
    ids = IDS[:224]
    engine = tiny_engine(positions=64)
    settings = config(window=256, learning=learning)
    found = base_nlls(engine, ExtendedPositions("dynamic", 4.0), settings, ids)
    scaled = copy.deepcopy(engine.model.module.config)
    scaled.rope_parameters |= {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 64}
    reference = type(engine.model.module)(scaled).eval()
    reference.load_state_dict(engine.model.module.state_dict())
    expected = [nll(reference, ids[:start], ids[start : start + 32]) for start in range(32, 224, 32)]
    assert found[1:] == pytest.approx(expected, rel=1e-4)


def test_windows_may_be_as_long_as_the_stretched_positions() -> None:
    engine = tiny_engine(positions=128)
    with pytest.raises(ConfigError, match="at most 128"):
        engine.session(config(window=200))
    engine.session(config(window=200), method=ExtendedPositions("linear", 2.0)).discard()
    with pytest.raises(ConfigError, match="at most 256"):
        engine.session(config(window=300), method=ExtendedPositions("linear", 2.0))


def test_extended_positions_say_which_models_cannot() -> None:
    assert "no rotary" in (ExtendedPositions().problem(tiny_engine("gpt2").model, config()) or "")
    engine = tiny_engine()
    engine.model.module.model.rotary_emb.rope_type = "llama3"
    assert "scaled already (llama3)" in (ExtendedPositions().problem(engine.model, config()) or "")


# KV compression -----------------------------------------------------------------------------------------------------


class Newest:
    """A press that keeps the newest entries."""

    def __init__(self, compression_ratio: float) -> None:
        self.kept = 1 - compression_ratio

    def compress(self, module: Any, hidden: Any, keys: Any, values: Any, attentions: Any, kwargs: Any) -> Any:
        assert module.rotary_emb is not None
        assert hidden.shape[1] == keys.shape[2]
        kept = max(1, int(keys.shape[2] * self.kept))
        return keys[:, :, -kept:], values[:, :, -kept:]


class Broken(Newest):
    def compress(self, *args: Any) -> Any:
        raise ValueError("no attention weights here")


class Pyramid(Newest):
    """Keeps less in each layer than in the one before."""

    def compress(self, module: Any, hidden: Any, keys: Any, values: Any, attentions: Any, kwargs: Any) -> Any:
        keys, values = super().compress(module, hidden, keys, values, attentions, kwargs)
        return keys[:, :, module.layer_idx :], values[:, :, module.layer_idx :]


def _fake_kvpress(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("kvpress")
    fake.Newest, fake.Broken, fake.Pyramid = Newest, Broken, Pyramid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kvpress", fake)


def test_what_a_press_keeps_is_what_a_chunk_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeping the newest of a longer context, in a model of one layer, is a context of those alone."""
    _fake_kvpress(monkeypatch)
    model = one_layer()
    found = base_nlls(Engine(model, byte_tokenizer()), KvCompression("Newest", 3.0), config(**OFF))
    for index, start in enumerate(range(32, len(IDS), 32), 1):
        context = IDS[max(0, start - 32) : start]
        assert found[index] == pytest.approx(nll(model, context, IDS[start : start + 32]), rel=1e-5)


def test_the_adapter_learns_over_a_compressed_context(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_kvpress(monkeypatch)
    engine = tiny_engine()
    with engine.session(config(), method=KvCompression("Newest", 3.0)) as session:
        score = session.score("it was the best of times, it was the worst of times. " * 8)
        assert session.version > 5
    assert score.reduction > 0.1
    assert session.receipt is not None
    assert session.receipt.discarded
    assert not hasattr(engine.model.module.model.layers[0].self_attn, "rotary_emb")


def test_a_press_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_kvpress(monkeypatch)
    with pytest.raises(ModelError, match="Broken of kvpress fails on this model: no attention weights"):
        base_nlls(tiny_engine(), KvCompression("Broken", 3.0), config(**OFF))


def test_presses_keep_as_much_in_every_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_kvpress(monkeypatch)
    with pytest.raises(ModelError, match=r"keeps \[30, 31\] entries where 31 were asked for"):
        base_nlls(tiny_engine(), KvCompression("Pyramid", 3.0), config(**OFF))


def test_compression_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)
    assert "pip install kvpress" in (KvCompression().problem(tiny_engine().model, config()) or "")
    _fake_kvpress(monkeypatch)
    assert "no press 'Nothing'" in (KvCompression("Nothing").problem(tiny_engine().model, config()) or "")
    assert "short window" in (KvCompression("Newest").problem(tiny_engine("gemma3").model, config()) or "")
    assert "attention of GPT2" in (KvCompression("Newest").problem(tiny_engine("gpt2").model, config()) or "")
    assert "beyond" in (KvCompression("Newest", 60.0).problem(tiny_engine().model, config()) or "")


# Dynamic evaluation -------------------------------------------------------------------------------------------------


def test_dynamic_evaluation_is_adamw_on_every_matrix() -> None:
    """Written out with torch's own optimiser on a copy of the model."""
    engine = tiny_engine()
    model = copy.deepcopy(engine.model.module)
    found = base_nlls(engine, DynamicEvaluation(step_size=1e-3, steps=2), config(**OFF))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.AdamW(matrices, lr=1e-3, weight_decay=0.0)
    for index, start in enumerate(range(0, len(IDS), 32)):
        context, chunk = IDS[max(0, start - 32) : start], IDS[start : start + 32]
        context, chunk = (context, chunk) if context else (chunk[:1], chunk[1:])
        assert found[index] == pytest.approx(nll(model, context, chunk), rel=1e-4)
        for _ in range(2):
            logits = model(input_ids=torch.tensor([[*context, *chunk]])[:, :-1]).logits[0]
            F.cross_entropy(logits[len(context) - 1 :], torch.tensor(chunk)).backward()
            torch.nn.utils.clip_grad_norm_(matrices, 1.0)
            optimizer.step()
            model.zero_grad()
    assert found[-1] != base_nlls(tiny_engine(), Method(), config(**OFF))[-1]


def test_dynamic_evaluation_needs_weights_that_can_be_trained() -> None:
    from templora.layers.quantized import quantize_model

    model = tiny_model()
    quantize_model(model, 8)
    problem = DynamicEvaluation().problem(Engine(model, byte_tokenizer()).model, config())
    assert "quantised" in (problem or "")


# Lessons ------------------------------------------------------------------------------------------------------------


def test_shuffled_lessons_move_nothing_but_the_chunk() -> None:
    tokenizer = byte_tokenizer()
    tokens = list(b"Before. One fine day. Two more! Three? And the rest")
    chunk = Chunk(1, 0, 8, len(tokens))
    for lesson in (shuffled_sentences(tokenizer, 1), shuffled_tokens(tokenizer, 1)):
        found = lesson(tokens, chunk)
        assert found[:8] == tokens[:8]
        assert sorted(found) == sorted(tokens)
        assert found != tokens
        assert found == lesson(tokens, chunk)
    text = bytes(shuffled_sentences(tokenizer, 1)(tokens, chunk)).decode()
    assert all(sentence in text for sentence in ("One fine day.", " Two more!", " Three?", " And the rest"))
    wrapped = list(b"One fine\nday in\nMay. CHAPTER\n\nTwo more\nof them!")
    text = bytes(shuffled_sentences(tokenizer, 1)(wrapped, Chunk(0, 0, 0, len(wrapped)))).decode()
    assert all(part in text for part in ("One fine\nday in\nMay.", " CHAPTER\n\n", "Two more\nof them!"))


def test_a_lesson_is_what_is_learnt() -> None:
    """An adapter that is taught nothing but one token predicts that, and the text no better."""
    engine = tiny_engine()

    def lesson(tokens: Any, chunk: Chunk) -> list[int]:
        return [*tokens[: chunk.middle], *[65] * (chunk.end - chunk.middle)]

    with engine.session(config(learning_rate=0.03, max_repetition=1.0), lesson=lesson) as session:
        first = session.score("it was the best of times, it was the worst of times. " * 6)
        again = session.score("A" * 64)
    assert again.adapted.nll < 0.95 * again.base.nll
    assert first.adapted.nll > first.base.nll


# Names --------------------------------------------------------------------------------------------------------------


def test_names_and_options_are_checked() -> None:
    with pytest.raises(OptionError, match="did you mean 'attention_sinks'"):
        make_method("attention_sink")
    with pytest.raises(OptionError, match="did you mean 'factor'"):
        make_method("kv_compression", facto=2.0)
    with pytest.raises(OptionError, match="factor: must be of type float"):
        make_method("kv_compression", factor="2")
    with pytest.raises(OptionError, match="did you mean 'linear'"):
        make_method("extended_positions", scaling="liner")
    for name, options in (
        ("kv_compression", {"factor": 1.0}),
        ("extended_positions", {"factor": 100.0}),
        ("dynamic_evaluation", {"step_size": 0.0}),
        ("dynamic_evaluation", {"steps": 0}),
    ):
        with pytest.raises(OptionError, match=next(iter(options))):
            make_method(name, **options)
    with pytest.raises(OptionError, match="did you mean 'shuffled'"):
        adapter_source("shufled")
    assert all(make_method(name).name == name for name in METHODS)
