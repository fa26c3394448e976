"""templora: a language model that learns the text as it grows, then forgets it.

    import templora

    engine = templora.load("smollm2-135m")
    with engine.session() as session:
        session.absorb(open("chapters-1-to-7.txt").read())
        print(session.write("\\n\\nCHAPTER VIII\\n\\n", max_new_tokens=2000))

Importing this package imports neither torch nor transformers; loading a model does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Absorbed": "events",
    "ChunkLearned": "events",
    "ChunkScored": "events",
    "ConfigError": "errors",
    "Engine": "engine.engine",
    "Finished": "events",
    "ModelError": "errors",
    "OptionError": "errors",
    "Receipt": "session.results",
    "SamplingParams": "sampling",
    "SavedSession": "store.saved",
    "Score": "session.results",
    "Session": "session.session",
    "SessionClosed": "errors",
    "SessionStore": "store.store",
    "StoreError": "errors",
    "TempLoraConfig": "config",
    "TemploraError": "errors",
    "TextError": "errors",
    "TokenEvent": "events",
    "TokenLogprobs": "events",
    "load": "loading",
    "recipe": "recipes",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'templora' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"templora.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


if TYPE_CHECKING:
    from templora.config import TempLoraConfig as TempLoraConfig
    from templora.engine.engine import Engine as Engine
    from templora.errors import (
        ConfigError as ConfigError,
        ModelError as ModelError,
        OptionError as OptionError,
        SessionClosed as SessionClosed,
        StoreError as StoreError,
        TemploraError as TemploraError,
        TextError as TextError,
    )
    from templora.events import (
        Absorbed as Absorbed,
        ChunkLearned as ChunkLearned,
        ChunkScored as ChunkScored,
        Finished as Finished,
        TokenEvent as TokenEvent,
        TokenLogprobs as TokenLogprobs,
    )
    from templora.loading import load as load
    from templora.recipes import recipe as recipe
    from templora.sampling import SamplingParams as SamplingParams
    from templora.session.results import Receipt as Receipt, Score as Score
    from templora.session.session import Session as Session
    from templora.store.saved import SavedSession as SavedSession
    from templora.store.store import SessionStore as SessionStore
