"""Sessions by name: made, read, absorbed into, forked, taken back, scored, exported, deleted."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.background import BackgroundTask

from templora.config import TempLoraConfig
from templora.decoding.token_logprobs import token_logprobs
from templora.errors import OptionError
from templora.events import TokenLogprobs
from templora.metrics import perplexity
from templora.server import sse
from templora.server.channel import Channel
from templora.server.conversations import Target, target_of
from templora.server.directory import Directory, Known, Tenant, load_adapter
from templora.server.errors import ApiError, as_api_error, bad
from templora.server.items import Comment, Item
from templora.server.openai import asked_of
from templora.server.runs import Emit, check, each_when_free
from templora.server.schemas import (
    AbsorbRequest,
    CompletionRequest,
    ForkRequest,
    NotesRequest,
    Point,
    PreviewRequest,
    RewindRequest,
    ScoreRequest,
    SeedRequest,
    SessionRequest,
)
from templora.server.service import Service
from templora.session.session import Session
from templora.store.history import History
from templora.store.report import account
from templora.store.saved import SavedSession
from templora.text import token_text

_MAX_ADAPTER = 1 << 31  # bytes


def router(service: Service) -> APIRouter:
    """The routes."""
    routes, directory = APIRouter(prefix="/v1/sessions"), service.directory

    def tenant_of(request: Request) -> Tenant:
        return directory.tenant(service.keys.tenant(request.headers.get("authorization")))

    def found(request: Request, name: str) -> Known:
        return directory.find(tenant_of(request), name)

    async def claimed(request: Request, name: str) -> Known:
        """A session that is to change, if it is what the client thinks."""
        known, wanted = found(request, name), request.headers.get("if-match")
        await directory.claim(known)
        try:
            if wanted is not None and wanted.strip('" ') != str(now := await service.in_worker(_version, known)):
                raise ApiError(409, f"session {name!r} is at version {now}, not {wanted}", code="version_mismatch")
        except BaseException:
            directory.release(known)
            raise
        return known

    async def changed(request: Request, name: str, what: Callable[[Known], Any]) -> Any:
        """What `what` makes of a session, nobody else using it meanwhile."""
        known = await claimed(request, name)
        try:
            async with service.place(known.tenant.name):
                return await service.in_worker(what, known)
        finally:
            directory.release(known)

    @routes.get("")
    async def listed(request: Request) -> dict[str, Any]:
        tenant = tenant_of(request)

        def found() -> list[Known]:
            return directory.looked_at(tenant, temporary=False) + directory.looked_at(tenant, temporary=True)

        return {"object": "list", "data": [_brief(known, service.model) for known in await service.in_worker(found)]}

    @routes.post("")
    async def make(request: Request) -> JSONResponse:
        said = SessionRequest.model_validate(await service.json_of(request))
        tenant = tenant_of(request)
        target_of(said.model, service.model)
        try:
            config = TempLoraConfig.from_dict({**directory.config.to_dict(), **said.config}) if said.config else None
        except OptionError as error:
            raise bad("config", str(error)) from error
        if said.adapter is not None and tenant.name:
            raise bad("adapter", "a path on the server is not for clients with keys; PUT …/adapter")
        known = directory.new(tenant, said.name, said.ttl)
        try:
            made: dict[str, Any] = {
                "config": config,
                "notes": said.notes,
                "metadata": said.metadata,
                "adapter": said.adapter,
            }
            await service.in_worker(lambda: directory.create(known, **made))
        finally:
            directory.release(known)
        return JSONResponse(_full(known, service.model), 201)

    @routes.get("/{name}")
    async def show(request: Request, name: str) -> dict[str, Any]:
        known = found(request, name)
        about: dict[str, Any] = await service.in_worker(lambda: _full(known, service.model))
        return about

    @routes.delete("/{name}")
    async def delete(request: Request, name: str) -> dict[str, Any]:
        receipt: dict[str, Any] = await changed(request, name, directory.discard)
        return {"id": name, "object": "session.deleted"} | receipt

    @routes.get("/{name}/text")
    async def text(request: Request, name: str) -> PlainTextResponse:
        known = found(request, name)
        return PlainTextResponse(await service.in_worker(lambda: _history(known).text))

    @routes.get("/{name}/report")
    async def report(request: Request, name: str) -> dict[str, Any]:
        known = found(request, name)
        said: dict[str, Any] = await service.in_worker(lambda: account(_history(known)))
        return said

    @routes.get("/{name}/tree")
    async def tree(request: Request, name: str) -> dict[str, Any]:
        known = found(request, name)
        return {"object": "list", "data": await service.in_worker(lambda: _moments(_history(known)))}

    @routes.post("/{name}/absorb")
    async def absorb(request: Request, name: str) -> Response:
        said = AbsorbRequest.model_validate(await service.json_of(request))
        known = await claimed(request, name)

        def work(emit: Emit) -> None:
            service.runs.absorb(known, [(said.text, said.learn)], emit, score=said.score)

        return _events(await service.begin(known.tenant.name, work, known))

    @routes.post("/{name}/write")
    async def write(request: Request, name: str) -> Response:
        body = await service.json_of(request)
        score = bool(body.pop("score", False))
        said = CompletionRequest.of(body)
        asked = asked_of(service, said, Target("named", name), request.headers.get("idempotency-key"), score=score)
        check(asked, least=0)
        known = await claimed(request, name)
        channel = await service.begin(known.tenant.name, lambda emit: service.runs.session(known, asked, emit), known)
        return _events(channel, {"x-request-id": asked.id})

    @routes.post("/{name}/preview")
    async def preview(request: Request, name: str) -> Response:
        said = PreviewRequest.of(await service.json_of(request))
        asked = asked_of(service, said, Target("named", name), None)
        check(asked)
        known = await claimed(request, name)

        def work(emit: Emit) -> None:
            at = _position(_history(known), said.at)
            service.runs.preview(known, asked, emit, base=said.base, at=at)

        return _events(await service.begin(known.tenant.name, work, known))

    @routes.get("/{name}/events")
    async def events(request: Request, name: str, after: int = -1) -> Response:
        known = found(request, name)

        def past(history: History) -> Iterator[bytes]:
            for record in history.records:
                if record.seq > after:
                    yield sse.data({"kind": record.kind, "tokens": len(record.ids), **record.data}, id=record.seq)

        return StreamingResponse(past(await service.in_worker(_history, known)), media_type="text/event-stream")

    @routes.post("/{name}/fork")
    async def fork(request: Request, name: str) -> JSONResponse:
        said = ForkRequest.model_validate(await service.json_of(request))
        known = found(request, name)
        made = directory.new(known.tenant, said.name)

        def do(known: Known) -> None:
            if known.saved is not None:
                known.saved.log.sync()
            at = _position(_history(known), said.at)
            made.metadata = {"parent": known.name, **said.metadata}
            mark = {"server": {"metadata": made.metadata, "ttl": made.ttl}}
            known.tenant.store.fork(known.name, made.name, tokens=at, mark=mark)

        try:
            await changed(request, name, do)
        except BaseException:
            known.tenant.known.pop(made.name, None)
            raise
        finally:
            directory.release(made)
        about = await service.in_worker(lambda: _full(made, service.model))
        return JSONResponse(about | {"parent": name}, 201)

    @routes.post("/{name}/rewind")
    async def rewind(request: Request, name: str) -> dict[str, Any]:
        said = RewindRequest.model_validate(await service.json_of(request))

        def do(known: Known) -> dict[str, Any]:
            at = _position(_history(known), said.at)
            directory.forget(known)
            known.tenant.store.rewind(name, tokens=at)
            known.look(known.tenant.store.history(name), directory.engine.tokenizer)
            return _full(known, service.model)

        about: dict[str, Any] = await changed(request, name, do)
        return about

    @routes.post("/{name}/commit")
    async def commit(request: Request, name: str) -> dict[str, Any]:
        def do(known: Known) -> dict[str, Any]:
            learned = directory.opened(known).close_chunk()
            return _full(known, service.model) | {"learned": asdict(learned) if learned else None}

        about: dict[str, Any] = await changed(request, name, do)
        return about

    @routes.post("/{name}/reseed")
    async def reseed(request: Request, name: str) -> dict[str, Any]:
        said = SeedRequest.model_validate(await service.json_of(request))
        seed = secrets.randbits(62) if said.seed is None else said.seed
        await changed(request, name, lambda known: directory.opened(known).reseed(seed))
        return {"id": name, "seed": seed}

    @routes.put("/{name}/notes")
    async def notes(request: Request, name: str) -> dict[str, Any]:
        said = NotesRequest.model_validate(await service.json_of(request))
        await changed(request, name, lambda known: directory.opened(known).set_notes(said.notes))
        return {"id": name, "notes": said.notes}

    @routes.post("/{name}/score")
    async def score(request: Request, name: str) -> dict[str, Any]:
        said = ScoreRequest.model_validate(await service.json_of(request))
        about: dict[str, Any] = await changed(request, name, lambda known: _scored(directory, known, said))
        return about

    @routes.get("/{name}/adapter")
    async def adapter(request: Request, name: str) -> Response:
        folder = Path(tempfile.mkdtemp(prefix="templora-"))
        path = folder / "adapter.gguf"
        try:
            await changed(request, name, lambda known: directory.opened(known).save_adapter(path))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return FileResponse(path, filename=f"{name}.gguf", background=BackgroundTask(shutil.rmtree, folder, True))

    @routes.put("/{name}/adapter")
    async def put_adapter(request: Request, name: str) -> dict[str, Any]:
        body = await service.body_of(request, _MAX_ADAPTER)

        def do(known: Known) -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="templora-") as folder:
                path = Path(folder) / "adapter.gguf"
                path.write_bytes(body)
                load_adapter(directory.opened(known), path)
            return _full(known, service.model)

        about: dict[str, Any] = await changed(request, name, do)
        return about

    return routes


def _version(known: Known) -> int:
    """Updates of the adapter so far."""
    if known.saved is not None and not known.saved.session.closed:
        return known.saved.session.version
    learned = [r.data["version"] for r in _history(known).records if r.kind == "learned"]
    return learned[-1] if learned else 0


def _history(known: Known) -> History:
    return known.saved.history if known.saved is not None else known.tenant.store.history(known.name)


def _events(channel: Channel[Item], headers: dict[str, str] | None = None) -> Response:
    """What happens in a session, in words of its own."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while (items := await channel.get(5.0)) is not None:
                yield b"".join(sse.data(_plain(item)) for item in items) if items else sse.comment("working")
            yield sse.DONE
        except Exception as error:
            yield sse.data(as_api_error(error).body)
        finally:
            channel.close()

    return sse.Events(pieces(), headers)


