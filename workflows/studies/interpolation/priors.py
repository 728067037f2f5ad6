"""What is interpolated: pairs of noises, of plain latents, and of repaired latents; and the points between them."""

from __future__ import annotations

from dataclasses import dataclass

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.interpolation import Interpolation
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.conventions import ForwardLevel
from taba_core.errors import UsageError
from workflows.analysis.step_counts import replaced_steps
from workflows.configuration.context import Context
from workflows.studies.interpolation.options import InterpolationOptions

NOISE, LATENT = "noise", "latent"
End = Generation | Reconstruction


@dataclass(frozen=True)
class Prior:
    """Two sets of starting states, pair i the i-th of both, by what the sampler makes of them.

    Attributes:
      name: "noise", "latent", or "latent-K-RULE" of repaired latents.
      first, second: the images at the ends.
    """

    name: str
    first: End
    second: End

    def at(self, point: int, points: int, *, by_row: bool) -> Interpolation | End:
        """The images at point 0, ..., points - 1 of the path; those of the ends are there without interpolating."""
        if point in (0, points - 1):
            return self.second if point else self.first
        return Interpolation(first=self.first, second=self.second, weight=point / (points - 1), by_row=by_row)


def options(context: Context) -> InterpolationOptions:
    """The study's options under the user's settings."""
    return context.options(InterpolationOptions)


def title_of(prior: str) -> str:
    """What tables and figures call a prior."""
    kind, _, repaired = prior.partition("-")
    if not repaired:
        return {NOISE: "Noise", LATENT: "Latent"}[kind]
    count, rule = repaired.split("-")
    return f"K={count}, {rule}"


def generations(context: Context, steps: int) -> tuple[Generation, Generation]:
    """The images of both ends, from independent noises.

    Raises:
      UsageError: both ends would have one seed; real images, which came from no noise.
    """
    first, seed = context.generation(steps), options(context).second_seed
    if seed == first.seed:
        raise UsageError(
            f"interpolation.second_seed={seed} is the seed of the first end too, so that a pair would be one sample; "
            "use another: --set interpolation.second_seed=NUMBER."
        )
    return first, first.altered(seed=seed)


def other_samples(context: Context, steps: int) -> dict[str, Generation]:
    """Two further sets of samples, to compare with where there are no real images."""
    first, second = generations(context, steps)
    free = [seed for seed in range(4) if seed not in (first.seed, second.seed)]
    return {of: first.altered(seed=seed) for of, seed in zip(("real", "other"), free, strict=False)}


def priors(context: Context, steps: int) -> dict[str, Prior]:
    """Noises, plain latents, and latents of every K and rule, of which a method without steps to replace has none.

    Raises:
      UsageError: what cannot be interpolated: one noise at both ends, or a method that carries more than its latent.
    """
    first, second = generations(context, steps)
    found = {NOISE: Prior(NOISE, first, second), LATENT: _latents(context, LATENT, (first, second))}
    for rule, count in _repairs(context, steps):
        name = f"{LATENT}-{count}-{rule}"
        found[name] = _latents(context, name, (first, second), count, rule)
    return found


def _repairs(context: Context, steps: int) -> list[tuple[ForwardLevel, int]]:
    counts = replaced_steps(context, steps, options(context), "forward_steps")
    try:
        context.chosen.check_wraps(counts[0])
    except UsageError:
        if "forward_steps" in options(context).model_fields_set:
            raise
        return []
    return [(rule, count) for count in counts for rule in context.forward_rules]


def _latents(
    context: Context,
    name: str,
    ends: tuple[Generation, Generation],
    count: int = 0,
    rule: ForwardLevel | None = None,
) -> Prior:
    first, second = (context.inversion(end, count, rule) for end in ends)
    if first.carried:
        raise UsageError(
            f"inversion method '{context.method}' carries {', '.join(sorted(first.carried))} beside the latent, and "
            "nothing says what lies between those of two images; use a method that carries nothing, such as ddim."
        )
    if first.forward_steps or first.draws_noise:
        seed = options(context).second_forward_seed
        if seed == first.forward_seed:
            raise UsageError(
                f"interpolation.second_forward_seed={seed} is the forward_seed of the first end too, and one noise in "
                "both latents of a pair makes them alike; use another: --set interpolation.second_forward_seed=NUMBER."
            )
        second = second.altered(forward_seed=seed)
    return Prior(name, context.reconstruction(first), context.reconstruction(second))
