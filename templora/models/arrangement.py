"""`Arrangement`: what a model computes with beside its weights. And the same in words, for another process.

    modules       class of each, and the code of that class; a `forward` of its own
    attributes    plain ones: scalings, epsilons, windows, kinds of rotary tables; a config's values
    tensors       that are no weights: rotary frequencies and other tables that are not saved
    hooks         of all kinds, those apart that the caller knows

Weights, train mode and `requires_grad` are not in it: `CausalModel.fingerprint` and `Trace` are of those.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from templora.layers import attention

_HOOKS = [name for name in vars(nn.Module()) if name.startswith(("_forward_", "_backward_"))]
# What every module has, and what changes without changing what is computed.
_OF_EVERY_MODULE = {*vars(nn.Module()), "training"}
# Of a rotary embedding that changes with the length of what is read.
_MOVING = ("inv_freq", "max_seq_len_cached", "attention_scaling")
_DEPTH = 6  # of lists and configs within each other
# In words: what says nothing of what is computed from the weights there are, or is another way to compute the same.
_ASIDE = {
    "transformers_version", "architectures", "dtype", "torch_dtype", "return_dict", "id2label", "label2id", "use_cache",
    "initializer_range", "problem_type", "name_or_path", "quantization_config", "tie_word_embeddings", "pretraining_tp",
    "layer_idx", "gradient_checkpointing", "loss_type", "kernel_config", "all_tied_weights_keys", "p", "inplace",
}  # fmt: skip
_ASIDE_WORDS = ("token_id", "dropout", "output_")
_SAMPLES = 256  # of a table, in words
_NEAR = 1e-4  # tables are worked out on another machine


@dataclass(frozen=True, eq=False)
class _Same:
    """Something that is compared by being the same thing, kept so that its address is nobody else's meanwhile."""

    thing: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


@dataclass(frozen=True)
class Arrangement:
    """What one module tree computes with, at one moment.

    Args:
        values: what there was, by the name under which a person finds it.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, known: Collection[Any] = (), attends: str | None = None) -> Arrangement:
        """What `model` computes with.

        Args:
            model: the module tree.
            known: hooks and `forward`s that are left out, by being the same.
            attends: the model's own attention, where ours stands in its config for the length of a pass.
        """
        ours = {id(thing) for thing in known}
        seen: dict[Any, Any] = {attention.NAME: attends}
        values: dict[str, Any] = {"hooks of all modules": _hooks(_global_hooks(), ours)}
        kinds: set[type] = set()
        for name, module in model.named_modules():
            kinds.add(type(module))
            at = f"{name}." if name else ""
            values[f"{at}class"] = _Same(type(module))
            values[f"{at}hooks"] = _hooks([getattr(module, kind, {}) for kind in _HOOKS], ours)
            for attribute, value in _held(module).items():
                if attribute != "forward" or id(value) not in ours:
                    values[at + attribute] = _value(value, seen)
        for kind in kinds:
            values[f"code of {kind.__module__}.{kind.__qualname__}"] = (
                _Same(getattr(kind, "forward", None)),
                _Same(kind.__call__),
            )
        for source in {kind.__module__ for kind in kinds}:
            # Functions that a family's classes call are looked up in its file: nn's are torch's own.
            if not source.startswith("torch."):
                code = vars(sys.modules.get(source, object)).items()
                values[f"code of {source}"] = {n: _Same(f) for n, f in code if isinstance(f, FunctionType)}
        return cls(values)

    def differences(self, other: Arrangement) -> list[str]:
        """Names of what is not the same in both."""
        mine, theirs, missing = self.values, other.values, object()
        return [n for n in {**mine, **theirs} if mine.get(n, missing) != theirs.get(n, missing)]


def _held(module: nn.Module) -> dict[str, Any]:
    """What a module has of its own beside weights, and does not rewrite as it goes."""
    held = dict(vars(module))  # another thread may be in a pass
    held |= {name: module._buffers[name] for name in sorted(module._non_persistent_buffers_set)}
    aside = _OF_EVERY_MODULE | moving_names(module)
    return {name: value for name, value in held.items() if name not in aside}


def moving_names(module: nn.Module) -> frozenset[str]:
    """Names of what a rotary embedding rewrites as it goes; for all other modules none."""
    kind = getattr(module, "rope_type", None)
    kinds = kind if isinstance(kind, dict) else {"": kind}
    moving = [layers for layers, k in kinds.items() if "dynamic" in str(k) or k == "longrope"]
    prefixes = [f"{layers}_" if layers else "" for layers in moving]
    return frozenset(prefix + name for prefix in prefixes for name in (*_MOVING, "long_inv_freq"))


def _global_hooks() -> list[dict[Any, Any]]:
    """Those that torch runs at every module."""
    places = vars(nn.modules.module)
    return [held for name, held in places.items() if name.startswith("_global_") and isinstance(held, dict)]


def _hooks(held: list[dict[Any, Any]], ours: Collection[int]) -> tuple[_Same, ...]:
    return tuple(_Same(hook) for hooks in held for hook in hooks.values() if callable(hook) and id(hook) not in ours)


def _value(value: Any, seen: dict[Any, Any], depth: int = _DEPTH) -> Any:
    """`value` as something that stays as it is, and compares."""
    if value is None or isinstance(value, bool | int | str | bytes | torch.dtype | torch.device):
        return type(value), value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, torch.Tensor):
        bits = "" if value.is_meta else hashlib.sha256(raw(value)).hexdigest()
        return tuple(value.shape), value.dtype, bits
    if isinstance(value, nn.Module) or depth == 0:
        return _Same(type(value))
    if isinstance(value, MethodType):
        return _Same(value.__func__)
    if isinstance(value, functools.partial):
        return _Same(value.func), _value([value.args, value.keywords], seen, depth - 1)
    if isinstance(value, list | tuple):
        return tuple(_value(v, seen, depth - 1) for v in value)
    if isinstance(value, dict):
        return {repr(k): _value(v, seen, depth - 1) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if hasattr(value, "to_dict"):  # a config, which many modules share
        if id(value) not in seen:
            fields = {k: seen[attention.NAME] if v is attention.NAME else v for k, v in vars(value).items()}
            seen[id(value)] = {k: _value(v, seen, depth - 1) for k, v in fields.items()}
        return seen[id(value)]
    return _Same(value)


def raw(tensor: torch.Tensor) -> Any:
    """The bytes of a tensor."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