def _plain(item: Item) -> dict[str, Any]:
    """An item, or the event behind it, as JSON has it: `type` is its name."""
    said = item.event if isinstance(item, Comment) and item.event is not None else item
    about = asdict(said)
    about.pop("event", None)
    return {"type": type(said).__name__, **about}


def _brief(known: Known, model: str) -> dict[str, Any]:
    """A session in a list."""
    return {
        "id": known.name,
        "object": "session",
        "model": f"{known.name}@{model}",
        "temporary": known.is_temp,
        "in_memory": known.saved is not None,
        "busy": known.busy,
        "used": known.used,
        "expires_at": known.expires,
        "metadata": dict(known.metadata),
    }


def _full(known: Known, model: str) -> dict[str, Any]:
    """All there is to say of a session."""
    history = _history(known)
    learned = [r.data for r in history.records if r.kind == "learned"]
    report = account(history)
    figures = {name: report[name] for name in ("base", "adapted", "mixed", "reduction") if name in report}
    session = known.saved.session if known.saved is not None and not known.saved.session.closed else None
    return _brief(known, model) | {
        "tokens": len(history.tokens),
        "chunks": len(history.chunks),
        "version": _version(known),
        "learned": sum(bool(data["committed"]) for data in learned),
        "refused": [{"chunk": d["index"], "reason": d.get("reason", "")} for d in learned if not d["committed"]],
        "notes": history.notes["notes"],
        "pending": history.pending.left if history.pending else 0,
        "config": history.begin["config"],
        "seconds": dict(session.meter.seconds) if session else report["seconds"],
        "least_entropy": _least_entropy(session),
        "figures": figures,
    }


