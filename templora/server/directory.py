"""`Directory`: the sessions there are, of each tenant: who uses them now, and which are in memory.

    named   stay until somebody deletes them, as those of the command line do; it is the same store
    temp-…  one conversation each, gone some time after it was last used

More are known than fit memory: those not used for longest are left on disk, and opened again when they are asked for.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from templora.config import TempLoraConfig
from templora.engine.engine import Engine
from templora.errors import ModelError, StoreError, is_out_of_memory, nearest
from templora.lora.slot import Layout
from templora.lora.targets import choose_targets
from templora.models.memory_estimate import available
from templora.server.alignment import Spelled, Turn, turns_of
from templora.server.errors import ApiError, bad, busy
from templora.store.history import History
from templora.store.places import is_name
from templora.store.saved import Progress, SavedSession
from templora.store.store import SessionStore

_MOST_IN_MEMORY, _SHARE = 64, 0.5  # sessions, and of the memory that is free

TEMP = "temp-"  # begins the names of sessions that are gone some time later
_TENANTS = ".tenants"  # no session's name


@dataclass(eq=False)
class Known:
    """A session that there is.

    Args:
        tenant: whose.
        name: of it.
        ttl: seconds that it stays after it was last used; None: for ever.
        used: when that was, in seconds since 1970.
        uses: requests that this process has answered in it.
        busy: a request has it.
        parking: it is being left on disk, which whoever wants it waits for.
        saved: it, where it is in memory.
        metadata: what whoever made it wanted kept with it.
        looked_at: its log has been, for `metadata` and what follows.
        text, turns: what it holds, of one that requests do not name.
    """

    tenant: Tenant
    name: str
    ttl: float | None = None
    used: float = field(default_factory=time.time)
    uses: int = 0
    busy: bool = False
    parking: bool = False
    saved: SavedSession | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    looked_at: bool = False
    text: str = ""
    turns: Sequence[Turn] = ()

    @property
    def is_temp(self) -> bool:
        return self.name.startswith(TEMP)

    @property
    def is_returned_to(self) -> bool:
        """Whether it was asked for again, and not only made."""
        return self.uses > 1 or not self.is_temp

    @property
    def expires(self) -> float | None:
        """When it is gone, in seconds since 1970."""
        return None if self.ttl is None else self.used + self.ttl

    def look(self, history: History, tokenizer: Any) -> None:
        """Notes what a log holds."""
        self.looked_at = True
        if self.is_temp:
            self.text, self.turns = Spelled.of(history, tokenizer).text, turns_of(history)
        for _, data in history.marks:
            if isinstance(about := data.get("server"), dict):
                self.metadata, self.ttl = about.get("metadata") or {}, about.get("ttl")


@dataclass(eq=False)
class Tenant:
    """Whose sessions they are; others do not even learn that they are there."""

    name: str
    store: SessionStore
    known: dict[str, Known] = field(default_factory=dict)


class Directory:
    """All sessions of a server.

    Args:
        engine: shared, with their model.
        folder: where they are kept; of tenants that have a key, in folders of their own within it.
        config: of new ones.
        source: how the model was loaded, for who opens a session next.
        resident: how many may be in memory.
        ttl: of those without a name, in seconds.
        most: sessions of a tenant at most.
        patience: seconds that a request waits for a session that another has.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        config: TempLoraConfig,
        *,
        source: Mapping[str, Any] | None = None,
        resident: int = 8,
        ttl: float = 3600.0,
        most: int = 10_000,
        patience: float = 3.0,
    ) -> None:
        self.engine, self.config, self.resident, self.ttl = engine, config, resident, ttl
        self.patience = patience
        self._folder, self._source, self._most = folder, dict(source or {}), most
        self._tenants: dict[str, Tenant] = {}
        self._lock = threading.Lock()
        self._coming = 0  # sessions that are being opened

    def tenant(self, name: str) -> Tenant:
        """Whose sessions are in a folder of that name; of nobody's name, in the folder itself."""
        with self._lock:
            if name not in self._tenants:
                folder = self._folder / _TENANTS / name if name else self._folder
                self._tenants[name] = tenant = Tenant(name, SessionStore(folder))
                for found in tenant.store.names():
                    self._add(tenant, found)
            return self._tenants[name]

    def _add(self, tenant: Tenant, name: str) -> Known:
        known = tenant.known[name] = Known(tenant, name, self.ttl if name.startswith(TEMP) else None)
        with suppress(OSError):
            known.used = max(path.stat().st_mtime for path in (tenant.store.folder / name).iterdir())
        return known

    def all(self) -> list[Known]:
        with self._lock:
            return [known for tenant in self._tenants.values() for known in tenant.known.values()]

    @property
    def in_memory(self) -> int:
        """How many sessions are."""
        return sum(known.saved is not None for known in self.all())

    # In the event loop's thread --------------------------------------------------------------------------------

    def find(self, tenant: Tenant, name: str) -> Known:
        """A session by name, one that another program made meanwhile too.

        Raises:
            ApiError: there is none.
        """
        with self._lock:
            if name in tenant.known:
                return tenant.known[name]
            if name in tenant.store:
                return self._add(tenant, name)
            names = [known for known in tenant.known if not known.startswith(TEMP)]
        hint = f"; {nearest(name, names)}" if names else "; make it with POST /v1/sessions"
        raise ApiError(404, f"there is no session {name!r}{hint}", param="model", code="session_not_found")

    async def claim(self, known: Known) -> None:
        """Takes a session for one request, until `release`. Whoever has it may be about to end: a client that has just
        left an answer is noticed at its next token.

        Raises:
            ApiError: another has it, and keeps it.
        """
        until = time.monotonic() + self.patience
        while True:
            with self._lock:
                if not known.busy and not known.parking:
                    known.busy = True
                    return
                if known.busy and time.monotonic() >= until:
                    raise busy(known.name)
            await asyncio.sleep(0.02)

    def release(self, known: Known) -> None:
        """Gives a session back; one that was never made is forgotten."""
        known.used = time.time()
        known.uses += 1
        known.busy = False
        if known.saved is None and known.name not in known.tenant.store:
            with self._lock:
                known.tenant.known.pop(known.name, None)

    def new(self, tenant: Tenant, name: str | None = None, ttl: float | None = None) -> Known:
        """A place for a session, claimed; `create` makes it.

        Raises:
            ApiError: the name is taken or cannot be one, or there are too many.
        """
        with self._lock:
            if len(tenant.known) >= self._most:
                raise ApiError(429, f"there are {len(tenant.known)} sessions; delete some", code="too_many_sessions")
            chosen = name if name is not None else TEMP + secrets.token_hex(6)
            if not is_name(chosen):
                raise ApiError(400, f"name: {chosen!r:.120} cannot be a session's", param="name")
            if chosen in tenant.known or chosen in tenant.store:
                raise ApiError(409, f"there is a session {chosen!r} already", param="name", code="session_exists")
            kept = ttl if ttl is not None else None if name is not None else self.ttl
            known = tenant.known[chosen] = Known(tenant, chosen, kept, busy=True)
            return known

    # In a worker's thread, of a session that is claimed --------------------------------------------------------

    def create(
        self,
        known: Known,
        *,
        config: TempLoraConfig | None = None,
        notes: str = "",
        metadata: Mapping[str, Any] | None = None,
        adapter: str | None = None,
    ) -> SavedSession:
        """Makes a session; if that fails, there is none."""
        try:
            saved = known.saved = self._with_room(
                lambda: known.tenant.store.create(
                    known.name, self.engine, config or self.config, source=self._source, notes=notes
                )
            )
            if config is None:  # all adapters begin alike, which takes less time; but no two texts
                saved.reseed(secrets.randbits(62))
            if metadata or known.ttl is not None:
                known.metadata = dict(metadata or {})
                saved.mark({"server": {"metadata": known.metadata, "ttl": known.ttl}})
            if adapter is not None:
                load_adapter(saved, adapter)
            self.look(known)
            return saved
        except BaseException:
            self.forget(known)
            if known.name in known.tenant.store:
                known.tenant.store.discard(known.name)
            with self._lock:
                known.tenant.known.pop(known.name, None)
            raise

    def opened(self, known: Known, progress: Progress = lambda *_: None) -> SavedSession:
        """The session, in memory."""
        if known.saved is None or known.saved.session.closed:
            known.saved = self._with_room(lambda: known.tenant.store.open(known.name, self.engine, progress=progress))
            self.look(known)
        return known.saved

    def rewound(self, known: Known, tokens: int, progress: Progress = lambda *_: None) -> SavedSession:
        """The session, back at a position where it can be cut."""
        self.forget(known)
        known.tenant.store.rewind(known.name, tokens=tokens)
        return self.opened(known, progress)

    def look(self, known: Known) -> None:
        """Notes what a session holds."""
        if known.saved is not None:
            known.look(known.saved.history, self.engine.tokenizer)

    def looked_at(self, tenant: Tenant, *, temporary: bool) -> list[Known]:
        """The sessions of a tenant, those with a name or those without; what was not looked at yet is read."""
        with self._lock:
            wanted = [known for known in tenant.known.values() if known.is_temp == temporary]
        for known in wanted:
            if not known.looked_at and not known.busy:
                with suppress(StoreError):
                    known.look(tenant.store.history(known.name), self.engine.tokenizer)
        return sorted(wanted, key=lambda known: -known.used)

    def forget(self, known: Known) -> None:
        """Takes a session out of memory, as it is on disk: what it is in the middle of is done again."""
        saved, known.saved = known.saved, None
        if saved is not None:
            saved.leave()

    def park(self, known: Known) -> None:
        """Leaves a session on disk, so that it is back soon."""
        saved, known.saved = known.saved, None
        if saved is not None:
            saved.close()

    def discard(self, known: Known) -> dict[str, Any]:
        """Deletes a session; the receipts."""
        saved, known.saved = known.saved, None
        receipt: dict[str, Any] = {}
        if saved is not None:
            session = saved.session
            saved.leave()
            told = session.receipt
            receipt = {"base_unchanged": told.base_unchanged, "discarded": told.discarded} if told else {}
        gone = known.tenant.store.discard(known.name)
        with self._lock:
            known.tenant.known.pop(known.name, None)
        return receipt | {"deleted": gone.gone, "files": gone.files, "bytes": gone.bytes}

    def _with_room(self, make: Callable[[], SavedSession]) -> SavedSession:
        """One more in memory. Where that was too much after all, there are fewer from then on."""
        with self._lock:
            self._coming += 1
        try:
            self._make_room(self.resident)
            try:
                return make()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            self.free()
            return make()
        finally:
            with self._lock:
                self._coming -= 1

    def free(self) -> None:
        """Leaves on disk whatever nobody uses: there is not enough memory for as many as there were."""
        self.resident = max(1, min(self.resident, self.in_memory - 1))
        self._make_room(0)

    def _make_room(self, most: int) -> None:
        """Leaves sessions on disk until there are `most` in memory, or all others are in use."""
        while self.in_memory + self._coming > most:
            with self._lock:
                every = [known for tenant in self._tenants.values() for known in tenant.known.values()]
                idle = [known for known in every if known.saved and not known.busy and not known.parking]
                if not idle:
                    return
                # What was asked for once may never be again; what was, again and again, will.
                next_to_go = min(idle, key=lambda known: (known.is_returned_to, known.used))
                next_to_go.parking = True
            try:
                self.park(next_to_go)
            finally:
                next_to_go.parking = False

    def sweep(self, idle_seconds: float) -> None:
        """Discards those whose time is over, and parks those that nobody has used for a while."""
        now = time.time()
        for known in self.all():
            over = known.expires is not None and known.expires < now
            if not over and (known.saved is None or known.used + idle_seconds > now):
                continue
            with self._lock:
                if known.busy or known.parking:
                    continue
                known.parking = True
            with suppress(StoreError):
                self.discard(known) if over else self.park(known)
            known.parking = False

    def close(self) -> None:
        """Leaves all of them on disk."""
        for known in self.all():
            with suppress(StoreError):
                self.park(known)


def load_adapter(saved: SavedSession, path: str | Path) -> None:
    """Has a session go on with an adapter that a client names or sends.

    Raises:
        ApiError: it is none, or not one of this shape.
    """
    try:
        saved.load_adapter(path)
    except ModelError as error:
        raise bad("adapter", str(error)) from error


def that_fit(engine: Engine, config: TempLoraConfig) -> int:
    """How many sessions half of the free memory holds."""
    weights = Layout(choose_targets(engine.model.module, config), config.rank).weights
    token = sum(keys.nbytes + values.nbytes for keys, values in engine.model.entries)
    # What is learnt, its moments and what serves; keys and values, of who has been asked for a draft twice.
    one = (3 * 4 + 2) * weights + 2 * token * config.window
    return max(1, min(_MOST_IN_MEMORY, int(_SHARE * (available() or 0) / one)))
