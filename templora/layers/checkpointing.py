"""Activation checkpointing: a block's activations are computed again in the backward pass instead of being kept.

transformers has it too, but turns the cache off with it, and here the cache is the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def checkpointed(model: nn.Module, inside: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
    """Passes inside, with their backward pass inside too, keep only what goes into each block.

    What a block reads beside its arguments (cache, adapter) must be the same in the backward pass. Without a trace:
    only the `forward` of the blocks, on the instance, is set for the time.

    Args:
        model: whose blocks.
        inside: what each pass through a block is to be within, in whichever thread it is made.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer) and "forward" not in m.__dict__]
    for block in blocks:
        block.__dict__["forward"] = _again(block.forward, inside)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _again(forward: Callable[..., Any], inside: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    def within(*args: Any, **kwargs: Any) -> Any:
        with inside():
            return forward(*args, **kwargs)

    return lambda *args, **kwargs: checkpoint(within, *args, use_reentrant=False, **kwargs)
