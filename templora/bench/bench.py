"""How fast this machine runs a model, each figure beside what the machine could do.

    decode   tokens a second, one at a time, at a nearly full window      bytes a token must read / memory bandwidth
    learn    seconds a chunk, over the cached context                     FLOPs counted / matrix rate
    score    seconds a chunk, base and adapted                            FLOPs counted / matrix rate

FLOPs are those of `runtime.metering`; the ceilings are measured in the same sitting (`bench.ceilings`). Each figure
keeps all of its runs. The text is random ids: what is read does not change how long reading takes.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from templora.bench.ceilings import Ceilings
from templora.bench.llama_cpp import LlamaCpp
from templora.config import TempLoraConfig
from templora.decoding.reader import Reader
from templora.engine.engine import Engine
from templora.errors import ModelError
from templora.events import ChunkLearned, ChunkScored, Event
from templora.kvcache.window import WindowCache
from templora.lora.targets import linear_layers
from templora.models.causal import CausalModel
from templora.runtime.metering import peak_memory_bytes
from templora.session.session import Session

Unit = Literal["tok/s", "s", "ms", "GB", "GB/s", "TFLOP/s", "×"]


@dataclass(frozen=True)
class Figure:
    """One thing measured.

    Args:
        name: what.
        unit: of `runs` and `ceiling`.
        runs: each measurement, in the order they were taken.
        ceiling: the best that the machine allows, where there is such a bound.
        work: bytes that a token must read, or FLOPs that a chunk takes; what the ceiling is made from.
    """

    name: str
    unit: Unit
    runs: tuple[float, ...]
    ceiling: float | None = None
    work: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def ratio(self) -> float | None:
        """Share of the ceiling's speed that was reached: 1 is as fast as the machine allows."""
        if self.ceiling is None or not (self.ceiling and self.median):
            return None
        return self.ceiling / self.median if self.unit == "s" else self.median / self.ceiling

    def to_dict(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "median": self.median,
            "lowest": min(self.runs),
            "highest": max(self.runs),
            "ceiling": self.ceiling,
            "ratio": self.ratio,
            "work": self.work,
            "runs": list(self.runs),
        }


def model_products(model: CausalModel) -> list[tuple[int, int]]:
    """(inputs, outputs) of every linear layer, the head left out: it works on other rows than the rest."""
    return [(t.inputs, t.outputs) for t in linear_layers(model.module)]


def ceiling_figures(ceilings: Ceilings) -> list[Figure]:
    return [
        Figure("memory bandwidth", "GB/s", (ceilings.bytes_per_second / 1e9,)),
        Figure("matrix rate, large square", "TFLOP/s", (ceilings.square_flops_per_second / 1e12,)),
        Figure("matrix rate, the model's shapes", "TFLOP/s", (ceilings.shapes_flops_per_second / 1e12,)),
    ]


def weight_bytes(model: CausalModel) -> int:
    """Bytes of weights that decoding one token reads, in the format they are stored in.

    Everything in the decoder and the head, each tensor once; of an embedding only the token's row.
    """
    seen: dict[int, int] = {}
    rows = 0
    for module in [*model.decoder.modules(), *model.head.modules()]:
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if hasattr(module, "num_embeddings"):
            rows += sum(t[0].numel() * t.element_size() for t in tensors if t.shape[:1] == (module.num_embeddings,))
            continue
        for tensor in tensors:
            seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return rows + sum(seen.values())


def cache_bytes(cache: WindowCache, entries: int) -> int:
    """Bytes of `entries` entries of keys and values, in all layers."""
    return sum(
        entries * held.shape[1] * held.shape[3] * held.element_size()
        for layer in cache.layers
        for held in (layer.keys, layer.values)
    )


