"""Words that should occur: put where they are likeliest to begin, unless there is no place for them."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import small

from templora.decoding.wanted_words import WantedWords
from templora.engine.engine import Engine
from templora.sampling import SamplingParams, Wanted
from templora.testing import byte_tokenizer

COLD = SamplingParams(temperature=0)
TOKENIZER = byte_tokenizer()


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text)["input_ids"])


def logits(next_: str, **others: float) -> torch.Tensor:
    """Of which one character is nearly certain, and some are as likely as is said; `_` is a space."""
    found = torch.full((len(TOKENIZER),), -30.0)
    found[ids(next_)[0]] = math.log(1 - sum(others.values()))
    for character, share in others.items():
        found[ids(character.replace("_", " "))[0]] = math.log(share)
    return found


def kept(words: WantedWords) -> str:
    return str(TOKENIZER.decode([token for token, _ in words.kept]))


def draft(words: WantedWords, likely: list[torch.Tensor]) -> str:
    """Drafts on from what is kept, each time what is likeliest."""
    for one in likely[len(words.kept) :]:
        words.add(words.choose(one, lambda one=one: int(one.argmax())))  # type: ignore[misc]
    return kept(words)


def test_a_word_goes_where_it_is_likeliest_to_begin() -> None:
    words = WantedWords({"k": Wanted("k")}, TOKENIZER)
    likely = [logits("a"), logits(" ", k=0.3), logits("b", k=0.2), logits("c"), logits(" "), logits("d", k=0.1)]
    free = draft(words, likely)
    assert free == "a bc d"
    words.begin(free)
    assert words.missing(free) == ["k"]
    tried = []
    for _ in words.put("k"):
        tried.append(kept(words))
        assert draft(words, likely) == tried[-1] + "k" + free[len(tried[-1]) + 1 :]
    # Not within the word "a", however likely; then behind the space, then before "d".
    assert tried == ["a ", "a bc "]


def test_what_comes_behind_is_free_again() -> None:
    words = WantedWords({"kl": Wanted("kl")}, TOKENIZER)
    likely = [logits("x", k=0.2), logits("y", l=0.3), logits("z")]
    words.begin(draft(words, likely))
    next(words.put("kl"))
    assert draft(words, likely) == "klz"
    assert words.better("klz")


@pytest.mark.parametrize(
    ("share", "firmly", "put"),
    [(0.01, False, True), (0.001, False, False), (0.001, True, True), (0.00001, True, False)],
)
def test_where_it_is_too_unlikely_it_has_no_place(share: float, firmly: bool, put: bool) -> None:
    words = WantedWords({"k": Wanted("k", firmly)}, TOKENIZER)
    words.begin(draft(words, [logits("x", k=share)]))
    assert any(True for _ in words.put("k")) == put


def test_a_much_less_likely_draft_is_none() -> None:
    likely = [logits("x", k=0.2), *[logits(" ")] * 9]
    for rest, better in ((logits(" "), True), (logits(" ", y=0.999), False)):
        words = WantedWords({"k": Wanted("k")}, TOKENIZER)
        words.begin(draft(words, likely))
        next(words.put("k"))
        for one in [likely[0], *[rest] * 9]:
            words.add(words.choose(one, lambda: ids(" ")[0]))
        assert words.better(kept(words)) == better


@pytest.mark.parametrize(
    ("text", "missing"),
    [("the kernels", []), ("a Kernel", []), ("microkernel", ["kernel"]), ("kerne", ["kernel"]), ("", ["kernel"])],
)
def test_when_a_word_is_there(text: str, missing: list[str]) -> None:
    assert WantedWords({"kernel": Wanted("kernel")}, TOKENIZER).missing(text) == missing


def test_forms_of_a_word() -> None:
    words = WantedWords(
        {"directory": Wanted("director"), "中文": Wanted("中文"), " ": Wanted(" "), "": Wanted("")}, TOKENIZER
    )
    assert words.missing("directories") == ["中文"]
    assert words.missing("这是中文") == ["directory"]


def test_a_word_in_place_of_another_is_no_gain() -> None:
    words = WantedWords({"a": Wanted("a"), "b": Wanted("b")}, TOKENIZER)
    words.begin(draft(words, [logits("a", b=0.4)]))
    next(words.put("b"))
    draft(words, [logits("a")])
    assert not words.better("b")


def test_it_changes_what_is_drafted(engine: Engine, text: str) -> None:
    """And leaves nothing behind: without words the draft is the same as before, with them too."""
    with engine.session(small(learning="off")) as session:

        def drafted(*words: str) -> str:
            wanted = {word: Wanted(word) for word in words}
            return session.preview(text[:50], max_new_tokens=20, sampling=COLD, wanted=wanted).text

        plain = drafted()
        words = [a + b for a in "abcdefgh" for b in "xyz"]
        with_words = drafted(*words)
        assert with_words != plain
        assert sum(word in with_words for word in words) > sum(word in plain for word in words)
        assert (drafted(), drafted(*words), drafted(" ")) == (plain, with_words, plain)
