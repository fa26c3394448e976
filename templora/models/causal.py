"""`CausalModel`: one base model as the loop sees it. Hidden states in, likelihoods out; ids only, no text.

Shapes: T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from templora.errors import ModelError
from templora.kvcache.window import WindowCache
from templora.lora.targets import linear_layers
from templora.models.arrangement import Arrangement, moving_names, raw
from templora.models.memory_estimate import logit_rows
from templora.runtime.metering import ModelShape
from templora.runtime.signals import Between, between
from templora.runtime.threads import governor

if TYPE_CHECKING:
    from templora.layers.fused import FusedPasses

_EVIDENCE = 1024  # values of each tensor
_SUMMED = 1024  # words of eight bytes that are summed as a row


@dataclass(frozen=True)
class Trace:
    """Everything about a module tree that a visitor could leave changed, weights apart."""

    modules: tuple[str, ...]
    modes: tuple[bool, ...]
    hooks: tuple[int, ...]
    trainable: tuple[bool, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Trace:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return cls(
            modules=tuple(f"{name}:{type(m).__name__}" for name, m in model.named_modules()),
            modes=tuple(m.training for m in model.modules()),
            hooks=tuple(sum(len(getattr(m, kind)) for kind in kinds) for m in model.modules()),
            trainable=tuple(p.requires_grad for p in model.parameters()),
        )

    @property
    def hooks_total(self) -> int:
        return sum(self.hooks)

    def restore(self, model: nn.Module) -> None:
        """Puts train/eval mode and `requires_grad` back, of modules and parameters that are still there."""
        modes = dict(zip((name.partition(":")[0] for name in self.modules), self.modes, strict=True))
        for name, module in model.named_modules():
            module.training = modes.get(name, module.training)
        if len(self.trainable) == len(list(model.parameters())):
            for parameter, trainable in zip(model.parameters(), self.trainable, strict=True):
                parameter.requires_grad_(trainable)


class CausalModel:
    """A transformers causal LM split into decoder and head.

    Raises:
        ModelError: it is not one.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.between: Between = between  # called between two blocks of the head's rows
        self.look()

    def look(self) -> None:
        """Finds the parts of the module, and what is worked out of them once; anew, when somebody has changed it."""
        module = self.module
        config = module.config.get_text_config()
        self.config = config
        # get_decoder: in a model that also sees images, the part that reads text.
        self.decoder: nn.Module = module.get_decoder() if hasattr(module, "get_decoder") else module
        self.head: Any = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        if self.head is None or self.decoder is module:
            raise ModelError(f"{type(module).__name__} is not a causal language model with an output head")
        first = next(module.parameters())
        self.device, self.dtype = first.device, first.dtype
        embedding = module.get_input_embeddings()
        self.vocabulary: int = getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0]
        if not hasattr(config, "num_attention_heads"):
            raise ModelError(f"{type(module).__name__} has no attention, so there is no window to speak of")
        self.layers: int = config.num_hidden_layers
        self.max_positions: int = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self.shape = self._shape()
        # Of experts: each token goes where it is sent.
        self.mixtures: list[Any] = [m for m in self.decoder.modules() if hasattr(m, "experts")]
        self._fused: FusedPasses | None = None
        if self.device.type == "cpu":
            from templora.layers.fused import FusedPasses  # brings numba with it, which a GPU has no use for

            self._fused = FusedPasses(module, self.dtype)

    def _shape(self) -> ModelShape:
        heads = self.config.num_attention_heads
        size = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        linear = sum(t.inputs * t.outputs for t in linear_layers(self.module))
        return ModelShape(linear, self.head.in_features * self.head.out_features, self.layers * heads * size)

    @property
    def rewrites_itself(self) -> bool:
        """Whether passes change what later passes compute, so that two must not run at the same time: rotary
        embeddings that switch their frequencies when a text grows long."""
        return any(map(moving_names, self.module.modules()))

    @torch.no_grad()
    def check(self) -> None:
        """Compares likelihoods as we compute them, in two steps over our cache, with the model's own on a few tokens.

        Passes that are fused are given up if they are the ones that differ.

        Raises:
            ModelError: the family changes its logits in a way we do not know, or cannot work with a window cache.
        """
        try:
            self._check()
        except ModelError:
            if self._fused is None:
                raise
            self._fused = None
            self._check()

    def _check(self) -> None:
        # From across the vocabulary: on special tokens, often the first ones, rounding alone can change everything.
        ids = [self.vocabulary * i // 9 for i in range(1, 9)]
        was = [m.training for m in self.module.modules()]
        self.module.eval()
        try:
            own = self.module(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits[0].float()
            cache = WindowCache(self.layers, len(ids))
            steps = []
            for at in (0, 5):
                part = ids[at : 5 if at == 0 else None]
                steps.append(self.hidden(part, cache, at))
                cache.advance(len(part), 0)
            ours = self.logits(torch.cat(steps))
        except Exception as error:  # whatever an unknown architecture trips over
            raise ModelError(f"{type(self.module).__name__} cannot be run with a window cache: {error}") from error
        finally:
            for m, mode in zip(self.module.modules(), was, strict=True):
                m.training = mode
        if not own.isfinite().all():
            raise ModelError("this model's logits are not finite: its weights are damaged, or too large for its dtype")
        # Loose enough for bf16, where two steps round differently from one.
        if (own - ours).norm() > 0.05 * own.norm():
            raise ModelError(
                f"{type(self.module).__name__} changes its logits in a way templora does not know; "
                "its likelihoods would be wrong"
            )

    def hidden(self, ids: list[int], cache: WindowCache | None, position: int = 0) -> torch.Tensor:
        """Final hidden states [T, H] of `ids`, the first of which stands at `position`, seen after `cache`."""
        return self.hidden_rows([ids], cache, position)[0]

    def hidden_rows(self, rows: list[list[int]], cache: WindowCache | None = None, position: int = 0) -> torch.Tensor:
        """`hidden` [rows, T, H] of texts of one length."""
        governor.tick()
        tokens = torch.tensor(rows, dtype=torch.long, device=self.device)
        where = torch.arange(position, position + tokens.shape[1], device=self.device)[None]
        with self.passes():
            out = self.decoder(input_ids=tokens, position_ids=where, past_key_values=cache, use_cache=cache is not None)
        state: torch.Tensor = out.last_hidden_state
        return state

    @cached_property
    def entries(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values [1, heads, 1, head size] of one token in each layer, as a cache would hold them."""
        cache = WindowCache(self.layers, 1)
        with torch.no_grad():
            self.hidden([0], cache)
        return [(layer.keys, layer.values) for layer in cache.layers]

    def passes(self) -> AbstractContextManager[None]:
        """Passes inside are fused ones, where there are any.

        All of them, one token's too, which gains nothing: another thread may be inside at the same time.
        """
        return self._fused or nullcontext()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits [T, V] of hidden states [T, H]."""
        with self.passes():
            logits: torch.Tensor = self.head(hidden).float()
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits

    def _blocks(self, hidden: torch.Tensor, targets: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`hidden` and `targets` in blocks of rows whose logits may exist at one time."""
        rows = logit_rows(self.vocabulary)
        wanted = torch.tensor(targets, dtype=torch.long, device=hidden.device)
        for block in zip(torch.split(hidden, rows), torch.split(wanted, rows), strict=True):
            self.between()
            yield block

    @torch.no_grad()
    def nll(self, hidden: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """NLL, in nats, of each of `targets`, predicted from its row of `hidden` [T, H]: fp32 [T]."""
        parts = []
        with self.passes():
            for h, t in self._blocks(hidden, targets):
                if _has_kernels(h):
                    parts.append(_cross_entropy(self.head(h), t, self.softcap, None))
                else:
                    parts.append(F.cross_entropy(self.logits(h), t, reduction="none"))
        return torch.cat(parts)

    @torch.no_grad()
    def logprobs(
        self, hidden: torch.Tensor, targets: list[int], top: int
    ) -> tuple[list[float], list[list[int]], list[list[float]]]:
        """Log-probability of each of `targets` after its row of `hidden` [T, H]; the `top` likeliest ids there, and
        theirs."""
        own: list[float] = []
        ids: list[list[int]] = []
        values: list[list[float]] = []
        for h, t in self._blocks(hidden, targets):
            every = self.logits(h).log_softmax(-1)
            likeliest = every.topk(min(top, every.shape[-1]), -1)
            own += every.gather(-1, t[:, None])[:, 0].tolist()
            ids += likeliest.indices.tolist()
            values += likeliest.values.tolist()
        return own, ids, values

    def nll_gradient(self, hidden: torch.Tensor, targets: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """NLL of each of `targets` [T], and the gradient of their mean NLL with respect to `hidden` [T, H].

        The head is frozen, so this gradient is all that is needed of it; it is taken a block of rows at a time and the
        [T, V] logits never exist whole.
        """
        gradients, parts = [], []
        for h, t in self._blocks(hidden.detach(), targets):
            h.requires_grad_()
            with torch.enable_grad(), self.passes():
                if _has_kernels(h):
                    # The head's own backward pass, whatever it is made of, from a gradient written over its output.
                    output = self.head(h)
                    gradient = output.detach()
                    parts.append(_cross_entropy(gradient, t, self.softcap, 1 / len(targets)))
                    gradients.append(torch.autograd.grad(output, h, gradient)[0])
                else:
                    nll = F.cross_entropy(self.logits(h), t, reduction="none")
                    gradients.append(torch.autograd.grad(nll.sum() / len(targets), h)[0])
                    parts.append(nll.detach())
        return torch.cat(parts), torch.cat(gradients)

    def nll_backward(self, hidden: torch.Tensor, targets: list[int]) -> torch.Tensor:
        """NLL of each of `targets`, fp32 [T], with the gradient of its mean pushed back through `hidden` [T, H]."""
        nll, gradient = self.nll_gradient(hidden, targets)
        torch.autograd.backward(hidden, gradient)
        return nll

    def arrangement(self, known: Collection[Any] = ()) -> Arrangement:
        """What it computes with beside its weights, `known` hooks left out."""
        if self._fused is None:
            return Arrangement.of(self.module, known)
        return Arrangement.of(self.module, [*known, *self._fused.forwards], self._fused.attends)

    def moving(self) -> list[tuple[nn.Module, str, Any]]:
        """What passes rewrite (`rewrites_itself`), as it is now: module, name, a copy of the value."""
        found = [(m, n) for m in self.module.modules() for n in moving_names(m) if hasattr(m, n)]
        held = [(m, n, getattr(m, n)) for m, n in found]
        return [(m, n, v.clone() if isinstance(v, torch.Tensor) else v) for m, n, v in held]

    @torch.no_grad()
    def weights_evidence(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """What tells weights that were changed from those that were not, at no cost: torch's counts of changes, and a
        few values; and where they lie. A change that it misses is seen by `checksum`."""
        digest, places, addresses = hashlib.sha256(), list[Any](), list[int]()
        for name, tensor in self._weights():
            changes = 0 if tensor.is_inference() else tensor._version
            places.append((name, tuple(tensor.shape), tensor.dtype, changes))
            few = tensor.detach().flatten()[:: max(1, tensor.numel() // _EVIDENCE)]
            digest.update(raw(few))
            addresses.append(tensor.data_ptr())
        return (*places, digest.hexdigest()), tuple(addresses)

    @torch.no_grad()
    def checksum(self) -> str:
        """Sums over all bits of every parameter and saved buffer, which another value anywhere changes; several times
        faster than `fingerprint`, and no proof against who sets out to deceive."""
        sums = hashlib.sha256()
        for name, tensor in self._weights():
            sums.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            data = tensor.detach().contiguous().flatten().view(torch.uint8)
            whole = len(data) // (8 * _SUMMED) * 8 * _SUMMED
            words = data[:whole].view(torch.int64).view(-1, _SUMMED)
            # By columns and by rows: values that change places change them too.
            for part in (words.sum(0), words.sum(1), data[whole:]):
                sums.update(raw(part))
        return sums.hexdigest()

    @property
    def weights_bytes(self) -> int:
        return sum(tensor.nbytes for _, tensor in self._weights())

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every parameter and saved buffer. Buffers that are not saved are no weights (`Arrangement`)."""
        yield from self.module.named_parameters()
        kept = self.module.state_dict().keys()
        yield from ((name, buffer) for name, buffer in self.module.named_buffers() if name in kept)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """SHA-256 over every parameter and saved buffer: names, shapes and bits."""
        digest = hashlib.sha256()
        for name, tensor in self._weights():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(raw(tensor))
        return digest.hexdigest()


def _has_kernels(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16


def _cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, softcap: float | None, weight: float | None
) -> torch.Tensor:
    """NLL of each of `targets` under bf16 `logits` [T, V]: fp32 [T].

    With a `weight`, writes the gradient of weight · NLL over the logits.
    """
    from templora.kernels import rowwise
    from templora.kernels.openmp import run

    rows, columns = logits.shape
    nll = torch.empty(rows)
    backward = weight is not None
    run(rowwise.cross_entropy, rows, logits, targets, nll, columns, int(backward), softcap or 0.0, weight or 0.0)
    return nll
