"""`templora serve`: sessions behind an OpenAI-compatible API."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from templora.cli.options import config_options, load_arguments, model_options, sessions_option, split_config
from templora.cli.streams import say
from templora.errors import OptionError
from templora.loading import find, held

EPILOG = """\b
Examples:
  templora serve                                   # http://127.0.0.1:8080, the embedded model
  templora serve --model novel.gguf --port 9000 --rank 32
  templora serve --host 0.0.0.0 --api-keys keys.json
  curl -N http://127.0.0.1:8080/v1/completions -H 'Content-Type: application/json' \\
       -d '{"prompt": "The lighthouse keeper climbed", "max_tokens": 100, "stream": true}'

Three kinds of models: NAME is the base, which learns nothing; NAME:temp a conversation of one's own, which learns what
it is given and is gone an hour later; TEXT@NAME a text that stays (templora sessions lists them). docs/server.md says
which session a request is for, and what is learnt.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="address to listen on; others than this machine need --api-keys",
)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0 = any that is free")
@click.option(
    "--api-keys", metavar="FILE", help='JSON of names and keys, {"ann": "a long secret"}: each has sessions of its own'
)
@click.option(
    "--allow-origin",
    multiple=True,
    metavar="ORIGIN",
    help="pages of this origin may use it, too (https://example.org; null: files; *: all)",
)
@click.option("--alias", metavar="NAME", help="what the model is called  [default: its name, or its file's]")
@sessions_option
@click.option(
    "--at-work",
    default=4,
    show_default=True,
    type=click.IntRange(1, 256),
    help="requests worked on at a time; others wait",
)
@click.option(
    "--queue", default=64, show_default=True, type=click.IntRange(0), help="requests that may wait; more are refused"
)
@click.option(
    "--queue-seconds", default=120.0, show_default=True, type=click.FloatRange(0), help="how long one waits at most"
)
@click.option(
    "--in-memory",
    type=click.IntRange(1),
    help="sessions kept in memory, others are on disk  [default: what half of the free memory holds, at most 64]",
)
@click.option(
    "--ttl",
    default=3600.0,
    show_default=True,
    type=click.FloatRange(1),
    help="seconds that a conversation without a name stays",
)
@click.option("--max-tokens", default=16384, show_default=True, type=click.IntRange(1), help="of one answer")
@click.option(
    "--base-window",
    default=2048,
    show_default=True,
    type=click.IntRange(8),
    help="tokens that the base reads; at most its positions",
)
@click.option(
    "--drain-seconds",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0),
    help="that answers have when the server ends",
)
@click.option("--quiet", is_flag=True, help="no lines but errors")
@model_options
@config_options
def serve(**arguments: Any) -> None:
    """Serve sessions that learn while they are written, to any OpenAI-compatible client.

    Each conversation has a temporary adapter of its own. Ctrl-C, or SIGTERM, ends it: answers under way get some time,
    and every session stays on disk.
    """
    given, options = split_config(arguments)
    try:
        import uvicorn  # noqa: F401
        from fastapi import FastAPI  # noqa: F401
    except ImportError as error:
        raise OptionError(
            "serve", f"needs what is not installed ({error.name}): pip install 'templora[server]'"
        ) from error
    from templora.server.keys import Keys
    from templora.server.lifetime import listening

    keys = Keys.read(Path(options["api_keys"])) if options["api_keys"] else Keys()
    if not keys and options["host"] not in ("127.0.0.1", "localhost", "::1"):
        raise OptionError("host", f"{options['host']} can be reached from elsewhere, so --api-keys is needed")
    sock = listening(options["host"], options["port"])
    code = _serve(options, given, keys, sock)
    if code:
        sys.exit(code)


def _serve(options: dict[str, Any], given: dict[str, Any], keys: Any, sock: Any) -> int:
    from templora.loading import load
    from templora.server.directory import Directory, that_fit
    from templora.server.lifetime import serve as run
    from templora.server.queue import Queue
    from templora.server.runs import Runs
    from templora.server.service import Limits, Service
    from templora.store.store import default_folder

    def told(line: str) -> None:
        if not options["quiet"]:
            say(f"templora: {line}\n")

    told(f"loading {options['model']} …")
    engine = load(**load_arguments(options))
    config = engine.config(given.pop("recipe", None) or options["recipe"], **given)
    where = find(options["model"])
    source = {name: options[name] for name in ("model", "dtype", "weights")}
    source["weights"] = held(where, options["device"], options["dtype"], options["weights"])
    if isinstance(where, Path):
        source["model"] = os.path.abspath(where)
    folder = Path(options["sessions"]) if options["sessions"] else default_folder()
    resident = max(options["in_memory"] or that_fit(engine, config), options["at_work"])
    with engine, engine.shared() as scheduler:
        directory = Directory(engine, folder, config, source=source, resident=resident, ttl=options["ttl"])
        runs = Runs(engine, directory, min(options["base_window"], engine.model.max_positions))
        runs.warm_up()
        service = Service(
            runs,
            directory,
            Queue(options["at_work"], options["queue"], options["queue_seconds"]),
            keys,
            Limits(max_tokens=options["max_tokens"], drain_seconds=options["drain_seconds"]),
            options["alias"] or (where.stem if isinstance(where, Path) else engine.name),
        )
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host

        def ready() -> None:
            told(f"{service.model} at http://{shown}:{port}/v1, sessions in {folder}")

        return run(service, sock, alive=lambda: scheduler.alive, origins=options["allow_origin"], ready=ready, say=told)
