"""What a model computes with beside its weights: what a receipt sees, and what a session on disk is known by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small

from templora.engine.engine import Engine
from templora.errors import ModelError
from templora.layers.quantized import quantize_model
from templora.methods.dynamic_evaluation import DynamicEvaluation
from templora.models.arrangement import Arrangement, described, told_apart
from templora.store.log import Log
from templora.store.store import SessionStore
from templora.testing import FAMILIES, byte_tokenizer, tiny_engine, tiny_model


def setting(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def other_rotary(model: Any) -> None:
    config = type(model.config)(**model.config.to_dict())
    config.rope_parameters["rope_theta"] = 77.0
    model.model.rotary_emb = type(model.model.rotary_emb)(config=config)


# Changes that leave every weight as it is: family, what is done to the model.
CHANGES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "rotary frequencies": ("llama", lambda m: m.model.rotary_emb.inv_freq.mul_(1.5)),
    "one of two rotary tables": ("gemma3", lambda m: m.model.rotary_emb.sliding_attention_inv_freq.mul_(1.5)),
    "the rotary module": ("llama", other_rotary),
    "how attention is scaled by the rotary module": ("llama", setting("model.rotary_emb", "attention_scaling", 2.0)),
    "the scaling of a layer": ("llama", setting("model.layers.0.self_attn", "scaling", 0.01)),
    "an epsilon": ("llama", setting("model.norm", "variance_epsilon", 1.0)),
    "a sliding window": ("gemma3", setting("model.layers.0.self_attn", "sliding_window", 3)),
    "a window that is in the config alone": ("mistral", lambda m: setattr(m.config, "sliding_window", 3)),
    "softcapping": ("gemma3", lambda m: setattr(m.config, "final_logit_softcapping", 1.0)),
    "a kind of layer": ("gemma3", lambda m: m.config.layer_types.reverse()),
    "the embedding's scale": ("gemma3", lambda m: m.model.embed_tokens.embed_scale.mul_(2)),
    "a function in place of a forward": ("llama", setting("model.layers.0.mlp", "forward", lambda x: x * 0)),
    "the activation function": ("llama", setting("model.layers.0.mlp", "act_fn", torch.nn.ReLU())),
    "a dropout": ("gpt2", setting("transformer.h.0.mlp.dropout", "p", 0.5)),
    "a hook": ("llama", lambda m: m.model.norm.register_forward_hook(lambda *_: None)),
    "a hook with keywords": (
        "llama", lambda m: m.model.norm.register_forward_pre_hook(lambda *_: None, with_kwargs=True)
    ),
    "a hook backward": ("llama", lambda m: m.model.norm.register_full_backward_hook(lambda *_: None)),
    "attention": ("llama", lambda m: setattr(m.config, "_attn_implementation", "eager")),
    "ends of texts": ("llama", lambda m: setattr(m.config, "eos_token_id", 3)),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_receipt_sees_what_is_no_weight(change: str) -> None:
    family, act = CHANGES[change]
    engine = tiny_engine(family)
    session = engine.session(small())
    beside = engine.session(small())
    act(engine.model.module)
    for ended in (session, beside):
        receipt = ended.discard()
        assert not receipt.base_unchanged
        assert receipt.changed
    with engine.session(small()) as session:  # which found it so
        pass
    assert session.receipt is not None
    assert session.receipt.base_unchanged


@pytest.mark.parametrize("source", ["class", "function of the family"])
def test_a_receipt_sees_code_that_was_exchanged(source: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    with engine.session(small()) as session:
        if source == "class":
            monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", lambda self, x: x)
        else:
            monkeypatch.setattr(modeling_llama, "rotate_half", lambda x: x)
    assert session.receipt is not None
    assert not session.receipt.base_unchanged


@pytest.mark.parametrize("family", [*FAMILIES, "int8", "bf16"])
def test_our_own_work_changes_nothing(family: str, text: str) -> None:
    if family == "int8":
        model = tiny_model()
        quantize_model(model, 8)
        engine = Engine(model, byte_tokenizer())
    else:
        engine = tiny_engine(**({"dtype": torch.bfloat16} if family == "bf16" else {"family": family}))
    before = Arrangement.of(engine.model.module)
    with engine.session(small(learning="parallel")) as session, engine.session(small(rank=2)) as beside:
        session.absorb(text[:128])
        assert beside.discard().changed == ()
        session.write(max_new_tokens=3)
    assert session.receipt is not None
    assert session.receipt.changed == ()
    assert before.differences(Arrangement.of(engine.model.module)) == []
    words = json.loads(json.dumps(described(engine.model.module, engine.model.config)))
    assert told_apart(words, described(engine.model.module, engine.model.config)) == []


def test_a_change_between_two_sessions_is_nobodys(text: str) -> None:
    engine = tiny_engine(dtype=torch.bfloat16)
    module = engine.model.module

    def written(engine: Engine) -> tuple[list[int], float]:
        with engine.session(small(learning="off", learning_rate=None)) as session:
            nll = session.score(text[:90]).base.nll
            session.write(max_new_tokens=20)
        assert session.receipt is not None
        assert session.receipt.base_unchanged
        return session.tokens, nll

    written(engine)
    module.model.layers[0].mlp.up_proj.weight.data[0, 0] += 1
    module.model.layers[1].input_layernorm.weight.data *= 2
    module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.data * 3)
    for part in module.modules():
        if hasattr(part, "variance_epsilon"):
            part.variance_epsilon = 0.5
    fresh = Engine(module, byte_tokenizer())
    assert written(engine) == written(fresh)  # nothing was kept of the model as it was
    assert engine.learning_rate(small()) == fresh.learning_rate(small())


def test_a_change_while_sessions_live_is_not_kept_either(text: str) -> None:
    """Fused passes are of norms as they were; so is a learning rate that was asked for meanwhile."""
    engine = tiny_engine(dtype=torch.bfloat16)
    off = small(learning="off", mixture=False)
    with engine.session(off):
        for part in engine.model.module.modules():
            if hasattr(part, "variance_epsilon"):
                part.variance_epsilon = 0.5
        with engine.session(off):
            pass
    with engine.session(off) as session:
        nll = session.score(text[:90]).base.nll
    with Engine(engine.model.module, byte_tokenizer()).session(off) as session:
        assert session.score(text[:90]).base.nll == nll
    rate = tiny_engine().learning_rate(small())
    engine = tiny_engine()
    with engine.session(off, method=DynamicEvaluation(0.5)) as session:
        session.absorb(text)
        assert engine.learning_rate(small()) != rate
    assert engine.learning_rate(small()) == rate


def test_frequencies_that_a_text_has_stretched_are_put_back(text: str) -> None:
    model = tiny_model(positions=64)
    model.config.rope_parameters |= {"rope_type": "dynamic", "factor": 4.0}
    engine = Engine(type(model)(model.config).eval(), byte_tokenizer())
    before = engine.model.module.model.rotary_emb.inv_freq.clone()
    with engine.session(small(window=64, learning="off")):
        engine.model.hidden(list(range(100)), None)
        assert not torch.equal(engine.model.module.model.rotary_emb.inv_freq, before)
    assert torch.equal(engine.model.module.model.rotary_emb.inv_freq, before)


# Of a session on disk: what is done to the same model, and what the refusal names.
OTHERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rotary": (other_rotary, "inv_freq"),
    "scaling": (CHANGES["how attention is scaled by the rotary module"][1], "attention_scaling .was 1.0, is 2.0"),
    "epsilon": (setting("model.norm", "variance_epsilon", 0.1), "variance_epsilon"),
    "activation": (setting("model.layers.0.mlp", "act_fn", torch.nn.ReLU()), "act_fn"),
    "softcapping": (lambda m: setattr(m.config, "rms_norm_eps", 1.0), "config.rms_norm_eps .was 1e-06, is 1.0"),
    "hook": (lambda m: m.model.norm.register_forward_hook(lambda *_: None), "hooks .was 0, is 1"),
    "weights": (lambda m: m.model.norm.weight.data.mul_(2), "weights are others"),
}


def test_a_session_on_disk_knows_its_model(tmp_path: Path) -> None:
    store = SessionStore(tmp_path)
    store.create("a", tiny_engine(), small()).close()
    for act, said in OTHERS.values():
        model = tiny_model()
        act(model)
        with pytest.raises(ModelError, match=f"began with another model, tiny-llama, than .*{said}"):
            store.open("a", Engine(model, byte_tokenizer()))
    with pytest.raises(ModelError, match="tokenizer is another"):
        store.open("a", tiny_engine(bos=True))
    model = tiny_model()
    model.config.name_or_path, model.config.use_cache, model.config.eos_token_id = "elsewhere", False, 3
    store.open("a", Engine(model, byte_tokenizer())).close()  # the same, from another place


@pytest.mark.parametrize("computes", [None, {}, [], {"hooks": [[]], "LlamaRMSNorm.variance_epsilon": "x"}])
def test_what_a_log_says_of_its_model_need_not_make_sense(tmp_path: Path, computes: Any) -> None:
    """An old one says nothing; and one that says something else is refused, not fallen over."""
    store, engine = SessionStore(tmp_path), tiny_engine()
    store.create("a", engine, small()).close()
    begin = dict(store.history("a").begin)
    model = {key: begin["model"][key] for key in ("name", "fingerprint")}
    (tmp_path / "a" / "log.sqlite").unlink()
    with Log.create(tmp_path / "a" / "log.sqlite") as log:
        model |= {} if computes is None else {"computes": computes}
        log.extend([("begin", (), begin | {"model": model})])
    if computes and isinstance(computes, dict):
        with pytest.raises(ModelError, match="not what is computed"):
            store.open("a", engine)
    else:
        store.open("a", engine).close()
