"""Inversion: from a clean image back to the noise it might have come from.

A method is two hooks, `start` and `step`; the loop, the recording and the counting are `sampling.walk`,
shared with generation. Methods register under a name, with their fields as options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from taba_core.conventions import ForwardLevel, Levels, NetworkTime, X0Rule
from taba_core.diffusion.ddim import apply_x0_rule, move
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.forward import forward_diffuse
from taba_core.diffusion.grid import TimestepGrid, Transition
from taba_core.diffusion.sampling import (
    Conditioning,
    OnStep,
    ddim_transition,
    last_state,
    predict_eps,
    walk,
    working_precision,
)
from taba_core.errors import UsageError, unknown_name

# Axes: B samples in a batch, S steps, C channels, H rows, W columns.


class Inverter(Protocol):
    """An inversion method."""

    def start(self, x_0: Tensor, grid: TimestepGrid, noise: Tensor | None) -> tuple[Tensor, int]:
        """State before the first step, and how many steps it has already passed.

        Args:
          x_0: clean states, (B, C, H, W).
          noise: standard normal numbers for methods that inject noise, same shape, or None.
        """
        ...

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        transition: Transition,
        cond: Conditioning,
        rule: X0Rule,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One move upwards: (x_next, eps_hat), each (B, C, H, W).

        Args:
          reference: eps_t that the generation used in this step, where the caller knows it.
        """
        ...


_METHODS: dict[str, type[Any]] = {}
_Method = TypeVar("_Method", bound=type[Any])


def inversion_method(name: str) -> Callable[[_Method], _Method]:
    """Class decorator: register a frozen dataclass that is an `Inverter` under `name`."""

    def register(cls: _Method) -> _Method:
        if _METHODS.setdefault(name, cls) is not cls:
            raise ValueError(f"inversion method '{name}' is registered twice: {_METHODS[name]} and {cls}.")
        return cls

    return register


def list_methods() -> list[str]:
    """Names of all registered inversion methods, sorted."""
    return sorted(_METHODS)


def inversion_method_named(name: str, **options: Any) -> Inverter:
    """Build a registered method.

    Raises:
      UsageError: no such method, or an option it does not have (the message lists those it has).
    """
    if name not in _METHODS:
        raise unknown_name("inversion method", name, _METHODS)
    known = [field.name for field in fields(_METHODS[name])]
    for option in options:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise UsageError(f"inversion method '{name}' has no option '{option}'; {has}.")
    return _METHODS[name](**options)


@inversion_method("ddim")
@dataclass(frozen=True)
class DDIMInversion:
    """One evaluation per step, the prediction of the unknown next state replaced by that of the current one.

    x_l = P_l x_{l-1} + Q_l eps(x_{l-1}, t),
    P_l = sqrt(a_l / a_{l-1}), Q_l = sqrt(1 - a_l) - P_l sqrt(1 - a_{l-1})
    (paper, Eq. 3; Song et al. 2021; Dhariwal & Nichol 2021, App. F). t is the grid's choice.
    """

    def start(self, x_0: Tensor, grid: TimestepGrid, noise: Tensor | None) -> tuple[Tensor, int]:
        """The clean image, before step 1."""
        return x_0, 0

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        transition: Transition,
        cond: Conditioning,
        rule: X0Rule,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One DDIM move upwards."""
        return ddim_transition(denoiser, x, transition, cond, rule)


@dataclass(frozen=True)
class ForwardReplaced:
    """Any inversion method with its first K steps replaced by forward diffusion    (paper, Eq. 5, Sec. 4).

    Only `start` differs: x_0 is noised to `grid.forward_alpha_bar(K, forward_level, levels)` and the inner
    method continues with step K+1. K = 0 is the inner method itself; K = T needs no evaluation.
    """

    inner: Inverter
    forward_steps: int
    forward_level: ForwardLevel = "exact"
    levels: Levels = "exact"

    def start(self, x_0: Tensor, grid: TimestepGrid, noise: Tensor | None) -> tuple[Tensor, int]:
        """x_0 noised past the first K steps.

        Raises:
          UsageError: no noise was given, or K is not in 0..T.
        """
        alpha_bar = grid.forward_alpha_bar(self.forward_steps, self.forward_level, self.levels)
        if self.forward_steps == 0:
            return self.inner.start(x_0, grid, noise)
        if noise is None:
            raise UsageError(
                f"forward_steps={self.forward_steps} needs forward_noise; give standard normal numbers of "
                f"shape {tuple(x_0.shape)}, or forward_steps=0."
            )
        return forward_diffuse(x_0, noise.to(x_0.dtype), alpha_bar), self.forward_steps

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        transition: Transition,
        cond: Conditioning,
        rule: X0Rule,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The inner method's step."""
        return self.inner.step(denoiser, x, transition, cond, rule, reference)


