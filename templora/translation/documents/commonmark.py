"""A parser of Markdown that also says where things are: CommonMark with tables, strikethrough and footnotes, and with
what other kinds have (`verbatim`).

markdown-it knows the lines of a block but not where its inline markup is, and that is needed to leave it as it was
written. So its rules are run as they are, and what each of them consumed is noted on the tokens that it made:

    meta["span"]   of inline markup: [start, end) in the `content` of its block
    meta["label"]  of a link: where its text ends
    meta["lines"]  of a block's content, or a row: [start, end) of each line in the source, its quote and list markers
                   left out
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TypeAlias

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from templora.translation.documents import verbatim

BlockRule: TypeAlias = Callable[[StateBlock, int, int, bool], bool]

_BLOCKS = ("paragraph", "lheading", "heading", "table")
_COLUMNS, _MISSING = 1_000, 4_000
_FOOTNOTE = re.compile(rf"{verbatim.FOOTNOTE.pattern}:[ \t]*")


@functools.cache
def parser() -> MarkdownIt:
    """The parser. Text is left in the tokens that it was found in."""
    md = MarkdownIt("commonmark", {"maxNesting": 60}).enable(["table", "strikethrough"])
    md.disable(["text_join", "fragments_join"])
    for rule in md.inline.ruler.__rules__:
        rule.fn = _inline_rule(rule.name, rule.fn)
    for block_rule in md.block.ruler.__rules__:
        if block_rule.name in _BLOCKS:
            block_rule.fn = _block_rule(_bounded(block_rule.fn) if block_rule.name == "table" else block_rule.fn)
    md.inline.ruler.before("escape", "verbatim", _inline_rule("verbatim", verbatim.inline))
    md.inline.ruler.after("image", "span", _inline_rule("span", verbatim.span))
    verbatim.install(md)
    footnote = verbatim.hanging("footnote", _FOOTNOTE)
    md.block.ruler.before("reference", "footnote", footnote, {"alt": ["paragraph", "reference"]})
    return md


def _inline_rule(name: str, rule: Callable[[StateInline, bool], bool]) -> Callable[[StateInline, bool], bool]:
    def located(state: StateInline, silent: bool) -> bool:
        start, before, pending = state.pos, len(state.tokens), bool(state.pending)
        if not rule(state, silent):
            return False
        if name in ("link", "image") and state.src[state.pos - 1] == ")":  # [text](url){.class}
            state.pos = verbatim.attributes(state.src, state.pos, state.posMax)
        new = state.tokens[before:]
        if silent or not new:
            return True
        if name in ("emphasis", "strikethrough"):
            at = state.pos
            for token in reversed(new[pending:]):  # the first is the text before
                token.meta["span"] = (at - len(token.content), at)
                at -= len(token.content)
            return True
        while name == "newline" and start and state.src[start - 1] == " ":
            start -= 1
        opening = new[pending] if new[-1].nesting else new[-1]
        opening.meta["span"] = new[-1].meta["span"] = (start, state.pos)
        if name in ("link", "span") and opening is not new[-1]:
            opening.meta["label"] = state.md.helpers.parseLinkLabel(state, start, True)
        return True

    return located


def _block_rule(rule: BlockRule) -> BlockRule:
    def located(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        before = len(state.tokens)
        if not rule(state, start, end, silent):
            return False
        for token in state.tokens[before:]:
            if token.type in ("inline", "tr_open") and token.map:
                token.meta["lines"] = [
                    (state.bMarks[line] + state.tShift[line], state.eMarks[line]) for line in range(*token.map)
                ]
        return True

    return located


def _bounded(rule: BlockRule) -> BlockRule:
    """The rule for tables, where one of very many columns, or with very many cells to be filled in, is no text."""

    def bounded(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        if silent or not rule(state, start, end, True):
            return silent and rule(state, start, end, True)
        columns = state.src.count("|", state.bMarks[start + 1], state.eMarks[start + 1])
        missing, line = 0, start + 2
        while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
            missing += max(0, columns - 1 - state.src.count("|", state.bMarks[line], state.eMarks[line]))
            line += 1
        if columns <= _COLUMNS and missing <= _MISSING:
            return rule(state, start, end, False)
        state.push("verbatim", "", 0).map = [start, line]
        state.line = line
        return True

    return bounded


def strong_span(token: Token) -> tuple[int, int]:
    """Where a token's markup is: of two characters of emphasis that are one, markdown-it keeps the inner one."""
    start, end = token.meta["span"]
    if token.type == "strong_open":
        return start - 1, end
    return (start, end + 1) if token.type == "strong_close" else (start, end)
