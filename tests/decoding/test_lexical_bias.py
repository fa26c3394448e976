"""Words that should occur: lifted where they fit, until they have."""

from __future__ import annotations

import pytest
import torch
from conftest import small

from templora.decoding.lexical_bias import FIRST, NEXT, LexicalBias
from templora.engine.engine import Engine
from templora.sampling import SamplingParams
from templora.testing import byte_tokenizer

COLD = SamplingParams(temperature=0)


def lifts(words: list[str], said: str, before: str = "kernel: ") -> dict[str, float]:
    """By how much each character is lifted after `said`."""
    tokenizer = byte_tokenizer()
    tokens = tokenizer(before + said)["input_ids"]
    logits = torch.zeros(len(tokenizer))
    found = LexicalBias(words, tokenizer, len(tokenizer(before)["input_ids"])).lift(logits, tokens)
    assert not logits.any()
    return {tokenizer.decode([i]): float(found[i]) for i in found.nonzero()[:, 0].tolist()}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("", {" ": FIRST, "k": FIRST, "K": FIRST}),
        ("the", {" ": FIRST}),
        ("the ", {"k": FIRST, "K": FIRST}),
        ("the k", {"e": NEXT, " ": FIRST}),
        ("the kern", {"e": NEXT, " ": FIRST}),
        ("the (", {" ": FIRST, "k": FIRST, "K": FIRST}),
        ("the kernels", {}),
        ("a Kernel", {}),
        ("microkernel", {" ": FIRST}),
    ],
)
def test_a_word_is_lifted_where_it_fits(said: str, expected: dict[str, float]) -> None:
    assert lifts(["kernel"], said) == expected


def test_only_what_is_likely_is_begun() -> None:
    """A word that is begun is finished all the same."""
    tokenizer = byte_tokenizer()
    logits = torch.linspace(0, 1, len(tokenizer))
    unlikely = tokenizer("b")["input_ids"][0]
    likely = int(logits.argmax())
    wanted = LexicalBias(["b"], tokenizer, 0)
    assert torch.equal(wanted.lift(logits, []), logits)
    logits[unlikely], logits[likely] = 1.0, 0.0
    assert wanted.lift(logits, [])[unlikely] == 1.0 + FIRST
    logits[unlikely] = 0.0
    assert LexicalBias(["ab"], tokenizer, 0).lift(logits, tokenizer("a")["input_ids"])[unlikely] == NEXT


def test_words_one_after_another() -> None:
    assert lifts(["ab", "cd"], "ab") == {" ": FIRST}
    assert lifts(["ab", "cd"], "ab c") == {"d": NEXT, " ": FIRST}
    assert lifts(["ab", "cd"], "cd, ab.") == {}
    assert lifts(["", " "], "x") == {}
    assert lifts(["中文"], "这是")  # no space is needed


def test_it_changes_what_is_drafted(engine: Engine, text: str) -> None:
    with engine.session(small(learning="off")) as session:
        plain = session.preview(text[:50], max_new_tokens=20, sampling=COLD).text
        words = [letter + "zz" for letter in "abcdefghijklmnopqrstuvwxy"]
        assert session.preview(text[:50], max_new_tokens=20, sampling=COLD, wanted=words).text != plain
        assert session.preview(text[:50], max_new_tokens=20, sampling=COLD, wanted=[" "]).text == plain
