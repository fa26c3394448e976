#!/usr/bin/env python3
"""The Debian Administrator's Handbook as aligned pairs, from the package debian-handbook, whose languages have the same
blocks in the same order.

    apt-get install debian-handbook
    experiments/handbook.py fr-FR handbook.fr-en.jsonl [--folder /usr/share/doc/debian-handbook/html]

What it writes is by Raphaël Hertzog, Roland Mas and translators, under the GPL, version 2 or later, or CC BY-SA 3.0.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import lxml.html

ENGLISH = "en-US"
BLOCKS = frozenset(["p", "h1", "h2", "h3", "h4", "h5", "dt", "li", "td", "th"])
NAVIGATION = frozenset({"docnav", "toc", "previous", "next", "up", "home"})
HOLDERS = BLOCKS | frozenset(["ul", "ol", "table", "div", "pre"])


def blocks(file: Path) -> Iterator[tuple[str, str | None, str]]:
    """Name, class and text of each block of a page that holds no other."""
    body = lxml.html.parse(str(file), lxml.html.HTMLParser(encoding="utf-8")).getroot().find("body")
    for element in body.iter():
        if not isinstance(element.tag, str) or not (element.tag in BLOCKS or element.get("class") == "para"):
            continue
        if any(isinstance(inner.tag, str) and inner.tag in HOLDERS for inner in element.iterdescendants()):
            continue
        outer = [element, *element.iterancestors()]
        if any(one.tag == "pre" or not NAVIGATION.isdisjoint((one.get("class") or "").split()) for one in outer):
            continue
        yield element.tag, element.get("class"), " ".join(element.text_content().split())


def pairs(folder: Path, language: str) -> Iterator[dict[str, str]]:
    """The paragraphs of the book in order, but what stands on each page, and pages whose blocks differ."""
    seen: set[str] = set()
    titles: set[str] = set()
    for page in re.findall(r'href="([^"#]+\.html)"', (folder / ENGLISH / "index.html").read_text(encoding="utf-8")):
        files = folder / language / page, folder / ENGLISH / page
        if page in seen or not all(file.exists() for file in files):
            continue
        seen.add(page)
        theirs, english = ([*blocks(file)] for file in files)
        if [block[:2] for block in theirs] != [block[:2] for block in english]:
            continue
        for (name, _, source), (_, _, target) in zip(theirs, english, strict=True):
            repeated = name == "p" and source in titles
            titles |= {source} if name == "p" else set()
            if source and target and source != target and not repeated:
                yield {"document": "debian-handbook", "chapter": page, "source": source, "target": target}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("language")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("/usr/share/doc/debian-handbook/html"))
    asked = parser.parse_args()
    found = [*pairs(asked.folder, asked.language)]
    asked.out.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in found), encoding="utf-8")
    print(f"{len(found)} pairs")


if __name__ == "__main__":
    main()
