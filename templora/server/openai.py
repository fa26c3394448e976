"""Completions and chat completions, as OpenAI's API has them; and the models there are."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from templora.server.conversations import Target, like, said_name, target_of
from templora.server.directory import Known, Tenant
from templora.server.errors import ApiError, bad
from templora.server.runs import Asked, Emit, check
from templora.server.schemas import ChatRequest, CompletionRequest, divided
from templora.server.service import Service, headers_of
from templora.server.shapes import Answer

_MOST = 16  # tokens of a completion that does not say how many, as in OpenAI's API


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        tenant = service.directory.tenant(service.keys.tenant(request.headers.get("authorization")))
        names = [service.model, f"{service.model}:temp"]
        names += [f"{name}@{service.model}" for name, known in sorted(tenant.known.items()) if not known.is_temp]
        return {"object": "list", "data": [_model(service, name) for name in names]}

    @routes.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        tenant = service.directory.tenant(service.keys.tenant(request.headers.get("authorization")))
        target = target_of(name, service.model)
        if target.kind == "named":
            service.directory.find(tenant, target.name)
        return _model(service, name)

    @routes.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(service, request, CompletionRequest.of(await service.json_of(request)))

    @routes.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(service, request, ChatRequest.of(await service.json_of(request)))

    return routes


def _model(service: Service, name: str) -> dict[str, Any]:
    about = {"id": name, "object": "model", "created": 0, "owned_by": "templora"}
    # A session reads texts of any length; the base what its window holds.
    return about | ({"max_model_len": service.runs.window} if name == service.model else {})


async def answer(
    service: Service, request: Request, said: CompletionRequest | ChatRequest, shape: type[Answer] = Answer
) -> Response:
    """Answers a completion, in OpenAI's shape or another."""
    tenant = service.directory.tenant(service.keys.tenant(request.headers.get("authorization")))
    target = target_of(said.model, service.model)
    ignored = said.ignored()
    asked = asked_of(service, said, target, request.headers.get("idempotency-key"))
    check(asked)
    service.queue.check(tenant.name)
    known, fresh = await _session(service, tenant, target, said, asked, request.headers)
    runs = service.runs
    scratch = said.scratch and target.kind != "base"

    def work(emit: Emit) -> None:
        if target.kind == "base":
            runs.base(asked, emit)
        elif scratch:
            runs.scratch(known, asked, emit)
        else:
            assert known is not None
            if fresh:
                service.directory.create(known)
            try:
                runs.session(known, asked, emit)
            finally:
                if fresh and known.saved is not None and len(known.saved.tokens) <= len(known.saved.history.opening):
                    service.directory.discard(known)  # it came to nothing

    chat = isinstance(said, ChatRequest)
    service.metrics.requests.labels("chat" if chat else "completions").inc()
    choices = asked.choices * max(1, len(asked.prompts))
    made = shape(asked.id, said.model or service.model, chat, said.top is not None, choices)
    headers = {"x-request-id": asked.id} | (
        {"x-templora-ignored": ", ".join(map(quote, ignored))[:2000]} if ignored else {}
    )
    if known is not None:
        headers["x-templora-session"] = quote(known.name)
    channel = await service.begin(tenant.name, work, known, detach=bool(said.detach))
    if said.stream:
        return await service.stream(channel, made, usage=said.include_usage, headers=headers)
    about = await service.whole(request, channel, made)
    return JSONResponse(made.whole(), headers=headers | headers_of(about))


def asked_of(
    service: Service, said: CompletionRequest | ChatRequest, target: Target, key: str | None, *, score: bool = False
) -> Asked:
    """What a request wants.

    Raises:
        ApiError, OptionError: it cannot be had.
    """
    chat, most = isinstance(said, ChatRequest), said.max_tokens
    if isinstance(said, ChatRequest):
        most = said.max_completion_tokens if said.max_completion_tokens is not None else most
    if most is None or most == -1:
        most = service.limits.max_tokens if chat or most == -1 else _MOST
    if most > service.limits.max_tokens:
        raise bad("max_tokens", f"must be at most {service.limits.max_tokens:,} here, not {most:,}")
    echo = bool(not isinstance(said, ChatRequest) and said.echo)
    together = said.choices if target.kind != "base" else 1
    system, messages = divided(said.messages) if isinstance(said, ChatRequest) else ("", [])
    payload = json.dumps(said.model_dump(exclude={"stream", "stream_options"}), sort_keys=True, default=str)
    return Asked(
        id=("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12),
        prompts=[] if isinstance(said, ChatRequest) else said.prompts,
        sampling=said.sampling(top=said.top, plain=target.kind == "base", alternatives=together),
        most=most,
        system=system,
        messages=messages,
        choices=said.choices,
        # With a prompt that is read for its log-probabilities, clients count on as many tokens as they asked for.
        stop_at_end=not (said.ignore_eos or (echo and said.top is not None)),
        echo=echo,
        seed=said.seed,
        learn=said.learns_given,
        draft=said.draft,
        notes=said.notes,
        score=score,
        key=key[:256] if key else None,
        payload=hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest(),
    )


async def _session(
    service: Service,
    tenant: Tenant,
    target: Target,
    said: CompletionRequest | ChatRequest,
    asked: Asked,
    headers: Mapping[str, str],
) -> tuple[Known | None, bool]:
    """The session that a request is for, claimed, and whether it is still to be made; None: nobody's."""
    directory = service.directory
    if target.kind == "base":
        return None, False
    if asked.echo:
        raise bad("echo", "is for the base; a session's text is at /v1/sessions/{id}/text")
    known: Known | None
    if target.kind == "named":
        known = directory.find(tenant, target.name)
        await directory.claim(known)
        return known, False
    name = said_name(said.session, said.prompt_cache_key, headers)
    if name is not None:
        try:
            known = directory.find(tenant, name)
        except ApiError:
            return (None, False) if said.scratch else (directory.new(tenant, name, directory.ttl), True)
    elif said.scratch:
        return None, False
    else:
        known = await service.in_worker(like, directory, tenant, asked)
    if known is None:
        return directory.new(tenant), True
    await directory.claim(known)
    return known, False