class Bench:
    """Measures one model with one config.

    Args:
        engine: the model.
        config: sizes and adapter. Learning is measured with 1 and with 2 epochs, whatever it says.
        ceilings: what the machine can do.
        runs: measurements of each figure.
        decode_tokens: tokens of one measurement of decoding; the window is full after the last.
        seed: of the random text.
    """

    def __init__(
        self,
        engine: Engine,
        config: TempLoraConfig,
        ceilings: Ceilings,
        *,
        runs: int = 5,
        decode_tokens: int = 64,
        seed: int = 0,
    ) -> None:
        self._engine = engine
        # Random text is not worth learning, and its updates may be rolled back; they take as long all the same.
        self._config = replace(config, learning="cascaded", patience=0, max_repetition=1.0, min_entropy=0.0)
        self._ceilings = ceilings
        self._runs = runs
        # The first one is not timed, so there are two at least.
        self._decode_tokens = max(2, min(decode_tokens, config.chunk_size - 1))
        self._random = random.Random(seed)

    def figures(self, gguf: Path | None = None) -> Iterator[Figure]:
        """All figures, as they come.

        Args:
            gguf: the same model as a file, to be decoded by llama.cpp in turn with ours.
        """
        for epochs in (1, 2):
            with self._engine.session(replace(self._config, epochs=epochs)) as session:
                score, learn = self._chunks(session, epochs)
                yield from (score, learn) if epochs == 1 else (learn,)
        yield from self.decoding(gguf)
        yield Figure("peak memory", "GB", (peak_memory_bytes(self._engine.model.device) / 1e9,))

    def decoding(self, gguf: Path | None = None) -> Iterator[Figure]:
        """The figures of decoding alone; `gguf` as for `figures`."""
        with self._engine.session(self._config) as session:
            for _ in range(self._warm_up):
                self._next_chunk(session)
            yield from self._decoding(session, gguf)

    @property
    def _warm_up(self) -> int:
        """Chunks that fill the context, and one more."""
        return -(-self._config.context // self._config.chunk_size) + 1

    def _next_chunk(self, session: Session) -> list[Event]:
        """Scores and learns the next chunk."""
        size = self._config.chunk_size
        return list(session.score_ids(self._ids(size - len(session.tokens) % size)))

    def _ids(self, count: int) -> list[int]:
        known = min(self._engine.model.vocabulary, len(self._engine.tokenizer))
        return [self._random.randrange(known) for _ in range(count)]

    def _chunks(self, session: Session, epochs: int) -> tuple[Figure, Figure]:
        """Scores and learns chunks until `runs` of them have been measured with a full window."""
        rate = self._ceilings.flops_per_second
        scored: list[float] = []
        learnt: list[float] = []
        flops: dict[str, float] = {}
        for at in range(self._warm_up + self._runs):
            before = session.meter.flops.copy()
            for event in self._next_chunk(session):
                if at >= self._warm_up and isinstance(event, ChunkScored):
                    scored.append(event.seconds)
                elif at >= self._warm_up and isinstance(event, ChunkLearned):
                    learnt.append(event.seconds)
            flops = {phase: total - before[phase] for phase, total in session.meter.flops.items()}
        # FLOPs are counted by what they are for, seconds by when: the pass that scores takes the head's gradient too.
        early = self._engine.model.shape.backward(0, 0, self._config.chunk_size, 0) * session.loop.scorer.shares
        reading, learning = flops["score"] + flops["cache"] + early, flops["learn"] - early
        plural = "s" if epochs > 1 else ""
        return (
            Figure("score a chunk, base and adapted", "s", tuple(scored), reading / rate, reading),
            Figure(f"learn a chunk, {epochs} epoch{plural}", "s", tuple(learnt), learning / rate, learning),
        )

    def _decoding(self, session: Session, gguf: Path | None) -> Iterator[Figure]:
        """Tokens a second with the adapter and without, ours and llama.cpp's, each in its turn in every run."""
        config, tokens = session.config, self._decode_tokens
        text = [*session.tokens, *self._ids(config.chunk_size - tokens)]
        adapted, base = session.readers
        sides: dict[str, Callable[[], float]] = {
            "decode, with adapter": lambda: self._decode(adapted, text, session.version),
            "decode, without": lambda: self._decode(base, text, session.version),
        }
        peaks: dict[str, float] = {}
        with ExitStack() as stack:
            if gguf is not None:
                lora = Path(stack.enter_context(TemporaryDirectory())) / "adapter.gguf"
                session.save_adapter(lora, half=True)
                for name, file in (("with adapter", [lora]), ("without", [])):
                    rival = stack.enter_context(LlamaCpp(gguf, config.window + 1, torch.get_num_threads(), *file))

                    def decode(rival: LlamaCpp = rival, name: str = name) -> float:
                        done = rival.decode(text[-(config.window - tokens) :], tokens)
                        peaks[name] = done.peak_memory_bytes / 1e9
                        return 1 / max(1e-9, done.seconds_per_token)

                    sides[f"decode, {name}: llama.cpp"] = decode
            found = alternate(sides, self._runs)
        middle = config.window - tokens // 2
        for name, rates in found.items():
            if "llama.cpp" in name:
                yield Figure(name, "tok/s", rates)
                continue
            reader = adapted if "with adapter" in name else base
            work = self._token_bytes(session, reader, middle)
            yield Figure(name, "tok/s", rates, self._ceilings.bytes_per_second / work, work)
        yield from ratios(found)
        for name, peak in peaks.items():
            yield Figure(f"peak memory, decoding {name}: llama.cpp", "GB", (peak,))

    def _decode(self, reader: Reader, text: list[int], version: int) -> float:
        """Tokens a second, greedily, from a window computed anew; the first token, which pays for set-up, left out."""
        device, tokens = self._engine.model.device, list(text)
        size = self._config.chunk_size
        reader.cache.clear(0)
        reader.prepare(tokens, len(tokens) // size * size, version)
        began = 0.0
        for at in range(self._decode_tokens):
            if at == 1:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                began = time.perf_counter()
            tokens.append(int(reader.next_logits(tokens).argmax()))  # reading the token waits for the device
        return (self._decode_tokens - 1) / max(1e-9, time.perf_counter() - began)

    def _token_bytes(self, session: Session, reader: Reader, entries: int) -> float:
        """Bytes that one token must read: weights as they are stored, the adapter, keys and values."""
        route = reader.route
        adapter = 0 if route is None else sum(x.numel() * x.element_size() for pair in route.pairs for x in pair)
        return weight_bytes(self._engine.model) + adapter + cache_bytes(reader.cache, entries)


def alternate(sides: Mapping[str, Callable[[], float]], runs: int) -> dict[str, tuple[float, ...]]:
    """Measures each side once in every run, the order turned round in every other run; one round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(-1, runs):
        for name in list(sides)[:: 1 if run % 2 else -1]:
            value = sides[name]()
            if run >= 0:
                found[name].append(value)
    return {name: tuple(values) for name, values in found.items()}


def ratios(found: Mapping[str, Sequence[float]]) -> Iterator[Figure]:
    """Our rates as multiples of llama.cpp's, run by run."""
    for rival in [name for name in found if name.endswith(": llama.cpp")]:
        pairs = tuple(a / b for a, b in zip(found["decode, with adapter"], found[rival], strict=True))
        yield Figure(f"ours with adapter / llama.cpp {rival.split(', ')[1].split(':')[0]}", "×", pairs)


_LOAD = """
import json, sys, time
began = time.perf_counter()
import templora
templora.load(**json.load(sys.stdin))
print(time.perf_counter() - began)
"""


def load_figure(options: Mapping[str, Any], runs: int) -> Figure:
    """Seconds that loading takes, each in a process of its own, the import of torch and transformers included."""
    seconds = []
    for _ in range(runs):
        done = subprocess.run(
            [sys.executable, "-c", _LOAD], input=json.dumps(dict(options)), capture_output=True, text=True, check=False
        )
        if done.returncode:  # not enough memory for two at once, perhaps
            said = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise ModelError(f"loading the model once more, to see how long it takes, failed: {said}")
        seconds.append(float(done.stdout.split()[-1]))
    return Figure("load, imports included", "s", tuple(seconds))
