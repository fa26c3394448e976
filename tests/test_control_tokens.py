"""A text is text: names of control tokens in it are spelled, kept and shown; ours alone are the tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import small
from hypothesis import given, settings, strategies as st
from pieces import piece_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from templora import TokenEvent
from templora.engine.engine import Engine
from templora.store.store import SessionStore
from templora.testing import byte_tokenizer, tiny_model
from templora.text import TextStream, chat_turn, control_tokens, decode, encode, ours
from templora.translation.template import read_template

NAMES = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<think>", "</think>", "[INST]", "<|tool|>"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def chat_tokenizer() -> Any:
    """With control tokens of a chat, and others that mark things and are not called special."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    marks = ["<think>", "</think>", "[INST]", "<|tool|>", "  "]
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    tokenizer.chat_template = CHATML + "{% if false %}<think></think>[INST]{% endif %}"
    return tokenizer


def space_tokenizer() -> Any:
    """Unigram with a space put before each text, which has `</s>` among its pieces."""
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(chr(c) for c in range(33, 127)), "▁", "▁the", "ing", "é", "\n"]
    model = models.Unigram([(piece, -float(i > 2) * 3.0) for i, piece in enumerate(pieces)], 0, False)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@cache
def smollm() -> Any:
    from templora.models.builtin import BUILTIN_MODELS
    from templora.models.unpacked import UnpackedModel

    return UnpackedModel(BUILTIN_MODELS["smollm2-135m"]).tokenizer


MADE = {"bytes": byte_tokenizer, "pieces": piece_tokenizer, "chat": chat_tokenizer, "spaces": space_tokenizer}
KINDS = [*MADE, pytest.param("smollm", marks=pytest.mark.real)]


@cache
def tokenizer(kind: str) -> Any:
    return smollm() if kind == "smollm" else MADE[kind]()


def texts(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Full of names, whole, cut and one in another."""
    name = st.sampled_from(NAMES)
    cut = st.builds(lambda a, b, at: a[:at] + b + a[at:], name, name, st.integers(0, 9))
    return st.lists(st.one_of(name, cut, st.text(alphabet, max_size=5)), max_size=8).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_text_comes_back(kind: str, data: Any) -> None:
    known, narrow = tokenizer(kind), kind in ("spaces", "pieces")
    text = data.draw(texts(st.sampled_from("ab th<>|/sing." if narrow else "ab <>|/s\n é😀")))
    text = text.lstrip(" ").replace("\n", "") if kind == "spaces" else text
    ids = encode(known, text, special=False)
    assert decode(known, ids) == text
    assert control_tokens(known).keys().isdisjoint(ids)
    stream = TextStream(known)
    assert "".join(map(stream.push, ids)) + stream.flush() == text


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_names_is_spelled_as_ever(kind: str) -> None:
    known = tokenizer(kind)
    for text in ("the king saw a thing", "<|im_start| >", "< s>", ""):
        assert encode(known, text, special=False) == known(text, add_special_tokens=False)["input_ids"]
    framed = ours("<|endoftext|>the ") + "king" + ours(" is<|endoftext|>")
    assert encode(known, framed, special=False) == known(str(framed), add_special_tokens=False)["input_ids"]


@settings(max_examples=40, deadline=None)
@given(text=texts(st.sampled_from("ab <>|s\n é😀")))
def test_a_document_opens_no_turn(text: str) -> None:
    known = tokenizer("chat")
    names = control_tokens(known)
    for framed in (
        chat_turn(known, text),
        read_template("chat", known, "English", "German").prompt(text, {text: text}, first=True),
    ):
        plain = type(framed)(*((part if own else "x", own) for part, own in framed.parts))
        ids = encode(known, framed, special=False)
        assert [i for i in ids if i in names] == [i for i in encode(known, plain, special=False) if i in names]
        assert known.decode(ids, clean_up_tokenization_spaces=False) == framed


@pytest.mark.parametrize("kind", ["bytes", "chat"])
def test_a_session_keeps_and_shows_them(tmp_path: Path, kind: str) -> None:
    said = f"He typed {' and '.join(NAMES)}.\n"
    engine = Engine(tiny_model(), tokenizer(kind)) if kind == "bytes" else Engine(_wide(), tokenizer(kind))
    with engine.session(small()) as session:
        session.absorb(said)
        assert session.text == said
        assert session.score(said).base.tokens == len(session.tokens) // 2
    store = SessionStore(tmp_path)
    with store.create("s", engine, small()) as saved:
        saved.absorb(said)
        shown = "".join(e.text for e in saved.stream(said, max_new_tokens=3) if isinstance(e, TokenEvent))
        assert saved.text == said + said + shown
    assert store.history("s").text == said + said + shown


def _wide() -> Any:
    import torch
    import transformers as hf

    config = hf.LlamaConfig(
        vocab_size=280, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=None, eos_token_id=256, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return hf.AutoModelForCausalLM.from_config(config).eval()


def test_what_the_model_writes_as_control_tokens_stays_hidden() -> None:
    known: Callable[..., Any] = tokenizer("chat")
    ids = [known.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<think>")]  # type: ignore[attr-defined]
    stream = TextStream(known)
    assert [stream.push(i) for i in [97, *ids, 98]] == ["a", "", "<think>", "b"]
