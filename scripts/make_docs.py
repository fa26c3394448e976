#!/usr/bin/env python3
"""Writes docs/options.md from the fields and flags themselves, and README's table of speeds from results/.

`--check` only says whether they are up to date.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from speed_table import BEGIN, END, speed_table

from templora.cli.options import flag_name
from templora.config import TempLoraConfig, field_type
from templora.recipes import RECIPES
from templora.sampling import SamplingParams

ROOT = Path(__file__).parent.parent


def shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return " ".join(json.dumps(v) for v in value) if "\n" in value else ",".join(map(str, value))
    return (
        "–"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def options() -> str:
    lines = [
        "# Options",
        "",
        "Made by `scripts/make_docs.py` from the fields of `TempLoraConfig` and `SamplingParams`; do not edit.",
        "",
        "## Method: `TempLoraConfig`",
        "",
        "Sizes are in tokens. The paper's recipe is arXiv 2401.11504 and its scripts; a window that is larger than the",
        "model's positions is cut to them.",
        "",
        "| flag | field | type | default | paper | |",
        "|---|---|---|---|---|---|",
    ]
    for f in dataclasses.fields(TempLoraConfig):
        kind, _ = field_type(f)
        paper = shown(RECIPES["paper"].get(f.name, f.default))
        help_text = f.metadata["help"].replace("|", "\\|")
        lines.append(
            f"| `{flag_name(f.name)}` | `{f.name}` | {kind.__name__} | {shown(f.default)} | {paper} | {help_text} |"
        )
    lines += ["", "## Sampling: `SamplingParams`", "", "| flag | field | default | |", "|---|---|---|---|"]
    for f in dataclasses.fields(SamplingParams):
        flag = f"`{flag_name(f.name)}`" if f.metadata["flag"] else "–"
        lines.append(f"| {flag} | `{f.name}` | {shown(f.default)} | {f.metadata['help']} |")
    return "\n".join(lines) + "\n"


def readme() -> str:
    """README.md, its table of speeds made anew."""
    before, begin, rest = (ROOT / "README.md").read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md: {BEGIN} or {END} is missing")
    return before + speed_table(ROOT) + after


def main() -> int:
    made = {ROOT / "docs" / "options.md": options(), ROOT / "README.md": readme()}
    if "--check" in sys.argv:
        return int(any(not path.is_file() or path.read_text() != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
