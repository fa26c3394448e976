from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from templora.errors import TextError
from templora.reports.story_page import Story, Written, page, write_page

READ = "He saw Tobin. Then he saw Tobin and told Odalie, and she, Odalie, ran to Corrow & away, to Corrow <by sea>. "
WINDOW = "And so he told Odalie of it."
STORY = Story(
    "A story",
    READ,
    WINDOW,
    Written("with the adapter", "And Tobin ran to Corrow.\n\nThere Odalie <slept>, and Belinda too, and Tobin.", 1.0),
    Written("without it", "And then Marius came, and Marius, and Clarence left.", 2.0),
)
TEXT = {"base": {"perplexity": 24.0}, "adapted": {"perplexity": 20.4}, "mixed": None}
CHUNK = {"start": 1, "tokens": 31, "targets": 31, "base_nll": 60.0, "adapted_nll": 50.0, "committed": True}
REPORT: dict[str, Any] = {
    **TEXT,
    "prompt": TEXT,
    "prompt_tokens": 40,
    "chunks": [CHUNK, {**CHUNK, "start": 32}],
    "seconds": {"total": 9.0, "learn": 1.0, "score": 2.0, "decode": 3.0},
    "flops": {"learn": 1e12, "total": 4e12},
    "model": {"name": "tiny <model>", "parameters": 1e6, "dtype": "bfloat16", "sha256": "ab12"},
    "config": {"window": 1024, "chunk_size": 512},
    "device": "cpu",
    "committed": 2,
    "rejected": 0,
    "peak_memory_bytes": 1e9,
    "base_unchanged": True,
    "discarded": True,
}


def text(adapted: str, base: str, report: dict[str, Any] = REPORT) -> str:
    how = {"adapted": Written("with", adapted, 1.0), "base": Written("without", base, 1.0)}
    return page(replace(STORY, **how), report)


def test_names_are_marked_by_where_they_are_from() -> None:
    made = page(STORY, REPORT)
    assert '<mark class="carried">Tobin</mark> ran to <mark class="carried">Corrow</mark>.</p>' in made
    assert '<mark class="near">Odalie</mark> &lt;slept&gt;' in made
    assert '<mark class="made">Belinda</mark>' in made
    assert '<mark class="made">Clarence</mark>' in made
    assert "<tr><td>Tobin</td><td>2</td><td>0</td></tr>" in made
    assert "<slept>" not in made
    assert "tiny &lt;model&gt;" in made
    assert "<svg" in made
    assert "http" not in made.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "https://matplotlib.org", ""
    ).replace("http://creativecommons.org", "")


def test_it_says_what_the_adapter_did() -> None:
    made = page(STORY, REPORT)
    assert "perplexity 15 % lower" in made
    assert "2 names that had left the window came back with the adapter, and none without" in made
    assert "fewer with the adapter: 1 against 3" in made


def test_it_says_so_when_the_adapter_made_no_difference() -> None:
    same = {**TEXT, "adapted": TEXT["base"]}
    made = text("It was so.", "It was so.", {**REPORT, "prompt": same})
    assert "made no difference to how well" in made
    assert "no name that had left the window came back, with the adapter or without" in made
    assert "For names the adapter made no difference in this text" in made
    assert "No name that had left the window" in made


def test_it_says_so_when_the_adapter_did_harm() -> None:
    worse = {**TEXT, "adapted": {"perplexity": 36.0}}
    made = text("And then Marius came, and Clarence.", "And then Tobin came.", {**REPORT, "prompt": worse})
    assert "perplexity 50 % higher" in made
    assert "none with" not in made
    assert "0 names that had left the window came back with the adapter, and 1 name without" in made
    assert "For names the adapter did not help" in made
    assert "more with the adapter: 2 against 0" in made


def test_it_says_which_text_goes_round_in_circles() -> None:
    prose, loop = "The boy ran down to the river and saw no boat.", "He walked to the sea. " * 40
    assert "circles" not in text(prose, prose)
    assert "Only the text without the adapter goes round in circles." in text(prose, loop)
    assert "Only the text with the adapter goes round in circles." in text(loop, prose)
    assert "Both texts go round in circles." in text(loop, loop)


def test_without_a_prompt_that_was_scored_there_is_a_page_all_the_same() -> None:
    nothing = {"base": {"perplexity": None}, "adapted": {"perplexity": None}, "mixed": None, "prompt": None}
    made = text("第一天，老人说话。", "", {**REPORT, **nothing, "chunks": []})
    assert "第一天" in made


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="the page cannot be written"):
        write_page(STORY, REPORT, tmp_path / "none" / "page.html")
    write_page(STORY, REPORT, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page(STORY, REPORT)
