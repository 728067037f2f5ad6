"""The one loop of all inversions: records, counts, measures residuals, and says what guards did."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taba_core.conventions import (
    UNGUIDED,
    FirstTime,
    ForwardLevel,
    HeldQuantity,
    Levels,
    NetworkTime,
    X0Rule,
)
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import PURE_NOISE, TimestepGrid, Transition
from taba_core.diffusion.holding import holding
from taba_core.diffusion.inversion.forward_replacement import ForwardReplaced
from taba_core.diffusion.inversion.measurements import Measurements
from taba_core.diffusion.inversion.method import Carried, Method, Step, StepMethod, WholeMethod
from taba_core.diffusion.inversion.problem import Dynamics, Problem
from taba_core.diffusion.inversion.registry import inversion_method_named
from taba_core.diffusion.inversion.wrapping import check_held, check_steps_can_be_replaced
from taba_core.diffusion.sampling import (
    Conditioning,
    OnStep,
    StepRecord,
    check_levels,
    generate,
    last_state,
    walk,
    working_precision,
)
from taba_core.errors import UsageError, WorkError

# Axes: B samples in a batch, C channels, H rows, W columns; T steps.


@dataclass(frozen=True, eq=False)
class InversionReport:
    """An inversion with what it cost and how well its steps were solved.

    Attributes:
      latent: x̂_T, (B, C, H, W).
      carried: what the method's own sampler needs beside the latent, by name; {} for most.
      evaluations: (B,) int64, network evaluations (NFE) of each image; measuring residuals is not in it.
      residual: (B, T) float64, rms of P x_{l-1} + Q f(x_l) - x_l after step l (column l-1); NaN where the step
        was replaced or its level has no network time. None if nobody knows it.
      fallback: (B, T) int8 `Fallback` codes.
    """

    latent: Tensor
    carried: Carried
    evaluations: Tensor
    residual: Tensor | None
    fallback: Tensor


@dataclass(frozen=True, eq=False)
class InversionOptions:
    """How an inversion goes; the keywords of `invert` and `invert_with_report`.

    Attributes:
      network_time, levels, first_time: see `TimestepGrid.upward`.
      held: what steps carry between levels, see `Conventions`; other than auto of methods that are `explicit`.
      x0_rule: what is done to the predicted x_0 at each step.
      forward_steps: K, the number of first steps replaced by forward diffusion; see `ForwardReplaced`.
      forward_level: level to which they are replaced, see `TimestepGrid.replacement_level`.
      forward_noise: standard normal numbers, shape of x_0; needed if K > 0 and by methods that start from noise.
      reference: eps_t of the generation by step l, for `OraclePrediction`; f of one step for `SwappedStep`.
      on_step: called with the record of each step, l = K+1..T.
      sample_ids: (B,) ids for the random numbers of methods that draw their own; None is 0..B-1.
      measure_residual: where the method does not know its residual, spend one more evaluation a step on it.
    """

    network_time: NetworkTime = "target"
    levels: Levels = "exact"
    first_time: FirstTime = "one"
    held: HeldQuantity = "auto"
    x0_rule: X0Rule = "none"
    forward_steps: int = 0
    forward_level: ForwardLevel = "exact"
    forward_noise: Tensor | None = None
    reference: Mapping[int, Tensor] | None = None
    on_step: OnStep | None = None
    sample_ids: Sequence[int] | None = None
    measure_residual: bool = False


def invert(
    model: Denoiser,
    x_0: Tensor,
    grid: TimestepGrid,
    method: Method | str = "ddim",
    cond: Conditioning | None = None,
    **conventions: Any,
) -> Tensor:
    """Invert clean images to latents, x_0 to x̂_T    (paper, Eq. 3; with forward_steps > 0 Eq. 5).

    Arguments and errors as `invert_with_report`, whose latent, (B, C, H, W), this is.

    >>> model = taba_core.load_model("gaussian", options={"size": 8})
    >>> grid = taba_core.timestep_grid(taba_core.load_card("gaussian"), 20)
    >>> noise = torch.from_numpy(rng.normal(range(64), model.sample_shape, seed=0, stream="noise"))
    >>> images = taba_core.generate(model, noise, grid)
    >>> latents = taba_core.invert(model, images, grid)
    >>> repaired = taba_core.invert(model, images, grid, forward_steps=1, forward_noise=noise)
    >>> bool(latents.std() < repaired.std() < 1.1)
    True
    >>> exact = taba_core.invert(model, images, grid, "aidi-a")
    >>> bool((exact - noise).abs().mean() < (latents - noise).abs().mean() / 4)
    True
    """
    return invert_with_report(model, x_0, grid, method, cond, **conventions).latent


def invert_with_report(
    model: Denoiser,
    x_0: Tensor,
    grid: TimestepGrid,
    method: Method | str = "ddim",
    cond: Conditioning | None = None,
    **conventions: Any,
) -> InversionReport:
    """Invert clean images to latents, x_0 to x̂_T, and report cost, residuals and fallbacks.

    Args:
      x_0: clean states in the model's own space, (B, C, H, W).
      grid: levels, normally those of the sampler.
      method: a method, or the name of a registered one.
      cond: batch-first conditioning; None is {}.
      conventions: the fields of `InversionOptions`, by name.

    Raises:
      UsageError: unknown method, impossible conventions or K, or noise, text or single steps that the method or K
        needs and does not have; a grid with a level of pure noise and a model that predicts the noise alone; a model
        under guidance and a method that guides by itself.
      WorkError: the network or the inversion returned NaN or infinity.
      TypeError: a keyword that `InversionOptions` does not have.
    """
    options = InversionOptions(**conventions)
    check_levels(model, grid)
    chosen = _chosen(method, options)
    with _graph_allowed(chosen.needs_gradient):
        sampler = _problem(model, working_precision(x_0), grid, {} if cond is None else cond, options)
        _check_needs(chosen, sampler)
        # Residuals are of the sampler's own steps, whatever the inversion's carry.
        measured = Measurements(sampler, options.on_step, options.measure_residual)
        problem = replace(sampler, denoiser=holding(model, options.held))
        if isinstance(chosen, WholeMethod):
            latent, carried = _run_whole(chosen, problem, measured)
        else:
            assert isinstance(chosen, StepMethod), chosen
            latent, carried = _run_steps(chosen, problem, measured)
    if not torch.isfinite(latent).all():
        raise WorkError(f"inversion method '{chosen.name}' returned NaN or infinity: it has diverged.")
    return InversionReport(latent, carried, problem.spent, measured.residual_or_none(), measured.fallback)


def _chosen(method: Method | str, options: InversionOptions) -> Method:
    """The method, with forward replacement around it where steps are replaced."""
    chosen = inversion_method_named(method) if isinstance(method, str) else method
    check_held(chosen, options.held)
    if not options.forward_steps:
        return chosen
    check_steps_can_be_replaced(chosen, f"forward_steps={options.forward_steps}", "forward_steps=0 or ")
    assert isinstance(chosen, StepMethod)
    return ForwardReplaced(chosen, options.forward_steps, options.forward_level)


def _problem(
    model: Denoiser, x_0: Tensor, grid: TimestepGrid, cond: Conditioning, options: InversionOptions
) -> Problem:
    noise = options.forward_noise
    return Problem(
        denoiser=model,
        grid=grid,
        cond={key: _usable(value) for key, value in cond.items()},
        x0_rule=options.x0_rule,
        sample_ids=range(len(x_0)) if options.sample_ids is None else options.sample_ids,
        spent=torch.zeros(len(x_0), dtype=torch.int64),
        x_0=_usable(x_0),
        noise=None if noise is None else _usable(noise.to(x_0)),
        reference={} if options.reference is None else options.reference,
        network_time=options.network_time,
        levels=options.levels,
        first_time=options.first_time,
    )


@torch.no_grad()
def reconstruct(
    model: Denoiser,
    latent: Tensor,
    grid: TimestepGrid,
    method: Method | str = "ddim",
    cond: Conditioning | None = None,
    *,
    carried: Carried | None = None,
    source_cond: Conditioning | None = None,
    **conventions: Any,
) -> Tensor:
    """Images of latents by the sampler that belongs to the method, (B, C, H, W); DDIM unless it has its own.

    Args:
      latent, carried: what `invert_with_report` returned.
      source_cond: the condition of the inversion, where `cond` is another one, as in edits; negative-prompt inversion
        is guided away from it.
      conventions: x0_rule, on_step and sample_ids of `InversionOptions`; its other fields say nothing here.
      Others as there.

    Raises:
      UsageError: a carried tensor that the method's sampler needs is missing; a grid with a level of pure noise and a
        model that predicts the noise alone; a model under guidance and a method that guides by itself.
      TypeError: a keyword that `InversionOptions` does not have.
    """
    options = InversionOptions(**conventions)
    chosen = inversion_method_named(method) if isinstance(method, str) else method
    _check_own_guidance(chosen, model)
    if not chosen.own_sampler:
        return generate(model, latent, grid, cond, x0_rule=options.x0_rule, on_step=options.on_step)
    check_levels(model, grid)
    latent, cond = working_precision(latent), {} if cond is None else cond
    given = {} if carried is None else {key: working_precision(value) for key, value in carried.items()}
    needed = chosen.carried_shapes(
        grid, tuple(latent.shape[1:]), {k: tuple(v.shape[1:]) for k, v in cond.items()}
    )
    if missing := sorted(set(needed) - set(given)):
        raise UsageError(
            f"the sampler of inversion method '{chosen.name}' needs {', '.join(missing)} beside the latent; pass "
            "carried= of its inversion."
        )
    ids = range(len(latent)) if options.sample_ids is None else options.sample_ids
    spent = torch.zeros(len(latent), dtype=torch.int64)
    dynamics = Dynamics(model, grid, cond, options.x0_rule, ids, spent, source_cond=source_cond)
    return chosen.reconstruct(dynamics, latent, given, options.on_step or (lambda record: None))


def _run_steps(method: StepMethod, problem: Problem, measured: Measurements) -> tuple[Tensor, Carried]:
    x, first_step = method.start(problem)
    moves = method.moves(problem, first_step)
    if not (method.own_grid or _on_grid(moves, problem.grid)):
        raise UsageError(
            f"inversion method '{method.name}' moves between levels that are not those of the sampler's grid; set "
            "own_grid = True in its class if it shall, or return moves of problem.grid."
        )
    state: Any = None

    def step(
        denoiser: Denoiser, x: Tensor, move: Transition, cond: Conditioning, rule: X0Rule
    ) -> tuple[Tensor, Tensor]:
        nonlocal state
        taken = method.step(problem, x, move, state)
        state = taken.state
        measured.note(move, x, taken)
        return taken.x, taken.eps

    records = walk(problem.denoiser, x, moves, x0_rule=problem.x0_rule, cond=problem.cond, step=step)
    return last_state(x, records, measured.record), method.carries(problem)


@torch.no_grad()
def _run_whole(method: WholeMethod, problem: Problem, measured: Measurements) -> tuple[Tensor, Carried]:
    moves = problem.grid.upward()

    def record(record: StepRecord) -> None:
        measured.note(moves[record.step - 1], record.x_from, Step(record.x_to, record.eps_t))
        measured.record(record)

    whole = method.invert_whole(problem, record)
    if whole.residual is not None:
        for column in range(whole.residual.shape[1]):
            measured.set_residual(column, whole.residual[:, column])
    if whole.fallback is not None:
        measured.fallback[:] = whole.fallback.to(torch.int8).cpu()
    return whole.latent, whole.carried


def _on_grid(moves: Sequence[Transition], grid: TimestepGrid) -> bool:
    levels = np.array([(level.signal_power, level.noise_power) for level in (*grid.upper_levels, PURE_NOISE)])
    # A grid may round its moves to float32, as recorded reference runs did.
    return all(
        np.isclose(levels, (move.stop.signal_power, move.stop.noise_power), rtol=1e-6, atol=1e-7).all(1).any()
        for move in moves
    )


def _check_needs(method: Method, problem: Problem) -> None:
    _check_own_guidance(method, problem.denoiser)
    if method.needs_noise and problem.noise is None:
        raise UsageError(
            f"inversion method '{method.name}' needs forward_noise; give standard normal numbers of shape "
            f"{tuple(problem.x_0.shape)}, or use another method."
        )
    if method.needs_text and not problem.cond:
        raise UsageError(
            f"inversion method '{method.name}' works on a text condition, and the model was given none; use a "
            "text-conditional model and its prompts."
        )


def _check_own_guidance(method: Method, model: Denoiser) -> None:
    scale = getattr(model, "guidance_scale", UNGUIDED)
    if method.own_guidance and scale != UNGUIDED:
        raise UsageError(
            f"inversion method '{method.name}' guides its own sampler (option guidance_scale), and the model is under "
            f"guidance of scale {scale:g} already; give it the model itself, or use another method."
        )


@contextlib.contextmanager
def _graph_allowed(needed: bool) -> Iterator[None]:
    """Leave inference mode for methods that differentiate; they still enable gradients only where they need them."""
    if not needed:
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def _usable(x: Tensor) -> Tensor:
    """x itself; a copy where it was made in inference mode and that mode has been left."""
    return x.clone() if x.is_inference() and not torch.is_inference_mode_enabled() else x
