"""One HTML page of a run of `write`: what was read, how the text goes on with the adapter and without, what came back
of what had left the window, and what it took. It needs no other file, no script and no network."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from templora.errors import TextError
from templora.metrics import compression_ratio
from templora.reports.html_page import framed, svg
from templora.reports.names import Book, words
from templora.reports.plots import draw_report
from templora.runtime.files import told, written_whole

_STYLE = """
:root { --carried: #fde3d3; --near: #4b6b57; --made: #7a4bb0; }
@media (prefers-color-scheme: dark) { :root { --carried: #4a2413; --near: #9cc3a8; --made: #c4a1ee; } }
main { max-width: 78rem; } h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem; }
.big { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.75rem 0; } .big .card { flex: 1 1 11rem; }
.big b { display: block; font-size: 1.7rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.big span { color: var(--soft); font: .85rem/1.35 system-ui, sans-serif; }
.beside { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5rem; }
@media (max-width: 56rem) { .beside { grid-template-columns: 1fr; } }
article h3 { margin: 0 0 .75rem; font: 600 .95rem/1.4 system-ui, sans-serif; color: var(--soft); }
article p { max-width: none; margin: 0 0 .9rem; }
mark { color: inherit; background: none; }
mark.carried { background: var(--carried); color: var(--accent); font-weight: 600; border-radius: 3px;
  padding: 0 .15em; }
mark.near { border-bottom: 2px solid var(--near); } mark.made { border-bottom: 2px dotted var(--made); }
.key { font: .85rem/1.6 system-ui, sans-serif; color: var(--soft); margin: .25rem 0 1rem; max-width: none; }
.before { border-left: 3px solid var(--line); padding-left: 1.1rem; color: var(--soft); }
th, td { padding: .35rem 1.25rem .35rem 0; text-align: left; vertical-align: top; }
code { font-size: .85em; overflow-wrap: anywhere; }
"""
_LOOP = 3  # compression from which a text is said to go round in circles; prose is near 2.3
_BEFORE = 700  # characters of what was read last that are shown


@dataclass(frozen=True)
class Written:
    """One way in which the text goes on.

    Args:
        title: of it.
        text: that was written.
        seconds: that decoding it took.
    """

    title: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Story:
    """What the page is of.

    Args:
        title: of the page.
        read: what was given.
        window: what of it still stood in the window when writing began.
        adapted, base: how it goes on with the adapter, and without.
    """

    title: str
    read: str
    window: str
    adapted: Written
    base: Written


def write_page(story: Story, report: Mapping[str, Any], path: Path) -> None:
    """Writes the page.

    Args:
        story: what was read and written.
        report: of the run (`run_report.build_report`).
        path: of the file.

    Raises:
        TextError: it cannot be written.
    """
    with told(TextError, f"{path}: the page cannot be written"), written_whole(path) as beside:
        beside.write_text(page(story, report), encoding="utf-8", errors="xmlcharrefreplace")


def page(story: Story, report: Mapping[str, Any]) -> str:
    """The page as HTML; everything that was read or written is escaped."""
    book = Book(story.read, story.read)
    found = [_Found(book, story.window, written.text) for written in (story.adapted, story.base)]
    body = [
        f"<h1>{html.escape(story.title)}</h1>",
        f'<p class="lead">{html.escape(verdict(report, *found))}</p>',
        _figures(report, *found),
        "<h2>While it read</h2>",
        '<p class="soft">How well each next chunk was predicted before anything was learnt from it: lower is better. '
        "All lines are the same model with the same window; the grey one is without the adapter.</p>",
        f'<div class="card">{_curve(report)}</div>',
        "<h2>How it goes on</h2>",
        '<p class="soft">The same place, seed, sampling and window. It had just read:</p>',
        f'<div class="before" lang="">{_split(html.escape(_end(story.window)))}</div>',
        '<p class="key"><mark class="carried">A name</mark> that had left the window: only the adapter can know it '
        'of this story · <mark class="near">a name</mark> that still stood there · <mark class="made">a name</mark> '
        "of which the story says nothing</p>",
        '<div class="beside">',
        *(_article(written, of) for written, of in zip((story.adapted, story.base), found, strict=True)),
        "</div>",
        "<h2>What came back</h2>",
        _carried(*found),
        "<h2>What it took</h2>",
        _cost(report, story),
    ]
    return framed(story.title, _STYLE, "".join(body))


class _Found:
    """What a written text has of the story.

    Args:
        book: the story.
        window: of its text, what was in the window.
        text: that was written.

    Attributes:
        carried: names that had left the window, by how often they are written.
        near: those that still stood there.
        invented: names of which the story says nothing.
    """

    def __init__(self, book: Book, window: str, text: str) -> None:
        self.text = text
        self.carried = book.carried(text, window)[0]
        self.invented = book.invented(text)
        self.near = Counter(w.text for w in words(text) if w.text in book.names and w.text not in self.carried)

    def marked(self) -> str:
        """The text as HTML paragraphs, its names marked."""
        parts, end = [], 0
        for word in words(self.text):
            kinds = {"carried": self.carried, "near": self.near, "made": self.invented}
            kind = next((kind for kind, names in kinds.items() if word.text in names), None)
            if kind:
                parts += [
                    html.escape(self.text[end : word.start]),
                    f'<mark class="{kind}">{html.escape(word.text)}</mark>',
                ]
                end = word.start + len(word.text)
        return _split("".join([*parts, html.escape(self.text[end:])]))


def verdict(report: Mapping[str, Any], adapted: _Found, base: _Found) -> str:
    """In words, what the adapter did: no more than the figures say."""
    said = []
    change = _change(report)
    if change is not None:
        made = f"{100 * abs(change):.0f} % {'lower' if change < 0 else 'higher'}"
        said.append(
            "While it read, the adapter made no difference to how well the text was predicted."
            if abs(change) < 0.01
            else f"While it read, what it had learnt made the text's perplexity {made}."
        )
    came, alone = len(adapted.carried), len(base.carried)
    if came == alone == 0:
        said.append("Writing on, no name that had left the window came back, with the adapter or without.")
    else:
        said.append(
            f"Writing on, {_many(came)} that had left the window came back with the adapter, and "
            f"{_many(alone) if alone else 'none'} without."
        )
    if came <= alone:
        did = "made no difference in this text" if came == alone else "did not help"
        said.append(f"For names the adapter {did}.")
    if adapted.invented.total() != base.invented.total():
        fewer = adapted.invented.total() < base.invented.total()
        said.append(
            f"Of names that are not in the story it wrote {'fewer' if fewer else 'more'} with the adapter: "
            f"{adapted.invented.total()} against {base.invented.total()}."
        )
    with_it, without = (compression_ratio(found.text) > _LOOP for found in (adapted, base))
    if with_it and without:
        said.append("Both texts go round in circles.")
    elif with_it or without:
        said.append(f"Only the text {'with' if with_it else 'without'} the adapter goes round in circles.")
    return " ".join(said)


def _many(count: int) -> str:
    return "1 name" if count == 1 else f"{count} names"


def _change(report: Mapping[str, Any]) -> float | None:
    """Of the perplexity of what was read, as a share."""
    text = report.get("prompt") or report
    base, ours = (
        (text.get("base") or {}).get("perplexity"),
        (text.get("mixed") or text.get("adapted") or {}).get("perplexity"),
    )
    return ours / base - 1 if base and ours else None


def _figures(report: Mapping[str, Any], adapted: _Found, base: _Found) -> str:
    text, change = report.get("prompt") or report, _change(report)
    cards = []
    if change is not None:
        ours = (text.get("mixed") or text["adapted"])["perplexity"]
        cards.append(
            (f"{100 * change:+.1f} %", f"perplexity of what was read: {text['base']['perplexity']:.2f} → {ours:.2f}")
        )
    cards += [
        (
            f"{len(adapted.carried)} : {len(base.carried)}",
            "names that had left the window, brought back with and without the adapter",
        ),
        (f"{len(adapted.invented)} : {len(base.invented)}", "names that are not in the story, with and without"),
        (
            f"{compression_ratio(adapted.text):.2f} : {compression_ratio(base.text):.2f}",
            "how far the texts can be compressed, with and without; far above 2.3 is a loop",
        ),
    ]
    shown = "".join(f'<div class="card"><b>{b}</b><span>{html.escape(s)}</span></div>' for b, s in cards)
    return f'<div class="big">{shown}</div>'


def _curve(report: Mapping[str, Any]) -> str:
    end = report["prompt_tokens"] if report.get("prompt") else math.inf
    read = {**report, **(report.get("prompt") or {}), "chunks": [c for c in report["chunks"] if c["start"] < end]}
    return svg(draw_report(read, "", time=False))


def _article(written: Written, found: _Found) -> str:
    return f'<article class="card"><h3>{html.escape(written.title)}</h3><div lang="">{found.marked()}</div></article>'


def _end(text: str) -> str:
    """The last characters, from the beginning of a word on."""
    return text if len(text) <= _BEFORE else "… " + text[-_BEFORE:].partition(" ")[2]


def _split(escaped: str) -> str:
    """Paragraphs of a text whose characters are escaped."""
    parts = [part.strip().replace("\n", "<br>") for part in escaped.split("\n\n")]
    return "".join(f"<p>{part}</p>" for part in parts if part)


def _carried(adapted: _Found, base: _Found) -> str:
    names = sorted({*adapted.carried, *base.carried}, key=lambda n: (-adapted.carried[n] - base.carried[n], n))
    if not names:
        return "<p>No name that had left the window.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{adapted.carried[name]}</td><td>{base.carried[name]}</td></tr>"
        for name in names
    )
    return (
        '<div class="scroll"><table><tr><th>name that had left the window</th><th>with the adapter</th>'
        f"<th>without</th></tr>{rows}</table></div>"
    )


def _cost(report: Mapping[str, Any], story: Story) -> str:
    seconds, flops, model = report["seconds"], report["flops"], report["model"]
    learn = flops["learn"] / flops["total"] if flops.get("total") else 0.0
    spent = {
        "learning": seconds["learn"],
        "predicting": seconds["score"],
        "writing with the adapter": story.adapted.seconds,
        "writing without": story.base.seconds,
    }
    said = [
        ("model", f"{model['name']}, {model['parameters'] / 1e6:,.0f} million weights, {model['dtype']}"),
        ("device", report["device"]),
        ("window and chunk", f"{report['config']['window']:,} and {report['config']['chunk_size']:,} tokens"),
        ("chunks learnt", f"{report['committed']}, and {report['rejected']} not learnt or rolled back"),
        ("time", f"{seconds['total']:.1f} s: " + ", ".join(f"{what} {took:.1f} s" for what, took in spent.items())),
        ("arithmetic", f"{flops['total'] / 1e12:,.1f} TFLOPs, {100 * learn:.0f} % of them learning"),
        ("memory", f"{report['peak_memory_bytes'] / 1e9:.2f} GB at most"),
        ("the model afterwards", "as it was" if report["base_unchanged"] else "NOT as it was"),
        ("the adapter", "thrown away" if report["discarded"] else "NOT thrown away"),
        ("SHA-256", f"{model['sha256']}"),
    ]
    rows = "".join(f"<tr><th>{name}</th><td>{_code(name, value)}</td></tr>" for name, value in said)
    return f'<div class="scroll"><table>{rows}</table></div>'


def _code(name: str, value: str) -> str:
    return f"<code>{html.escape(value)}</code>" if name == "SHA-256" else html.escape(value)
