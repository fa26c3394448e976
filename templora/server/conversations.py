"""Which session a request is for: by its model's name, by what it says of itself, or by what it holds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from templora.errors import nearest
from templora.server.alignment import meet_text, meet_turns
from templora.server.directory import TEMP, Directory, Known, Tenant
from templora.server.errors import ApiError
from templora.server.runs import Asked

# Headers by which clients tell conversations apart.
_HEADERS = ("x-openwebui-chat-id", "x-session-affinity", "x-session-id", "session-id", "x-dynamo-session-id")
_SURE = 24  # characters of a session that are all there, in a request that does not name it


@dataclass(frozen=True)
class Target:
    """What a model's name means: the base, a conversation of one's own, or a session by its name."""

    kind: Literal["base", "temp", "named"]
    name: str = ""


def target_of(model: str, base: str) -> Target:
    """What `model` names; without one, a conversation.

    Raises:
        ApiError: nothing that is here.
    """
    if model == base:
        return Target("base")
    if model in ("", f"{base}:temp"):
        return Target("temp")
    name, _, of = model.rpartition("@")
    if name and of == base:
        return Target("named", name)
    hint = nearest(model, [base, f"{base}:temp", f"NAME@{base}"])
    raise ApiError(404, f"there is no model {model!r:.120}; {hint}", param="model", code="model_not_found")


def said_name(asked: str | None, cache_key: str | None, headers: Mapping[str, str]) -> str | None:
    """The name of the session that a request says it is of, in whatever way; None if it says nothing."""
    if asked or (asked := unquote(headers.get("x-templora-session", ""))):
        return asked
    for key in (cache_key, *(headers.get(name) for name in _HEADERS)):
        if key:
            return TEMP + hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:16]
    return None


def like(directory: Directory, tenant: Tenant, asked: Asked) -> Known | None:
    """The conversation that a request goes on with, found by what both hold; of several, the last one used."""
    if len(asked.prompts) > 1 or (asked.prompts and not isinstance(asked.prompts[0], str)):
        return None
    best: tuple[int, Known] | None = None
    for known in directory.looked_at(tenant, temporary=True):
        if asked.messages:
            met = meet_turns(known.turns, asked.messages, sure=False) if known.turns else None
        else:
            held = known.text
            met = meet_text(held, str(asked.prompts[0])) if len(held) >= _SURE and not known.turns else None
            if met and met.given < min(len(held), 2 * _SURE):
                met = None
        if met and met.given and (best is None or met.given > best[0]):
            best = met.given, known
    return best[1] if best else None
