from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from pieces import piece_tokenizer
from transformers.generation import logits_process as hf

from templora import processors
from templora.errors import ModelError, OptionError
from templora.events import TokenLogprobs
from templora.sampling import Sampler, SamplingParams, uniform
from templora.testing import byte_tokenizer

TOKENS = byte_tokenizer()


def sampler(banned: list[int] | None = None, seed: int = 0, **params: Any) -> Sampler:
    return Sampler(
        SamplingParams(**{"min_p": 0.0, "repetition_penalty": 1.0} | params),
        banned or [],
        seed,
        tokenizer=TOKENS,
    )


def spread(s: Sampler, logits: torch.Tensor, n: int = 4000) -> torch.Tensor:
    counts = torch.zeros(len(logits))
    for index in range(n):
        counts[s(logits, [], index)] += 1
    return counts / n


LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -6.0])


def test_sampling_follows_the_softmax() -> None:
    assert torch.allclose(spread(sampler(), LOGITS), LOGITS.softmax(0), atol=0.03)
    assert torch.allclose(spread(sampler(temperature=2.0), LOGITS), (LOGITS / 2).softmax(0), atol=0.03)


def test_a_random_number_is_that_of_its_place() -> None:
    """Whatever was drawn before: the same place gives the same, another seed or place another."""
    found = [uniform(seed, index, earlier) for seed in (0, 1, 2**63 - 1) for index in range(300) for earlier in (0, 1)]
    assert len(set(found)) == len(found)
    assert 0 <= min(found) < 0.01
    assert 0.99 < max(found) < 1
    assert found == [uniform(s, i, e) for s in (0, 1, 2**63 - 1) for i in range(300) for e in (0, 1)]
    assert uniform(42, 7) == 0.04572156290398832  # for ever: what a seed writes depends on it
    s, other = sampler(seed=3), sampler(seed=4)
    drawn = [s(LOGITS, [], index) for index in range(50)]
    assert drawn[::-1] == [s(LOGITS, [], index) for index in reversed(range(50))]
    assert drawn != [other(LOGITS, [], index) for index in range(50)]
    assert len({s(LOGITS, [], 9, earlier) for earlier in range(40)}) > 1


def test_filters_keep_what_they_say() -> None:
    assert set(spread(sampler(top_k=2), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}
    assert set(spread(sampler(top_p=0.7), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}
    assert set(spread(sampler(min_p=0.3), LOGITS, 300).nonzero().flatten().tolist()) == {0, 1}


def test_greedy_and_bans() -> None:
    assert sampler(temperature=0)(LOGITS, [], 7) == 0
    assert sampler([0], temperature=0)(LOGITS, [], 7) == 1
    assert 0 not in {sampler([0], seed=s)(LOGITS, [], 7) for s in range(200)}
    assert LOGITS[0] == 2.0  # the caller's logits are left alone


def test_repetition_penalty_looks_at_the_window() -> None:
    assert sampler(temperature=0, repetition_penalty=3.0)(LOGITS, [0, 0], 7) == 1


def test_min_p_is_transformers_own() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(1)) * 3
    for p in (0.01, 0.1, 0.5):
        theirs = hf.MinPLogitsWarper(p)(torch.tensor([[0]]), logits.clone())
        assert torch.equal(processors.min_p(p)(torch.tensor([[0]]), logits), theirs)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "warm"])
