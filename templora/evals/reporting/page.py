"""One HTML page that needs nothing else: no scripts, no fonts, no files beside it."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import TypeAlias

# (title, note, columns, rows, rows that matter most)
TableBlock: TypeAlias = tuple[str, str, Sequence[str], Sequence[Sequence[str]], Collection[int]]
# (title, text, tables, plots as (what they show, svg))
Block: TypeAlias = tuple[str, str, Sequence[TableBlock], Sequence[tuple[str, str]]]

# Cells of more characters than this are sentences, and wrap.
_LONG = 40

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d9dee3; --paper: #fffdf9; --card: #fff;
  --accent: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e3dd; --soft: #9aa4ae; --line: #33383e; --paper: #16181b;
  --card: #1d2024; --accent: #fb923c; } figure svg { filter: invert(.9) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 Georgia, "Iowan Old Style", "Noto Serif", serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { margin: 3.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { margin: 2rem 0 .25rem; font-size: 1.05rem; }
p { max-width: 44rem; } .lead { font-size: 1.15rem; } .note { color: var(--soft); font-size: .9rem; margin: .25rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0; font-family: system-ui, sans-serif;
  font-size: .9rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font: .88rem/1.4 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 13rem; }
td.text:not(:first-child) { white-space: normal; text-align: left; color: var(--soft); }
tr:last-child td { border-bottom: 0; } tr.strong td { font-weight: 700; } td.good { color: var(--accent); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 1rem 0 0; flex: 1 1 20rem; max-width: 50rem; }
figure svg { width: 100%; height: auto; } figcaption { color: var(--soft); font-size: .85rem; text-align: center; }
"""


def page(title: str, blocks: Sequence[Block]) -> str:
    """The page of a report; everything in it is escaped, the plots apart, which are ours."""
    links = "".join(f'<a href="#s{i}">{html.escape(b[0])}</a>' for i, b in enumerate(blocks))
    body = "".join(_block(i, block) for i, block in enumerate(blocks))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><main><h1>{html.escape(title)}</h1><nav>{links}</nav>{body}</main>"
        "</body></html>\n"
    )


def _block(index: int, block: Block) -> str:
    title, text, tables, plots = block
    lead = "lead" if index == 0 else "text"
    said = f'<p class="{lead}">{html.escape(text)}</p>' if text else ""
    figures = "".join(f"<figure>{svg}<figcaption>{html.escape(alt)}</figcaption></figure>" for alt, svg in plots)
    shown = f'<div class="plots">{figures}</div>' if figures else ""
    return f'<section id="s{index}"><h2>{html.escape(title)}</h2>{said}{shown}{"".join(map(_table, tables))}</section>'


def _table(block: TableBlock) -> str:
    title, note, columns, rows, strong = block
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
    body = "".join(
        f"<tr{' class=strong' if i in strong else ''}>{''.join(map(_cell, row))}</tr>" for i, row in enumerate(rows)
    )
    said = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return (
        f'<h3>{html.escape(title)}</h3>{said}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    kind = " class=text" if len(text) > _LONG else " class=good" if text.startswith("−") else ""
    return f"<td{kind}>{html.escape(text)}</td>"
