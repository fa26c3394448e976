"""Tokens and texts, in vLLM's words and llama.cpp's; and what llama.cpp's clients ask for besides."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from templora.chat import conversation
from templora.server.errors import bad, check_ids
from templora.server.openai import answer
from templora.server.schemas import CompletionRequest, DetokenizeRequest, TokenizeRequest, divided
from templora.server.service import Service
from templora.server.shapes import LlamaAnswer
from templora.text import decode, encode, opening_ids, ours, token_text


def router(service: Service) -> APIRouter:
    """The routes."""
    routes, engine = APIRouter(), service.directory.engine
    tokenizer = engine.tokenizer

    @routes.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        service.keys.tenant(request.headers.get("authorization"))
        said = TokenizeRequest.model_validate(await service.json_of(request))
        text = said.prompt if said.prompt is not None else said.content
        if text is None and not said.messages:
            raise bad("prompt", "must be given, or content, or messages")
        framed = conversation(tokenizer, *divided(said.messages)) if said.messages else ours(text or "")
        ids = encode(tokenizer, framed, special=False)
        special = said.add_special_tokens if said.add_special_tokens is not None else said.add_special
        if special or (special is None and said.prompt is not None):  # as each of the two has it
            ids = [*opening_ids(tokenizer), *ids]
        found: dict[str, Any] = {"tokens": ids, "count": len(ids), "max_model_len": service.runs.window}
        if said.with_pieces:
            found["tokens"] = [{"id": i, "piece": token_text(tokenizer, i)} for i in ids]
        return found

    @routes.post("/detokenize")
    async def detokenize(request: Request) -> dict[str, Any]:
        service.keys.tenant(request.headers.get("authorization"))
        said = DetokenizeRequest.model_validate(await service.json_of(request))
        check_ids(said.tokens, "tokens", engine.model.vocabulary)
        text = decode(tokenizer, said.tokens, special=True)
        return {"prompt": text, "content": text}

    @routes.get("/tokenizer_info")
    async def tokenizer_info(request: Request) -> dict[str, Any]:
        service.keys.tenant(request.headers.get("authorization"))
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        return {name: getattr(tokenizer, name, None) for name in names} | {
            "tokenizer_class": type(tokenizer).__name__,
            "chat_template": getattr(tokenizer, "chat_template", None),
            "model_max_length": service.runs.window,
            "vocab_size": engine.model.vocabulary,
        }

    @routes.get("/props")
    async def props(request: Request) -> dict[str, Any]:
        service.keys.tenant(request.headers.get("authorization"))
        return {
            "default_generation_settings": {"n_ctx": service.runs.window, "params": {}},
            "total_slots": service.queue.places,
            "model_path": service.model,
            "model_alias": service.model,
            "chat_template": getattr(tokenizer, "chat_template", None) or "",
            "bos_token": getattr(tokenizer, "bos_token", None) or "",
            "eos_token": getattr(tokenizer, "eos_token", None) or "",
            "build_info": "templora",
        }

    @routes.post("/completion")
    async def completion(request: Request) -> Response:
        body = await service.json_of(request)
        said = CompletionRequest.of(body | {"logprobs": body.get("n_probs") or None, "max_tokens": _predict(body)})
        return await answer(service, request, said, LlamaAnswer)

    return routes


def _predict(body: dict[str, Any]) -> Any:
    """llama.cpp's n_predict; without one, until the text ends."""
    return body.get("n_predict", body.get("max_tokens", -1))
