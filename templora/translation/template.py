"""`Template`: how a paragraph and its translation stand in a session's text.

    start  before {source} between {target} end   before {source} between {target} end   ...
           └──── read, not learnt ────┘└ learnt ┘

A template is a TOML file that one can edit: `pair` for models that only go on with a text, `ask` for models that chat,
whose own chat template then goes around it. templora/translation/templates has both, with what they may hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from templora.errors import ModelError, OptionError, nearest
from templora.runtime.files import told
from templora.text import Framed, filled, ours
from templora.thoughts import closed, without_thoughts
from templora.toml_files import read_toml

_LANGUAGES = ("source_language", "target_language")
# What each part of a file may hold, and what it must.
_PARTS = {
    "start": ((*_LANGUAGES,), ()),
    "glossary": ((*_LANGUAGES, "terms"), ("terms",)),
    "pair": ((*_LANGUAGES, "source", "target", "glossary"), ("source", "target")),
    "ask": ((*_LANGUAGES, "source", "glossary"), ("source",)),
}
_HOLE = re.compile(r"\{([^{}]*)\}")
# Tell a chat template that the answer comes at once, each in some families' words; others pass them over.
_AT_ONCE = {"enable_thinking": False, "thinking": False}
_NO_TURNS = "the model's chat template does not put one turn after another; give a template with pair"
# Stand for two paragraphs, and an answer, in a chat template.
_FIRST, _ANSWER, _SECOND = "QpalZm1", "QpalZm2", "QpalZm3"


@dataclass(frozen=True)
class Template:
    """What stands around paragraphs and translations, for two languages and one model.

    Args:
        start: before the first paragraph's `before`.
        before, between: around a paragraph; `before` holds `{glossary}` where that goes, or it is in `between`.
        lead: between `between` and the translation, written by the model with its first word.
        end: after a translation.
        glossary: a line with `{terms}`.
        stop: texts at which a translation ends at the latest; without any: only at a token that ends a text.
        languages: the English names of both.
        way_back: the same for the other direction.
    """

    start: str
    before: str
    between: str
    lead: str
    end: str
    glossary: str
    stop: tuple[str, ...] = ("\n",)
    languages: tuple[str, str] = ("Source", "Translation")
    way_back: Template | None = None

    def prompt(self, source: str, terms: Mapping[str, str], *, first: bool) -> Framed:
        """All that stands before the translation of a paragraph."""
        listed = "; ".join(f"{term} = {translation}" for term, translation in terms.items())
        line = filled(self.glossary, "{terms}", listed) if terms else ours("")
        before, between = (filled(part, "{glossary}", line) for part in (self.before, self.between))
        return ours(self.start if first else "") + before + source + between

    def answer(self, target: str) -> Framed:
        """A translation that is known, and what ends it."""
        return ours(self.lead) + target + ours(self.end)

    def back(self, target: str) -> str:
        """What asks for the source of a translation, for a model that goes on with a text."""
        return f"{self.languages[1]}: {target}\n{self.languages[0]}:"


def read_template(name: str | None, tokenizer: Any, source: str, target: str) -> Template:
    """The template of a name or a file, for these two languages (English names).

    Args:
        name: `lines`, `chat`, or a TOML file; None: `chat` if the model has a chat template.
        tokenizer: of the model.
        source, target: the languages.

    Raises:
        OptionError: no such template, or one that cannot be used; says what is wrong.
        ModelError: the model's chat template is not one of turns that follow each other.
    """
    if name is None:
        name = "chat" if getattr(tokenizer, "chat_template", None) else "lines"
    folder = resources.files("templora.translation.templates")
    builtin = {each: (folder / f"{each}.toml").read_text(encoding="utf-8") for each in ("lines", "chat")}
    values = _checked(name, read_toml("template", name, builtin))
    there, back = (_of(name, values, tokenizer, names) for names in ((source, target), (target, source)))
    return replace(there, way_back=back)


def _of(name: str, parts: Mapping[str, str], tokenizer: Any, languages: tuple[str, str]) -> Template:
    """What the parts of a file are for two languages."""
    values = dict(parts)
    for part in values:
        for hole, language in zip(_LANGUAGES, languages, strict=True):
            values[part] = values[part].replace(f"{{{hole}}}", language)
    made = _of_lines(values) if "pair" in values else _of_chat(name, values, tokenizer)
    return replace(made, languages=languages)


def _checked(name: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The parts of a file, each with what it must hold and nothing else."""
    parts = {"start": "", "glossary": ""}
    for part, text in values.items():
        if part not in _PARTS:
            raise OptionError("template", f"{name}: unknown part {part!r}; {nearest(part, _PARTS)}")
        if not isinstance(text, str):
            raise OptionError("template", f"{name}: {part} must be a text")
        may, must = _PARTS[part]
        holes = _HOLE.findall(text)
        for hole in holes:
            if hole not in may:
                raise OptionError("template", f"{name}: {part} cannot hold {{{hole}}}; {nearest(hole, may)}")
        for hole in must:
            if holes.count(hole) != 1:
                raise OptionError("template", f"{name}: {part} must hold {{{hole}}} once")
        parts[part] = text
    if ("pair" in parts) == ("ask" in parts):
        raise OptionError("template", f"{name}: must have either pair or ask")
    if "pair" in parts and parts["pair"].index("{target}") < parts["pair"].index("{source}"):
        raise OptionError("template", f"{name}: in pair, {{source}} must come before {{target}}")
    if parts["glossary"] == "" and any("{glossary}" in parts.get(part, "") for part in ("pair", "ask")):
        raise OptionError("template", f"{name}: {{glossary}} is used, and there is no glossary")
    return parts


