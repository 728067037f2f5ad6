"""Adam for a batch of independent problems: each image has its own steps and its own end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Axes: B images, R of them still at work.


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended.

    Attributes:
      last: values after the last update of each image, (B, ...).
      best: values of the smallest loss seen, (B, ...).
      loss: that loss, (B,) float64.
    """

    last: Tensor
    best: Tensor
    loss: Tensor


def descend(
    start: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    learning_rate: float,
    num_steps: int,
    enough: float,
) -> Descent:
    """Minimise the loss of each image by Adam (Kingma & Ba 2015, Alg. 1, default moments).

    At most `num_steps` updates; an image whose loss falls below `enough` takes that step's update and is evaluated no
    more.

    Args:
      start: (B, ...).
      loss: (values (R, ...), rows (R,)) to losses (R,), differentiable; row i depends on values[i] only.
    """
    values = list(start.detach().clone().split(1))
    optimizer = torch.optim.Adam(values, lr=learning_rate)
    best, least = start.detach().clone(), torch.full((len(start),), math.inf, dtype=torch.float64)
    rows = torch.arange(len(start))
    for _ in range(num_steps):
        joined, at = torch.cat([values[i] for i in rows.tolist()]).requires_grad_(), rows.to(start.device)
        with torch.enable_grad():
            losses = loss(joined, at)
            (gradients,) = torch.autograd.grad(losses.sum(), joined)
        found = losses.detach().double().cpu()
        better = found < least[rows]
        best[at[better.to(at.device)]] = joined.detach()[better.to(at.device)]
        least[rows] = torch.minimum(found, least[rows])
        # An image without a gradient is left alone by the optimizer.
        optimizer.zero_grad(set_to_none=True)
        for i, gradient in zip(rows.tolist(), gradients.split(1), strict=True):
            values[i].grad = gradient
        optimizer.step()
        rows = rows[found >= enough]
        if not len(rows):
            break
    return Descent(torch.cat(values), best, least)
