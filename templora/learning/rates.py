"""The learning rate that suits a model, found from its weights.

AdamW moves every weight of an adapter by about the rate, whatever the model; what that does depends on how large the
weights are that it is added to. The best rates of the models that were measured differ tenfold, and so do the 3/2
powers of their typical weights (docs/recipe.md). Two models fix two numbers: for others the rule is a guess, though a
better one than a constant.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from templora.lora.targets import Target, module_at

# rate = FACTOR · weight ** POWER, weight the root mean square of a layer's weights, the median over layers.
FACTOR, POWER = 0.0121, 1.5
# Whatever the weights are.
LOWEST, HIGHEST = 1e-5, 5e-3
_ROWS = 64


def learning_rate_for(model: nn.Module, targets: Sequence[Target]) -> float:
    """AdamW's rate for one step a chunk, to two digits.

    Args:
        model: the base, without an adapter in the way.
        targets: the layers that are adapted.
    """
    rate = FACTOR * typical_weight(model, targets) ** POWER
    return float(f"{min(HIGHEST, max(LOWEST, rate)):.2g}")


@torch.no_grad()
def typical_weight(model: nn.Module, targets: Sequence[Target]) -> float:
    """Root mean square of a layer's weights, the median over `targets`.

    It is measured by what the layer does to random numbers, so the weights may be held in any format.
    """
    first = next(model.parameters())
    found = []
    for index, target in enumerate(targets):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(_ROWS, target.inputs, generator=generator).to(first.device, first.dtype)
        layer = module_at(model, target)
        y = layer(x).float() - layer(torch.zeros_like(x)).float()
        found.append(float(y.square().mean().sqrt() / x.float().square().sum(-1).mean().sqrt()))
    return statistics.median(found)
