#!/usr/bin/env python3
"""How often a glossary is kept: its terms in the prompt alone, and put into drafts in several ways
(`templora.decoding.wanted_words`), and how likely the base finds what comes of it.

    experiments/glossary.py [--model gemma-3-270m] [--to es]

Writes results/glossary.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import templora
from templora.decoding import wanted_words
from templora.engine.engine import Engine
from templora.reports.run_report import describe_device, source_commit, write_json
from templora.sampling import SamplingParams
from templora.store.store import SessionStore
from templora.translation.glossary import Glossary, Term
from templora.translation.languages import language
from templora.translation.template import read_template
from templora.translation.translation import Paragraph, Translation

RESULTS = Path(__file__).parent.parent / "results"
TEXT = (
    "The old man lives in the lighthouse on the island.",
    "Every evening he climbs the stairs and lights the lamp.",
    "His daughter comes to the island every Sunday with bread, cheese and the newspaper.",
    "One day in winter the sea is very high, and the old man is alone in the lighthouse.",
    "At night he hears a ship. The captain does not see the rocks, because the lamp is dark.",
    "The old man takes his coat, climbs the stairs and lights the lamp again.",
    "In the morning the captain writes him a letter: you have saved my ship.",
    "On Sunday his daughter reads about the captain and his ship in the newspaper.",
    "They drink coffee in the lighthouse and look at the sea around the island.",
)
# Right, but none of them the first word that comes to mind.
TERMS = {
    "lighthouse": "farola",
    "lamp": "linterna",
    "island": "ínsula",
    "newspaper": "diario",
    "captain": "patrón",
    "ship": "nave",
    "daughter": "hija",
}


# Name -> nats that a word's first token has at least, nats a token that the rest may lose, and places that are tried.
ANY = 1e9
WAYS = {
    "prompt alone": (0.0, 0.0, 0),
    "places of -6 nats or more, and 0.3 less": (-6.0, 0.3, 2),
    "-8 and 0.5": (-8.0, 0.5, 2),
    "-10 and 0.5": (-10.0, 0.5, 2),
    "-10 and 1": (-10.0, 1.0, 4),
    "-20 and 1": (-20.0, 1.0, 4),
    "any place, and whatever follows": (-ANY, ANY, 4),
}


def run(engine: Engine, to: str, way: tuple[float, float, int]) -> dict[str, Any]:
    """Translates the text, and counts."""
    target, glossary = language("to", to), Glossary([Term(*pair) for pair in TERMS.items()])
    before = wanted_words._DEMAND
    wanted_words._DEMAND = way
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = SessionStore(Path(folder))
            with store.create("g", engine, engine.config("translate")) as saved:
                template = read_template(None, engine.tokenizer, "English", target.name)
                sampling = SamplingParams(temperature=0.0, repetition_penalty=1.0, stop=template.stop)

                def terms(source: str) -> dict[str, str]:
                    return {t.source: t.target for t in glossary.found(source)}

                made = Translation(saved, TEXT, target, template, sampling, settle=False, terms=terms)
                found = [event for event in made.run() if isinstance(event, Paragraph)]
    finally:
        wanted_words._DEMAND = before
    kept = [term.kept_in(p.target) for p in found for term in glossary.found(TEXT[p.segment])]
    said = [engine.likelihood(template.back(p.target), f" {TEXT[p.segment]}") for p in found]
    rows = [{"source": TEXT[p.segment], "target": p.target, "doubt": p.doubt} for p in found]
    lost = sum(one.nll for one in said) / sum(one.tokens for one in said)
    return {"kept": sum(kept), "of": len(kept), "source_left_unsaid": lost, "paragraphs": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--to", default="es")
    asked = parser.parse_args()
    engine = templora.load(asked.model)
    found = {name: {"way": way, **run(engine, asked.to, way)} for name, way in WAYS.items()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = {
        "model": engine.name,
        "to": asked.to,
        "terms": TERMS,
        "built_in": wanted_words._DEMAND,
        "ways": found,
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
    }
    write_json(RESULTS / "glossary.json", document)
    for name in found:
        lost = found[name]["source_left_unsaid"]
        print(f"{name}: kept {found[name]['kept']} of {found[name]['of']}; {lost:.3f} nats of a source's token unsaid")
        for row in found[name]["paragraphs"]:
            print(f"  {row['target']}")


if __name__ == "__main__":
    main()
