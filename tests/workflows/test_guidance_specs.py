"""Guidance in the specs of artifacts: keys, costs, old stores, and what is refused before anything is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from engine_runs import taba
from pydantic import ValidationError

from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.path_distances import PathDistances
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.self_interpolation import SelfInterpolation
from taba_core.artifacts.step_errors import StepErrors
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec
from workflows.analysis.step_rows import step_errors, step_predictions
from workflows.analysis.study import read_settings, studies
from workflows.configuration.context import Context
from workflows.execution.results import convention_line
from workflows.studies.methods.rows import method_rows

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_text_checkpoints import save_tiny_sd

CLASSES = dict(model=ModelSpec(name="m"), batch_size=4, conditioning="class")
T = 10


def generation(**fields):
    return Generation(num_inference_steps=2, seed=0, **CLASSES, **fields)


def context(*sets, model="photo-mixture"):
    return Context(model, "ddim", read_settings(["conditioning=class", *sets] if sets else []))


# Made before there was a guidance scale.
KEYS = {
    "generation": (lambda g: g, "43819814fcb2"),
    "inversion": (lambda g: Inversion(source=g, num_inference_steps=2), "a05d5b2b141c"),
    "reconstruction": (
        lambda g: Reconstruction(source=Inversion(source=g, num_inference_steps=2)),
        "f37280a4dbed",
    ),
    "step-predictions": (lambda g: StepPredictions(source=g), "0cb0f5c78402"),
    "step-errors": (lambda g: StepErrors(source=PlainRegions(source=g)), "dd02726cb917"),
    "path-distances": (
        lambda g: PathDistances(source=Inversion(source=g, num_inference_steps=2)),
        "730b66487677",
    ),
    "self-interpolation": (
        lambda g: SelfInterpolation(source=Inversion(source=g, num_inference_steps=2)),
        "dcd2a67e8bbf",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_at_scale_one_a_key_is_what_it_was_and_at_another_scale_it_is_another(kind):
    make, key = KEYS[kind]
    artifact = make(generation())
    assert (artifact.kind, artifact.key) == (kind, key)
    # One that is stated is the default, as 1.0 and as 1.
    assert make(generation(guidance_scale=1)).key == key
    assert make(generation(guidance_scale=3)).key not in (key, make(generation(guidance_scale=7.5)).key)
    if "guidance_scale" in type(artifact).model_fields:
        # Its own scale is not that of its images.
        own = type(artifact).model_validate(artifact.model_dump() | {"guidance_scale": 3.0})
        assert own.key not in (key, make(generation(guidance_scale=3)).key) or kind == "generation"
        assert '"guidance_scale":3.0' in own.canonical() and "guidance_scale" not in artifact.canonical()


def test_inversions_of_real_images_keep_their_keys():
    images = ImageList(fingerprint="f", num_images=4, **CLASSES)
    assert Inversion(source=images, num_inference_steps=2).key == "9c494c4ad57a"


def test_results_keep_their_names():
    sets = [
        "num_samples=8",
        "num_inference_steps=10",
        "forward_steps=1",
        "methods=ddim,edict",
        "methods.edits=off",
    ]
    plain = Context("photo-mixture", "ddim", read_settings(sets))
    names = {
        "correlation": "33bc8e9b0894", "step-error": "ce66f26a2258", "fix": "4dcbf4490ab7", "methods": "7e40b25cf8cc",
    }  # fmt: skip
    for study, key in names.items():
        assert studies()[study].result_key(plain) == key


def test_a_spec_stored_before_there_was_a_scale_is_read_as_unguided():
    for make, key in KEYS.values():
        attrs = make(generation()).attrs()

        def without(spec):
            return {
                name: without(value) if isinstance(value, dict) else value
                for name, value in spec.items()
                if name != "guidance_scale"
            }

        old = attrs | {"spec": without(attrs["spec"])}
        assert "guidance_scale" not in json.dumps(old)
        assert from_attrs(old) == make(generation()) and from_attrs(old).key == key


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_scale_is_a_positive_number(scale):
    with pytest.raises(ValidationError):
        generation(guidance_scale=scale)
    with pytest.raises(ValidationError):
        Inversion(source=generation(), num_inference_steps=2, guidance_scale=scale)


def test_a_generation_without_a_condition_has_no_guidance():
    with pytest.raises(ValidationError, match="conditioning=none has nothing to guide to"):
        Generation(model=ModelSpec(name="m"), batch_size=4, num_inference_steps=2, seed=0, guidance_scale=3.0)


# ---------------------------------------------------------------- what it costs


def costs(sampling, inversion):
    """Network evaluations of a sample of each kind, in units of T = 10."""
    source = Generation(num_inference_steps=T, seed=0, **CLASSES, guidance_scale=sampling)
    inverted = Inversion(source=source, num_inference_steps=T, guidance_scale=inversion)
    replaced = inverted.model_copy(update={"forward_steps": 4})
    dear = inverted.model_copy(update={"expected_evaluations": (20, 60), "sampling_evaluations": 20})
    errors = StepErrors(source=PlainRegions(source=source), guidance_scale=inversion)
    return {
        "generation": source.num_evaluations(),
        "inversion": inverted.num_evaluations(),
        "residual": inverted.measuring_evaluations(("latent", "residual")),
        "four replaced": replaced.num_evaluations(),
        "at most, at least": (dear.num_evaluations(), dear.least_evaluations()),
        "reconstruction": Reconstruction(source=inverted, guidance_scale=sampling).num_evaluations(),
        "own sampler": Reconstruction(source=dear, guidance_scale=sampling).num_evaluations(),
        "predictions": errors.predictions.num_evaluations(),
        "errors": errors.num_evaluations(),
        "path just walked": errors.saved_evaluations(frozenset({source})),
        "predictions too": errors.saved_evaluations(frozenset({source, errors.predictions})),
        "distances": PathDistances(source=inverted).num_evaluations(),
        "arc": SelfInterpolation(source=inverted, num_weights=3).num_evaluations(),
    }


def test_a_guided_prediction_is_two_evaluations_in_its_own_direction():
    def table(sampling, inversion):
        s, i = sampling * T, inversion * T
        return {
            "generation": s,
            "inversion": i,
            "residual": i,
            "four replaced": inversion * (T - 4),
            "at most, at least": (inversion * 60, inversion * 20),
            "reconstruction": s,
            "own sampler": sampling * 20,
            "predictions": s + i,
            "errors": s + i,
            "path just walked": s,
            "predictions too": s + i,
            "distances": s,
            "arc": 3 * s,
        }

    assert costs(1.0, 1.0) == table(1, 1)
    assert costs(7.5, 1.0) == table(2, 1)
    assert costs(1.0, 7.5) == table(1, 2)
    assert costs(0.5, 7.5) == table(2, 2)


# ---------------------------------------------------------------- settings


def test_settings_reach_the_artifacts_of_their_direction():
    c = context("guidance_scale=7.5", "inversion_guidance_scale=2")
    images = c.generation(T)
    inversion = c.inversion(images)
    scales = [
        a.guidance_scale
        for a in (
            images,
            inversion,
            c.reconstruction(inversion),
            step_predictions(c, images),
            step_errors(c, images),
        )
    ]
    assert scales == [7.5, 2.0, 7.5, 2.0, 2.0]
    assert step_errors(c, images).predictions == step_predictions(c, images)
    assert convention_line(c).endswith(", guidance_scale=7.5, inversion_guidance_scale=2")
    only = context("guidance_scale=7.5")
    assert only.inversion(only.generation(T)).guidance_scale == 1.0
    assert "guidance" not in convention_line(context())


def test_a_guided_result_has_another_key_and_no_closed_form():
    from workflows.analysis.closed_form import has_flat_modes, plain_ddim, spectrum

    plain, guided = context("seed=420"), context("guidance_scale=3")
    study = studies()["correlation"]
    assert study.result_name(plain) != study.result_name(guided)
    assert plain_ddim(plain) and has_flat_modes(plain) and spectrum(plain) is not None
    for one in (guided, context("inversion_guidance_scale=3")):
        assert not plain_ddim(one) and not has_flat_modes(one) and spectrum(one) is None


REFUSED = [
    ("gaussian", ["guidance_scale=3"], "and Gaussian field has no condition; use another model, or leave both at 1"),
    ("gaussian", ["inversion_guidance_scale=3"], "guidance_scale=1, inversion_guidance_scale=3: guidance compares"),
    ("adm-64", ["guidance_scale=3"], "and ADM-64 has no condition"),
    ("photo-mixture", ["guidance_scale=3"], "made without a condition, so there is nothing to guide towards; use --"),
    ("photo-mixture", ["conditioning=class", "guidance_scale=0"], "guidance_scale=0: Input should be greater than 0"),
    ("photo-mixture", ["conditioning=class", "guidance_scale=inf"], "guidance_scale=inf: Input should be a finite"),
    ("photo-mixture", ["conditioning=class", "inversion_guidance_scale=x"], "inversion_guidance_scale=x: Input should"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "sets", "told"), REFUSED)
def test_what_cannot_be_guided_is_refused_before_anything_is_written(model, sets, told, tmp_path, capsys):
    arguments = [part for text in sets for part in ("--set", text)]
    for command in ("plan", "run"):
        assert taba(command, "correlation", "--model", model, "--store", tmp_path / "s", *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("taba: error: ") and told in error and len(error.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_a_model_with_classes_and_no_null_class_is_refused(tmp_path, capsys):
    from tiny_checkpoints import tiny_class_unet

    model = tiny_class_unet(tmp_path / "tiny-class-unet")
    arguments = ["--model", model, "--store", tmp_path / "s", "--set", "num_inference_steps=4"]
    assert taba("run", "correlation", *arguments, "--set", "guidance_scale=3") == 2
    assert "tiny-class-unet has classes but no null class; use another model" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


# ---------------------------------------------------------------- methods that guide by themselves


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    return str(save_tiny_sd(tmp_path_factory.mktemp("tiny") / "tiny-sd"))


@pytest.mark.follows(
    "use inversion_guidance_scale=1, or another method.",
    "; use another model, or leave both at 1.",
    "; use --set conditioning=class, or leave both at 1.",
)
def test_the_ways_out_of_refused_guidance_are_open(text_model, tmp_path, capsys):
    def plan(model, method, *sets):
        arguments = [part for text in (*sets, "num_inference_steps=4") for part in ("--set", text)]
        where = ("--model", model, "--method", method, "--store", tmp_path / "s")
        return taba("plan", "correlation", *where, *arguments)

    scales = ("guidance_scale=3", "inversion_guidance_scale=3")
    assert plan(text_model, "null-text", "prompts=builtin", *scales) == 2
    assert plan(text_model, "null-text", "prompts=builtin", scales[0], "inversion_guidance_scale=1") == 0
    assert plan(text_model, "edict", "prompts=builtin", *scales) == 0
    assert plan("gaussian", "ddim", *scales) == 2 and plan("gaussian", "ddim") == 0
    assert plan("photo-mixture", "ddim", *scales) == 2 and plan("photo-mixture", "ddim") == 0
    assert plan("photo-mixture", "ddim", "conditioning=class", *scales) == 0


def test_methods_that_guide_by_themselves_take_the_plain_network(text_model, tmp_path, capsys):
    def asked(*sets):
        return Context(text_model, "null-text", read_settings(["prompts=builtin", *sets]))

    c = asked("guidance_scale=3")
    inversion = c.inversion(c.generation(4))
    # Four guided steps: 8 evaluations, which the method has counted already.
    assert (inversion.guidance_scale, c.reconstruction(inversion).guidance_scale) == (1.0, 1.0)
    assert c.reconstruction(inversion).num_evaluations() == 8
    arguments = ["--model", text_model, "--store", tmp_path / "s", "--set", "prompts=builtin"]
    refused = [*arguments, "--set", "inversion_guidance_scale=3", "--method", "null-text"]
    assert taba("plan", "correlation", *refused, "--set", "num_inference_steps=4") == 2
    assert (
        "inversion_guidance_scale=3: inversion method 'null-text' inverts without guidance by definition, and guides "
        "its own sampler (--set method.guidance_scale=W); use inversion_guidance_scale=1, or another method."
    ) in capsys.readouterr().err


def test_a_comparison_of_guided_inversions_leaves_them_out_unless_they_are_asked_for(text_model):
    def rows(*sets):
        c = Context(text_model, "ddim", read_settings(["prompts=builtin", *sets]))
        return {row.name for row in method_rows(c, 10)}

    own = {"null-text", "prompt-tuning", "negative-prompt"}
    assert own <= rows() and own <= rows("guidance_scale=3")
    assert rows("inversion_guidance_scale=3") == rows() - own
    with pytest.raises(UsageError, match="'negative-prompt' inverts without guidance by definition"):
        rows("inversion_guidance_scale=3", "methods=ddim,negative-prompt")


# ---------------------------------------------------------------- the plan's page


def test_a_plan_says_the_scales_and_counts_both_evaluations(tmp_path, capsys):
    sets = ["num_samples=8", "samples_per_shard=4", "num_inference_steps=10", "conditioning=class"]
    guided = [*sets, "guidance_scale=3", "inversion_guidance_scale=2"]

    def plan(settings, *more):
        arguments = [part for text in settings for part in ("--set", text)]
        assert taba("plan", "correlation", "--store", tmp_path / "s", *arguments, *more) == 0
        return capsys.readouterr().out

    one, two = (json.loads(plan(s, "--json"))["models"][0] for s in (sets, guided))
    # 8 images, 10 steps, up and down
    assert (one["evaluations"], two["evaluations"]) == (160, 320)
    assert two["device_hours"] == 2 * one["device_hours"] > 0
    # Two calls of one batch each, one after the other: a worker holds no more.
    assert two["memory_per_worker"] == one["memory_per_worker"] and two["bytes"] == one["bytes"]
    assert (two["guidance_scale"], two["inversion_guidance_scale"]) == (3.0, 2.0)
    page = plan(guided)
    assert (
        "guidance: guidance_scale=3, inversion_guidance_scale=2; a prediction under a scale other than 1"
        in page
    )
    assert "ddim w=2" in page and "320 network evaluations" in page
    assert "guidance" not in plan(sets)


def test_the_list_says_which_models_and_methods_can_be_guided(capsys):
    assert taba("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    for name, told in {"gaussian": "no", "adm-64": "no", "dit": "yes", "if": "yes"}.items():
        assert {word for word in ("yes", "no") if f"  {word}  " in lines[name]} == {told}
    assert "inversion_guidance_scale=1" in lines["null-text"] and "inversion_guid" not in lines["edict"]
