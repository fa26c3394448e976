"""`Watch`: whether the model is still what it was, and what tells it from others.

SHA-256 over the weights is taken once. From then on two cheaper looks say whether they may be others: one at a few
values and torch's own counts of changes, when a session begins; one at sums over all bits, when it ends and when a
session on disk asks which model this is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from templora.models.arrangement import Arrangement, described, told_apart
from templora.models.causal import CausalModel
from templora.text import encode, opening_ids, tokenizer_fingerprint

# Weights of fewer bytes are gone through anew for each session: it takes no time.
_SMALL = 1 << 26
_SAMPLE = "A tokenizer that has been changed is told by its size, or by what it makes of this."


@dataclass(frozen=True)
class Found:
    """The model at one moment.

    Args:
        fingerprint: SHA-256 of its weights.
        checksum: sums over all of their bits.
        evidence: a few of their values, and torch's counts of changes.
        addresses: where they lie.
        arrangement: what it computes with beside them.
    """

    fingerprint: str
    checksum: str
    evidence: tuple[Any, ...]
    addresses: tuple[int, ...]
    arrangement: Arrangement


class Watch:
    """Looks at one model. `hooks` are always our own on it, which do not count.

    Args:
        model, tokenizer: they.

    Attributes:
        large: going through the weights takes time.
    """

    def __init__(self, model: CausalModel, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self.large = model.weights_bytes > _SMALL
        self._known: Found | None = None
        self._known_tokenizer: tuple[Any, str] | None = None

    def look(self, hooks: Sequence[Any], trust: bool = True) -> tuple[Found, bool]:
        """The model as it is now, and whether it is another than at the last look.

        Args:
            hooks: our own.
            trust: do not go through large weights again that show no sign of a change.
        """
        model, known = self._model, self._known
        evidence, addresses = model.weights_evidence()
        if known and known.evidence == evidence and trust and self.large:
            fingerprint, checksum = known.fingerprint, known.checksum
        else:
            checksum = model.checksum()
            fingerprint = known.fingerprint if known and known.checksum == checksum else model.fingerprint()
        found = Found(fingerprint, checksum, evidence, addresses, model.arrangement(hooks))
        self._known = found
        return found, known is not None and replace(known, evidence=evidence) != found

    def differences(self, found: Found, hooks: Sequence[Any]) -> list[str]:
        """What the model computes with, weights apart, that was not so when it was `found`."""
        return found.arrangement.differences(self._model.arrangement(hooks))

    def compare(self, found: Found, hooks: Sequence[Any]) -> tuple[str, list[str]]:
        """The weights' SHA-256, and everything that is not as it was `found`."""
        changed = self.differences(found, hooks)
        if self._model.checksum() == found.checksum:
            return found.fingerprint, changed
        return self._model.fingerprint(), ["weights", *changed]

    def identity(self, found: Found, hooks: Sequence[Any]) -> dict[str, Any]:
        """What tells the model from others, as JSON can hold it."""
        signs = len(self._tokenizer), opening_ids(self._tokenizer), encode(self._tokenizer, _SAMPLE, special=False)
        if self._known_tokenizer is None or self._known_tokenizer[0] != signs:
            self._known_tokenizer = signs, tokenizer_fingerprint(self._tokenizer)
        return {
            "fingerprint": found.fingerprint,
            "computes": described(self._model.module, self._model.config, hooks),
            "tokenizer": self._known_tokenizer[1],
        }


def unlike(identity: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Why a model is not that of an `identity`; empty if it is. What that does not say is passed over."""
    if identity["fingerprint"] != now["fingerprint"]:
        return f"its weights are others ({str(identity['fingerprint'])[:12]}, not {now['fingerprint'][:12]})"
    then = identity.get("computes")
    if isinstance(then, dict) and (differs := told_apart(then, now["computes"])):
        return f"its weights are the same, but not what is computed with them: {'; '.join(differs[:3])}"
    return "its tokenizer is another" if identity.get("tokenizer", now["tokenizer"]) != now["tokenizer"] else ""
