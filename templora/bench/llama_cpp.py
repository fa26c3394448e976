"""llama.cpp in a process of its own, to be measured beside: decodes a GGUF file, with a LoRA or without.

It talks in lines of JSON: a request {"prompts": [ids], "tokens": n} in; out come timings and what was written. Between
two requests its threads sleep, so that either side has the machine to itself in its turn. Of several adapters each is
a slot's own, and the prompts of a request go to a slot each.

    python -m templora.bench.llama_cpp MODEL.gguf WINDOW THREADS [LORA.gguf ...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
        seconds_per_token: after the first, which comes with the prompt; of several prompts by the clock, all together.
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
        window: most tokens that a slot attends to.
        threads: to compute with.
        loras: adapters as GGUF files; as many slots, one without any.

    Raises:
        ModelError: it cannot read the model or the adapter.
    """

    def __init__(self, model: Path, window: int, threads: int, *loras: Path) -> None:
        arguments = [str(model), str(window), str(threads), *map(str, loras)]
        self._process = subprocess.Popen(
            [*command("templora.bench.llama_cpp"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )
        self._name = " with ".join(map(str, (model, *loras)))
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def decode(self, prompt: Sequence[int], tokens: int, likeliest: int = 0) -> Decoded:
        """Reads `prompt`, then writes `tokens` tokens greedily, past any end of text."""
        return self._asked([prompt], tokens, likeliest)

    def decode_together(self, prompts: Sequence[Sequence[int]], tokens: int) -> Decoded:
        """The same of several texts at once, each in a slot and with the adapter of its own."""
        return self._asked(prompts, tokens, 0)

    def _asked(self, prompts: Sequence[Sequence[int]], tokens: int, likeliest: int) -> Decoded:
        assert self._process.stdin is not None
        request = {"prompts": list(map(list, prompts)), "tokens": tokens, "likeliest": likeliest}
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


def _serve(model: str, window: int, threads: int, loras: list[str]) -> None:
    """The other side of the pipe."""
    out = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # llama.cpp prints its log to both
        os.dup2(silence, stream)
    import xllamacpp

    params, slots = xllamacpp.CommonParams(), max(1, len(loras))
    params.model.path = model
    params.n_ctx, params.n_parallel, params.n_gpu_layers = window * slots, slots, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    adapters = []
    for path in loras:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = path, 1.0
        adapters.append(adapter)
    params.lora_adapters = adapters
    server = xllamacpp.Server(params)

    def completed(slot: int, prompt: list[int], tokens: int, likeliest: int = 0, cached: bool = False) -> Any:
        asked = {
            "prompt": prompt,
            "n_predict": tokens,
            "n_probs": likeliest,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": cached,
        }
        if slots > 1:
            asked |= {"id_slot": slot, "lora": [{"id": i, "scale": float(i == slot)} for i in range(slots)]}
        said = server.handle_completions(asked)
        return json.loads(said) if isinstance(said, str) else said

    def every(prompts: list[list[int]], tokens: int) -> list[Any]:
        with ThreadPoolExecutor(len(prompts)) as pool:
            asked = [pool.submit(completed, i, prompt, tokens, cached=True) for i, prompt in enumerate(prompts)]
            return [each.result() for each in asked]

    print("{}", file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        prompts, tokens = asked["prompts"], asked["tokens"]
        if len(prompts) == 1:
            said = completed(0, prompts[0], tokens, asked["likeliest"])
            seconds = said["timings"]["predicted_per_token_ms"] / 1000
        else:
            every(prompts, 1)  # reads them
            began = time.perf_counter()
            said = every(prompts, tokens)[0]
            seconds = (time.perf_counter() - began) / (len(prompts) * tokens)
        choice = said["choices"][0]
        steps = (choice.get("logprobs") or {}).get("content") or []
        answer = {
            "seconds_per_token": seconds,
            "peak_memory_bytes": peak_rss_bytes(),
            "text": choice["text"],
            "logprobs": [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in steps],
        }
        print(json.dumps(answer), file=out, flush=True)
    os._exit(0)  # its own threads would be waited for


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
