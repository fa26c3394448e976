#!/usr/bin/env python3
"""`templora serve` under load, and what HTTP costs.

    benchmarks/serving.py load [--clients 64] [--minutes 10] [--text BOOK.txt.xz]
    benchmarks/serving.py cost [--sessions 4] [--tokens 300] [--runs 5]
    benchmarks/serving.py park [--tokens 3000] [--runs 5] [--text BOOK.txt.xz]

load   clients of four kinds ask for short answers again and again: of the base, of a conversation that begins anew, of
       one that goes on, of a text that stays. What became of each request; how long until its first token, and from
       token to token; how equal work of one kind was; memory from minute to minute.
cost   tokens a second of so many streams through HTTP, and of as many sessions in threads of the engine's own process,
       in turn.
park   how long a session that was left on disk takes to be back, and how long leaving it: alone, and while three others
       write.

The server and its clients are processes of their own. Keep the machine quiet otherwise. Writes
results/benchmarks/serving-load.json, serving-cost.json and serving-park.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from journal import RESULTS, book, code_digest, versions, write_results

from templora.reports.run_report import describe_device, source_commit

PROMPT = "The lighthouse keeper climbed the stairs and lit the lamp, as he had done every evening since the war. "


class Client:
    """Asks again and again, and notes what became of it."""

    def __init__(self, port: int, base: str, kind: str, number: int, text: str) -> None:
        self.port, self.base, self.kind, self.number = port, base, kind, number
        self.random = random.Random(number)
        self.text = text
        self.statuses: Counter[str] = Counter()
        self.first: list[float] = []
        self.gaps: list[tuple[bool, float]] = []  # whether somebody learnt meanwhile
        self.tokens = 0
        self.talk: list[dict[str, str]] = []

    def body(self) -> tuple[str, dict[str, Any]]:
        at = self.random.randrange(0, max(1, len(self.text) - 600))
        passage = self.text[at : at + self.random.randrange(100, 600)]
        how: dict[str, Any] = {"max_tokens": 24, "stream": True, "ignore_eos": True}
        if self.kind == "base":
            return "/v1/completions", {**how, "model": self.base, "prompt": passage}
        if self.kind == "new":
            said = [{"role": "user", "content": passage}]
            return "/v1/chat/completions", {**how, "model": f"{self.base}:temp", "messages": said}
        if self.kind == "talk":
            self.talk = [*self.talk[-6:], {"role": "user", "content": passage}]
            session = {"session": f"temp-talk-{self.number}"}
            return "/v1/chat/completions", {**how, **session, "model": f"{self.base}:temp", "messages": self.talk}
        return "/v1/completions", {**how, "model": f"text-{self.number}@{self.base}", "prompt": passage, "draft": False}

    def ask(self) -> None:
        """One request, to its end."""
        path, body = self.body()
        began = last = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        said, learning, many, ended = "", False, 0, False
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            if answer.status != 200:
                wait = answer.headers.get("retry-after")
                code = json.loads(answer.read())["error"]["code"]
                self.statuses[f"{answer.status} {code}" + (" Retry-After" if wait else "")] += 1
                time.sleep(self.random.uniform(0.5, 1.5) * min(5.0, float(wait or 1)))
                return
            for raw in answer:
                line, now = raw.decode(), time.perf_counter()
                if line.startswith(": learning"):
                    learning = True
                elif line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
                    if not piece:
                        continue
                    said += piece
                    if many:
                        self.gaps.append((learning, now - last))
                    else:
                        self.first.append(now - began)
                    many, last, learning = many + 1, now, False
                elif line.startswith("data: [DONE]"):
                    ended = True
            self.statuses["200" if ended else "200, cut off"] += 1
            self.tokens += many
        except OSError as error:
            self.statuses[type(error).__name__] += 1
        finally:
            connection.close()
        if self.kind == "talk" and ended:
            self.talk.append({"role": "assistant", "content": said})


def started(folder: str, *options: str) -> tuple[subprocess.Popen[str], int]:
    """A server, and its port."""
    command = [sys.executable, "-m", "templora", "serve", "--port", "0", "--sessions", folder, *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if "/v1" in line:
            threading.Thread(target=lambda: [None for _ in server.stderr], daemon=True).start()
            return server, int(line.split("127.0.0.1:")[1].split("/")[0])
    raise SystemExit("the server did not start")


def asked(port: int, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, None if body is None else json.dumps(body), {"content-type": "application/json"})
    return json.loads(connection.getresponse().read())


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def of_buckets(told: str, near: str) -> dict[str, float | None]:
    """Quantiles of times between tokens as the server counts them, each the end of its bucket; None: beyond all."""
    name = re.escape(f'templora_inter_token_seconds_bucket{{le="%",neighbour_learning="{near}"}}').replace("%", "(.+?)")
    buckets = [(float(le), float(count)) for le, count in re.findall(name + r" (\S+)", told)]
    whole = buckets[-1][1] if buckets else 0.0
    if not whole:
        return {}
    return {f"p{q}": next((le for le, n in buckets[:-1] if n >= q / 100 * whole), None) for q in (50, 99)} | {
        "count": whole
    }


def resident(process: int) -> int:
    """Bytes that a process holds (Linux)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 95, 99)} | {"count": len(values)}


