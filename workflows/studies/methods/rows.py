"""The rows of the comparison: every inversion method that applies to a model, in the settings that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.conventions import UNGUIDED, ForwardLevel
from taba_core.errors import UsageError, unknown_name
from workflows.configuration.context import Context
from workflows.configuration.forward_rules import differing_rules
from workflows.configuration.method import ChosenMethod
from workflows.studies.methods.options import MethodsOptions

PAPER, FORWARD, IMPLICIT, NOISE, REGULARISED, SAMPLERS, OWN = (
    "Table 7",
    "Forward replacement",
    "Implicit steps, solved",
    "Started from noise",
    "Regularised and guided",
    "With a sampler of its own",
    "Yours",
)
GROUPS = (PAPER, FORWARD, IMPLICIT, NOISE, REGULARISED, SAMPLERS, OWN)
# Rows that pull predictions or latents towards white noise.
REGULARISED_PRIORS = ("pix2pix-zero", "renoise-k1", "renoise-k2", "renoise-k4")
# What `--set methods.rows=` takes beside the names of rows and methods.
ALL, TABLE7 = "all", "table7"
OWN_ROW = "own"  # name of the row of `--method`


@dataclass(frozen=True)
class MethodRow:
    """One inversion to compare.

    Attributes:
      name: of the row, as `--set methods.rows=` takes it.
      label: as tables show it.
      group: one of GROUPS.
      method, options: the inversion method.
      forward_steps, forward_level: K first steps replaced, under which rule.
      steps: T of the inversion and its reconstruction; None = that of the images.
      paper: row of the paper's Table 7 that was made this way.
    """

    name: str
    label: str
    group: str
    method: str = "ddim"
    options: Mapping[str, Any] = field(default_factory=dict)
    forward_steps: int = 0
    forward_level: ForwardLevel | None = None
    steps: int | None = None
    paper: str = ""

    @property
    def chosen(self) -> ChosenMethod:
        """The method with its options."""
        return ChosenMethod(self.method, self.options)

    def inversion(self, context: Context, images: Generation) -> Inversion:
        """The artifact of this row."""
        return context.inversion(images, self.forward_steps, self.forward_level, self.steps, self.chosen)


def method_rows(context: Context, steps: int) -> tuple[MethodRow, ...]:
    """The rows that apply to a model and were asked for, in the order of the tables; `steps` is the images' T.

    A name that is no row's but a method's stands for all rows of that method. A method given by `--method` has a row
    of its own, whatever `--set methods.rows=` says. Methods made for flows are among all rows on flows only.

    Raises:
      UsageError: no such row or method, or none that applies.
    """
    everything = _all_rows(context, steps)
    names = {row.name for row in everything}
    methods = {row.method for row in everything} - names
    unfit = _unfit(context)
    flow = context.card.schedule.kind == "flow"
    usual = {row.name for row in everything if flow or not row.chosen.method.made_for_flows}
    chosen: set[str] = {row.name for row in everything if row.group == OWN}
    for asked in context.options(MethodsOptions).rows:
        if asked in unfit:
            ChosenMethod(asked).check_condition(context.conditioning, context.card)
            ChosenMethod(asked).check_guidance(context.guidance)
            ChosenMethod(asked).check_rules(context.conventions)
            ChosenMethod(asked).check_held(context.conventions)
        elif asked not in {*names, *methods, ALL, TABLE7}:
            raise unknown_name("row of study methods", asked, (*names, *methods, ALL, TABLE7))
        chosen |= {
            row.name
            for row in everything
            if asked == row.name
            or (asked == ALL and row.name in usual)
            or (asked in methods and asked == row.method)
            or (asked == TABLE7 and row.group == PAPER)
        }
    return tuple(row for row in everything if row.name in chosen)


def _all_rows(context: Context, steps: int) -> list[MethodRow]:
    rows = [*_table7(context, steps), *_forward(context), *_methods(steps)]
    there = {row.method for row in rows}
    # A method that nobody gave a row is compared with its defaults.
    rows += [MethodRow(name, name, IMPLICIT, name) for name in built_in_methods() if name not in there]
    unfit = _unfit(context)
    rows = [row for row in rows if row.method not in unfit]
    if (own := _own_row(context)) is not None:
        rows.append(own)
    return sorted(rows, key=lambda row: GROUPS.index(row.group))


def _unfit(context: Context) -> set[str]:
    """Methods that this comparison cannot ask.

    They work on text where the images have none, guide by themselves in a guided comparison or on a model that nothing
    guides, are samplers of coupled states under an x_0 rule that these cannot undo, or take steps in which what is
    carried cannot be chosen, where a choice is asked.
    """
    prompts, plain = context.conditioning == "prompt", context.guidance.inversion == UNGUIDED
    made = {name: ChosenMethod(name) for name in built_in_methods()}
    return {
        name
        for name, chosen in made.items()
        if (chosen.method.needs_text and not prompts)
        or chosen.cannot_guide(context.card)
        or (chosen.method.own_guidance and not plain)
        or chosen.rules_refused(context.conventions)
        or chosen.cannot_hold(context.conventions)
    }


def built_in_methods() -> list[str]:
    """Registered methods of the package; those of a user's file are asked for by `--method`."""
    from taba_core.diffusion.inversion import (
        inversion_method_class,
        list_methods,
    )  # with torch: where it is asked

    return [
        name for name in list_methods() if inversion_method_class(name).__module__.startswith("taba_core.")
    ]


