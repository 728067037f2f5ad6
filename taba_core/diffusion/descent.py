"""Adam for a batch of independent problems: each image has its own steps and its own end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Axes: B images, R of them still at work.

# (values (R, ...), rows (R,)) to (losses (R,), directions (R, ...)); row i depends on values[i] only.
Direction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent ended.

    Attributes:
      last: values after the last update of each image, (B, ...).
      best: values of the smallest loss seen, (B, ...).
      first_loss, last_loss, best_loss: losses before the first update, before the last one, and of `best`, (B,)
        float64.
    """

    last: Tensor
    best: Tensor
    first_loss: Tensor
    last_loss: Tensor
    best_loss: Tensor


def gradient_of(loss: Callable[[Tensor, Tensor], Tensor]) -> Direction:
    """The direction of a differentiable loss: its gradient, by autograd."""

    def direction(values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            values = values.detach().requires_grad_()
            losses = loss(values, rows)
            (gradient,) = torch.autograd.grad(losses.sum(), values)
        return losses.detach(), gradient

    return direction


def descend(
    start: Tensor,
    direction: Direction,
    *,
    learning_rate: float,
    num_steps: int,
    enough: float,
    moments: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Descent:
    """At most `num_steps` updates of Adam (Kingma & Ba 2015, Alg. 1) against a direction, each image by itself.

    An image whose loss falls below `enough` takes that step's update and is evaluated no more.

    Args:
      start: (B, ...).
      moments, eps: beta_1, beta_2 and epsilon of Adam.
    """
    values = list(start.detach().clone().split(1))
    optimizer = torch.optim.Adam(values, lr=learning_rate, betas=moments, eps=eps)
    best, losses = start.detach().clone(), torch.full((3, len(start)), math.inf, dtype=torch.float64)
    rows = torch.arange(len(start))
    for count in range(num_steps):
        joined, at = torch.cat([values[i] for i in rows.tolist()]), rows.to(start.device)
        found, directions = direction(joined, at)
        found = found.double().cpu()
        better = found < losses[2, rows]
        best[at[better.to(at.device)]] = joined[better.to(at.device)]
        losses[2, rows] = torch.minimum(found, losses[2, rows])
        losses[1, rows] = found
        if count == 0:
            losses[0] = found
        # An image without a gradient is left alone by the optimizer.
        optimizer.zero_grad(set_to_none=True)
        for i, gradient in zip(rows.tolist(), directions.split(1), strict=True):
            values[i].grad = gradient
        optimizer.step()
        rows = rows[found >= enough]
        if not len(rows):
            break
    return Descent(torch.cat(values), best, *losses)
