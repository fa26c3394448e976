#!/usr/bin/env python3
"""How often a glossary is kept: its terms in the prompt alone, and lifted in several ways
(`templora.decoding.lexical_bias`).

    experiments/glossary.py [--model gemma-3-270m] [--to es]

Writes results/glossary.json.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import templora
from templora.decoding import lexical_bias
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


# Name -> among how many of the likeliest a first token must be, nats that it is lifted by, and those after it.
ANY = 10**9
WAYS = {
    "prompt alone": (ANY, 0.0, 0.0),
    "3 nats": (ANY, 3.0, 6.0),
    "5 nats": (ANY, 5.0, 8.0),
    "7 nats": (ANY, 7.0, 10.0),
    "8 nats among 5": (5, 8.0, 10.0),
    "8 nats among 10": (10, 8.0, 10.0),
    "8 nats among 25": (25, 8.0, 10.0),
}


def run(engine: Engine, to: str, way: tuple[int, float, float]) -> dict[str, Any]:
    """Translates the text, and counts."""
    target, glossary = language("to", to), Glossary([Term(*pair) for pair in TERMS.items()])
    before = lexical_bias.RANK, lexical_bias.FIRST, lexical_bias.NEXT
    lexical_bias.RANK, lexical_bias.FIRST, lexical_bias.NEXT = way
    try:
        with tempfile.TemporaryDirectory() as folder:
            store = SessionStore(Path(folder))
            with store.create("g", engine, engine.config("translate")) as saved:
                template = read_template(None, engine.tokenizer, "English", target.name)
                sampling = SamplingParams(temperature=0.0, repetition_penalty=1.0, stop=template.stop)

                def terms(source: str) -> dict[str, str]:
                    return {t.source: t.target for t in glossary.found(source)}

                made = Translation(saved, TEXT, target, template, sampling, terms=terms)
                found = [event for event in made.run() if isinstance(event, Paragraph)]
    finally:
        lexical_bias.RANK, lexical_bias.FIRST, lexical_bias.NEXT = before
    kept = [term.kept_in(p.target) for p in found for term in glossary.found(TEXT[p.segment])]
    rows = [{"source": TEXT[p.segment], "target": p.target, "doubt": p.doubt} for p in found]
    return {"kept": sum(kept), "of": len(kept), "paragraphs": rows}


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
        "built_in": [lexical_bias.RANK, lexical_bias.FIRST, lexical_bias.NEXT],
        "ways": found,
        "device": describe_device(engine.model.device, engine.threads),
        "versions": engine.versions() | {"commit": source_commit()},
    }
    write_json(RESULTS / "glossary.json", document)
    for name in found:
        print(f"{name}: kept {found[name]['kept']} of {found[name]['of']}")
        for row in found[name]["paragraphs"]:
            print(f"  {row['target']}")


if __name__ == "__main__":
    main()
