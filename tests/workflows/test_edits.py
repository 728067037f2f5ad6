"""Edits: their targets, their key and price, the null law (the own condition gives the image back), shards."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import taba_core
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec, PromptSpec
from taba_core.models.base import load_model
from taba_core.models.prompts import load_prompts
from taba_core.store import Store
from workflows.analysis.study import Study, read_settings
from workflows.compute.conditioning import class_of, draw, draw_targets, prompts_from_bytes, prompts_to_bytes
from workflows.configuration.context import Context
from workflows.configuration.edits import edit_of
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

follows = pytest.mark.follows
IDS = np.arange(2000)
NAMES = tuple("abcdefghij")


def generation(**fields):
    common = {"batch_size": 4, "num_inference_steps": 2, "seed": 0, "conditioning": "class"}
    return Generation(model=ModelSpec(name="m"), **(common | fields))


def prompted(**fields):
    spec = PromptSpec(fingerprint=load_prompts("builtin").fingerprint)
    return generation(conditioning="prompt", prompts=spec, **fields), spec


def classes(ids, own, **fields):
    edit = Edit(source=generation(), **fields)
    return draw_targets(edit, np.asarray(ids), {"class_id": np.asarray(own, np.int32)}, NAMES)["class_id"]


# ---------------------------------------------------------------- targets


def test_a_drawn_class_is_never_the_own_and_every_other_is_as_probable():
    target = classes(IDS, np.full(len(IDS), 7))
    counts = Counter(target.tolist())
    assert set(counts) == set(range(10)) - {7}
    # Nine equal shares of 2000: 222 with a standard deviation of 14.
    assert max(abs(count - 2000 / 9) for count in counts.values()) < 4 * 14
    assert target.dtype == np.int32


def test_a_target_belongs_to_the_sample_alone_and_to_its_seed():
    own = IDS % 10
    whole = classes(IDS, own)
    assert classes([77], [own[77]])[0] == whole[77]
    assert (classes(IDS, own, target_seed=43) != whole).any()
    # Conditions and targets are drawn apart, whatever their seeds are.
    same = draw(generation(class_seed=42), IDS, 10)["class_id"]
    steps = (classes(IDS, same) - same) % 10
    assert abs(np.corrcoef(steps, same)[0, 1]) < 4 / np.sqrt(len(IDS))


def test_images_that_share_a_condition_share_a_target():
    source = generation(noises_per_condition=4)
    own = draw(source, np.arange(16), 10)
    target = draw_targets(Edit(source=source), np.arange(16), own, NAMES)["class_id"]
    assert (target.reshape(4, 4) == target[::4, None]).all() and (target != own["class_id"]).all()


def test_a_drawn_prompt_is_another_text_of_the_list():
    source, spec = prompted()
    own, edit = draw(source, IDS, 0), Edit(source=source, target_list=spec)
    texts = prompts_from_bytes(draw_targets(edit, IDS, own, ())["prompt"])
    of_images = prompts_from_bytes(own["prompt"])
    known = set(load_prompts("builtin").prompts)
    assert all(a != b for a, b in zip(texts, of_images, strict=True)) and set(texts) == known
    # A caption that is not in the list excludes none of it.
    foreign = {"prompt": prompts_to_bytes(["a text of one's own"] * len(IDS))}
    assert set(prompts_from_bytes(draw_targets(edit, IDS, foreign, ())["prompt"])) == known


def test_a_text_that_stands_twice_in_a_list_is_one_prompt(tmp_path):
    file = tmp_path / "list.txt"
    file.write_text("one\ntwo\none\n")
    spec = PromptSpec(fingerprint=load_prompts(file).fingerprint, location=str(file))
    source = generation(conditioning="prompt", prompts=spec)
    own = {"prompt": prompts_to_bytes(["one", "two"] * 8)}
    drawn = draw_targets(Edit(source=source, target_list=spec), np.arange(16), own, ())["prompt"]
    assert prompts_from_bytes(drawn) == ["two", "one"] * 8


@follows("; give one of its ")
def test_listed_targets_are_the_lines_of_a_file(tmp_path):
    file = tmp_path / "targets.txt"
    file.write_text("c\n3\nj\n")
    spec = PromptSpec(fingerprint=load_prompts(file).fingerprint, location=str(file))
    assert classes([0, 1, 2], [0, 0, 0], targets="listed", target_list=spec).tolist() == [2, 3, 9]
    with pytest.raises(UsageError, match="the list has 3 lines, and sample 3 needs one more"):
        classes([3], [0], targets="listed", target_list=spec)
    for text in ("10", "k", "-1"):
        with pytest.raises(UsageError, match="is no class of this model; give one of its 10 names a line"):
            class_of(text, NAMES)
    assert class_of("9", NAMES) == class_of("j", NAMES) == 9


def test_one_class_or_one_prompt_leaves_nothing_to_ask_for(tmp_path):
    own = {"class_id": np.zeros(2, np.int32)}
    with pytest.raises(UsageError, match="another class than the image's, and m has 1"):
        draw_targets(Edit(source=generation()), np.arange(2), own, ("only",))
    file = tmp_path / "one.txt"
    file.write_text("one\none\n")
    spec = PromptSpec(fingerprint=load_prompts(file).fingerprint, location=str(file))
    edit = Edit(source=generation(conditioning="prompt", prompts=spec), target_list=spec)
    with pytest.raises(UsageError, match="holds one only"):
        draw_targets(edit, np.arange(2), {"prompt": prompts_to_bytes(["one", "one"])}, ())


# ---------------------------------------------------------------- the description


def test_the_key_holds_what_can_change_an_edit_and_nothing_else():
    source, spec = generation(), PromptSpec(fingerprint="f")
    inversion = Inversion(source=source, num_inference_steps=2)
    edit = Edit(source=inversion)
    changed = [
        Edit(source=source),
        Edit(source=source, noise_seed=3),
        Edit(source=inversion, target_seed=1),
        Edit(source=inversion, guidance_scale=3.0),
        Edit(source=inversion, x0_rule="clip"),
        Edit(source=Inversion(source=source, num_inference_steps=2, forward_steps=1)),
        Edit(source=inversion, targets="listed", target_list=spec),
    ]
    assert len({edit.key, *(one.key for one in changed)}) == len(changed) + 1
    assert all(from_attrs(one.attrs()) == one for one in (edit, *changed))
    # Nothing is drawn of a list, so a seed makes no other artifact of it; nor does the place of the file.
    seeded = Edit(source=inversion, targets="listed", target_list=spec, target_seed=9)
    moved = PromptSpec(fingerprint="f", location="/elsewhere.txt")
    assert seeded.key == changed[-1].key == Edit(source=inversion, targets="listed", target_list=moved).key


def test_an_edit_costs_what_its_sampler_costs():
    source = generation(num_inference_steps=50)
    longer = Inversion(source=source, num_inference_steps=100)
    assert [Edit(source=one).num_evaluations() for one in (source, longer)] == [50, 100]
    assert Edit(source=longer, guidance_scale=7.5).num_evaluations() == 200
    own = Inversion(source=source, num_inference_steps=50, sampling_evaluations=101)
    assert Edit(source=own).num_evaluations() == 101


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source": generation(conditioning="none")}, "no condition"),
        ({"source": generation(), "target_list": PromptSpec(fingerprint="f")}, "target_list is given"),
        ({"source": prompted()[0]}, "target_list is given"),
        ({"source": generation(), "targets": "listed"}, "target_list is given"),
        (
            {"source": Inversion(source=generation(), num_inference_steps=2), "noise_seed": 1},
            "starts from its latent",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Edit(**fields)


# ---------------------------------------------------------------- without a latent


def test_flow_edit_is_another_edit_and_asks_for_source_and_target_at_every_step():
    source = generation(num_inference_steps=50)
    plain, led = Edit(source=source, noise_seed=1), Edit(source=source, noise_seed=1, flow_edit_steps=33)
    assert led.key != plain.key and from_attrs(led.attrs()) == led
    assert "flow_edit_steps" not in plain.content()  # keys of older stores stand
    assert (plain.num_evaluations(), led.num_evaluations()) == (50, 66)
    guided = generation(num_inference_steps=50, guidance_scale=3.5)
    assert Edit(source=guided, noise_seed=1, flow_edit_steps=33, guidance_scale=13.5).num_evaluations() == 132
    assert led.reads_of(source) == ("image", "class_id", "prompt")
    assert Edit(source=source).reads_of(source) == ("noise", "class_id", "prompt")
    for fields, said in (
        ({"source": Inversion(source=source, num_inference_steps=50)}, "give a generation and noise_seed"),
        ({"source": source}, "give a generation and noise_seed"),
        ({"source": source, "noise_seed": 1, "flow_edit_steps": 51}, "flow_edit_steps=51 of 50 steps"),
    ):
        with pytest.raises(ValidationError, match=said):
            Edit(**{"flow_edit_steps": 5} | fields)


# ---------------------------------------------------------------- what is stored

MIXTURE = ["model.num_components_per_photo=2", "model.rank=8", "conditioning=class"]
SMALL = ["num_samples=8", "samples_per_shard=4", "batch_size=4", "num_inference_steps=4"]


class Asks(Study):
    """Edits from noise and from latents of some inversions, beside images and reconstructions."""

    name, title, question, paper_section = "asks", "Edits", "What is stored?", "0"
    cases = (("ddim", 0), ("ddim", 1), ("o-belm", 0))

    def requests(self, context):
        from workflows.configuration.method import ChosenMethod

        images = context.generation(context.num_steps(4))
        asked = {"images": context.request(images, ("image", *images.condition_variables))}
        asked["noise"] = context.request(edit_of(context, images), ("edit",))
        asked["fresh"] = context.request(edit_of(context, images, noise_seed=5), ("edit",))
        for method, count in self.cases:
            inversion = context.inversion(images, count, chosen=ChosenMethod(method))
            asked[f"edit/{method}/{count}"] = context.request(edit_of(context, inversion), ("edit",))
            asked[f"again/{method}/{count}"] = context.request(
                context.reconstruction(inversion), ("reconstruction",)
            )
        return asked

    def analyse(self, inputs, context):
        raise AssertionError("only its artifacts are asked")

    def present(self, results):
        raise AssertionError("only its artifacts are asked")


def stored(place, model, *sets):
    """Arrays of every request by name, the plan with its context."""
    chosen = dict(one.split("=", 1) for one in (*SMALL, *sets))  # the later one counts
    settings = read_settings([f"{name}={value}" for name, value in chosen.items()])
    context, store = Context(model, "ddim", settings), Store.open(place, mode="a")
    plan = make_plan(context, [Asks()], store)
    plan.studies = []  # nothing is analysed
    run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    found = {}
    for name, request in plan.requests["asks"].items():
        artifact = request.artifact
        variables = [artifact.image_variable, getattr(artifact, "target_variable", artifact.image_variable)]
        found[name] = store.open_artifact(artifact).read_samples(0, 8, tuple(dict.fromkeys(variables)))
    return found, plan


def test_a_run_leads_images_as_the_definition_does(tmp_path):
    from taba_core import rng
    from taba_core.diffusion.flow_edit import flow_edit

    class Leads(Asks):
        name = "leads"

        def requests(self, context):
            images = context.generation(4)
            led = edit_of(context, images, noise_seed=7, flow_edit_steps=3)
            return {
                "images": context.request(images, ("image", "class_id")),
                "led": context.request(led, ("edit", "target_class_id")),
            }

    context = Context("photo-flow", "ddim", read_settings(SMALL))
    store = Store.open(tmp_path / "s", mode="a")
    plan = make_plan(context, [Leads()], store)
    plan.studies = []  # nothing is analysed
    run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    tree = taba_core.open_store(tmp_path / "s")
    images = next(a for a in tree.values() if a.attrs["kind"] == "generation")
    edit = next(a for a in tree.values() if a.attrs["kind"] == "edit")
    model, ids = load_model("photo-flow"), np.arange(8)
    own, target = (torch.tensor(a.values) for a in (images["class_id"], edit["target_class_id"]))
    expected = flow_edit(
        model,
        model,
        torch.tensor(images["image"].values),
        context.grid(4),
        cond={"class_id": own},
        target_cond={"class_id": target},
        draw=lambda step: torch.from_numpy(
            rng.normal(ids, model.sample_shape, seed=7, stream=f"flow-edit/{step}")
        ),
        first_step=3,
    )
    torch.testing.assert_close(torch.tensor(edit["edit"].values), expected, rtol=0, atol=1e-5)
    assert (own != target).all() and abs(expected.numpy() - images["image"].values).mean() > 1e-2


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("edits") / "s", "photo-mixture", *MIXTURE)


def test_an_edit_is_what_the_sampler_makes_of_the_noise_under_the_target(mixture):
    from taba_core.diffusion.sampling import generate
    from taba_core.models.base import load_spec
    from taba_core.models.grids import timestep_grid

    arrays, plan = mixture
    context, artifact = plan.context, plan.requests["asks"]["noise"].artifact
    model = load_spec(context.model_spec)
    noise = taba_core.rng.normal(range(4), model.sample_shape, seed=420, stream="noise")
    target = arrays["noise"]["target_class_id"][:4]
    expected = generate(
        model,
        torch.from_numpy(noise),
        timestep_grid(context.card, 4),
        {"class_id": torch.from_numpy(target.astype(np.int64))},
        x0_rule=artifact.x0_rule,
    )
    np.testing.assert_array_equal(arrays["noise"]["edit"][:4], expected.numpy())
    fresh = arrays["fresh"]
    assert np.abs(fresh["edit"] - arrays["noise"]["edit"]).mean() > 0.05
    np.testing.assert_array_equal(fresh["target_class_id"], arrays["noise"]["target_class_id"])


@pytest.mark.parametrize("model", ["photo-mixture", "photo-dit", "photo-if"])
def test_under_its_own_condition_an_edit_is_the_image_and_the_reconstruction(tmp_path, model):
    # A sampler of coupled states cannot undo the rules of photo-if's reference code.
    sets = MIXTURE if model == "photo-mixture" else ["conventions=exact"]
    context = Context(model, "ddim", read_settings([*SMALL, *sets]))
    own = draw(context.generation(4), np.arange(8), 10)
    lines = prompts_from_bytes(own["prompt"]) if "prompt" in own else map(str, own["class_id"].tolist())
    file = tmp_path / "own.txt"
    file.write_text("\n".join(lines))
    arrays, _ = stored(tmp_path / "s", model, *sets, f"targets={file}")
    np.testing.assert_array_equal(arrays["noise"]["edit"], arrays["images"]["image"])
    for method, count in Asks.cases:
        edit, again = arrays[f"edit/{method}/{count}"], arrays[f"again/{method}/{count}"]
        np.testing.assert_array_equal(edit["edit"], again["reconstruction"])


def test_shards_change_no_bit_of_an_edit(mixture, tmp_path):
    whole, _ = stored(tmp_path / "s", "photo-mixture", *MIXTURE, "samples_per_shard=8")
    for name, arrays in mixture[0].items():
        for variable, values in arrays.items():
            np.testing.assert_array_equal(values, whole[name][variable])


def test_edits_of_a_latent_model_are_decoded_and_guided_ones_are_planned_at_twice_the_price(tmp_path):
    _, plan = stored(tmp_path / "s", "photo-dit", "guidance_scale=2")
    by_request = plan.requests["asks"]
    edit = by_request["noise"].artifact
    group = Store.open(tmp_path / "s").open_artifact(edit)
    read = group.read_samples(0, 4, ("edit", "decoded"))
    model = load_model("photo-dit")
    from workflows.compute.decoding import decoded_rgb

    with torch.no_grad():
        again = decoded_rgb(model, torch.from_numpy(read["edit"]))
    np.testing.assert_array_equal(read["decoded"], again)
    assert edit.guidance_scale == 2 and edit.num_evaluations() == 8


# ---------------------------------------------------------------- the posterior


def test_the_posterior_of_a_class_weighs_predictions_by_the_law_of_total_expectation():
    model = load_model("photo-mixture", options={"num_components_per_photo": 2, "rank": 8})
    x_t = torch.from_numpy(taba_core.rng.normal(range(6), model.sample_shape, seed=3, stream="t"))
    x_t += 0.5 * torch.from_numpy(model.real_crops(range(6), 3))
    for t in (100, 400):
        posterior = model.class_posterior(x_t, t)
        torch.testing.assert_close(posterior.sum(1), torch.ones(6, dtype=torch.float64))
        total = sum(
            posterior[:, c, None, None, None] * model.eps(x_t, t, {"class_id": torch.full((6,), c)})
            for c in range(len(model.class_names))
        )
        torch.testing.assert_close(total.float(), model.eps(x_t, t, {}), rtol=1e-4, atol=1e-5)