def _own_row(context: Context) -> MethodRow | None:
    """The method of `--method` and its options, unless it is one of the rows anyway."""
    given = context.settings.method_options
    if context.method == "ddim" and not given:
        return None
    told = ", ".join(f"{name}={value}" for name, value in given.items())
    label = f"{context.method} ({told})" if told else context.method
    return MethodRow(OWN_ROW, label, OWN, context.method, given)


def _table7(context: Context, steps: int) -> list[MethodRow]:
    """The paper's rows that any model has; its ReNoise rows spend T evaluations in fewer, dearer steps."""
    rows = [MethodRow("ddim", "DDIM inversion", PAPER, paper="DDIM Inv.")]
    rule = differing_rules(context.conventions)[0]
    rows.append(MethodRow("pix2pix-zero", "Pix2Pix-Zero", PAPER, "pix2pix-zero", paper="Pix2Pix-Zero"))
    rows += [_renoise(steps, count, PAPER) for count in (1, 4, 2)]
    rows += [
        MethodRow(
            f"reverse-dpm-{order}",
            f"DPM-Solver-{order}, reverse",
            PAPER,
            "reverse-dpm",
            {"order": order},
            paper=f"DPMSolver-{order}",
        )
        for order in (1, 2)
    ]
    rows += [_replaced(count, rule, steps, PAPER) for count in (1, 2)]
    return rows


def _renoise(steps: int, count: int, group: str, *, regularised: bool = True) -> MethodRow:
    """ReNoise with K = `count` in as many steps as make about `steps` evaluations without its reference predictions."""
    own = max(1, round(steps / (count + 1)))
    paper = (
        f"ReNoise (variant {(1, 4, 2).index(count) + 1} of 3; its parameter is lost)" if steps == 50 else ""
    )
    return MethodRow(
        f"renoise-k{count}" if regularised else f"renoise-k{count}-free",
        f"ReNoise T = {own}, K = {count}{'' if regularised else ', free'}",
        group,
        "renoise",
        {"num_renoise_steps": count} if regularised else {"num_renoise_steps": count, "num_reg_steps": 0},
        steps=own,
        paper=paper if regularised else "",
    )


def _replaced(count: int, rule: ForwardLevel, steps: int | None, group: str) -> MethodRow:
    """K first steps replaced, under a rule; of the paper's own T = 50 K = 1 and 2 are its 2 and 4 %."""
    share = f"{100 * count / steps:g} %" if steps else f"K = {count}"
    paper = f"Ours (forward {2 * count}%)" if rule == "exact" and steps == 50 else ""
    return MethodRow(
        f"forward-{count}-{rule}",
        f"Forward {share} ({rule})",
        group,
        forward_steps=count,
        forward_level=rule,
        paper=paper,
    )


def _forward(context: Context) -> list[MethodRow]:
    """Forward replacement under the other rule, and before methods that solve the remaining steps."""
    rows = [
        _replaced(count, rule, None, FORWARD)
        for rule in differing_rules(context.conventions)[1:]
        for count in (1, 2)
    ]
    rule = differing_rules(context.conventions)[0]
    for method, label in (("fixed-point", "fixed point"), ("aidi-a", "Anderson")):
        options = {"num_evaluations": 3} if method == "fixed-point" else {"num_iterations": 2}
        rows.append(
            MethodRow(
                f"forward-2-{method}",
                f"Forward K = 2, then {label}",
                FORWARD,
                method,
                options,
                forward_steps=2,
                forward_level=rule,
            )
        )
    return rows


