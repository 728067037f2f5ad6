"""Why do DDIM latents lack variance? (Appendix E, Figure 8)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.diffusion.ends import Held
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import REGIONS
from taba_core.stats.step_error import StepError
from taba_core.stats.verdict import all_positive, positive
from taba_core.theory import GaussianModes
from workflows.analysis.findings import Findings, for_each, interval_numbers, row_labels
from workflows.analysis.presentation import Section
from workflows.analysis.step_counts import divides
from workflows.analysis.step_law import StepLaw, step_laws
from workflows.analysis.step_rows import ROWS, step_error_requests
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.studies.derivation.flow_claims import find_flow_claims
from workflows.studies.derivation.formulas import DERIVATION, step_terms
from workflows.studies.derivation.views import figures_of, schematic, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

VARIANCES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SWEPT = tuple(float(v) for v in np.logspace(-6, 0, 61))
STEP_COUNTS = (10, 50, 100, 1000)
TOLERANCE = 1e-4  # of the round trip with recorded predictions, which float32 limits to about 1e-6
LAW_TOLERANCE = 0.15  # a mixture's state does not tell its component at every level
_CHECKED = 64  # images of the round trip


@register
class Derivation(Study):
    """The derivation with its numbers on the model's own levels, the law of one step, and a check of both."""

    name = "derivation"
    aliases = ("fig8", "appendix-e")
    title = "Why latents lack variance"
    question = (
        "What does the approximation of DDIM inversion cost in each step, and does that explain the latents?"
    )
    paper_section = "E"
    profile_statistics = ()
    paper_steps = 50
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Sums over every sample's predictions, and the paths that are walked back."""
        return step_error_requests(context, context.num_steps(self.paper_steps), at_least=_CHECKED)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Terms of the formulas, the law per mode and step, claims E1 to E3, and on a flow F1 to F6."""
        steps = context.num_steps(self.paper_steps)
        found = Findings()
        _find_round_trip(found, inputs, context, steps)
        laws = step_laws(context, steps)
        if laws and not laws[0].label.startswith("flat"):
            self._compare(found, inputs, context, laws[0])
        _find_terms(found, context, steps)
        find_flow_claims(found, context.grid(steps))
        return found.dataset()

    def _compare(self, found: Findings, inputs: Inputs, context: Context, law: StepLaw) -> None:
        """The law of all modes against the measured ratio over all entries."""
        of = inputs.reduce_rows(ROWS, StepError(), context.settings.bootstrap_replicates)
        measured = of["std_ratio"][REGIONS.index("all")]
        found.estimate("ratio", measured, ("step",))
        found.array("ratio_law", law.values, ("step",), long_name=law.label)
        first = 1 if context.name != "gaussian" else 0
        off = abs(measured[first:] / law.values[first:] - 1.0)
        found.claim(
            "E2",
            f"The law of one step, ρ_t = (1 - Q_t k_t)/P_t over all modes, is what is measured: within "
            f"{LAW_TOLERANCE:.0%} at every step t > {first}.",
            all_positive(LAW_TOLERANCE - off),
            interval_numbers("largest_deviation", off.map(np.max)),
        )

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """The derivation, the law per mode, Figure 8 and the law as curves."""
        labels = row_labels(results)
        return self.section(
            results,
            tables=for_each(tables_of, results, labels),
            figures=(schematic(), *for_each(figures_of, results, labels)),
        )


def _find_terms(found: Findings, context: Context, steps: int) -> None:
    grid = context.grid(steps)
    found.coordinate("variance", VARIANCES)
    found.coordinate("step", np.arange(1, steps + 1))
    found.coordinate("formula", [line.name for line in DERIVATION])
    terms = step_terms(VARIANCES, grid)
    numbers = np.full((len(DERIVATION), steps, len(VARIANCES)), np.nan)
    for line, formula in enumerate(DERIVATION):
        if formula.value is not None:
            numbers[line] = formula.value(terms)
    found.array("numbers", numbers, ("formula", "step", "variance"))
    modes = GaussianModes(np.array(VARIANCES), grid)
    if grid.schedule.is_flow:
        found.array("velocity_gain", terms.k, ("step", "variance"))
    found.array("law_visited", modes.sampled_step_ratio(), ("step", "variance"))
    found.array("law_marginal", modes.marginal_step_ratio(), ("step", "variance"))
    latent = modes.latent()
    found.array("latent_std", latent.std, ("variance",))
    found.array("latent_error", latent.expected_absolute_error, ("variance",))
    _find_latents(found, context)
    kept = np.abs(np.prod(terms.kept, axis=0))
    exact = float(np.max(np.abs(kept / latent.std - 1)))
    found.claim(
        "E3",
        "The deficits of the steps multiply to the latent: Π_t (1 - Q_t k_t (1 - ρ_t)) = std x̂_T, and is below 1.",
        "holds" if exact < 1e-9 and bool(np.all(kept < 1)) else "fails",
        {"variance": list(VARIANCES), "std": kept, "largest_relative_difference": exact},
    )


def _find_latents(found: Findings, context: Context) -> None:
    """Latent std of every mode at several T: where the deficit lies, and that more steps shrink it."""
    counts = [T for T in STEP_COUNTS if divides(context, T)]
    found.coordinate("inversion_steps", counts)
    found.coordinate("swept_variance", SWEPT)
    modes = [GaussianModes(np.array(SWEPT), context.grid(T)) for T in counts]
    for name, label in (("target", "target"), ("source", "source")):
        values = [m.latent(network_time=label).std for m in modes]  # type: ignore[arg-type]
        found.array(f"swept_std_{name}", values, ("inversion_steps", "swept_variance"))


def _find_round_trip(found: Findings, inputs: Inputs, context: Context, steps: int) -> None:
    """Invert with the recorded predictions in place of the network's (unit check of Eq. 7)."""
    grid = context.grid(steps)
    count = min(_CHECKED, inputs.num_samples)
    state = inputs.head("generation", "image", count).astype(np.float64)
    # In float64: a Python number times a float32 array would be rounded to float32.
    eps_t = inputs.head("paths", "eps_t", count).astype(np.float64)
    # Into pure noise a step forgets the state, so on a flow the states of the way are compared too.
    path = inputs.head("paths", "x_t", count) if grid.schedule.is_flow else None
    off = 0.0
    for step, (lower, upper) in enumerate(zip(grid.lower_levels, grid.upper_levels, strict=True)):
        P, Q = Held.NOISE.coefficients(lower, upper)
        state = P * state + Q * eps_t[:, step]
        if path is not None:
            off = max(off, float(np.max(np.abs(state - path[:, step]))))
    off = max(off, float(np.max(np.abs(state - inputs.head("generation", "noise", count)))))
    compared = "max |x̂_T - x_T|" if path is None else "max |x̂_t - x_t| of all t"
    clipped = context.conventions.sampling_x0_rule in ("clip", "dynamic")
    found.claim(
        "E1",
        f"With the sampler's own predictions the inverse is exact: {compared} ≤ {TOLERANCE:g}.",
        positive(Estimate.exact(TOLERANCE - off)),
        {"largest_difference": off, "images": count},
        "Sampling moves the predicted x_0 without deriving ε from it again, so its steps are not Eq. 6."
        if clipped and off > TOLERANCE
        else "",
    )
