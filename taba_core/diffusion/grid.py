"""Timestep grids: which levels of noise a sampler visits, and what each step of either direction means.

Levels l = 0..T: level 0 is the clean image, level T the noise; step l joins level l-1 and level l. Every
choice of an index (offset, ends, whose time the network is given, how far forward replacement noises) is made
here, on the timesteps that `spacing` places, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from taba_core.conventions import FirstTime, ForwardLevel, Levels, NetworkTime, no_time_of_the_clean_image
from taba_core.diffusion.level import Level
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.diffusion.spacing import FLOW_STYLES, GridStyle, flow_sigmas, place_timesteps
from taba_core.errors import UsageError, unknown_name

FinalAlphaBar = Literal["one", "first"]
CLEAN, PURE_NOISE = Level(1.0, 0.0), Level(0.0, 1.0)


@dataclass(frozen=True)
class Transition:
    """One move between two noise levels.

    Attributes:
      step: l, 1..T, whatever the direction.
      start, stop: level the state is taken to have, and level it is moved to.
      network: level whose time the network is given.
    """

    step: int
    start: Level
    stop: Level
    network: Level

    @property
    def network_time(self) -> float:
        """What the network is given."""
        assert self.network.time is not None
        return self.network.time

    @property
    def asked(self) -> Level:
        """Alpha and sigma of the state the move starts from, and the time the network is given."""
        return self.start.at(self.network.time)

    @property
    def asked_beyond(self) -> Level:
        """Alpha and sigma of the level the move ends at, and that time, to ask about a guess of the next state."""
        return self.stop.at(self.network.time)

    def reversed(self) -> Transition:
        """The move back, the network at the same time."""
        return replace(self, start=self.stop, stop=self.start)


@dataclass(frozen=True, eq=False)
class TimestepGrid:
    """The levels of one sampler. Build it with `TimestepGrid.build`.

    Attributes:
      schedule: the training schedule.
      timesteps: (T,), int64, ascending training timesteps tau_1..tau_T.
      source_timesteps: (T,), int64, training timestep of the lower level of each step; negative = level 0.
      level_zero: level 0, the clean image or that of training timestep 0; it has no time of its own.
    """

    schedule: NoiseSchedule
    timesteps: NDArray[np.int64]
    source_timesteps: NDArray[np.int64]
    level_zero: Level

    @classmethod
    def build(
        cls,
        schedule: NoiseSchedule,
        num_inference_steps: int,
        style: GridStyle = "diffusers-leading",
        steps_offset: int = 0,
        final_alpha_bar: FinalAlphaBar = "one",
    ) -> TimestepGrid:
        """Place T steps on a training schedule of N timesteps.

        - diffusers-leading: tau_l = steps_offset + (l-1) floor(N/T).
        - diffusers-trailing: tau_l = round(N - (T-l) N/T) - 1; the lower level of a step is
          tau_l - floor(N/T) even where that is no grid point, in both directions (as DDIMScheduler and
          DDIMInverseScheduler).
        - guided: tau_l = (l-1) i with the smallest stride i such that ceil(N/i) = T (`ddimT` of
          guided-diffusion).
        - shifted, sd3-default: levels of a flow's own, not those of its training timesteps (`spacing.flow_sigmas`).

        Args:
          final_alpha_bar: level 0 is alpha_bar 1 ("one") or that of training timestep 0 ("first").

        Raises:
          UsageError: the schedule has no such grid; the message names one that exists.

        >>> grid = TimestepGrid.build(NoiseSchedule.linear(), 50)
        >>> grid.timesteps[:4].tolist(), grid.alpha_bar[:3].round(4).tolist()
        ([0, 20, 40, 60], [1.0, 0.9999, 0.9937])
        >>> [move.step for move in grid.upward(47)]
        [48, 49, 50]
        """
        if final_alpha_bar not in get_args(FinalAlphaBar):
            raise unknown_name("final_alpha_bar", final_alpha_bar, get_args(FinalAlphaBar))
        if style in FLOW_STYLES:
            return FlowGrid.of_style(schedule, num_inference_steps, style, steps_offset, final_alpha_bar)
        N = schedule.num_train_timesteps
        timesteps, sources = place_timesteps(N, num_inference_steps, style, steps_offset)
        level_zero = CLEAN if final_alpha_bar == "one" else schedule.level(0).at(None)
        return cls(schedule, timesteps, sources, level_zero)

    @property
    def num_inference_steps(self) -> int:
        """T."""
        return len(self.timesteps)

    @property
    def network_times(self) -> NDArray[np.float64]:
        """What the network is given at levels 1..T, (T,)."""
        times = self.schedule.times
        assert times is not None, "a schedule sets its times when it is made"
        return times[self.timesteps]

    @cached_property
    def lower_levels(self) -> tuple[Level, ...]:
        """The cleaner end of steps 1..T."""
        return tuple(self.schedule.level(t) if t >= 0 else self.level_zero for t in self.source_timesteps)

    @cached_property
    def upper_levels(self) -> tuple[Level, ...]:
        """The noisier end of steps 1..T."""
        return tuple(self.schedule.level(t) for t in self.timesteps)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Levels 0..T."""
        return (self.lower_levels[0], *self.upper_levels)

    @property
    def lower_alpha_bar(self) -> NDArray[np.float64]:
        """alpha_bar of the cleaner end of steps 1..T, (T,)."""
        return np.array([level.alpha_bar for level in self.lower_levels])

    @property
    def upper_alpha_bar(self) -> NDArray[np.float64]:
        """alpha_bar of the noisier end of steps 1..T, (T,)."""
        return np.array([level.alpha_bar for level in self.upper_levels])

    @property
    def alpha_bar(self) -> NDArray[np.float64]:
        """a_0..a_T, (T+1,): alpha_bar of every level."""
        return np.array([level.alpha_bar for level in self.levels])

    def downward(self) -> list[Transition]:
        """Sampling: l = T..1 from level l to level l-1, the network at the time of level l."""
        steps = enumerate(zip(self.lower_levels, self.upper_levels, strict=True), start=1)
        return [Transition(step, upper, lower, upper) for step, (lower, upper) in steps][::-1]

    def upward(
        self,
        first_step: int = 0,
        *,
        network_time: NetworkTime = "target",
        levels: Levels = "exact",
        first_time: FirstTime = "one",
    ) -> list[Transition]:
        """Inversion: l = first_step+1..T upwards; the first `first_step` transitions are skipped.

        - levels=exact, network_time=target: level l-1 to l, network at the time of level l (paper, Eq. 3).
        - levels=exact, network_time=source: the same levels, network at the time of level l-1; step 1 has no
          source time below the grid and uses that of level 1 (first_time=one), or on a flow the time of level 0
          itself (first_time=zero), where the noise is unknowable and the best velocity is -x_0.
        - levels=shifted, network_time=source: level l to l+1 with alpha = 0 at level T+1, network at the time of
          level l (the reverse process of guided-diffusion; the clean image is taken to be at level 1).

        Raises:
          UsageError: first_step is not in 0..T, levels=shifted with network_time=target, or first_time=zero on levels
            that are no flow.
        """
        T = self.num_inference_steps
        self._check_steps("first_step", first_step)
        _check_convention(network_time, levels)
        moves = [self._up(i, network_time, levels) for i in range(first_step, T)]
        if first_time not in get_args(FirstTime):
            raise unknown_name("first_time", first_time, get_args(FirstTime))
        if first_time == "zero" and network_time == "source" and levels == "exact" and first_step == 0:
            moves[0] = replace(moves[0], network=self._level_zero_of_a_flow())
        return moves

    def replacement_level(
        self,
        forward_steps: int,
        forward_level: ForwardLevel = "exact",
        levels: Levels = "exact",
        network_time: NetworkTime = "target",
    ) -> Level:
        """Level to which the clean image is noised when K = `forward_steps` inversion steps are replaced.

        - exact: the level step K+1 takes its state to have, level K (paper, Eq. 5; the SDXL path).
        - matched: the level of the network time of step K+1, level K+1; for K = T the last training timestep
          (the DiT, LDM and IF paths). One level noisier than step K+1 assumes. With source times the level of that
          time is level K, so that matched is exact.
        - levels=shifted: both are level K+1, which is what the shifted step K+1 assumes; for K = T pure
          noise, alpha 0 (guided-diffusion itself indexes out of range there).

        K = 0 replaces nothing and adds no noise: alpha 1.

        Raises:
          UsageError: forward_steps is not in 0..T.
        """
        K, T = forward_steps, self.num_inference_steps
        self._check_steps("forward_steps", K)
        if forward_level not in get_args(ForwardLevel):
            raise unknown_name("forward_level", forward_level, get_args(ForwardLevel))
        if K == 0:
            return CLEAN
        if levels == "shifted":
            return self.upper_levels[K] if K < T else PURE_NOISE
        if forward_level == "matched" and (network_time == "target" or K == T):
            return self.upper_levels[K] if K < T else self.schedule.level(-1)
        return self.lower_levels[K] if K < T else self.upper_levels[-1]

    def steps_of(self, text_or_number: str | int | float) -> int:
        """Number of steps K from a count (2, "2") or a fraction of T (0.04, "0.04", "4%").

        Text with a point or a percent sign and every float is a fraction.

        Raises:
          UsageError: no number, outside 0..T, or a fraction that is no whole number of steps.
        """
        T = self.num_inference_steps
        count, fraction = _parse_steps(text_or_number)
        if count is not None:
            self._check_steps("forward_steps", count)
            return count
        steps = fraction * T
        if not 0 <= fraction <= 1:
            raise UsageError(
                f"forward_fraction={fraction:g} is not in 0 to 1. "
                f"Give a fraction, or a count of steps without a point, 0 to {T}."
            )
        if abs(steps - round(steps)) > 1e-9 * T:
            raise UsageError(
                f"forward_fraction={fraction:g} of num_inference_steps={T} is {steps:g} steps; "
                f"it must be whole. Use a multiple of {1 / T:g}."
            )
        return round(steps)

    def _up(self, i: int, network_time: NetworkTime, levels: Levels) -> Transition:
        lower, upper = self.lower_levels[i], self.upper_levels[i]
        if levels == "shifted":
            beyond = self.upper_levels[i + 1] if i + 1 < self.num_inference_steps else PURE_NOISE
            return Transition(i + 1, upper, beyond, upper)
        by_source = network_time == "source" and lower.time is not None
        return Transition(i + 1, lower, upper, lower if by_source else upper)

    def _level_zero_of_a_flow(self) -> Level:
        """Level 0 with its own time, which only a straight flow has."""
        if not self.schedule.is_flow:
            raise UsageError(no_time_of_the_clean_image())
        return self.level_zero.at(self.level_zero.sigma * self.schedule.duration)

    def _check_steps(self, field: str, value: int) -> None:
        T = self.num_inference_steps
        if not 0 <= value <= T:
            raise UsageError(f"{field}={value} of num_inference_steps={T}; use 0 to {T}.")