# In words -----------------------------------------------------------------------------------------------------------


def described(model: nn.Module, config: Any, known: Collection[Any] = ()) -> dict[str, Any]:
    """What `model` computes with, as JSON can hold it: to be compared by `told_apart`, on another machine perhaps.

    Args:
        model: the module tree.
        config: of the part that reads text.
        known: hooks that are left out.
    """
    found: dict[str, list[Any]] = {}
    ours = {id(thing) for thing in known}
    hooks = sum(len(_hooks([getattr(m, kind, {}) for kind in _HOOKS], ours)) for m in model.modules())
    for name, module in model.named_modules():
        for attribute, value in _held(module).items():
            if not _aside(attribute):
                found.setdefault(f"{type(module).__name__}.{attribute}", []).extend(_words(value))
        if not [*module.children(), *module.parameters(), *module.buffers()]:
            found.setdefault(f"what {name.rpartition('.')[2]} makes of numbers", []).extend(_behaviour(module))
    words = {name: _runs(values) for name, values in found.items() if values}
    return {"hooks": hooks, **words, **dict(_leaves("config", config.to_dict()))}


def told_apart(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two descriptions say differently, in words. What only one of them knows of (a later version's, say) is
    passed over."""
    return [f"{name}{_was(then[name], now[name])}" for name in now if name in then and not _near(then[name], now[name])]


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries, by their path; those that matter."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not _aside(str(key)):
                yield from _leaves(f"{name}.{key}", part)
    else:
        for word in _words(value):
            yield name, word


def _aside(name: str) -> bool:
    return name.startswith("_") or name in _ASIDE or any(word in name for word in _ASIDE_WORDS)


def _words(value: Any) -> list[Any]:
    """[`value`] where JSON can hold it, a table's as samples; else []."""
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.is_complex():
            return []
        flat = value.detach().flatten()[:: max(1, value.numel() // _SAMPLES)].double().cpu()
        return [[list(value.shape), [float(f"{x:.7g}") for x in flat.tolist()]]]
    if value is None or isinstance(value, bool | int | float | str):
        return [value]
    if isinstance(value, list | tuple):
        parts = [_words(v) for v in value]
        return [[v for part in parts for v in part]] if all(parts) else []
    if isinstance(value, dict):
        return [{str(k): word for k, v in value.items() for word in _words(v)}]
    return []


@torch.no_grad()
def _behaviour(module: nn.Module) -> list[Any]:
    """What an activation function makes of a few numbers."""
    try:
        return _words(module(torch.linspace(-4, 4, 9)))
    except Exception:  # it is something else, and takes something else
        return []


def _runs(values: list[Any]) -> Any:
    """Runs of equal values, module by module: pairs of how many and what, or a hash where that would be long."""
    runs: list[list[Any]] = []
    for value in values:
        if runs and runs[-1][1] == value:
            runs[-1][0] += 1
        else:
            runs.append([1, value])
    return runs if len(runs) <= 16 else hashlib.sha256(json.dumps(runs).encode()).hexdigest()


def _near(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_near, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_near(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, int | float):
        return a == b or math.isclose(a, b, rel_tol=_NEAR) or (math.isnan(a) and math.isnan(b))
    return bool(a == b)


def _was(then: Any, now: Any) -> str:
    """What both are, unless one of them is a table."""
    then, now = _alike(then), _alike(now)
    if any(isinstance(value, list | dict) or len(str(value)) > 40 for value in (then, now)):
        return ""
    return f" (was {then!r}, is {now!r})"


def _alike(value: Any) -> Any:
    """What all modules of `_runs` have, if there is such a thing."""
    one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) and len(value[0]) == 2
    return value[0][1] if one else value