def load(a: argparse.Namespace) -> dict[str, Any]:
    kinds = ("base", "new", "talk", "text")
    text = book(a.text) if a.text else PROMPT * 200
    with tempfile.TemporaryDirectory() as folder:
        server, port = started(folder, "--ttl", "120", *(["--in-memory", str(a.in_memory)] if a.in_memory else []))
        base = asked(port, "GET", "/v1/models")["data"][0]["id"]
        clients = [Client(port, base, kinds[i % 4], i, text) for i in range(a.clients)]
        for client in clients:
            if client.kind == "text":
                asked(port, "POST", "/v1/sessions", {"name": f"text-{client.number}"})
        until = time.monotonic() + 60 * a.minutes
        memory: list[int] = []

        def go(client: Client) -> None:
            while time.monotonic() < until:
                client.ask()

        with ThreadPoolExecutor(a.clients) as pool:
            running = [pool.submit(go, client) for client in clients]
            while time.monotonic() < until:
                memory.append(resident(server.pid))
                time.sleep(min(20.0, max(0.0, until - time.monotonic())))
            for one in running:
                one.result()
        told = metrics(port)
        server.terminate()
        code = server.wait(120)
    found: dict[str, Any] = {"exit code": code, "memory, bytes, every 20 s": memory}
    found["requests"] = dict(sum((c.statuses for c in clients), Counter()))
    found["first token, seconds"] = quantiles([s for c in clients for s in c.first])
    for name, near in (("while it learns itself", True), ("otherwise", False)):
        found[f"token to token, seconds, {name}"] = quantiles(
            [s for c in clients for flag, s in c.gaps if flag == near]
        )
    for near in ("yes", "no"):
        found[f"token to token, seconds, while a neighbour learns: {near}"] = of_buckets(told, near)
    found["answers of the slowest and the fastest client of a kind"] = {
        kind: [min(done), max(done), max(done) / max(1, min(done))]
        for kind in kinds
        if (done := [c.statuses["200"] for c in clients if c.kind == kind])
    }
    found["tokens a second"] = sum(c.tokens for c in clients) / (60 * a.minutes)
    return found


def through_http(port: int, base: str, many: int, tokens: int) -> float:
    """Tokens a second of so many streams, by a process of their own."""
    done = subprocess.run(
        [sys.executable, __file__, "streams", str(port), base, str(many), str(tokens)], capture_output=True, text=True
    )
    return float(done.stdout.split()[-1])


