"""The learning rate that suits a model, found from its weights.

AdamW moves every weight of an adapter by about the rate, whatever the model; what that does depends on how large the
weights are that it is added to. The rate is therefore a fixed share of them: the models that we have measured want the
same share, though their best rates differ fivefold (docs/recipe.md).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch
from torch import nn

from templora.targets import Target, module_at

# Of the root mean square of a layer's weights, the median over layers.
SHARE = 0.0053
# Whatever the weights are.
LOWEST, HIGHEST = 1e-5, 5e-3
_ROWS = 16


def learning_rate_for(model: nn.Module, targets: Sequence[Target]) -> float:
    """AdamW's rate for one step a chunk, to two digits.

    Args:
        model: the base, without an adapter in the way.
        targets: the layers that are adapted.
    """
    rate = SHARE * typical_weight(model, targets)
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
