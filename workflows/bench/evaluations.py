"""What is measured of a network with random weights: seconds of an evaluation, memory, rounding, the sampler's share.

Needs torch and diffusers alone, so that a machine without Ray or Zarr can be measured.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from taba_core.models.cards import Card
    from taba_core.models.network import Network
    from taba_core.models.profile import Profile

# Where in the schedule, as a share of its N training steps, predictions of two profiles are compared.
NOISE_LEVELS = (0.02, 0.25, 0.5, 0.75, 0.98)
ERROR_IMAGES = 2
SAMPLING_STEPS = 50
_LONG_ENOUGH = 0.7  # seconds of timed runs that are enough of them
_FEWEST, _MOST = 3, 12
_SLOW = 1.5  # seconds of an evaluation that need not be repeated as often

# Holds the device while something is timed, where other processes use it too.
Holding = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Entry:
    """One way to evaluate a network.

    Attributes:
      model: a name of `taba_core.models.architectures`.
      profile: numerical profile.
      batch: images in one evaluation.
      compiled: through torch.compile.
      channels_last: memory layout; None = as the profile has it.
    """

    model: str
    profile: str
    batch: int
    compiled: bool = False
    channels_last: bool | None = None

    @property
    def text(self) -> str:
        """For a line of a table: `adm-64 fast compiled @128`."""
        layout = {None: "", True: " channels-last", False: " channels-first"}[self.channels_last]
        return f"{self.model} {self.profile}{' compiled' if self.compiled else ''}{layout} @{self.batch}"

    def numerics(self) -> Profile:
        """The profile. Raises UsageError for an unknown one."""
        from taba_core.models.profile import profile_named

        profile = profile_named(self.profile, compile=self.compiled)
        if self.channels_last is None:
            return profile
        return replace(profile, channels_last=self.channels_last)


class Asked(Protocol):
    """What a network is asked about: states, conditions and times."""

    def states(self, count: int) -> Tensor:
        """Noise, (count, C, H, W), on the device."""

    def condition(self, count: int) -> dict[str, Tensor]:
        """What the network is conditioned on, `count` rows."""

    def time_at(self, share: float) -> float:
        """The network's time at a share of the training steps."""


class Subject:
    """A model's network with random weights, from which the networks of all its entries are made.

    Args:
      name: of the model.
      device: cpu or cuda.
      tiny: at toy size.
    Raises:
      UsageError: no architecture is known under this name, or there is no such device.
    """

    def __init__(self, name: str, device: str, *, tiny: bool = False) -> None:
        from taba_core.models.architectures import architecture_card, random_module

        self.name, self.device, self.tiny = name, device, tiny
        self.card: Card = architecture_card(name, tiny=tiny)
        self._module: Any = random_module(name, device=device, tiny=tiny)

    def network(self, profile: Profile, *, precision: str | None = None, last: bool = False) -> Network:
        """The network under a profile.

        Args:
          precision: that its card should state, in place of its own.
          last: whether it may have the weights that all are made from, which saves their memory.
        """
        from taba_core.models.architectures import network_of_module

        card = self.card.model_copy(update={"precision": precision or self.card.precision})
        module = self._module if last else copy.deepcopy(self._module)
        if last:
            self._module = None
        return network_of_module(card, module, device=self.device, profile=profile)

    @property
    def parameters(self) -> int:
        """Numbers among the weights."""
        return sum(parameter.numel() for parameter in self._module.parameters())

    @property
    def held_bytes(self) -> int:
        """Bytes of the float32 weights that all networks are made from; 0 where they were given away."""
        return 0 if self._module is None else 4 * self.parameters

    def states(self, count: int) -> Tensor:
        """Noise, (count, C, H, W), on the device."""
        import torch

        generator = torch.Generator().manual_seed(1)
        return torch.randn(count, *self.card.sample_shape, generator=generator).to(self.device)

    def condition(self, count: int) -> dict[str, Tensor]:
        """What the network is conditioned on, `count` rows."""
        from taba_core.models.architectures import random_condition

        return random_condition(self.name, count, self.device, tiny=self.tiny)

    def time_at(self, share: float) -> float:
        """The network's time at a share of the training steps."""
        return round(share * (self.card.schedule.N - 1)) * self.card.timestep_scale