def test_bad_temperature(value: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        SamplingParams(temperature=value)


def test_random_numbers_of_one_place() -> None:
    """The first of the first alternative is the one that there always was."""
    found = [uniform(3, index, e, a, w) for index in range(50) for e in (0, 1) for a in (0, 1, 2) for w in (0, 1)]
    assert len(set(found)) == len(found)
    assert uniform(42, 7, 0, 0, 0) == uniform(42, 7) == 0.04572156290398832
    assert uniform(42, 7, 0, 1) == 0.8208568074432091  # for ever, too
    assert uniform(42, 7, 0, 0, 1) == 0.5895053642724684
    assert 0 <= uniform(-1, 7) == uniform(2**64 - 1, 7) < 1


# Penalties, bias, XTC -----------------------------------------------------------------------------------------------


def test_penalties_look_at_the_window() -> None:
    assert sampler(temperature=0, frequency_penalty=0.6)(LOGITS, [0], 7) == 0
    assert sampler(temperature=0, frequency_penalty=0.6)(LOGITS, [0, 0], 7) == 1
    assert sampler(temperature=0, presence_penalty=0.6)(LOGITS, [0, 0], 7) == 0
    assert sampler(temperature=0, presence_penalty=1.1)(LOGITS, [0], 7) == 1
    dry = {"temperature": 0, "dry_multiplier": 0.8, "dry_sequence_breakers": ()}
    assert sampler(**dry)(LOGITS, [3, 4, 0, 3, 4], 7) == 0
    assert sampler(**dry)(LOGITS, [2, 3, 4, 0, 2, 3, 4], 7) == 1  # 0.8 · 1.75
    assert sampler(**dry, dry_range=6)(LOGITS, [2, 3, 4, 0, 2, 3, 4], 7) == 0
    assert sampler(**dry, dry_allowed_length=3)(LOGITS, [2, 3, 4, 0, 2, 3, 4], 7) == 0


def test_breakers_are_found_in_the_text_of_tokens() -> None:
    ids = TOKENS("xab:yab:yab")["input_ids"]
    logits = torch.zeros(260)
    logits[ord("y")] = logits[ord(":")] = 3.0
    logits[ord(":")] += 0.1

    def dry(*breakers: str, text: list[int] = ids) -> str:
        made = Sampler(
            SamplingParams(temperature=0, dry_multiplier=1, repetition_penalty=1, dry_sequence_breakers=breakers),
            [],
            0,
            tokenizer=TOKENS,
        )
        return chr(made(logits, text, 0))

    assert dry("!") == "y"  # ":" goes on with "yab"
    assert dry(":") == ":"  # which no repeat reaches, and which loses nothing itself
    assert dry("b") == ":"


def test_xtc_draws_a_number_of_its_own() -> None:
    """As often as it is to; tokens are drawn by the same numbers as without."""
    logits = torch.tensor([1.0, 0.5, 0.0])
    params = SamplingParams(min_p=0, repetition_penalty=1, xtc_probability=0.25)
    free = Sampler(replace(params, xtc_probability=0), [], 0)
    found, without = Sampler(params, [], 0, tokenizer=TOKENS), [free(logits, [], index) for index in range(4000)]
    drawn = [found(logits, [], index) for index in range(4000)]
    off = [uniform(0, index, 0, 0, 1) >= 0.25 for index in range(4000)]
    assert sum(off) == pytest.approx(3000, abs=100)
    assert all(token == (same if no else 2) for token, same, no in zip(drawn, without, off, strict=True))
    assert Sampler(replace(params, xtc_probability=1), [], 0, tokenizer=TOKENS)(logits, [], 5) == 2


def test_xtc_spares_ends_of_lines_and_of_the_text() -> None:
    logits = torch.full((260,), -20.0)
    logits[[ord("\n"), ord("a"), ord("b")]] = torch.tensor([2.0, 1.9, 1.5])
    params = SamplingParams(min_p=0, repetition_penalty=1, xtc_probability=1)

    def drawn(ends: list[int]) -> set[int]:
        made = Sampler(params, [], 0, tokenizer=TOKENS, ends=ends)
        return {made(logits, [], index) for index in range(60)}

    assert drawn([]) == {ord("\n"), ord("a"), ord("b")}
    logits[ord("\n")] = -20.0
    assert drawn([]) == {ord("b")}
    assert drawn([ord("a")]) == {ord("a"), ord("b")}


def test_bias_comes_before_penalties_and_these_before_the_temperature() -> None:
    """As in transformers, vLLM and llama.cpp."""
    s = sampler(temperature=0, repetition_penalty=2.0, logit_bias={1: 2.0})
    assert s(LOGITS, [1], 7) == 0  # (1 + 2) / 2 < 2 < 1 / 2 + 2
    assert sampler(temperature=0.01, min_p=0.5, frequency_penalty=1.5)(LOGITS, [0], 7) == 1


def test_bias_by_id_and_by_text() -> None:
    params = SamplingParams(logit_bias={"the": -5, 104: 2, "t": 1, "né": -100, "\n": 3, " on": 1})
    assert params.biases(TOKENS) == {ord("t"): -4.0, 104: 2.0, ord("n"): -math.inf, 10: 3.0, ord("o"): 1.0}
    pieces = piece_tokenizer()
    one = {text: SamplingParams(logit_bias={text: 1}).biases(pieces) for text in ("END", "The", "\n\n", " END")}
    names = {text: {pieces.decode([i]) for i in found} for text, found in one.items()}
    assert names == {"END": {"E", " END"}, "The": {"T"}, "\n\n": {"\n\n"}, " END": {" END"}}


def test_a_ban_and_nothing_that_is_left() -> None:
    assert sampler(temperature=0, logit_bias={0: -100, 1: -100})(LOGITS, [], 7) == 2
    assert sampler([0], temperature=0, logit_bias={0: 100})(LOGITS, [], 7) == 1  # banned otherwise
    for bans, banned in (([0, 1, 2], []), ([0, 2], [1])):
        with pytest.raises(OptionError, match="logit_bias: bans every token"):
            Sampler(SamplingParams(logit_bias=dict.fromkeys(bans, -100)), banned, 0, vocabulary=3)
    with pytest.raises(OptionError, match="there is no token 3: the model knows 0 to 2"):
        Sampler(SamplingParams(logit_bias={3: 1}), [], 0, vocabulary=3)


def test_what_is_off_does_nothing() -> None:
    """Nothing is made of it, and nothing looks at the text."""
    off = sampler(dry_base=3, dry_range=9, xtc_threshold=0.4, logit_bias={}, dry_allowed_length=7)
    assert (off._filters, off._xtc, off._reads) == ([], None, False)
    assert off.logprobs(LOGITS, 1) is None
    assert not sampler(logit_bias={1: 1})._reads
    assert Sampler(SamplingParams(temperature=0, xtc_probability=1), [], 0)._xtc is None


def test_logprobs_are_those_of_the_model() -> None:
    made = Sampler(SamplingParams(logprobs=2, temperature=0.1, logit_bias={0: -100}), [1], 0, tokenizer=TOKENS)
    logits = torch.zeros(260)
    logits[[ord("a"), ord(" "), 256]] = torch.tensor([3.0, 2.0, 1.0])
    every = logits.log_softmax(-1)
    found = made.logprobs(logits, 256)
    assert found is not None
    assert found.logprob == pytest.approx(float(every[256]))
    assert [(token, text) for token, text, _ in found.top] == [(ord("a"), "a"), (ord(" "), " ")]
    assert [value for *_, value in found.top] == pytest.approx([float(every[ord("a")]), float(every[ord(" ")])])
    none = Sampler(SamplingParams(logprobs=0), [], 0).logprobs(logits, 256)
    assert none == TokenLogprobs(found.logprob)
    named = Sampler(SamplingParams(logprobs=3), [], 0, tokenizer=TOKENS).logprobs(logits, 0)
    assert named is not None
    assert [text for _, text, _ in named.top] == ["a", " ", "<|endoftext|>"]


# Options ------------------------------------------------------------------------------------------------------------

BAD = {
    "frequency_penalty": [-2.1, 2.1, math.nan, "1"],
    "presence_penalty": [-3, 2.5, None],
    "dry_multiplier": [-0.1, math.inf],
    "dry_base": [0.9, 101, "x"],
    "dry_allowed_length": [0, 1.5, None],
    "dry_range": [-1, 0.5],
    "dry_sequence_breakers": ["", [""], 3, [3], "a" * 101, "\ud800"],
    "xtc_probability": [-0.1, 1.1],
    "xtc_threshold": [0, 1.5],
    "logit_bias": [
        {"": 1}, {1: 101}, {1: -101}, {1: math.nan}, {1: "x"}, {-1: 1}, {1.5: 1}, {True: 1}, {None: 1}, {"\ud800": 1},
        {2**70: 1}, [1], "ab", ["ab"], 3, 0, [(1, 2, 3)], [[1]],
    ],
    "logprobs": [-1, 21, 1.5, True, "5"],
    "n": [0, 129, 1.5, None],
}  # fmt: skip


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, bad in BAD.items() for value in bad])
def test_bad_option_is_named(option: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"^{option}: "):
        SamplingParams(**{option: value})