def streams(port: int, base: str, many: int, tokens: int) -> None:
    def one(i: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = {"model": f"cost-{i}@{base}", "prompt": "", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        for _ in connection.getresponse():
            pass

    began = time.perf_counter()
    with ThreadPoolExecutor(many) as pool:
        list(pool.map(one, range(many)))
    print(many * tokens / (time.perf_counter() - began))


def cost(a: argparse.Namespace) -> dict[str, Any]:
    import uvicorn

    import templora
    from templora.sampling import SamplingParams
    from templora.server.app import make_app
    from templora.server.directory import Directory
    from templora.server.keys import Keys
    from templora.server.lifetime import listening, run as run_loop
    from templora.server.queue import Queue
    from templora.server.runs import Runs
    from templora.server.service import Limits, Service

    sys.setswitchinterval(0.0005)
    engine = templora.load(device="cpu")
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder, engine.shared() as scheduler:
        # Nothing is learnt: that takes as long either way, and this is about the rest.
        config = engine.config(learning="off")
        directory = Directory(engine, Path(folder), config)
        service = Service(Runs(engine, directory, 1024), directory, Queue(a.sessions), Keys(), Limits(), engine.name)
        sock = listening("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(make_app(service, lambda: scheduler.alive), log_level="error"))
        threading.Thread(target=lambda: run_loop(server.serve(sockets=[sock])), daemon=True).start()
        port = sock.getsockname()[1]
        tenant = directory.tenant("")

        def begin() -> None:
            """New sessions, so that no window is full and each run does the same."""
            for i in range(a.sessions):
                if f"cost-{i}" in tenant.known:
                    directory.discard(tenant.known[f"cost-{i}"])
                known = directory.new(tenant, f"cost-{i}")
                directory.create(known).absorb(f"{i} {PROMPT}" * 8)
                directory.release(known)

        def in_process() -> float:
            def one(i: int) -> None:
                saved = directory.opened(tenant.known[f"cost-{i}"])
                for _ in saved.stream("", max_new_tokens=a.tokens, sampling=SamplingParams(), stop_at_end=False):
                    pass

            began = time.perf_counter()
            with ThreadPoolExecutor(a.sessions) as pool:
                list(pool.map(one, range(a.sessions)))
            return a.sessions * a.tokens / (time.perf_counter() - began)

        for i in range(-1, a.runs):  # the first warms up
            begin()
            threads = in_process()
            begin()
            run = {"threads": threads, "http": through_http(port, engine.name, a.sessions, a.tokens)}
            print(i, run, file=sys.stderr)
            runs += [run] if i >= 0 else []
        server.should_exit = True
        service.workers.shutdown()
        directory.close()
    ratios = [run["http"] / run["threads"] for run in runs]
    return {"runs": runs, "http against threads": statistics.median(ratios), "ratios": ratios}


def park(a: argparse.Namespace) -> dict[str, Any]:
    import templora
    from templora.server.directory import Directory, Tenant

    engine = templora.load(device="cpu")
    text = book(a.text) if a.text else PROMPT * 1000
    ids = engine.encode(text)[: a.tokens]
    found: dict[str, list[dict[str, float]]] = {"alone": [], "while three others write": []}
    with tempfile.TemporaryDirectory() as folder, engine.shared():
        directory = Directory(engine, Path(folder), engine.config(), resident=8)
        tenant: Tenant = directory.tenant("")

        def begun(name: str, given: list[int]) -> Any:
            known = directory.new(tenant, name)
            directory.create(known).absorb(templora.text.decode(engine.tokenizer, given))
            directory.release(known)
            return known

        one, others = begun("one", ids), [begun(f"other-{i}", ids[:200]) for i in range(3)]
        stop = threading.Event()

        def write(known: Any) -> None:
            for _ in directory.opened(known).stream("", max_new_tokens=100_000):
                if stop.is_set():
                    return

        for name, runs in found.items():
            stop.clear()
            with ThreadPoolExecutor(3) as pool:
                writing = [pool.submit(write, known) for known in others if name != "alone"]
                for _ in range(a.runs):
                    directory.opened(one).write("", max_new_tokens=24)
                    time.sleep(1.0)
                    began = time.perf_counter()
                    directory.park(one)
                    left = time.perf_counter()
                    directory.opened(one)
                    runs.append({"left": left - began, "back": time.perf_counter() - left})
                stop.set()
                for ended in writing:
                    ended.result()
        directory.close()
    return {"seconds": found} | {
        f"{what}, seconds, {name}, median": statistics.median(run[what] for run in runs)
        for name, runs in found.items()
        for what in ("left", "back")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = parser.add_subparsers(dest="task", required=True)
    first = tasks.add_parser("load")
    first.add_argument("--clients", type=int, default=64)
    first.add_argument("--minutes", type=float, default=10.0)
    first.add_argument("--in-memory", type=int, default=0, help="0: as many as the server finds room for")
    first.add_argument("--text", type=Path, default=None)
    second = tasks.add_parser("cost")
    second.add_argument("--sessions", type=int, default=4)
    second.add_argument("--tokens", type=int, default=300)
    second.add_argument("--runs", type=int, default=5)
    third = tasks.add_parser("streams")
    for name in ("port", "base", "many", "tokens"):
        third.add_argument(name)
    fourth = tasks.add_parser("park")
    fourth.add_argument("--tokens", type=int, default=3000)
    fourth.add_argument("--runs", type=int, default=5)
    fourth.add_argument("--text", type=Path, default=None)
    for task in (first, second, fourth):
        task.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    if a.task == "streams":
        streams(int(a.port), a.base, int(a.many), int(a.tokens))
        return
    found = {"load": load, "cost": cost, "park": park}[a.task](a)
    settings = {k: v for k, v in vars(a).items() if k not in ("results", "text", "task")}
    document = {"benchmark": f"serving {a.task}", "code": code_digest(), "commit": source_commit()}
    document |= {"device": describe_device(torch.device("cpu")), "versions": versions(), "settings": settings}
    write_results(a.results / f"serving-{a.task}.json", document | found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