def flop_per_image(name: str, *, tiny: bool = False) -> float:
    """Floating-point operations of one evaluation of one image, counted from the shapes alone, on any machine."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from taba_core.models.architectures import architecture_card, build_module, nested, random_condition

    cond = random_condition(name, 1, "meta", tiny=tiny)
    with torch.device("meta"):
        module = build_module(name, tiny=tiny).eval()
        x = torch.empty(1, *architecture_card(name, tiny=tiny).sample_shape)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(x, torch.zeros(1), **nested(cond))
    return float(counter.get_total_flops())


def time_entry(
    entry: Entry, subject: Subject, network: Network, *, hold: Holding = contextlib.nullcontext
) -> dict[str, Any]:
    """Seconds of an evaluation, of the first one too (which compiles), and the most device memory it took.

    Args:
      network: `subject.network(entry.numerics())`.
      hold: entered around what is timed, and around all that is not compiling.
    """
    import torch

    on_gpu = subject.device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    x, cond, t = subject.states(entry.batch), subject.condition(entry.batch), subject.time_at(0.5)

    def evaluate() -> float:
        wait(subject.device)
        begun = time.perf_counter()
        network.eps(x, t, cond)
        wait(subject.device)
        return time.perf_counter() - begun

    with torch.no_grad(), contextlib.ExitStack() as held:
        if not entry.compiled:
            held.enter_context(hold())
        first = evaluate()
        if entry.compiled:  # only now: for the minutes that compiling took, others had the device
            held.enter_context(hold())
        # The second call may still be slow: CUDA graphs are recorded in it.
        warm = evaluate()
        seconds = [warm] if warm > _SLOW or subject.tiny else []
        while not _enough(seconds, subject.tiny):
            seconds.append(evaluate())
    memory = torch.cuda.max_memory_allocated() - subject.held_bytes if on_gpu else None
    return {
        **asdict(entry),
        "status": "measured",
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "runs": len(seconds),
        "first_seconds": first,
        "peak_bytes": memory,
    }


def _enough(seconds: list[float], tiny: bool) -> bool:
    """Whether so many runs say how long one takes: of slow ones fewer do, of toys one."""
    if tiny or sum(seconds) > _FEWEST * _SLOW:
        return len(seconds) > 0
    return len(seconds) >= _FEWEST and (sum(seconds) >= _LONG_ENOUGH or len(seconds) >= _MOST)


def predictions(subject: Asked, network: Network) -> list[Tensor]:
    """Predicted noise of the same states at each of `NOISE_LEVELS`, float32 on the CPU."""
    import torch

    noise, cond = subject.states(ERROR_IMAGES), subject.condition(ERROR_IMAGES)
    # Smooth images: the same value in squares of four by four.
    image = (
        torch.nn.functional.avg_pool2d(noise.roll(1, 0), 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    )
    found = []
    with torch.no_grad():
        for share in NOISE_LEVELS:
            t = subject.time_at(share)
            level = network.schedule.level_at(t)
            found.append(network.eps(level.alpha * image + level.sigma * noise, t, cond).float().cpu())
    return found


def relative_errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """RMS of the difference over the RMS of the exact prediction, at each level."""
    return [
        float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())
        for ours, theirs in zip(found, exact, strict=True)
    ]


def sampler_overhead(
    subject: Subject, network: Network, batch: int, *, steps: int = SAMPLING_STEPS, repeats: int = 2
) -> dict[str, Any]:
    """Seconds of sampling, of as many bare calls of the network, and their ratio.

    The bare loop calls the network alone: no DDIM step, no rule for x_0, no look for NaN, and the device is waited for
    at its end only.
    """
    import torch

    from taba_core.diffusion import generate
    from taba_core.models.grids import timestep_grid

    grid, noise = timestep_grid(subject.card, steps), subject.states(batch)
    cond, rule = subject.condition(batch), subject.card.reference.sampling_x0_rule
    entering = noise.to(network.dtype)
    t = torch.full((batch,), subject.time_at(0.5), device=subject.device)

    def ours() -> None:
        generate(network, noise, grid, cond, x0_rule=rule)

    def bare() -> None:
        with network.profile.precision_of(network.device, network.precision):
            for _ in range(steps):
                network.output(entering, t, cond)

    def timed(side: Callable[[], None]) -> float:
        wait(subject.device)
        begun = time.perf_counter()
        side()
        wait(subject.device)
        return time.perf_counter() - begun

    with torch.no_grad():
        network.eps(noise, subject.time_at(0.5), cond)
        pairs = [(timed(ours), timed(bare)) for _ in range(repeats)]
    sampled, looped = (statistics.median(side) for side in zip(*pairs, strict=True))
    return {
        "model": subject.name,
        "profile": network.profile.name,
        "compiled": network.profile.compile,
        "batch": batch,
        "steps": steps,
        "sampler_seconds": sampled,
        "loop_seconds": looped,
        "ratio": sampled / looped,
    }


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def free_memory(device: str) -> None:
    """Give back what is no longer used."""
    import gc

    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


@contextlib.contextmanager
def failures_in(record: dict[str, Any]) -> Iterator[None]:
    """What goes wrong inside becomes the record's status: one entry that fails is no reason to lose the others."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        record["status"] = "out of memory"
    except Exception as error:  # the compiler raises whatever it stumbles over
        record["status"] = (
            f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )


def device_facts(device: str) -> Mapping[str, Any]:
    """Card, library and day: what a measured time is stated with."""
    import torch

    if device.startswith("cuda"):
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    else:
        name, memory = f"CPU, {torch.get_num_threads()} threads", None
    return {
        "card": name,
        "memory_bytes": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
