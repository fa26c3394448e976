"""What a report consists of, as Markdown, and as one HTML page without scripts, fonts or files beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from templora.reports.html_page import framed, svg

# Cells of more characters than this are sentences, and wrap.
_LONG = 40

_STYLE = """
main { max-width: 62rem; }
h2 { margin: 3.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { margin: 2rem 0 .25rem; font-size: 1.05rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1rem 0 0; font-family: system-ui, sans-serif;
  font-size: .9rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.scroll { background: var(--card); border: 1px solid var(--line); border-radius: 8px; } table { width: 100%; }
th, td { padding: .45rem .75rem; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 13rem; }
td.text:not(:first-child) { white-space: normal; text-align: left; color: var(--soft); }
tr:last-child td { border-bottom: 0; } tr.strong td { font-weight: 700; } td.good { color: var(--accent); }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 1rem 0 0; flex: 1 1 20rem; max-width: 50rem; }
figcaption { color: var(--soft); font-size: .85rem; text-align: center; }
"""


@dataclass
class Table:
    """Cells of text under columns; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""
    strong: set[int] = field(default_factory=set)  # rows that matter most


@dataclass
class Section:
    """One heading, and what stands under it.

    Args:
        title, text: words.
        tables: in order.
        plots: (file name without its ending, what it shows, figure).
    """

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    plots: Sequence[tuple[str, str, Any]] = ()


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page of a report whose plots lie beside it."""
    parts = [f"# {title}\n"]
    for section in sections:
        parts += [f"## {section.title}\n", *([section.text + "\n"] if section.text else [])]
        parts += [f"![{alt}]({name}.png)\n" for name, alt, _ in section.plots]
        parts += map(_markdown, section.tables)
    return "\n".join(parts)


def _markdown(table: Table) -> str:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    lines = [table.columns, rule, *([cell.replace("|", "\\|") for cell in row] for row in table.rows)]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join(part for part in (f"### {table.title}", table.note, body) if part) + "\n"


def page(title: str, sections: Sequence[Section]) -> str:
    """The page of a report; everything in it is escaped, the plots apart, which are ours."""
    links = "".join(f'<a href="#s{i}">{html.escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return framed(title, _STYLE, f"<h1>{html.escape(title)}</h1><nav>{links}</nav>{body}")


def _section(index: int, section: Section) -> str:
    lead = "lead" if index == 0 else "text"
    said = f'<p class="{lead}">{html.escape(section.text)}</p>' if section.text else ""
    figures = "".join(
        f"<figure>{svg(figure)}<figcaption>{html.escape(alt)}</figcaption></figure>" for _, alt, figure in section.plots
    )
    shown = f'<div class="plots">{figures}</div>' if figures else ""
    tables = "".join(map(_table, section.tables))
    return f'<section id="s{index}"><h2>{html.escape(section.title)}</h2>{said}{shown}{tables}</section>'


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in table.columns)
    body = "".join(
        f"<tr{' class=strong' if i in table.strong else ''}>{''.join(map(_cell, row))}</tr>"
        for i, row in enumerate(table.rows)
    )
    said = f'<p class="soft">{html.escape(table.note)}</p>' if table.note else ""
    return (
        f'<h3>{html.escape(table.title)}</h3>{said}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    kind = " class=text" if len(text) > _LONG else " class=good" if text.startswith("−") else ""
    return f"<td{kind}>{html.escape(text)}</td>"