def _least_entropy(session: Session | None) -> float | None:
    """Entropy, in nats a token, below which a written chunk is not learnt; None while nobody can say."""
    brake = session.loop.cycle.brake if session else None
    usual = brake.entropy / brake.tokens if brake and brake.tokens else 0.0
    return session.config.min_entropy * usual if session and usual else None


def _moments(history: History) -> list[dict[str, Any]]:
    """What a session can be taken back to, ends of chunks and answers; and how its chunks were predicted."""
    found: list[dict[str, Any]] = []
    of_chunk = {r.data["end"]: r.data for r in history.records if r.kind == "learned"}
    for number, end in enumerate(history.chunks, 1):
        learned = of_chunk.get(end, {})
        keys = ("committed", "version", "reason", "loss", "drift", "forgetting", "update", "seconds")
        found.append({"kind": "chunk", "chunk": number, "token": end} | {k: learned[k] for k in keys if k in learned})
    for record in history.records:
        if record.kind == "scored":
            found.append({"kind": "scored", "token": record.data["end"], **record.data})
    for at, data in history.marks:
        if "response" in data:
            act = next((a for a in history.acts if a.kind == "write" and a.start >= at), None)
            end = act.end if act else at
            found.append({"kind": "response", "response": data["response"], "token": at, "end": end})
    return sorted(found, key=lambda moment: moment["token"])


