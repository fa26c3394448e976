"""What Markdown has beside CommonMark in one place or another, as rules for markdown-it: a `verbatim` token each.

    inline   $x$ \\(x\\) \\cite{x} {{ x }} {% x %} {#id .class} [[page|text]] [@key] :smile: <Jsx a={b} />
    lines    $$ \\[ \\begin{x}, ::: and [!NOTE], {: .class}, {{< x >}}, <Jsx>, import and export, [TOC], *[HTML]: x
    around   other blocks: !!! note, ??? note, === "tab" with a body that is indented; : definition

The first two stay as they are, to the character; what the last ones are around is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names
from markdown_it.common.utils import normalizeReference
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

# How far to look for an end, so that beginnings without one cost no more than this each.
_NEAR, _FAR = 4_000, 20_000

_TAGS = (
    ("{{<", ">}}"), ("{{%", "%}}"), ("{{{", "}}}"), ("{{", "}}"), ("{%", "%}"), ("{/*", "*/}"), ("{# ", "#}"),
    ("<%", "%>"), ("%%", "%%"),
)  # fmt: skip
# Tags around what is no text, to their other half.
_RAW = re.compile(r"\{(?:%-?|\{[<%])\s*(?P<name>raw|verbatim|comment|highlight|math|katex|mermaid|code)\b")
_RAW_END = r"\{{(?:%-?|\{{[<%])\s*(?:end|/\s*){name}\b[^{{}}]*\}}\}}?"
_ATTRIBUTES = re.compile(
    r"\{(?:[^\s{}]{1,200}|:?[ \t]*(?:[#.][\w-]|[\w:@-]{1,100}=)[^{}\n]{0,500})\}"  # also {name}, {expression}, {role}
)
_WIKI = re.compile(r"!?\[\[([^\[\]\n|]{1,300})(?:\|([^\[\]\n]{1,300}))?\]\](?!\()")
FOOTNOTE = re.compile(r"\[\^[^\s\]]+\]")
_CITATION = re.compile(r"\[(?:see |-)?@[\w{][^\[\]\n]{0,300}\]")
_COLONS = re.compile(
    r"(?<![\w:]):(?:[a-z0-9_+-]{1,60}:(?![\w:`])|[A-Za-z][\w-]{0,60}\[([^\[\]\n]*)\](?:\{[^{}\n]*\})?)"
)
_ROLE = re.compile(r"(?:\{[\w:.+-]{1,60}\}|(?<![\w:]):[\w:.+-]{1,60}:)(?P<ticks>`{1,99})(?!`)")
_DESTINATION_END = re.compile(r"[^\s()]{0,300}(?:[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'))?[ \t]*\)")
_BLOCK_ID = re.compile(r"(?<=\s)\^[A-Za-z0-9-]+(?=[ \t]*(?:\n|\Z))")
_TEX = re.compile(r"\\[A-Za-z]{1,60}\*?(?:\[[^\[\]\n]{0,200}\])?(?:\{[^{}\n]{0,500}\})+")
_BEGIN = re.compile(r"\\begin\{([A-Za-z]{1,60}\*?)\}")
# A dollar is one of math if no space is inside of it, and no number behind it: "costs $5 and $6" is text.
_DOLLARS = re.compile(r"(?<![A-Za-z0-9$\\])\$(?![\s$])((?:\\.|[^$\\])+)(?<!\s)\$(?![0-9A-Z_$])", re.DOTALL)
_VARIABLE = re.compile(r"\$\{[^{}\n]{1,200}\}")
_WORDS = re.compile(r"[^\W\d_]{2,}[ \t\n]+[^\W\d_]{2,}")
_FORMULA = re.compile(r"[\\^_={}<>]")
_BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_JSX = re.compile(
    rf"</?(?P<name>[A-Za-z][\w.:-]*)(?:\s+(?:[A-Za-z_:@][\w:.-]*(?:=(?:\"[^\"]*\"|'[^']*'|{_BRACED}|[^\s\"'{{}}<>`=]+))?"
    rf"|\{{\s*\.\.\.[^{{}}]*\}}))*\s*/?>"
)
_FRAGMENT = re.compile(r"</?>")
_UNSEEN = (_VARIABLE, _TEX, _CITATION, _BLOCK_ID, _FRAGMENT, _ATTRIBUTES)

_LINE = re.compile(
    r""":{3,}.*                                                     # of a container, with its title
    | ::[A-Za-z][\w-]*(?:\[[^\]]*\])?(?:\{[^}]*\})?[ \t]*           # a directive without a body
    | \[![^\]]+\][+-]?(?:[ \t].*)?                                  # of an alert, with its title
    | (?:\{::?[^{}]*\}|\{[ \t]*[#.][\w-][^{}]*\}|\{[\w-]+=[^{}]*\})+[ \t]*
    | \[\[?_?toc_?\]\]?[ \t]*
    | \\(?!begin\b)[A-Za-z]+\*?(?:\[[^\[\]]*\]|\{[^{}]*\})*[ \t]*
    | /{3,}(?:[ \t]+[\w-]+(?:[ \t]*\|.*)?)?[ \t]*
    | \*\[[^\]]+\]:.*""",
    re.VERBOSE | re.IGNORECASE,
)
_OPTION = re.compile(r":[\w-]+:(?:[ \t].*)?")  # below the first line of a directive
_SCRIPT = re.compile(
    r"""import[ \t]+(?:[^'"\n]*[ \t}]from[ \t]*)?['"][^'"\n]+['"][ \t]*;?[ \t]*\Z"""
    r"""|import[ \t]*(?:\w+[ \t]*,[ \t]*)?\{[^}"'.]*\Z"""
    r"""|export[ \t]+(?:(?:const|let|var|async|class|function|default)\b.*[({=;]|\{|\*)"""
)
_ADMONITION = re.compile(
    r"(?:!!!|\?\?\?\+?)[ \t]*[\w-]+(?:[ \t]+[\w:|-]+)*(?P<title>[ \t]+\"[^\"]*\")?[ \t]*"
    r"|(?P<tab>===[!+]?[ \t]+\"[^\"]+\"[ \t]*)"
)
_DEFINITION = re.compile(r"[:~][ \t]+(?=\S)")
# Behind the end of display math: its number, or attributes.
_LABEL = re.compile(r"[ \t]*(?:\([^()\n]*\)|\{[^{}\n]*\})?[ \t]*(?=\n|\Z)")


def install(md: MarkdownIt) -> None:
    """Adds the rules for blocks; `inline` goes before `escape`, `span` behind `link`."""
    everywhere: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    definition = hanging("definition", _DEFINITION)
    for name, rule in (("verbatim", _lines), ("admonition", _admonition), ("definition", definition)):
        md.block.ruler.before("table", name, rule, everywhere)


# Inline --------------------------------------------------------------------------------------------------------------


def inline(state: StateInline, silent: bool) -> bool:
    found = _found(state)
    if found is None:
        return False
    end, shown, kind = found
    if not silent:
        token = state.push(kind, "", 0)
        token.content = state.src[state.pos : end]
        token.meta["shown"] = shown
    state.pos = end
    return True


def _found(state: StateInline) -> tuple[int, str, str] | None:
    """Where it ends, what the model sees of it, and the type of its token."""
    src, at, stop = state.src, state.pos, state.posMax
    first = src[at]
    if first not in "$\\{[!:<^%":
        return None
    if footnote := FOOTNOTE.match(src, at, stop):
        return footnote.end(), "", "footnote"
    component = _JSX.match(src, at, min(stop, at + _NEAR))
    if component and "{" in component[0]:
        return component.end(), "", "html_inline"
    if role := _ROLE.match(src, at, stop):
        code = re.compile(rf"(?<!`){role['ticks']}(?!`)").search(src, role.end(), min(stop, at + _NEAR))
        return (code.end(), src[role.end() : code.start()].strip(), "verbatim") if code else None
    end = _tag(src, at, stop) if first in "{<%" else _math(src, at, stop) if first in "$\\" else None
    if end is not None:
        return end, "", "verbatim"
    if shows := _WIKI.match(src, at, stop) or _COLONS.match(src, at, stop):
        if first == "[" and normalizeReference(shows[1]) in state.env.get("references", {}):
            return None
        shown = shows[shows.lastindex] if shows.lastindex and first != "!" else ""
        return shows.end(), shown.strip(), "verbatim"
    matches = (pattern.match(src, at, stop) for pattern in _UNSEEN)
    return next(((match.end(), "", "verbatim") for match in matches if match), None)


def span(state: StateInline, silent: bool) -> bool:
    """`[text]{.class}`, and links whose destination a template fills in: `[text]({{ url }})`."""
    src, start, stop = state.src, state.pos, state.posMax
    image = src.startswith("![", start)
    if not image and src[start] != "[":
        return False
    label = state.md.helpers.parseLinkLabel(state, start + image, not image)
    if label < 0 or src[label + 1 : label + 2] not in ("(", "{"):
        return False
    end = attributes(src, label + 1, stop)
    if src[label + 1] == "(":
        tag = _tag(src, label + 2, stop)
        match = _DESTINATION_END.match(src, tag, stop) if tag else None
        end = attributes(src, match.end(), stop) if match else label + 1
    if end == label + 1:
        return False
    if not silent and image:
        state.push("verbatim", "", 0).content = src[start:end]
    elif not silent:
        state.pos, state.posMax = start + 1, label
        # What it leads to is in its name: two of them are not the same.
        state.push("span_open", f"span{src[label:end]}", 1)
        state.md.inline.tokenize(state)
        state.push("span_close", f"span{src[label:end]}", -1)
    state.pos, state.posMax = end, stop
    return True


def attributes(src: str, at: int, stop: int) -> int:
    """Where attributes end that begin there; `at` if none do."""
    match = _ATTRIBUTES.match(src, at, stop)
    return match.end() if match and src[at : at + 2] not in ("{{", "{%") else at


def _tag(src: str, at: int, stop: int) -> int | None:
    """Where a tag of a template ends, or a comment; with its other half, where what is between is no text."""
    raw = _RAW.match(src, at, stop)
    if raw:
        end = re.compile(_RAW_END.format(name=raw["name"])).search(src, raw.end(), min(stop, at + _FAR))
        if end:
            return end.end()
    for opening, closing in _TAGS:
        if src.startswith(opening, at):
            found = src.find(closing, at + len(opening), min(stop, at + _NEAR))
            if found >= 0:
                return found + len(closing)
    return None


def _math(src: str, at: int, stop: int) -> int | None:
    """Where math ends that begins there; None if none does."""
    if src[at] == "$" and not src.startswith("$$", at):
        dollars = _DOLLARS.match(src, at, min(stop, at + _NEAR))
        # `match` reads to the end of the window as if it were the text's.
        ends = dollars and not (dollars.end() < len(src) and src[dollars.end()] in "$")
        return dollars.end() if dollars and ends and _is_math(dollars[1]) else None
    for opening, closing in (("$$", "$$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if src.startswith(opening, at):
            found = src.find(closing, at + 2, min(stop, at + _NEAR))
            if found < 0 or not (held := src[at + 2 : found]).strip() or opening in held:
                return None
            if opening != "$$" and (src.startswith("(", found + 2) or not _is_math(held)):
                return None
            return found + 2
    begin = _BEGIN.match(src, at, stop)
    if begin:
        closing = f"\\end{{{begin[1]}}}"
        found = src.find(closing, begin.end(), min(stop, at + _FAR))
        return found + len(closing) if found >= 0 else None
    return None


def _is_math(held: str) -> bool:
    """Words in a row are a sentence about money, or in brackets that are escaped."""
    return bool(_FORMULA.search(held)) or not _WORDS.search(held)


# Blocks --------------------------------------------------------------------------------------------------------------


def _lines(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if state.is_code_block(start):
        return False
    after = _last(state, start, end)
    if after is None:
        return False
    if not silent:
        state.push("verbatim", "", 0).map = [start, after]
        state.line = after
    return True


def _last(state: StateBlock, start: int, end: int) -> int | None:
    """The line behind those that are to stay as they are; None if they are none."""
    src, at, stop = state.src, state.bMarks[start] + state.tShift[start], state.eMarks[start]
    first = src[at : at + 1]
    if first not in tuple(":[{\\$<%/*ie"):
        return None
    if first in "ie":
        if not _SCRIPT.match(src[at:stop]):
            return None
        after = start + 1
        while after < end and not state.isEmpty(after):
            after += 1
        return after
    if _LINE.fullmatch(src, at, stop):
        after = start + 1
        while first == ":" and after < end and "{" in src[at:stop] and _is(state, after, _OPTION):
            after += 1
        return after
    return _reached(state, start, end, _tags_end(src, at) if first in "{<%" else _display_end(src, at))


def _is(state: StateBlock, line: int, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.fullmatch(state.src, state.bMarks[line] + state.tShift[line], state.eMarks[line]))


def _reached(state: StateBlock, start: int, end: int, at: int | None) -> int | None:
    """The line behind the one that `at` is in, if all lines up to there are of the block."""
    if at is None:
        return None
    line = start
    while state.eMarks[line] < at:
        line += 1
        if line >= end or (state.sCount[line] < state.blkIndent and not state.isEmpty(line)):
            return None
    return line + 1


def _tags_end(src: str, at: int) -> int | None:
    """Where a line ends that consists of tags, each of which may go over several."""
    found = False
    while at < len(src) and src[at] != "\n":
        if src[at] in " \t":
            at += 1
            continue
        end = None
        # A value that is to be filled in may stand for a word of a sentence.
        if not src.startswith("{{", at) or src[at + 2 : at + 3] in tuple("<%"):
            end = _tag(src, at, len(src)) or _component(src, at)
        if end is None:
            return None
        at, found = end, True
    return at if found else None


def _component(src: str, at: int) -> int | None:
    """Where the tag of a component ends: of JSX, as its capital says, and of no old HTML."""
    match = _FRAGMENT.match(src, at) or _JSX.match(src, at, at + _NEAR)
    if match is None or match.re is _FRAGMENT:
        return match.end() if match else None
    name = match["name"]
    plain = name.lower() in block_names or name.lower() in ("script", "style", "pre", "textarea")
    return match.end() if name[0].isupper() and not plain and (len(name) == 1 or not name.isupper()) else None


def _display_end(src: str, at: int) -> int | None:
    """Where display math ends that begins a line, and with it a line."""
    found = _math(src, at, len(src)) if src.startswith("\\begin", at) else None
    for opening, closing, sound in (("$$", "$$", str.strip), ("\\[", "\\]", _is_math)):
        end = src.find(closing, at + 2, at + _FAR) if src.startswith(opening, at) else -1
        if end >= 0 and sound(src[at + 2 : end]):
            found = end + 2
    label = _LABEL.match(src, found) if found is not None else None
    return label.end() if label else None


def _admonition(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    if state.is_code_block(start):
        return False
    match = _ADMONITION.fullmatch(state.src, state.bMarks[start] + state.tShift[start], state.eMarks[start])
    if match is None:
        return False
    inner = state.blkIndent + 4
    after = start + 1
    while after < end and state.isEmpty(after):
        after += 1
    if not (match["title"] or match["tab"]) and (after >= end or state.sCount[after] < inner):
        return False  # a cry
    if silent:
        return True
    after = line = start + 1
    while line < end and (state.isEmpty(line) or state.sCount[line] >= inner):
        line += 1
        after = after if state.isEmpty(line - 1) else line
    held = state.lineMax, state.blkIndent, state.parentType
    state.push("admonition_open", "", 1).map = [start, after]
    state.lineMax, state.blkIndent, state.parentType = after, inner, "admonition"
    state.md.block.tokenize(state, start + 1, after)
    state.lineMax, state.blkIndent, state.parentType = held
    state.push("admonition_close", "", -1)
    state.line = after
    return True


def hanging(kind: str, marker: re.Pattern[str]) -> Callable[[StateBlock, int, int, bool], bool]:
    """The rule for a block that begins behind a marker, and goes on in lines that are indented: a footnote, for one.

    Args:
        kind: of its tokens, which are around those of what is in it.
        marker: with the white space behind it.
    """

    def rule(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        match = marker.match(state.src, state.bMarks[start] + state.tShift[start], state.eMarks[start])
        if match is None or state.is_code_block(start):
            return False
        if silent:
            return True
        opening = state.push(f"{kind}_open", "", 1)
        held = state.bMarks[start], state.tShift[start], state.sCount[start], state.parentType, state.blkIndent
        state.blkIndent += min(4, len(match[0].expandtabs(4)))
        # The line goes on behind the marker, at the column that what belongs to it is indented to.
        state.bMarks[start], state.tShift[start], state.sCount[start] = match.end(), 0, state.blkIndent
        state.parentType = "below"
        state.md.block.tokenize(state, start, end)
        state.bMarks[start], state.tShift[start], state.sCount[start], state.parentType, state.blkIndent = held
        if state.line == start:  # nothing behind the marker
            state.line += 1
        opening.map = [start, state.line]
        state.push(f"{kind}_close", "", -1)
        return True

    return rule