def _of_lines(values: Mapping[str, str]) -> Template:
    before, rest = values["pair"].split("{source}")
    between, end = rest.split("{target}")
    if not end.startswith("\n"):
        raise OptionError("template", "in pair, a line break must follow {target}: it ends the translation")
    # A tokenizer puts the space before a word into the word's token, which is the model's to write.
    lead = " " * (len(between) - len(between.rstrip(" ")))
    between = between[: len(between) - len(lead)]
    return Template(values["start"], before, between, lead, end, values["glossary"])


def _of_chat(name: str, values: Mapping[str, str], tokenizer: Any) -> Template:
    if not getattr(tokenizer, "chat_template", None):
        raise OptionError("template", f"{name} is for models that chat, and this one has no chat template; use lines")
    turns = [
        {"role": role, "content": content}
        for role, content in (("user", _FIRST), ("assistant", _ANSWER), ("user", _SECOND))
    ]
    with told(ModelError, "the model's chat template cannot be used for a conversation", Exception):
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **_AT_ONCE))
    pieces = re.split(f"{_FIRST}|{_ANSWER}|{_SECOND}", text)
    if len(pieces) != 4:
        raise ModelError(_NO_TURNS)
    opening, before, end, asking = pieces
    between = _before_answer(before, asking)
    opening = opening.removeprefix(getattr(tokenizer, "bos_token", None) or "")  # a session has it already
    ask, rest = values["ask"].split("{source}")
    # What ends an answer and what begins the next turn are one piece here; it is learnt as the answer's end.
    return Template(values["start"] + opening, ask, rest + between, "", end, values["glossary"], stop=())


def _before_answer(there: str, asking: str) -> str:
    """What stands before an answer.

    Args:
        there: what a chat template puts before one that is known.
        asking: and before one that is still to be written: perhaps no thoughts (`<think></think>`), or their beginning,
            which is then ended, for the answer is all that is wanted.

    Raises:
        ModelError: they differ in more than that.
    """
    there, asking = closed(there), closed(asking)
    shorter, longer = sorted((there, asking), key=len)
    if longer.startswith(shorter) and longer[len(shorter) :].strip():
        return longer
    if " ".join(without_thoughts(there).split()) != " ".join(without_thoughts(asking).split()):
        raise ModelError(_NO_TURNS)
    return asking