@dataclass(frozen=True, eq=False)
class FlowGrid(TimestepGrid):
    """Levels of a flow that are its own: a flow is continuous, and its network is asked at any time.

    `timesteps` and `source_timesteps` are the training timesteps nearest to the levels.

    Attributes:
      sigmas: (T,), float64, s_1..s_T, ascending to 1.
    """

    sigmas: NDArray[np.float64]

    @classmethod
    def of_style(
        cls,
        schedule: NoiseSchedule,
        num_inference_steps: int,
        style: GridStyle,
        steps_offset: int = 0,
        final_alpha_bar: FinalAlphaBar = "one",
    ) -> FlowGrid:
        """The grid of a flow schedule, from the clean image to pure noise.

        Raises:
          UsageError: a schedule that is no flow, an offset, another last level than the clean image, or T outside
            1..N.
        """
        if schedule.shift is None:
            raise UsageError(
                f"grid style '{style}' has levels of a flow, and the noise schedule is none; use diffusers-leading, "
                "diffusers-trailing or guided."
            )
        if steps_offset or final_alpha_bar != "one":
            raise UsageError(
                f"steps_offset={steps_offset} and final_alpha_bar={final_alpha_bar} with grid style '{style}': its "
                "levels end at the clean image; use steps_offset=0 and final_alpha_bar=one."
            )
        N = schedule.num_train_timesteps
        s = flow_sigmas(N, num_inference_steps, style, schedule.shift)
        trained = np.sqrt(schedule.noise_power)
        nearest = np.abs(trained[None] - s[:, None]).argmin(axis=1)
        return cls(schedule, nearest, np.concatenate([[-1], nearest[:-1]]), CLEAN, s)

    @property
    def network_times(self) -> NDArray[np.float64]:
        """In proportion to s, (T,)."""
        times: NDArray[np.float64] = self.sigmas * self.schedule.duration
        return times

    @cached_property
    def lower_levels(self) -> tuple[Level, ...]:
        """The cleaner end of steps 1..T."""
        return (self.level_zero, *self.upper_levels[:-1])

    @cached_property
    def upper_levels(self) -> tuple[Level, ...]:
        """The noisier end of steps 1..T."""
        return tuple(Level.flow(s, s * self.schedule.duration) for s in self.sigmas.tolist())


def _check_convention(network_time: NetworkTime, levels: Levels) -> None:
    if network_time not in get_args(NetworkTime):
        raise unknown_name("network_time", network_time, get_args(NetworkTime))
    if levels not in get_args(Levels):
        raise unknown_name("levels", levels, get_args(Levels))
    if levels == "shifted" and network_time != "source":
        raise UsageError(
            "levels=shifted treats the state as the level of the network's own time, so it needs "
            "network_time=source; set both, or levels=exact."
        )


def _parse_steps(given: str | int | float) -> tuple[int | None, float]:
    """(count, 0) for a count, (None, fraction) for a fraction."""
    text = str(given).strip()
    try:
        if text.endswith("%"):
            return None, float(text[:-1]) / 100
        if isinstance(given, float) or "." in text:
            return None, float(text)
        return int(text), 0.0
    except ValueError:
        raise UsageError(
            f"forward_steps='{given}' is no number of steps; "
            "give a count (2), a fraction (0.04) or a percentage (4%)."
        ) from None