def _position(history: History, at: Point | None) -> int | None:
    """The token that a moment is after; None: the end.

    Raises:
        ApiError: there is no such moment.
    """
    if at is None:
        return None
    said = [name for name in ("chunk", "token", "response") if getattr(at, name) is not None]
    if len(said) != 1:
        raise bad("at", "must say chunk, token or response, and one of them")
    if at.chunk is not None:
        if at.chunk > len(history.chunks):
            raise bad("at", f"there are {len(history.chunks)} finished chunks")
        return history.position(at.chunk)
    if at.response is not None:
        moment = next((m for m in _moments(history) if m.get("response") == at.response), None)
        if moment is None:
            raise ApiError(404, f"at: there is no response {at.response!r:.80}", param="at", code="response_not_found")
        return int(moment["token"])
    assert at.token is not None
    ends = [end for end in history.ends if end <= at.token]
    return max(ends, default=len(history.opening))


def _scored(directory: Directory, known: Known, said: ScoreRequest) -> dict[str, Any]:
    """How likely a text is after a session's, or its own text from a token on, by the base and with the adapter; both
    without notes."""
    saved: SavedSession = directory.opened(known)
    session, engine = saved.session, directory.engine
    if (said.text is None) == (said.start is None):
        raise bad("text", "must be given, or start, and one of them")
    if said.text is not None:
        before, ids = list(saved.tokens), session.encode(said.text)
    else:
        start = max(said.start or 0, len(saved.history.opening), 1)
        before, ids = saved.tokens[:start], saved.tokens[start:]
    if not before and ids:
        before, ids = ids[:1], ids[1:]
    if not ids:
        raise bad("text", "has no token that could be predicted")
    found: dict[str, list[TokenLogprobs]] = {}
    for name, route in (("base", None), ("adapted", session.slot.route)):
        read = token_logprobs(
            engine.runner,
            before,
            ids,
            opening=len(saved.history.opening),
            window=session.config.window,
            chunk_size=session.config.chunk_size,
            top=said.top,
            tokenizer=engine.tokenizer,
            meter=session.meter,
            route=route,
        )
        found[name] = [token for piece in each_when_free(engine, read) for token in piece]
    nll = {name: -sum(token.logprob for token in tokens) for name, tokens in found.items()}
    about: dict[str, Any] = {
        "id": known.name,
        "version": session.version,
        "start": len(before),
        "count": len(ids),
        "nll": nll,
        "perplexity": {name: perplexity(total, len(ids)) for name, total in nll.items()},
    }
    if said.tokens:
        pairs = zip(ids, found["base"], found["adapted"], strict=True)
        about["tokens"] = [
            {"id": i, "text": token_text(engine.tokenizer, i), "base": _told(base), "adapted": _told(adapted)}
            for i, base, adapted in pairs
        ]
    return about


def _told(said: TokenLogprobs) -> dict[str, Any]:
    top = [{"text": t.text, "logprob": t.logprob} for t in said.top]
    return {"logprob": said.logprob} | ({"top": top} if top else {})
