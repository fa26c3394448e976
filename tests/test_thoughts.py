"""What a model thinks aloud is known by its tags, and is no part of a translation."""

from __future__ import annotations

import pytest
from conftest import small
from tokenizers import AddedToken

from templora.errors import ModelError
from templora.sampling import SamplingParams
from templora.testing import byte_tokenizer, tiny_engine
from templora.thoughts import closed, without_thoughts
from templora.translation.template import read_template

ANSWER = "Die Lampe."


@pytest.mark.parametrize(
    "text",
    [
        "<think>how?</think> Die Lampe.",
        "<think>\n\n</think>\n\nDie Lampe.",
        "how?</think>Die Lampe.",
        "how? </think> hm </think> Die Lampe.",
        "<think>a <think> tag?</think>Die Lampe.",
        "<Thinking>how?</THINKING >Die Lampe.",
        "<think>how?</thinking>Die Lampe.",
        '<thinking budget="3">how?</thinking>Die Lampe.',
        "<reasoning>how?</reasoning><answer>Die Lampe.</answer>",
        "<seed:think>how?</seed:think>Die Lampe.",
        "<|think|>how?<|/think|>Die Lampe.",
        "[THINK]how?[/THINK]Die Lampe.",
        "◁think▷how?◁/think▷Die Lampe.",
        "<|begin_of_thought|>how?<|end_of_thought|><|begin_of_solution|>Die Lampe.<|end_of_solution|>",
        "<|START_THINKING|>how?<|END_THINKING|>Die Lampe.",
        "<unused94>thought\nhow?<unused95>Die Lampe.",
        "<|channel|>analysis<|message|>how?<|channel|>final<|message|>Die Lampe.",
        "Die Lampe.<think>was that right?</think>",
        "Die <think>gender?</think>Lampe.",
        "Die Lampe.<think>and now",
    ],
)
def test_the_answer_alone(text: str) -> None:
    assert without_thoughts(text).strip() == ANSWER


@pytest.mark.parametrize("text", ["<think>how", "how?</think>", "[THINK] how? </think>", "<think>"])
def test_thoughts_that_come_to_no_answer(text: str) -> None:
    assert without_thoughts(text) == ""


@pytest.mark.parametrize(
    "text", ["", ANSWER, "I think > you", "<b>think</b>", "[think] so", "a < b", "<answer>42</answer>"]
)
def test_what_is_no_thought_stays(text: str) -> None:
    assert without_thoughts(text) == text


def test_tags_of_the_source_are_no_thoughts() -> None:
    text = "Das Modell schreibt <think>…</think> zuerst."
    assert without_thoughts(text, "The model writes <think>…</think> first.") == text


TURNS = "{% for m in messages %}<{{ m.role }}>|{{ m.content }}</>{% endfor %}<assistant>|"
OFF = "{% if enable_thinking is defined and not enable_thinking %}"


@pytest.mark.parametrize(
    ("template", "between"),
    [
        (TURNS, ""),
        (TURNS + OFF + "<think>\n\n</think>\n\n{% endif %}", "<think>\n\n</think>\n\n"),  # Qwen 3
        (TURNS + "<think>\n", "<think>\n\n</think>\n\n"),  # DeepSeek-R1: it thinks, whatever one says
        (TURNS + "{% if not thinking %}</think>{% else %}<think>{% endif %}", "</think>"),  # DeepSeek-V3.1
        (TURNS.replace("|{{ m.content", "|{% if m.role == 'assistant' %}<think></think>\n{% endif %}{{ m.content")
         + OFF + "<think></think>{% endif %}", "<think></think>"),  # GLM-4.5
        (TURNS.replace("|{{ m.content", "|{% if m.role == 'assistant' %}final|{% endif %}{{ m.content"), "final|"),
        (TURNS[:-len("<assistant>|")], ""),  # none that asks for an answer
    ],
)  # fmt: skip
def test_chat_templates_are_asked_for_the_answer_at_once(template: str, between: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    found = read_template("chat", tokenizer, "English", "German")
    assert found.between.endswith("<assistant>|" + between)
    assert closed(found.between) == found.between


def test_turns_that_differ_in_more_are_refused() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TURNS[: -len("<assistant>|")] + "[answer]"
    with pytest.raises(ModelError, match="one turn after another"):
        read_template("chat", tokenizer, "English", "German")


def test_tags_that_are_control_tokens_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`decode` leaves those out, and would leave the thoughts where they are."""
    engine = tiny_engine()
    engine.tokenizer.add_tokens([AddedToken("[THINK]", special=True), AddedToken("[/THINK]", special=True)])
    first, last = (engine.tokenizer.convert_tokens_to_ids(t) for t in ("[THINK]", "[/THINK]"))
    assert engine.tokenizer.decode([first, 65, last], skip_special_tokens=True) == "A"
    written = iter([first, *b"how?", last, *b"Ja.", 256])
    monkeypatch.setattr("templora.sampling.Sampler.__call__", lambda *_: next(written))
    with engine.session(small()) as session:
        session.absorb("It was")
        draft = session.preview(": ", max_new_tokens=20, sampling=SamplingParams(temperature=0))
    assert (draft.text, draft.ended) == ("[THINK]how?[/THINK]Ja.", True)
