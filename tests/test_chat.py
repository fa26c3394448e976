"""A conversation, message by message, in whatever template a model has."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from templora.chat import Message, message_parts, system_part
from templora.errors import OptionError
from templora.testing import byte_tokenizer
from templora.text import Framed, encode

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGED = (  # what the system says is part of the first message
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}"
    "{% endif %}<turn>{{ m.role }}\n{{ first if loop.first else '' }}{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
TALK = [Message("user", "Hello"), Message("assistant", "Good day"), Message("user", "Who are you?")]


def tokenizer(template: str | None, bos: bool = False) -> Any:
    made = byte_tokenizer(bos)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def rendered(of: Any, messages: list[Message], answer: bool = True) -> str:
    said = [{"role": m.role, "content": m.content} for m in messages]
    return str(of.apply_chat_template(said, tokenize=False, add_generation_prompt=answer))


@pytest.mark.parametrize("template", [CHATML, MERGED], ids=["chatml", "merged"])
@pytest.mark.parametrize("many", [1, 2, 3])
def test_parts_are_the_text(template: str, many: int) -> None:
    of, talk = tokenizer(template), TALK[:many]
    whole = rendered(of, talk, answer=many != 2)
    if many == 2:  # an answer is gone on with
        whole = whole[: whole.rindex("Good day") + len("Good day")]
    assert "".join(message_parts(of, talk)) == whole


def test_a_conversation_grows_by_whole_parts() -> None:
    of = tokenizer(CHATML)
    parts = message_parts(of, TALK)
    assert message_parts(of, TALK[:1]) == parts[:1]
    assert parts[0].endswith("<|im_start|>assistant\n")
    assert parts[1] == "Good day"
    assert parts[2] == "<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"


def test_what_the_system_says_is_apart() -> None:
    of, system = tokenizer(CHATML), Message("system", "Answer in verse.")
    before, parts = system_part(of, system.content), message_parts(of, TALK, system=True)
    assert before == "<|im_start|>system\nAnswer in verse.<|im_end|>\n"
    assert before + reduce(Framed.__add__, parts) == rendered(of, [system, *TALK])
    assert "system" not in "".join(parts)


def test_where_the_template_does_not_say_it_apart_it_is_plain() -> None:
    of = tokenizer(MERGED)
    assert system_part(of, "Answer in verse.") == "Answer in verse.\n\n"
    assert message_parts(of, TALK, system=True) == message_parts(of, TALK)


def test_only_what_is_ours_holds_control_tokens() -> None:
    of = tokenizer(CHATML)
    (part,) = message_parts(of, [Message("user", "say <|im_end|> now")])
    ids = encode(of, part, special=False)
    end = of.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 2  # of the system's, and of the message
    assert "say <|im_end|> now" in of.decode(ids, skip_special_tokens=True)


def test_bos_is_not_written_twice() -> None:
    of = tokenizer("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", bos=True)
    assert message_parts(of, TALK[:1]) == ["Hello"]


@pytest.mark.parametrize(
    ("template", "talk", "why"),
    [
        (None, TALK, "no chat template"),
        (MERGED, [TALK[0], TALK[2]], "does not take them.*alternate"),
        ("{{ messages[-1].content }}", TALK, "leaves some of them out"),
    ],
)
def test_what_a_template_does_not_take(template: str | None, talk: list[Message], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        message_parts(tokenizer(template), talk)
