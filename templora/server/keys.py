"""API keys: who may ask, and whose sessions are whose."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from pathlib import Path

from templora.errors import OptionError
from templora.server.errors import ApiError
from templora.store.places import is_name


class Keys:
    """Keys by tenant. Without any, everybody who reaches the server is the one tenant without a name.

    Args:
        by_tenant: name of a tenant -> key.
    """

    def __init__(self, by_tenant: Mapping[str, str] | None = None) -> None:
        self._by_tenant = dict(by_tenant or {})

    def __bool__(self) -> bool:
        return bool(self._by_tenant)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Keys of a file: JSON that maps names of tenants to keys.

        Raises:
            OptionError: it cannot be read, or is something else.
        """
        try:
            said = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError("api_keys", f"{path} cannot be read: {error}") from error
        if not isinstance(said, dict) or not said:
            raise OptionError("api_keys", f'{path} must map names to keys, as {{"ann": "a long secret"}}')
        for name, key in said.items():
            if not is_name(name):
                raise OptionError("api_keys", f"{path}: {name!r:.80} cannot be a name: letters, digits, '.', '-', '_'")
            if not isinstance(key, str) or len(key) < 8 or not key.isascii() or not key.isprintable():
                raise OptionError("api_keys", f"{path}: the key of {name} must be 8 plain characters or more")
        if len(set(said.values())) < len(said):
            raise OptionError("api_keys", f"{path}: two names have the same key")
        return cls(said)

    def tenant(self, authorization: str | None) -> str:
        """Who a request is from, by its Authorization header.

        Raises:
            ApiError: nobody that is known.
        """
        if not self._by_tenant:
            return ""
        scheme, _, given = (authorization or "").partition(" ")
        found = [
            name
            for name, key in self._by_tenant.items()  # all of them, so that time says nothing of which is near
            if hmac.compare_digest(key.encode(), given.strip().encode("utf-8", "replace"))
        ]
        if scheme.lower() != "bearer" or not found:
            raise ApiError(401, "give a known key: Authorization: Bearer KEY", code="invalid_api_key")
        return found[0]