def test_alternatives_of_one_text_are_refused() -> None:
    with pytest.raises(OptionError, match="n: must be 1 where the temperature is 0"):
        SamplingParams(temperature=0, n=2)


_WHAT = st.integers(0, 2**40) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(
    st.dictionaries(_WHAT, st.floats(-100, 100), max_size=5),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), max_size=3),
    st.none() | st.integers(0, 20),
)
def test_what_a_log_holds_is_what_was_asked(biases: dict[int | str, float], breakers: list[str], many: Any) -> None:
    params = SamplingParams(logit_bias=biases, dry_sequence_breakers=breakers, logprobs=many, xtc_probability=0.1)
    assert SamplingParams.stored(json.loads(json.dumps(asdict(params)))) == params
    assert dict(params.logit_bias or ()) == biases
    assert hash(params) == hash(replace(params))


def test_an_older_log_has_nothing_of_this() -> None:
    older = {"temperature": 1.5, "top_p": 1.0, "top_k": 0, "min_p": 0.1, "repetition_penalty": 1.1, "stop": ["x"]}
    assert SamplingParams.stored(older) == SamplingParams(temperature=1.5, min_p=0.1, stop="x")
    assert not any([SamplingParams().dry_multiplier, SamplingParams().xtc_probability, SamplingParams().logit_bias])


