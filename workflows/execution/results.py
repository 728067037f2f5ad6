"""What a stored result says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taba_core.artifacts.request import Request
from taba_core.models.options import LEVELS
from taba_core.store import Store
from workflows.analysis.study import declared_options
from workflows.configuration.context import Context
from workflows.configuration.drift import drift_line
from workflows.configuration.given_images import images_line
from workflows.configuration.settings import stored_settings


def result_attrs(
    study: Any, context: Context, requests: Mapping[str, Request], store: Store
) -> dict[str, Any]:
    """What a stored result says about itself: study, model, settings, conventions, artifacts.

    n and T are those of the generated images: the artifacts say them, a study may ask for fewer than the settings.
    """
    first = next(iter(requests.values()))
    return {
        "study": study.name,
        "study_version": study.version,
        "model": context.name,
        "model_title": context.title,
        "images": images_line(context.given_images),
        "model_spec": context.model_spec.model_dump(mode="json"),
        "method": context.method,
        "n": first.samples,
        "T": next(r.artifact.num_steps for r in requests.values() if r.artifact.num_steps),
        "seed": context.settings.seed,
        "conventions": convention_line(context),
        "drift": drift_line(store, context.model_spec, first.samples),
        "settings": stored_settings(context.settings, declared_options([study])),
        "artifacts": {name: r.artifact.name for name, r in requests.items()},
    }


def convention_line(context: Context) -> str:
    """The conventions as one line, printed under every table."""
    c = context.conventions
    first = "" if c.first_time == "one" else f", first_time={c.first_time}"
    options = context.model_spec.options
    levels = "".join(f", {name}={options[name]}" for name in LEVELS if name in options)
    held = "" if c.held == "auto" else f", held={c.held}"
    profile = "" if context.card.embedded else f", profile={context.model_spec.options['profile']}"
    return (
        f"network_time={c.network_time}, levels={c.levels}, sampling_x0_rule={c.sampling_x0_rule}, "
        f"inversion_x0_rule={c.inversion_x0_rule}, forward_level={c.forward_level}{first}{held}{levels}{profile}"
        f"{context.guidance.line}"
    )
