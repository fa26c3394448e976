"""README's table of speeds, each number read from the file in results/ that its row names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- speeds: made by scripts/make_docs.py -->", "<!-- end of speeds -->"
FOLDER = Path("results", "benchmarks")


def speed_table(root: Path) -> str:
    """The table in Markdown, markers included.

    Args:
        root: the repository.
    """

    def read(name: str) -> Any:
        return json.loads((root / FOLDER / f"{name}.json").read_text())

    def linked(words: str, name: str) -> str:
        return f"{words} ([file]({(FOLDER / name).as_posix()}.json))"

    rows, together, busy = read("table")["rows"], read("together"), read("busy-threads-auto")["rows"]
    slots = read("sessions-together")["figures"]
    decode, larger = rows["decode, tokens a second; ratios; GB"], read("larger")["figures"]
    load, flat = rows["load, seconds"], read("long-text")["summary"]
    with_adapter, without = (f"decode, {how}: llama.cpp" for how in ("with adapter", "without"))

    def beside(label: str, row: str) -> tuple[str, ...]:
        """Seconds of the other and of ours."""
        found = rows[row]
        times = f"{1 / found['ratio']['median']:.1f} ×"
        return label, f"{_short(found['theirs'])} s", f"**{_short(found['ours'])} s**", times

    def decoding(label: str, of: Any, other: str, ratio: str) -> tuple[str, ...]:
        ours = of["decode, with adapter"]["median"]
        return label, f"{of[other]['median']:.0f}", f"**{ours:.0f}**", f"{of[ratio]['median']:.1f} ×"

    imports = load["then_seconds"]["median"] - load["then_after_imports"]["median"]
    memory = rows["peak memory, default, bytes"]
    cells = [
        beside("write 4,096 tokens, learning two steps a chunk, against plain", "write, seconds"),
        decoding(
            "decode with the adapter, tokens a second, against llama.cpp on the same file and adapter",
            decode,
            with_adapter,
            "ours with adapter / llama.cpp with adapter",
        ),
        decoding(
            "the same, against llama.cpp *without* an adapter",
            decode,
            without,
            "ours with adapter / llama.cpp without",
        ),
        decoding(
            linked("the same on a model of 0.5 billion weights, as Q4_K_M, each with an adapter", "larger"),
            larger,
            with_adapter,
            "ours with adapter / llama.cpp with adapter",
        ),
        decoding(
            linked("the same on one of 1.5 billion", "larger-1.5b"),
            read("larger-1.5b")["figures"],
            with_adapter,
            "ours with adapter / llama.cpp with adapter",
        ),
        beside("learn a chunk that was scored, two steps, against plain", "learn a chunk, 2 epochs, seconds"),
        beside(
            "learn a chunk that was written, two steps, against plain",
            "learn a chunk while writing, 2 epochs, seconds",
        ),
        beside("score a chunk, base and adapted, against plain", "score a chunk, base and adapted, seconds"),
        (
            "peak memory, writing and learning, against plain",
            f"{memory['theirs'] / 1e9:.1f} GB",
            f"**{memory['ours'] / 1e9:.1f} GB**",
            f"{rows['peak memory, sparing, bytes']['ours'] / 1e9:.1f} GB with `--checkpointing`",
        ),
        (
            linked(
                "a chunk learnt after 1,000,000 tokens, and 64 tokens written then, against a session just begun",
                "long-text",
            ),
            "1",
            f"{flat['old_by_young_read']:.2f}, {flat['old_by_young_write']:.2f}",
            "times as long",
        ),
        (
            linked(
                "four sessions at once: longest wait for a token (of 99 in 100) while another one learns", "together"
            ),
            f"{together['in_one_piece']['while_another_learns']['p99_ms'] / 1000:.1f} s in one piece",
            f"**{together['sliced']['while_another_learns']['p99_ms']:.0f} ms**",
            "each writes what it would alone",
        ),
        (
            linked(
                "four sessions writing at once, each with its own adapter: tokens a second of all, against llama.cpp "
                "with four slots and adapters",
                "sessions-together",
            ),
            f"{slots['4 sessions: together, llama.cpp']['median']:.0f}",
            f"**{slots['4 sessions: together']['median']:.0f}**",
            f"{slots['4 sessions: ours / llama.cpp']['median']:.1f} ×",
        ),
        (
            linked("beside one busy process: decode, score, learn", "busy-threads-auto"),
            "1",
            ", ".join(f"{busy[what]['ratio']['median']:.1f}" for what in ("decode", "score", "learn")),
            "times slower",
        ),
        (
            "load the embedded model: first, then",
            "",
            f"{load['first_after_imports']['median']:.1f} s, {load['then_after_imports']['median']:.1f} s",
            f"after {imports:.1f} s of importing torch and transformers",
        ),
    ]
    lines = [BEGIN, "", "| | the other | templora | |", "|---|---:|---:|---|"]
    lines += [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells]
    return "\n".join([*lines, "", END])


def _short(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"
