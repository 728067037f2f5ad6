"""Claims FM1 to FM14: what replacing, solving or reordering steps does to the latents of a flow, on intervals.

They were worked out in closed form for modes of variance 1e-4 (plain areas) and 1 (the rest); the numbers in their
statements are bounds, not those closed forms. On a trained network signs and orders count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from taba_core.stats.estimate import Estimate
from workflows.analysis.findings import Findings
from workflows.studies.flows.options import FLUX_1024, SD3
from workflows.studies.flows.variants import BESIDE, Case

PLAIN, REST = 0, 1
_NARROW, _WIDE = 0.9, 1.05  # of a latent's standard deviation, that of noise is 1
_MOST = 0.5  # of the logarithm of what a latent lacks
_RAISED, _LITTLE = 0.2, 0.1  # by replaced steps
_HALF = 0.5  # of the error of steps that carry the velocity
_TIMES = 3.0  # errors of a flow over those of a variance-preserving model
_SHARE = 0.3  # of the noise in a latent that is given
_DIFFERENT = 0.5  # of the spread of the images
_LATER = 4  # from this step on predictions are better than in the worst one


@dataclass(frozen=True)
class Evidence:
    """What claims are read from.

    Attributes:
      found: where they are kept.
      rows: estimates by row name.
      cases: those of the study.
      steps: all T, ascending.
      noise_correlation, floor: of the noise that images came from, and expected of white noise.
    """

    found: Findings
    rows: Mapping[str, Mapping[str, Estimate]]
    cases: tuple[Case, ...]
    steps: tuple[int, ...]
    noise_correlation: Estimate
    floor: float

    def of(self, case: str, variant: str, measure: str, steps: int | None = None) -> Estimate | None:
        """One measure of one variant, at the smallest T unless said; None where it was not asked."""
        row = self.rows.get(f"{case}/{self.steps[0] if steps is None else steps}/{variant}")
        return None if row is None else row.get(measure)

    def std(self, case: str, variant: str, region: int = PLAIN, steps: int | None = None) -> Estimate | None:
        """Standard deviation of the latents of a region."""
        found = self.of(case, variant, "std", steps)
        return None if found is None else found[region]

    def rmse(self, case: str, variant: str, region: int = REST, steps: int | None = None) -> Estimate | None:
        """Error of the reconstructions in a region."""
        found = self.of(case, variant, "rmse", steps)
        return None if found is None else found[region]

    @property
    def flows(self) -> tuple[Case, ...]:
        """The levels of the flow."""
        return tuple(case for case in self.cases if case.shift is not None)

    def claim(self, id: str, statement: str, margins: Mapping[str, Estimate | None]) -> None:
        """Test that every margin is above 0, where all that it compares was asked for."""
        known = {name: margin for name, margin in margins.items() if margin is not None}
        if len(known) < len(margins) or not known:
            return
        self.found.claim_margins(
            id,
            statement,
            known,
        )


def find_claims(evidence: Evidence) -> None:
    """Test every claim on inversions whose levels and steps were asked for."""
    _spread(evidence)
    _replacement(evidence)
    _carried_noise(evidence)
    _orders(evidence)
    _given_latents(evidence)
    _correlation(evidence)


def less(larger: Estimate | None, smaller: Estimate | float | None) -> Estimate | None:
    """larger - smaller; None where one was not asked for."""
    return None if larger is None or smaller is None else larger - smaller


def _spread(e: Evidence) -> None:
    places = [(case, T) for case in e.flows for T in e.steps]
    narrow = {}
    for case, T in places:
        plain, rest = (e.std(case.name, "euler", region, T) for region in (PLAIN, REST))
        narrow[f"{case.name}, T={T}, rest - plain"] = less(rest, plain)
        narrow[f"{case.name}, T={T}, {_NARROW} - plain"] = None if plain is None else _NARROW - plain
    e.claim(
        "FM1",
        f"On all levels latents of plain areas have a smaller spread than those of the rest, and less than {_NARROW}.",
        narrow,
    )
    shifted = sorted((c for c in e.flows if c.name != SD3), key=lambda case: case.shift or 0.0)
    orders = {
        f"T={T}: {one.name} - {other.name}": less(
            e.std(one.name, "euler", PLAIN, T), e.std(other.name, "euler", PLAIN, T)
        )
        for T in e.steps
        for one, other in pairwise(shifted)
    }
    if len(e.steps) > 1:
        orders |= {
            f"{case.name}: T={e.steps[-1]} - T={e.steps[0]}": less(
                e.std(case.name, "euler", PLAIN, e.steps[-1]), e.std(case.name, "euler", PLAIN)
            )
            for case in shifted
        }
    e.claim(
        "FM2",
        "A larger shift narrows the latents of plain areas, and more steps widen them (of this network on the levels "
        "of others; of FLUX.1 and SD 3 themselves: --model flux-dev, sd35-medium).",
        orders,
    )


def _replacement(e: Evidence) -> None:
    def gained(case: str, variant: str) -> Estimate | None:
        return less(e.std(case, variant), e.std(case, "euler"))

    little = gained(SD3, "exact-1")
    e.claim(
        "FM5",
        f"One step replaced by the exact rule widens plain areas by more than {_RAISED} on FLUX's levels and by less "
        f"than {_LITTLE} on those of SD 3, where two steps do by more than {_RAISED}.",
        {
            "FLUX, K=1": less(gained(FLUX_1024, "exact-1"), _RAISED),
            "SD 3, K=1": None if little is None else _LITTLE - little,
            "SD 3, K=2": less(gained(SD3, "exact-2"), _RAISED),
        },
    )
    shifted = [case.name for case in e.flows if case.name in ("3", FLUX_1024)]
    e.claim(
        "FM6",
        f"On shifted levels one step replaced by the matched rule makes plain areas wider than noise, above {_WIDE}.",
        {name: less(e.std(name, "matched-1"), _WIDE) for name in shifted},
    )
    e.claim(
        "FM7",
        "After one replaced step on FLUX's levels source times give plain areas a larger spread than target times, and "
        "the rest comes back less well.",
        {
            "std, plain": less(e.std(FLUX_1024, "source-1"), e.std(FLUX_1024, "exact-1")),
            "RMSE, rest": less(e.rmse(FLUX_1024, "source-1"), e.rmse(FLUX_1024, "exact-1")),
        },
    )
    off = {
        name: None if std is None else abs(std - 1.0)
        for name in ("exact-1-fixed-point", "exact-1", "fixed-point")
        for std in [e.std(FLUX_1024, name)]
    }
    e.claim(
        "FM8",
        "On FLUX's levels one replaced step and then a fixed point of 5 evaluations bring plain areas nearer to noise "
        "than the replaced step, and that nearer than the fixed point alone.",
        {
            "K=1 over both": less(off["exact-1"], off["exact-1-fixed-point"]),
            "fixed point over K=1": less(off["fixed-point"], off["exact-1"]),
        },
    )


def _carried_noise(e: Evidence) -> None:
    margins: dict[str, Estimate | None] = {}
    for case in (case for case in e.flows if case.name in (FLUX_1024, SD3)):
        for T in e.steps:
            place = f"{case.name}, T={T}"
            ours, theirs = (e.rmse(case.name, name, REST, T) for name in ("noise-vp", "euler"))
            margins[f"{place}: RMSE, rest"] = None if theirs is None else less(theirs * _HALF, ours)
            std = [e.std(case.name, name, PLAIN, T) for name in ("euler", "noise-vp")]
            margins[f"{place}: std, plain"] = less(*std)
    e.claim(
        "FM9",
        "Steps that carry the noise as those of a variance-preserving model bring the rest back with at most half the "
        "error of steps that carry the velocity, and leave plain areas narrower.",
        margins,
    )


def _orders(e: Evidence) -> None:
    most = e.steps[-1]
    beside = e.rmse(BESIDE, "euler", REST, most)
    flows = {case.name: e.rmse(case.name, "euler", REST, most) for case in e.flows}
    e.claim(
        "FM10",
        f"At T = {most} the rest comes back from a flow with more than {_TIMES:g} times the error of the "
        "variance-preserving model beside it.",
        {name: None if beside is None else less(value, beside * _TIMES) for name, value in flows.items()},
    )
    chain = ("fireflow", "rf-solver", "euler", "fireflow-few")
    std = [e.std(FLUX_1024, name, PLAIN, most) for name in chain]
    e.claim(
        "FM11",
        f"At about {most} evaluations on FLUX's levels plain areas are widest by FireFlow, then RF-Solver, then Euler; "
        "FireFlow at a fifth of them is below all.",
        {f"{one} - {other}": less(a, b) for (one, a), (other, b) in pairwise(zip(chain, std, strict=True))},
    )


def _given_latents(e: Evidence) -> None:
    rf = "rf-inversion"
    margins: dict[str, Estimate | None] = {}
    for region, name in ((PLAIN, "plain"), (REST, "rest")):
        std = e.std(FLUX_1024, rf, region)
        margins[f"{name}: std - {_NARROW}"] = less(std, _NARROW)
        margins[f"{name}: {_WIDE} - std"] = None if std is None else _WIDE - std
        shared = e.of(FLUX_1024, rf, "noise_correlation")
        margins[f"{name}: {_SHARE} - correlation with the noise"] = (
            None if shared is None else _SHARE - shared[region]
        )
    apart, spread = (e.of(FLUX_1024, rf, name) for name in ("apart", "image_std"))
    margins["images of two y apart"] = (
        None if apart is None or spread is None else apart[REST] - spread[REST] * _DIFFERENT
    )
    e.claim(
        "FM12",
        f"RF-Inversion's latents have the spread of noise everywhere, {_NARROW} to {_WIDE}, and a correlation with the "
        f"noise of the image below {_SHARE}: they are given. Euler makes other images of two draws, further apart than "
        f"{_DIFFERENT:.0%} of the images' spread.",
        margins,
    )
    e.claim(
        "FM13",
        "DNAEdit's latents of plain areas have a larger spread than UniInv's, and the rest comes back less well.",
        {
            "std, plain": less(e.std(FLUX_1024, "dnaedit"), e.std(FLUX_1024, "uni-inv")),
            "RMSE, rest": less(e.rmse(FLUX_1024, "dnaedit"), e.rmse(FLUX_1024, "uni-inv")),
        },
    )


def _correlation(e: Evidence) -> None:
    margins: dict[str, Estimate | None] = {}
    for case, repaired in ((FLUX_1024, "exact-1"), (SD3, "exact-2")):
        plain, fixed = (e.of(case, name, "correlation") for name in ("euler", repaired))
        margins[f"{case}: above noise"] = less(plain, e.noise_correlation)
        margins[f"{case}: nearer by {repaired}"] = (
            None if plain is None or fixed is None else abs(plain - e.floor) - abs(fixed - e.floor)
        )
    e.claim(
        "FM14",
        "Latents of Euler steps are correlated above noise; one replaced step on FLUX's levels, and two on those of SD "
        "3, bring the correlation nearer to its floor.",
        margins,
    )


def find_step_claims(
    found: Findings, cases: tuple[Case, ...], shares: Mapping[str, Estimate], errors: Mapping[str, Estimate]
) -> None:
    """Claims FM3 and FM4: which step makes the loss, and where in the image."""

    def worst(case: Case) -> int:
        return 2 if case.name == SD3 else 1

    of_share = {
        f"{case.name}, step {worst(case)}": shares[case.name][worst(case) - 1] - _MOST for case in cases
    }
    found.claim_margins(
        "FM3",
        f"One step that carries what the sampler carried gives plain areas back more than {_MOST:.0%} of the logarithm "
        "of what they lack: the first one, and on the levels of SD 3 the second.",
        of_share,
    )
    margins = {}
    for case in cases:
        error, step = errors[case.name], worst(case)
        here = error[PLAIN, step - 1]
        margins[f"{case.name}: plain - rest, step {step}"] = here - error[REST, step - 1]
        later = error[PLAIN, _LATER - 1 :]
        margins[f"{case.name}: step {step} - the largest from {_LATER} on"] = here - later.map(
            lambda x: x.max()
        )
    found.claim_margins(
        "FM4",
        f"In that step the inversion's prediction is further off in plain areas than in the rest, and further than in "
        f"any step from {_LATER} on.",
        margins,
    )