USUAL: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.0, "top_k": 3, "min_p": 0.0},
    {"temperature": 1.7, "min_p": 0.01},
    {"temperature": 0.3, "repetition_penalty": 0.8},
    {"temperature": 1e-9},
    {"temperature": 1e9, "min_p": 1e-6},
    {"min_p": 0.99},
]


@pytest.mark.parametrize("params", USUAL, ids=str)
def test_the_quick_way_is_the_usual_one(params: dict[str, Any]) -> None:
    """The same tokens as one processor after another, also where many are equal, banned, or out of the question."""
    random = torch.Generator().manual_seed(3)
    quick, slow = (Sampler(SamplingParams(**params), [7, 0], 5) for _ in range(2))
    assert quick._chooser is not None
    slow._chooser = None
    for index in range(300):
        logits = 4 * torch.randn(1 + index * 7, generator=random) if index > 1 else torch.arange(9.0)
        if index % 3 == 0:
            logits = logits.round()
        if index % 5 == 0:
            logits[::4] = -math.inf
        if len(logits) < 9:
            continue
        kept = logits.clone()
        recent = torch.randint(len(logits), (40,), generator=random).tolist() if index % 7 else []
        assert quick(logits, recent, index) == slow(logits, recent, index)
        assert torch.equal(kept, logits)


@pytest.mark.parametrize("params", [*USUAL, {"top_k": 3}], ids=str)
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(params: dict[str, Any], bad: float) -> None:
    chosen = Sampler(SamplingParams(**params), [], 0)
    assert chosen(torch.tensor([1.0, -math.inf, 2.0]), [], 0) in (0, 2)
    for logits in (torch.tensor([1.0, bad, 2.0]), torch.full((9,), -math.inf)):
        with pytest.raises(ModelError, match="not finite"):
            chosen(logits, [], 0)


@pytest.mark.parametrize("params", [{}, {"temperature": 0}], ids=str)
def test_ids_that_the_model_does_not_have(params: dict[str, Any]) -> None:
    """A tokenizer may end texts with one; and where none is left, that is said."""
    chosen = Sampler(SamplingParams(**params), [60, 2**40, -1], 0)
    assert chosen(torch.tensor([1.0, 9.0]), [70, -3, 1], 0) in (0, 1)
    with pytest.raises(ModelError):
        Sampler(SamplingParams(**params), [0], 0)(torch.tensor([3.0]), [], 0)
    with torch.enable_grad():
        assert chosen(torch.tensor([1.0, 9.0], requires_grad=True), [], 0) in (0, 1)


def test_what_the_quick_way_does_not_know_goes_the_other() -> None:
    others: list[dict[str, Any]] = [
        {"top_k": 5},
        {"top_p": 0.9},
        {"min_p": 0.0},
        {"frequency_penalty": 0.1},
        {"presence_penalty": 0.1},
        {"dry_multiplier": 0.8},
        {"xtc_probability": 0.5},
        {"logit_bias": {3: 1.0}},
        {"temperature": 0, "logit_bias": {3: 1.0}},
        {"temperature": 0, "dry_multiplier": 0.8},
    ]
    for params in others:
        assert Sampler(SamplingParams(**params), [], 0, tokenizer=TOKENS)._chooser is None
