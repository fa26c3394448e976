#!/usr/bin/env python3
"""How long the embedded model takes to load once it has been unpacked: in a fresh process, and again in the same one.

Prints one JSON document, also written to results/benchmarks/load.json. In a fresh process most of it is Python
importing torch and transformers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

CODE = """
import json, time, templora
began = time.perf_counter()
import torch, transformers.models.llama.modeling_llama
imports = time.perf_counter() - began
from templora.report import describe_device, source_commit
first = templora.load(); again = templora.load()
print(json.dumps({"imports": imports, "first": imports + first.load_seconds, "again": again.load_seconds,
                  "device": describe_device(first.model.device), "versions": first.versions(),
                  "commit": source_commit()}))
"""


def main() -> None:
    runs = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
        runs.append(json.loads(done.stdout))
    medians = {k: statistics.median(r[k] for r in runs) for k in ("imports", "first", "again")}
    document = {"benchmark": "load", "median_seconds": medians, "runs": runs}
    out = Path(__file__).parent.parent / "results" / "benchmarks" / "load.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
