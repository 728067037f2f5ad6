"""`taba list`: what there is."""

from __future__ import annotations

from dataclasses import fields

from taba_core.diffusion.attention.registry import editor_class, list_editors
from taba_core.diffusion.inversion import StepMethod, inversion_method_class, list_methods
from taba_core.metrics.extractor import extractors
from taba_core.metrics.image_distance import distances
from taba_core.metrics.measure import Measure
from taba_core.models.catalog import list_cards
from taba_core.models.null_condition import why_no_null_condition
from taba_core.models.options import OPTIONS, NetworkOptions
from taba_core.models.weights import status
from workflows.analysis.study import GROUPS, find_studies, in_group, studies
from workflows.configuration.options import described
from workflows.text import print_table


def _method_row(name: str) -> tuple[str, str, str, str]:
    """Name, whether first steps can be replaced, what it needs beside images, and the first line of its docstring."""
    cls = inversion_method_class(name)
    method = cls()
    wraps = isinstance(method, StepMethod) and not method.own_grid
    needs = {
        "noise": method.needs_noise,
        "gradient": method.needs_gradient,
        "text": method.needs_text,
        "inversion_guidance_scale=1": method.own_guidance,
    }
    told = " ".join(word for word, needed in needs.items() if needed)
    return name, "yes" if wraps else "no", told or "-", (cls.__doc__ or "").strip().splitlines()[0].strip()


def _editor_row(name: str) -> tuple[str, str, str, str]:
    """Name, what it needs, its options with defaults, and the first line of its docstring."""
    cls = editor_class(name)
    made = cls()
    options = {field.name: getattr(made, field.name) for field in fields(made)}  # type: ignore[arg-type]
    told = " ".join(f"{option}={_shown(value)}" for option, value in options.items())
    needs = "attention of SD or SDXL" if cls.controls_attention else "a condition"
    return name, needs, told, (cls.__doc__ or "").strip().splitlines()[0].strip()


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "''"


def _measure_row(kind: str, measure: Measure) -> tuple[str, str, str, str]:
    """Name, kind, what it stands in for, and whether it can measure here."""
    return measure.name, kind, measure.stands_for or "-", measure.why_not() or "ready"


def print_listing() -> None:
    """Models with what they need, inversion methods, measures of images, studies with tables and figures."""
    print("models")
    print_table(
        ("name", "state", "train set", "condition", "guidance", "weights"),
        [
            (
                c.name,
                "x".join(map(str, c.sample_shape)),
                c.train_set,
                c.conditional,
                "no" if why_no_null_condition(c) else "yes",
                status(c),
            )
            for c in list_cards()
        ],
    )
    for name, options in {**OPTIONS, "the others": NetworkOptions}.items():
        described = "; ".join(f"{k}={f.default!r} ({f.description})" for k, f in options.model_fields.items())
        print(f"  {name}, --set model.NAME=VALUE: {described}")
    print("\ninversion methods (and your own: --method package.module:Class)")
    print_table(
        ("name", "forward steps", "needs", "what it does"), [_method_row(name) for name in list_methods()]
    )
    print(
        "\neditors (taba edit --editor NAME --set editor.OPTION=VALUE; source_path, pinned or own, besides)"
    )
    print_table(("name", "needs", "options", "what it does"), [_editor_row(name) for name in list_editors()])
    print("\nfeature extractors and image distances")
    print_table(
        ("name", "kind", "stands in for", "here"),
        [
            *(_measure_row("features", measure) for measure in extractors().values()),
            *(_measure_row("distance", measure) for measure in distances().values()),
        ],
    )
    print("\nstudies (options of one: taba list STUDY)")
    print_table(
        ("name", "aliases", "section", "question"),
        [(s.name, " ".join(s.aliases), s.paper_section, s.question) for s in studies().values()],
    )
    print("\ngroups of studies")
    print_table(
        ("name", "studies"),
        [(group, " ".join(s.name for s in studies().values() if in_group(s, group))) for group in GROUPS],
    )


def print_options(names: list[str]) -> None:
    """Of each study its question, and its options with default, rule and description.

    Raises:
      UsageError: an unknown study.
    """
    for study in find_studies(names):
        print(f"{study.name} (section {study.paper_section}): {study.question}")
        if study.options is None:
            print("  no options of its own; `taba run --help` lists the settings of all studies\n")
            continue
        print_table(("--set NAME=VALUE", "default", "rule", "what it is"), list(described(study.options)))
        print()
