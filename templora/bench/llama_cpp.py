"""llama.cpp in a process of its own, to be measured beside: decodes a GGUF file, with a LoRA or without.

It talks in lines of JSON: a request {"prompt": ids, "tokens": n} in; out come timings and what was written. Between two
requests its threads sleep, so that either side has the machine to itself in its turn.

    python -m templora.bench.llama_cpp MODEL.gguf WINDOW THREADS [LORA.gguf]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from templora.errors import ModelError
from templora.runtime.rss import peak_rss_bytes
from templora.runtime.subprocesses import command


@dataclass(frozen=True)
class Decoded:
    """What llama.cpp did.

    Args:
        seconds_per_token: after the first, which comes with the prompt.
        peak_memory_bytes: of its process so far.
        text: what it wrote.
        logprobs: token id -> log-probability of the likeliest ids, for each token, where they were asked for.
    """

    seconds_per_token: float
    peak_memory_bytes: int
    text: str
    logprobs: list[dict[int, float]]


class LlamaCpp:
    """A running llama.cpp. A context manager that ends it.

    Args:
        model: a .gguf file.
        window: most tokens it attends to.
        threads: to compute with.
        lora: an adapter as a GGUF file.

    Raises:
        ModelError: it cannot read the model or the adapter.
    """

    def __init__(self, model: Path, window: int, threads: int, lora: Path | None = None) -> None:
        arguments = [str(model), str(window), str(threads), *([str(lora)] if lora else [])]
        self._process = subprocess.Popen(
            [*command("templora.bench.llama_cpp"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        self._name = f"{model}" + (f" with {lora}" if lora else "")
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def decode(self, prompt: Sequence[int], tokens: int, likeliest: int = 0) -> Decoded:
        """Reads `prompt`, then writes `tokens` tokens greedily, past any end of text."""
        assert self._process.stdin is not None
        request = {"prompt": list(prompt), "tokens": tokens, "likeliest": likeliest}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        answer["logprobs"] = [{int(i): p for i, p in step.items()} for step in answer["logprobs"]]
        return Decoded(**answer)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(f"llama.cpp cannot run {self._name}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes the pipes, and waits for its end

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _serve(model: str, window: int, threads: int, lora: str | None) -> None:
    """The other side of the pipe."""
    out = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # llama.cpp prints its log to both
        os.dup2(silence, stream)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = window, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if lora:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = lora, 1.0
        params.lora_adapters = [adapter]
    server = xllamacpp.Server(params)
    print("{}", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        said = server.handle_completions(
            {
                "prompt": asked["prompt"],
                "n_predict": asked["tokens"],
                "n_probs": asked["likeliest"],
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
            }
        )
        said = json.loads(said) if isinstance(said, str) else said
        choice = said["choices"][0]
        steps = (choice.get("logprobs") or {}).get("content") or []
        answer = {
            "seconds_per_token": said["timings"]["predicted_per_token_ms"] / 1000,
            "peak_memory_bytes": peak_rss_bytes(),
            "text": choice["text"],
            "logprobs": [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in steps],
        }
        print(json.dumps(answer), file=out, flush=True)
    os._exit(0)  # its own threads would be waited for


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)
