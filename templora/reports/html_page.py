"""The frame of HTML pages that need no other file, no script and no network: colours, type, and pictures in them."""

from __future__ import annotations

import html
import io
from typing import Any

# What is said with `var(--...)` has a colour for day and one for night.
_STYLE = """
:root { color-scheme: light dark; --ink: #24211d; --soft: #6b655c; --line: #e0d9cc; --paper: #faf6ee; --card: #fffdf8;
  --accent: #b4380b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e3d9; --soft: #a39c90; --line: #3a3630; --paper: #191714;
  --card: #211f1b; --accent: #ff9a66; } svg { filter: invert(.9) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 17px/1.6 Georgia, "Iowan Old Style", "Noto Serif", serif; }
main { margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .75rem; }
p { max-width: 46rem; } .lead { font-size: 1.2rem; } .soft { color: var(--soft); font-size: .92rem; }
svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font: .9rem/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); } th { color: var(--soft); font-weight: 600; }
"""


def framed(title: str, style: str, body: str) -> str:
    """A page.

    Args:
        title: of its window.
        style: what its own rules are, in CSS.
        body: as HTML.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}{style}</style></head><body><main>{body}</main></body></html>\n"
    )


def svg(figure: Any) -> str:
    """A figure as an <svg> element: the same picture, the same bytes."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "templora", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return "<svg" + out.getvalue().partition("<svg")[2]
