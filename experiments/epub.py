#!/usr/bin/env python3
"""A short EPUB of our own, translated from English by the command line, and what is left of its markup.

    experiments/epub.py [--model gemma-3-270m] [--to es]

Writes results/epub/: the book, its translation, both as text side by side, and epub.json with what was compared.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import templora
from templora.reports.run_report import describe_device, source_commit, write_json

OUT = Path(__file__).parent.parent / "results" / "epub"
STYLE = "p { margin: 0; text-indent: 1em }\n"
HEAD = '<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en"><head>'
PARAGRAPHS = """<h1>The lamp</h1>
<p class="first">The old man lives in the tower on the island.
Every evening he climbs the stairs and lights the lamp.</p>
<p>His daughter comes every Sunday. She brings bread, cheese and the <a href="news.xhtml#top">newspaper</a>.</p>
<p>One day in winter the sea is <em>very</em> high, and the boat cannot come. The old man is alone.</p>
<p>At night he hears a ship. The captain does not see the rocks, because the lamp is dark.</p>
<p>&#8220;Where is the oil?&#8221; asks the old man. He looks under the bed, behind the door and in the kitchen.</p>
<p>There is a little oil in the kitchen. He takes it, climbs the stairs and lights the lamp again.</p>
<p>The ship turns slowly and goes back to the open sea.</p>
<pre><code>lamp.light(oil=1)</code></pre>
<p>In the morning the captain writes him a letter: <i>You have saved my ship and all my men.</i></p>
<p>On Sunday his daughter reads about it in the newspaper. She laughs and kisses the old man.</p>
<p>They drink coffee in the tower and look at the sea.</p>
"""
CHAPTER = (
    f'{HEAD}<title>The lamp</title><link rel="stylesheet" href="style.css"/></head><body>\n{PARAGRAPHS}</body></html>\n'
)
NEWS = (
    f'{HEAD}<title>News</title></head><body><h2 id="top">From the newspaper</h2>\n<p>A lamp saves a ship.</p></body>'
    "</html>\n"
)
CONTAINER = (
    '<?xml version="1.0"?>\n<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    '<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>\n'
)
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="id">urn:templora:lamp</dc:identifier>
<dc:title>The lamp</dc:title><dc:language>en</dc:language>
<meta property="dcterms:modified">2026-01-01T00:00:00Z</meta></metadata>
<manifest><item id="c" href="lamp.xhtml" media-type="application/xhtml+xml"/>
<item id="n" href="news.xhtml" media-type="application/xhtml+xml"/>
<item id="t" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="s" href="style.css" media-type="text/css"/></manifest>
<spine><itemref idref="c"/><itemref idref="n"/></spine></package>
"""
CONTENTS = (
    f'{HEAD}<title>Contents</title></head><body><nav xmlns:epub="http://www.idpf.org/2007/ops" epub:type="toc"><ol>'
    '<li><a href="lamp.xhtml">The lamp</a></li><li><a href="news.xhtml">From the newspaper</a></li></ol></nav>'
    "</body></html>\n"
)
FILES = {
    "META-INF/container.xml": CONTAINER,
    "book.opf": PACKAGE,
    "nav.xhtml": CONTENTS,
    "lamp.xhtml": CHAPTER,
    "news.xhtml": NEWS,
    "style.css": STYLE,
}


def write_book(path: Path) -> None:
    """The same bytes each time."""
    with zipfile.ZipFile(path, "w") as book:
        for name, text in {"mimetype": "application/epub+zip", **FILES}.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            book.writestr(entry, text, zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED)


def read_book(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as book:
        assert book.testzip() is None
        return {name: book.read(name).decode() for name in book.namelist()}


def _tags(text: str) -> list[str]:
    """Without the language, which is another one."""
    return re.findall(r"<[^>]*>", re.sub(r'\s+(xml:)?lang="[^"]*"', "", text))


def compared(before: dict[str, str], after: dict[str, str]) -> dict[str, Any]:
    """What must be as it was."""
    chapter = after["lamp.xhtml"]
    return {
        "the same files in the same order": list(before) == list(after),
        "style and container byte for byte": all(
            before[n] == after[n] for n in ("mimetype", "style.css", "META-INF/container.xml")
        ),
        "the chapter's tags in their order": _tags(before["lamp.xhtml"]) == _tags(chapter),
        "code as it was": "<pre><code>lamp.light(oil=1)</code></pre>" in chapter,
        "the link leads where it led": 'href="news.xhtml#top"' in chapter,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--to", default="es")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    book, translated = OUT / "lamp.epub", OUT / f"lamp.{asked.to}.epub"
    translated.unlink(missing_ok=True)
    write_book(book)
    with tempfile.TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        command = ["translate", str(book), "--from", "en", "--to", asked.to, "--out", str(translated)]
        command += ["--model", asked.model, "--pairs", str(pairs), "--sessions", folder, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "templora", *command], stdout=subprocess.PIPE, text=True, check=True
        )
        rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    lines = [f"{row['source']}\n    {row['target']}\n" for row in rows]
    (OUT / f"lamp.{asked.to}.txt").write_text("\n".join(lines))
    found = compared(read_book(book), read_book(translated))
    engine = templora.load(asked.model)
    document = {
        "command": ["templora", *(part.replace(f"{OUT}/", "") for part in command[:8]), "--model", asked.model],
        "compared": found,
        "report": json.loads(done.stdout),
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
    }
    write_json(OUT / f"lamp.{asked.to}.json", document)
    for what, holds in found.items():
        print(f"{what}: {'yes' if holds else 'NO'}")
    print((OUT / f"lamp.{asked.to}.txt").read_text())


if __name__ == "__main__":
    main()
