"""What is compared: levels of a flow and a model beside it (cases), and inversions of their images (variants)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.conventions import ForwardLevel
from taba_core.errors import UsageError
from taba_core.models.options import LEVELS
from workflows.configuration.context import Context
from workflows.configuration.method import ChosenMethod
from workflows.studies.flows.options import AUTO, FLUX_512, FLUX_1024, NONE, SD3, FlowsOptions, levels_named

# What every inversion of the study has unless its variant says otherwise, whatever the preset is.
_CONVENTIONS: Mapping[str, Any] = {
    "network_time": "target",
    "levels": "exact",
    "first_time": "one",
    "held": "auto",
    "inversion_x0_rule": "none",
    "sampling_x0_rule": "none",
}
BESIDE = "beside"  # name of the case of the variance-preserving model
EULER, SOURCE, NOISE_VP = "euler", "source", "noise-vp"
EXACT, MATCHED = "exact", "matched"
SWAPPED = (1, 2)  # steps that alone carry what the sampler carried
FIXED_POINT = {"num_evaluations": 5}


@dataclass(frozen=True)
class Variant:
    """One inversion of the images of a case.

    Attributes:
      name: in requests and results.
      label: as tables call it.
      method, options: the inversion method.
      forward_steps, rule: K first steps replaced, under which rule.
      settings: conventions and seeds other than the study's.
      steps: T of the inversion and its reconstruction; None = that of the images.
      swapped: the step that carries what the sampler carried; 0 is none.
    """

    name: str
    label: str
    method: str = "ddim"
    options: Mapping[str, Any] = field(default_factory=dict)
    forward_steps: int = 0
    rule: ForwardLevel = "exact"
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    swapped: int = 0

    def inversion(self, context: Context, images: Generation) -> Inversion:
        """The artifact, of images of that context."""
        own = with_settings(context, {**_CONVENTIONS, **self.settings})
        chosen = ChosenMethod(self.method, self.options)
        made = own.inversion(images, self.forward_steps, self.rule, self.steps, chosen)
        return made.altered(swapped_step=self.swapped) if self.swapped else made


@dataclass(frozen=True)
class Case:
    """A model on levels.

    Attributes:
      name, label: in results, and as tables call it.
      context: the study's, with the model and its levels.
      shift: q; None of a model that is no flow.
    """

    name: str
    label: str
    context: Context
    shift: float | None

    @cached_property
    def sampler(self) -> Context:
        """The context of its images."""
        return with_settings(self.context, _CONVENTIONS)

    def images(self, steps: int) -> Generation:
        """Its images, sampled in T steps."""
        return self.sampler.generation(steps)


@dataclass(frozen=True)
class Row:
    """One inversion of the images of one case at one T."""

    case: Case
    steps: int
    variant: Variant

    @property
    def place(self) -> str:
        """Name of case and T in requests."""
        return f"{self.case.name}/{self.steps}"

    @property
    def name(self) -> str:
        """In results."""
        return f"{self.place}/{self.variant.name}"


def with_settings(context: Context, changed: Mapping[str, Any]) -> Context:
    """The context with other values of some settings."""
    return replace(context, settings=context.settings.model_copy(update=dict(changed)))


def cases_of(context: Context) -> tuple[Case, ...]:
    """The levels of the flow that were asked for, and the model beside it.

    Raises:
      UsageError: a model that is no flow, levels given twice, or a flow beside the flow.
    """
    if context.card.schedule.kind != "flow":
        raise UsageError(
            f"study flows asks a flow on several levels, and {context.card.title} is none; use --model photo-flow, or "
            "another flow."
        )
    given = context.settings.model_options
    if laid := [f"model.{name}={given[name]}" for name in LEVELS if name in given]:
        raise UsageError(
            f"{', '.join(laid)}: study flows lays the levels itself; leave it out, and say which by --set flows.grids=."
        )
    options = context.options(FlowsOptions)
    cases = []
    for name in options.grids:
        levels = levels_named(name)
        own = with_settings(context, {"model_options": {**given, **levels.model_options}})
        cases.append(Case(name, levels.label, own, levels.shift))
    beside = _beside(context, options.beside)
    return (*cases, *([] if beside is None else [beside]))


def _beside(context: Context, asked: str) -> Case | None:
    name = asked
    if asked == AUTO:
        name = "photo-dit" if context.card.weights.source == "package" else NONE
    if name == NONE:
        return None
    found = replace(context, model=name, weights=None)
    if found.card.schedule.kind == "flow":
        raise UsageError(
            f"flows.beside={name}: {found.card.title} is a flow, and what is beside the flow is no flow; use none, or "
            "a variance-preserving model such as photo-dit."
        )
    return Case(BESIDE, f"{found.card.title}, no flow", found, None)


def rows_of(context: Context) -> tuple[Row, ...]:
    """All inversions, in the order of the tables."""
    options = context.options(FlowsOptions)
    counts, least, most = sorted(set(options.steps)), min(options.steps), max(options.steps)
    rows = []
    for case in cases_of(context):
        for steps in counts:
            variants = [Variant(EULER, "target times")]
            if case.name in (FLUX_1024, SD3):
                variants.append(noise_vp())
            if steps == least and case.name != FLUX_512:
                variants += [*replacements(options.forward_steps, flow=case.shift is not None)]
            if steps == least and case.shift is not None:
                variants += [*swaps(case.name)]
            if case.name == FLUX_1024:
                variants += [*repairs(context.settings.forward_seed)] if steps == least else []
                variants += [*of_equal_cost(steps)] if steps == most else []
            rows += [Row(case, steps, variant) for variant in variants]
    return tuple(rows)


def noise_vp() -> Variant:
    """Steps that carry the noise as a variance-preserving model's do."""
    return Variant(NOISE_VP, "target times, noise carried (VP)", settings={"held": "noise-vp"})