def _methods(steps: int) -> list[MethodRow]:
    """Every other method, in its published setting and in those it is told apart by."""
    return [
        MethodRow("ddim-source", "DDIM, source time", IMPLICIT, "ddim-source"),
        MethodRow("source-first", "DDIM, source time first", IMPLICIT, "source-first"),
        MethodRow("fixed-point-5", "Fixed point, 5", IMPLICIT, "fixed-point", {"num_evaluations": 5}),
        MethodRow("fixed-point", "Fixed point (FPI), 20", IMPLICIT, "fixed-point"),
        MethodRow("aidi-e", "AIDI-E", IMPLICIT, "aidi-e"),
        MethodRow("aidi-a", "AIDI-A (Anderson)", IMPLICIT, "aidi-a"),
        MethodRow("exact-dpm-1", "Exact DPM-Solver-1", IMPLICIT, "exact-dpm-1"),
        MethodRow("gnri", "GNRI, released", IMPLICIT, "gnri"),
        MethodRow("gnri-described", "GNRI, described", IMPLICIT, "gnri", {"gradient": "network"}),
        MethodRow("hybrid-gradient", "Hybrid gradient", IMPLICIT, "hybrid-gradient"),
        MethodRow("spdinv", "SPDInv", IMPLICIT, "spdinv"),
        MethodRow("predictor-corrector", "Predictor-corrector", IMPLICIT, "predictor-corrector"),
        MethodRow("uni-inv", "UniInv", IMPLICIT, "uni-inv"),
        MethodRow("noise-initialised", "Noise-initialised fixed point", NOISE, "noise-initialised"),
        MethodRow("dnaedit", "DNAEdit", NOISE, "dnaedit"),
        MethodRow("rf-inversion-plain", "RF-Inversion, plain sampler", NOISE, "rf-inversion", {"eta": 0.0}),
        MethodRow("noise-level-05", "Noise level σ = .05", NOISE, "noise-level", {"sigma": 0.05}),
        MethodRow("noise-level", "Noise level σ = .1", NOISE, "noise-level"),
        *(_renoise(steps, count, REGULARISED, regularised=False) for count in (1, 4, 2)),
        MethodRow("renoise-1", "ReNoise, K = 1", REGULARISED, "renoise", {"num_renoise_steps": 1}),
        MethodRow("renoise", "ReNoise, K = 9", REGULARISED, "renoise"),
        MethodRow("noise-projection", "Noise projection", REGULARISED, "noise-projection"),
        MethodRow("easyinv", "EasyInv", REGULARISED, "easyinv"),
        MethodRow("direct-inversion", "Direct inversion (PnP)", SAMPLERS, "direct-inversion"),
        MethodRow("edit-friendly", "Edit-friendly DDPM", SAMPLERS, "edit-friendly"),
        MethodRow("null-text", "Null-text", SAMPLERS, "null-text"),
        MethodRow("prompt-tuning", "Prompt tuning", SAMPLERS, "prompt-tuning"),
        MethodRow("negative-prompt", "Negative prompt", SAMPLERS, "negative-prompt"),
        MethodRow("edict", "EDICT", SAMPLERS, "edict"),
        MethodRow("bdia", "BDIA, γ = 1", SAMPLERS, "bdia"),
        MethodRow("bdia-half", "BDIA, γ = .5", SAMPLERS, "bdia", {"gamma": 0.5}),
        MethodRow("o-belm", "O-BELM", SAMPLERS, "o-belm"),
        MethodRow("rex", "Rex", SAMPLERS, "rex"),
        MethodRow("exact-dpm-2", "Exact DPM-Solver++(2M)", SAMPLERS, "exact-dpm-2"),
        MethodRow("heun", "Heun", SAMPLERS, "heun"),
        MethodRow("rf-solver", "RF-Solver (midpoint)", SAMPLERS, "rf-solver"),
        MethodRow("fireflow", "FireFlow", SAMPLERS, "fireflow"),
        MethodRow("rf-inversion", "RF-Inversion", SAMPLERS, "rf-inversion"),
    ]


def named(rows: Sequence[MethodRow], name: str) -> MethodRow | None:
    """The row of that name, if it was asked for."""
    return next((row for row in rows if row.name == name), None)


def check_any(rows: Sequence[MethodRow], context: Context) -> None:
    """Refuse (UsageError) a comparison of nothing."""
    if not rows:
        asked = ",".join(context.options(MethodsOptions).rows)
        raise UsageError(f"--set methods.rows={asked}: none of them applies to {context.card.title}.")
