"""Adam for a batch of independent problems: each image has its own loss, its own steps and its own end."""

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
    """Minimise the loss of each image by Adam (Kingma & Ba 2015, default moments), at most `num_steps` updates.

    An image whose loss falls below `enough` takes that step's update and is evaluated no more.

    Args:
      start: (B, ...).
      loss: (values (R, ...), rows (R,)) to losses (R,); row i may depend on values[i] only.
    """
    values = [row.clone().requires_grad_() for row in start.detach().split(1)]
    optimizer = torch.optim.Adam(values, lr=learning_rate)
    best, least = start.detach().clone(), torch.full((len(start),), math.inf, dtype=torch.float64)
    rows = torch.arange(len(start), device=start.device)
    for _ in range(num_steps):
        optimizer.zero_grad(set_to_none=True)  # images without a gradient are left alone by the optimizer
        active = [values[i] for i in rows.tolist()]
        with torch.enable_grad():
            joined = torch.cat(active)
            losses = loss(joined, rows)
            gradients = torch.autograd.grad(losses.sum(), active)
        found = losses.detach().double().cpu()
        better = (found < least[rows.cpu()]).nonzero()[:, 0]
        best[rows[better.to(rows.device)]] = joined.detach()[better.to(joined.device)]
        least[rows.cpu()] = torch.minimum(found, least[rows.cpu()])
        for value, gradient in zip(active, gradients, strict=True):
            value.grad = gradient
        optimizer.step()
        rows = rows[(found >= enough).to(rows.device)]
        if not len(rows):
            break
    return Descent(torch.cat(values).detach(), best, least)
