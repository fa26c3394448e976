#!/usr/bin/env python3
"""A blind reading of a study (`templora eval continuation`): which of two texts goes on better with the book?

    experiments/blind_reading.py make results/continuation --books DIR --page out/blind.html --key out/key.json
    experiments/blind_reading.py count --key out/key.json --votes A,B,=,...

`make` draws pairs of texts, one with the adapter and one without, of the same book and seed, and shuffles which is
left and which is right. The page shows what was read last and both texts, and gathers the votes; the key, apart, says
which was which. `count` says how many votes each got, and how often chance alone would be as one-sided (two-sided sign
test).
"""

from __future__ import annotations

import argparse
import html
import json
import math
import random
from pathlib import Path

from templora.evals.continuation.report import read_study
from templora.evals.measuring.texts import find_texts

_WORDS = 220  # of each text
_BEFORE = 900  # characters of what was read last

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>A blind reading</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 17px/1.55 Georgia, serif; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }}
.two div, .before {{ border: 1px solid #8886; border-radius: 8px; padding: .25rem 1rem; white-space: pre-wrap; }}
.before {{ opacity: .75; margin: .75rem 0; }} fieldset {{ border: 0; padding: .75rem 0 2rem; font-family: system-ui; }}
textarea {{ width: 100%; font: 1rem/1.4 monospace; }}
@media (max-width: 48rem) {{ .two {{ grid-template-columns: 1fr; }} }}
</style></head><body><h1>Which goes on better?</h1>
<p>Each pair goes on from the same place of a book, one with the adapter and one without; nobody has told this page
which. Vote for the text that you would rather find there: the book's own people, its voice, sense. Then copy the line
at the end.</p>
{pairs}
<h2>Your votes</h2><textarea id="votes" rows="3" readonly></textarea>
<script>
const many = {many};
document.addEventListener("change", () => {{
  document.getElementById("votes").value = Array.from({{length: many}}, (_, i) =>
    (document.querySelector(`input[name=p${{i}}]:checked`) || {{value: "?"}}).value).join(",");
}});
</script></body></html>
"""
_PAIR = """<h2>{number}. {book}</h2><div class="before">… {before}</div>
<div class="two"><div><b>A</b>\n{a}</div><div><b>B</b>\n{b}</div></div>
<fieldset><label><input type="radio" name="p{index}" value="A"> A</label> &nbsp;
<label><input type="radio" name="p{index}" value="B"> B</label> &nbsp;
<label><input type="radio" name="p{index}" value="="> no difference</label></fieldset>"""


def beginning(text: str) -> str:
    words = text.split(" ")
    return " ".join(words[:_WORDS]) + (" …" if len(words) > _WORDS else "")


def make(arguments: argparse.Namespace) -> None:
    _, samples = read_study(Path(arguments.results))
    found = {(s["book"], s["absorbed"], s["seed"], s["setting"]): s for s in samples}
    both = [key[:3] for key in found if key[3] == arguments.ours and (*key[:3], arguments.against) in found]
    draw = random.Random(arguments.seed)
    chosen = draw.sample(sorted(both), min(arguments.pairs, len(both)))
    books = {text.name: text.content for text in find_texts(arguments.books, sorted({key[0] for key in chosen}))}
    shown, key = [], []
    for index, (book, absorbed, seed) in enumerate(chosen):
        ours, base = (found[book, absorbed, seed, setting]["text"] for setting in (arguments.ours, arguments.against))
        left = draw.random() < 0.5
        a, b = (ours, base) if left else (base, ours)
        author = found[book, absorbed, 1, "author"]["text"]
        before = books[book].partition(author[:200])[0][-_BEFORE:].partition(" ")[2]
        texts = {
            name: html.escape(text) for name, text in (("before", before), ("a", beginning(a)), ("b", beginning(b)))
        }
        shown.append(_PAIR.format(number=index + 1, index=index, book=html.escape(book), **texts))
        key.append({"book": book, "absorbed": absorbed, "seed": seed, "ours": "A" if left else "B"})
    Path(arguments.page).write_text(_PAGE.format(pairs="\n".join(shown), many=len(shown)), encoding="utf-8")
    document = {"ours": arguments.ours, "against": arguments.against, "seed": arguments.seed, "pairs": key}
    Path(arguments.key).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"{len(shown)} pairs: {arguments.page}; the key: {arguments.key}")


def count(arguments: argparse.Namespace) -> None:
    key = json.loads(Path(arguments.key).read_text(encoding="utf-8"))
    votes = [vote.strip().upper() for vote in arguments.votes.split(",")]
    if len(votes) != len(key["pairs"]) or not set(votes) <= {"A", "B", "=", "?"}:
        raise SystemExit(f"{len(key['pairs'])} votes are needed, each A, B, = or ?, with commas between them")
    ours = sum(vote == pair["ours"] for vote, pair in zip(votes, key["pairs"], strict=True))
    said = sum(vote in ("A", "B") for vote in votes)
    most = max(ours, said - ours)
    chance = min(1.0, 2 * sum(math.comb(said, k) for k in range(most, said + 1)) / 2**said) if said else 1.0
    print(f"{key['ours']}: {ours}, {key['against']}: {said - ours}, neither: {len(votes) - said}; p = {chance:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("results")
    making.add_argument("--books", required=True)
    making.add_argument("--pairs", type=int, default=20)
    making.add_argument("--seed", type=int, default=1)
    making.add_argument("--ours", default="own")
    making.add_argument("--against", default="base")
    making.add_argument("--page", required=True)
    making.add_argument("--key", required=True)
    making.set_defaults(do=make)
    counting = commands.add_parser("count")
    counting.add_argument("--key", required=True)
    counting.add_argument("--votes", required=True)
    counting.set_defaults(do=count)
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