def replaced(rule: str, count: int) -> str:
    """Name of the variant of K replaced steps: exact and matched before target times, source exact before its own."""
    if not count:
        return SOURCE if rule == SOURCE else EULER
    return f"{rule}-{count}"


def replacements(counts: tuple[int, ...], *, flow: bool) -> list[Variant]:
    """Forward replacement under both rules before target times, and before source times, at which both are one."""
    source = {"network_time": "source"}
    first = source | ({"first_time": "zero"} if flow else {})
    return [
        *(Variant(f"exact-{k}", f"K = {k}, exact", forward_steps=k) for k in counts),
        *(Variant(f"matched-{k}", f"K = {k}, matched", forward_steps=k, rule="matched") for k in counts),
        Variant(SOURCE, "K = 0, source times", settings=first),
        *(Variant(f"source-{k}", f"K = {k}, source times", forward_steps=k, settings=source) for k in counts),
    ]


def swaps(case: str) -> list[Variant]:
    """Inversions in which one step alone carries what the sampler carried."""
    return [Variant(f"swap-{step}", f"step {step} the sampler's", swapped=step) for step in SWAPPED]


def repairs(forward_seed: int) -> list[Variant]:
    """Other ways to a latent that is noise."""
    other = {"forward_seed": forward_seed + 1}
    plain = {"eta": 0.0}
    return [
        Variant("fixed-point", "fixed point, 5", "fixed-point", FIXED_POINT),
        Variant("exact-1-fixed-point", "K = 1, then fixed point, 5", "fixed-point", FIXED_POINT, 1),
        Variant("uni-inv", "UniInv", "uni-inv"),
        Variant("dnaedit", "DNAEdit", "dnaedit"),
        Variant("rf-inversion", "RF-Inversion, Euler back", "rf-inversion", plain),
        Variant("rf-inversion-other", "RF-Inversion, another y", "rf-inversion", plain, settings=other),
    ]


def of_equal_cost(steps: int) -> list[Variant]:
    """Higher orders at about the evaluations of Euler, and FireFlow at a fifth of them."""
    few = max(1, steps // 5)
    return [
        Variant("fireflow", f"FireFlow, T = {steps - 1}", "fireflow", steps=max(1, steps - 1)),
        Variant("rf-solver", f"RF-Solver, T = {steps // 2}", "rf-solver", steps=max(1, steps // 2)),
        Variant("fireflow-few", f"FireFlow, T = {few}", "fireflow", steps=few),
    ]