@dataclass(frozen=True)
class OraclePrediction:
    """The first `num_swapped` predictions replaced by those of the generation, the rest by `inner` (App. J).

    None swaps all. On exact levels without an x_0 rule the swapped steps retrace the sampling path. Where the
    prediction is replaced the network is not evaluated, and eps is not re-derived a second time.
    """

    inner: Inverter
    num_swapped: int | None = None

    def start(self, x_0: Tensor, grid: TimestepGrid, noise: Tensor | None) -> tuple[Tensor, int]:
        """The inner method's start."""
        return self.inner.start(x_0, grid, noise)

    def step(
        self,
        denoiser: Denoiser,
        x: Tensor,
        transition: Transition,
        cond: Conditioning,
        rule: X0Rule,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """A DDIM move with the recorded eps_t, or the inner method's step.

        Raises:
          UsageError: the recorded eps_t of a swapped step is missing.
        """
        if self.num_swapped is not None and transition.step > self.num_swapped:
            return self.inner.step(denoiser, x, transition, cond, rule, reference)
        if reference is None:
            raise UsageError(
                f"step {transition.step} is to use the recorded eps_t, and none was given; "
                "pass reference={step: eps_t} of the generation to invert()."
            )
        rule = "none" if rule == "clip-rederive" else rule
        return move(x, reference.to(x.dtype), transition.alpha_bar_from, transition.alpha_bar_to, rule)


def invert(
    model: Denoiser,
    x_0: Tensor,
    grid: TimestepGrid,
    method: Inverter | str = "ddim",
    cond: Conditioning | None = None,
    *,
    network_time: NetworkTime = "target",
    levels: Levels = "exact",
    x0_rule: X0Rule = "none",
    forward_steps: int = 0,
    forward_level: ForwardLevel = "exact",
    forward_noise: Tensor | None = None,
    reference: Mapping[int, Tensor] | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Invert clean images to latents, x_0 to x̂_T    (paper, Eq. 3; with forward_steps > 0 Eq. 5).

    Args:
      x_0: clean states in the model's own space, (B, C, H, W).
      grid: levels, normally those of the sampler.
      method: an inverter, or the name of a registered one.
      network_time, levels: see `TimestepGrid.upward`.
      x0_rule: what is done to the predicted x_0 at each step.
      forward_steps: K, the number of first steps replaced by forward diffusion; see `ForwardReplaced`.
      forward_noise: standard normal numbers, shape of x_0; needed if K > 0.
      reference: eps_t of the generation by step l, for `OraclePrediction`.
      on_step: called with the record of each step, l = K+1..T.

    Returns:
      x̂_T, (B, C, H, W).

    Raises:
      UsageError: unknown method, impossible conventions or K, or K > 0 without forward_noise.
    """
    inverter = inversion_method_named(method) if isinstance(method, str) else method
    if forward_steps:
        inverter = ForwardReplaced(inverter, forward_steps, forward_level, levels)
    recorded = {} if reference is None else reference

    def step(
        denoiser: Denoiser, x: Tensor, transition: Transition, cond: Conditioning, rule: X0Rule
    ) -> tuple[Tensor, Tensor]:
        return inverter.step(denoiser, x, transition, cond, rule, recorded.get(transition.step))

    x, first_step = inverter.start(working_precision(x_0), grid, forward_noise)
    moves = grid.upward(first_step, network_time=network_time, levels=levels)
    return last_state(x, walk(model, x, moves, x0_rule=x0_rule, cond=cond, step=step), on_step)


@torch.no_grad()
def step_predictions(
    model: Denoiser,
    states: Tensor,
    grid: TimestepGrid,
    steps: Sequence[int],
    cond: Conditioning | None = None,
    *,
    network_time: NetworkTime = "target",
    levels: Levels = "exact",
    x0_rule: X0Rule = "none",
) -> Tensor:
    """What an inversion would predict in each step if it stood on the exact sampling state    (App. J).

    eps_hat_l = eps(x_{l-1}, time of step l): one evaluation per cached state, not one inversion per step.
    A rule that re-derives eps does so at the level of the network's time, as the generation did for its own.

    Args:
      states: exact states x_{l-1} of the sampling path, (B, S, C, H, W), in the order of `steps`.
      steps: the S step numbers l, each in 1..T.
      network_time, levels: of the inversion; see `TimestepGrid.upward`. Under shifted levels step l asks the
        network at the time of level l, as the sampler's step l does.

    Returns:
      eps_hat, (B, S, C, H, W).

    Raises:
      UsageError: as many steps as states are needed, and each must be in 1..T.
    """
    T = grid.num_inference_steps
    if states.shape[1] != len(steps) or not all(1 <= step <= T for step in steps):
        raise UsageError(
            f"steps={list(steps)} for states of shape {tuple(states.shape)}: "
            f"give one step in 1 to {T} for each entry of axis 1."
        )
    transitions = grid.upward(network_time=network_time, levels=levels)
    predictions = []
    for index, step in enumerate(steps):
        x, transition = working_precision(states[:, index]), transitions[step - 1]
        eps = predict_eps(model, x, transition.network_time, {} if cond is None else cond)
        predictions.append(apply_x0_rule(x, eps, transition.alpha_bar_network, x0_rule)[1])
    return torch.stack(predictions, dim=1)
