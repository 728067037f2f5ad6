"""Study `training` on networks that are trained here: what is asked, what is measured, what is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from trained_networks import BATCH as SEEN
from trained_networks import recipe, train

import workflows.studies.training as study_module
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.diffusion.inversion import invert
from taba_core.errors import UsageError
from taba_core.metrics.extractor import extractor_named
from taba_core.models.base import card_of, load_spec
from taba_core.models.grids import timestep_grid
from taba_core.stats.alignment import FeatureAlignment, kernel_alignment
from taba_core.stats.similarity import structural_similarity
from taba_core.store import Store
from workflows.analysis.inputs import Inputs
from workflows.analysis.study import GROUPS, find_studies, read_settings
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan
from workflows.report.from_store import write_store_report
from workflows.studies.training.measures import svcca_dims
from workflows.studies.training.options import training_seeds

STEPS = (0, 10, 30, 60)
N, T, BATCH = 24, 5, 12
SMALL = (f"num_samples={N}", f"num_inference_steps={T}", "bootstrap_replicates=100", f"batch_size={BATCH}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two trainings of 60 steps at 8x8, each kept at four steps."""
    folder, threads = tmp_path_factory.mktemp("trained"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield tuple(train(folder / f"{seed}", recipe(), STEPS, seed=seed) for seed in (0, 10))
    torch.set_num_threads(threads)


def context_of(run, *sets):
    card = run.checkpoints[-1].model.location.rsplit("/", 1)[0] + "/card.yaml"
    chosen = dict(one.split("=", 1) for one in (*SMALL, *sets))  # the later one counts
    return Context(card, "ddim", read_settings([f"{name}={value}" for name, value in chosen.items()]))


def these(patch, runs):
    """Let the study ask these trainings."""
    patch.setattr(study_module, "_trainings", lambda context: runs)
    patch.setattr(study_module, "trained_run", lambda context, run: run)


def carried_out(place, runs, *sets):
    """The store of the study's run on these trainings, the plan that was carried out, and the result."""
    context, store = context_of(runs[0], *sets), Store.open(place, mode="a")
    with pytest.MonkeyPatch.context() as patch:
        these(patch, runs)
        plan = make_plan(context, find_studies(["training"]), store)
        run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    (name,) = store.results()
    return store, plan, store.read_result(name)


@pytest.fixture(scope="module")
def done(trained, tmp_path_factory):
    return carried_out(tmp_path_factory.mktemp("training") / "store", trained)


def arrays(done, run, index, what, *names):
    """Stored arrays of a checkpoint."""
    store, plan, _ = done
    artifact = plan.requests["training"][f"{run.seed}/{run.checkpoints[index].step}/{what}"].artifact
    read = store.open_artifact(artifact).read_samples(0, N, names)
    return [read[name].astype(np.float64) for name in names]


# ---------------------------------------------------------------- what is asked


def test_every_checkpoint_inverts_the_final_images_and_the_final_network_by_the_ordinary_inversion(
    trained, done
):
    asked = done[1].requests["training"]
    assert len(asked) == 2 * len(STEPS) * 3
    for run in trained:
        final = run.checkpoints[-1].model
        for one in run.checkpoints:
            images, inversion = (
                asked[f"{run.seed}/{one.step}/{w}"].artifact for w in ("generation", "inversion")
            )
            assert images.model == one.model and images.seed == 420
            assert inversion.source.model == final and inversion.predictor == one.model
        # What study `correlation` of the final network reads is what this study has made.
        context = context_of(run)
        theirs = find_studies(["correlation"])[0].requests(context)["inversion"].artifact
        assert theirs.key == asked[f"{run.seed}/{STEPS[-1]}/inversion"].artifact.key
    # Generation and inversion of every checkpoint: T evaluations each.
    assert done[1].evaluations == 2 * len(STEPS) * 2 * N * T


def test_latents_of_a_checkpoint_are_those_of_inverting_by_hand(trained, done):
    run, store, plan = trained[0], done[0], done[1]
    artifact = plan.requests["training"]["0/30/inversion"].artifact
    image = store.open_artifact(artifact.source).read_samples(0, N, ("image",))["image"]
    model = load_spec(run.checkpoints[2].model)
    rules = context_of(run).conventions
    with torch.no_grad():
        parts = [
            invert(
                model,
                torch.from_numpy(image[i : i + BATCH]),
                timestep_grid(card_of(run.checkpoints[2].model), T),
                network_time=rules.network_time,
                levels=rules.levels,
                x0_rule=rules.inversion_x0_rule,
            )
            for i in range(0, N, BATCH)
        ]
    stored = store.open_artifact(artifact).read_samples(0, N, ("latent",))["latent"]
    np.testing.assert_allclose(stored, torch.cat(parts).numpy(), rtol=1e-5, atol=1e-5)
    (final,) = arrays(done, run, 3, "inversion", "latent")
    assert np.abs(stored - final).max() > 0.1


# ---------------------------------------------------------------- what is measured


def test_angles_and_distances_are_those_of_noise_final_image_and_own_latent(trained, done):
    noise, image = (x.reshape(N, -1) for x in arrays(done, trained[1], 3, "generation", "noise", "image"))
    (latent,) = (x.reshape(N, -1) for x in arrays(done, trained[1], 1, "inversion", "latent"))

    def angle(corner, a, b):
        u, v = a - corner, b - corner
        cosine = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
        return np.degrees(np.arccos(cosine)).mean()

    of = done[2].sel(training_seed=10, checkpoint=10)
    expected = {
        "image": angle(image, noise, latent),
        "noise": angle(noise, image, latent),
        "latent": angle(latent, noise, image),
    }
    for vertex, value in expected.items():
        assert float(of["angle"].sel(vertex=vertex)) == pytest.approx(value)
        low, high = (float(of[f"angle_{end}"].sel(vertex=vertex)) for end in ("low", "high"))
        assert low < value < high
    for name, other in (("noise_latent", noise), ("image_latent", image)):
        length = np.linalg.norm(other - latent, axis=1).mean()
        assert float(of["distance"].sel(distance_between=name)) == pytest.approx(length)


def test_mapping_and_alignment_are_those_of_the_definitions(trained, done):
    run, index = trained[0], 2
    noise, own = arrays(done, run, index, "generation", "noise", "image")
    (final,) = arrays(done, run, 3, "generation", "image")
    of = done[2].sel(training_seed=0, checkpoint=STEPS[index])
    distance = np.linalg.norm(own.reshape(N, 1, -1) - noise.reshape(1, N, -1), axis=2)
    assert float(of["accuracy"].sel(direction="image_noise")) == (distance.argmin(1) == np.arange(N)).mean()
    assert float(of["accuracy"].sel(direction="noise_image")) == (distance.argmin(0) == np.arange(N)).mean()

    assert float(of["cka"]) == pytest.approx(kernel_alignment(final, own))
    scaled = [(x - x.min()) / (x.max() - x.min()) for x in (final, own)]
    assert float(of["ssim"]) == pytest.approx(structural_similarity(*scaled, 1.0).mean())
    rows = [extractor_named("random-convolutions").rows(levels(x)).double().numpy() for x in (final, own)]
    cosine = (rows[0] * rows[1]).sum(1) / np.prod([np.linalg.norm(x, axis=1) for x in rows], axis=0)
    assert float(of["features"]) == pytest.approx(cosine.mean(), rel=1e-5)
    # The rings of 8 pixels are k = 1..4, half the Nyquist frequency is k = 2.
    power = np.square(np.abs(np.fft.fft2(own - final))).mean(axis=(0, 1))
    radius = np.floor(np.hypot(np.fft.fftfreq(8)[:, None], np.fft.fftfreq(8)) * 8 + 0.5)
    rings = [power[radius == k].mean() for k in (1, 2, 3, 4)]
    assert float(of["power_ratio"]) == pytest.approx(sum(rings[2:]) / sum(rings[:2]))


def levels(x):
    return torch.from_numpy(np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8))


def test_the_final_network_is_aligned_with_itself_and_what_trainings_say_is_kept(trained, done):
    result, (_, _, _, last) = done[2], STEPS
    for name in ("cka", "cka_unbiased", "svcca", "features", "ssim"):
        np.testing.assert_allclose(result[name].sel(checkpoint=last), 1.0, atol=1e-6)
    assert np.isnan(result["power_ratio"].sel(checkpoint=last)).all()
    assert result["images"].values.tolist() == [SEEN * step for step in STEPS]
    assert result["share"].values.tolist() == [0, 10 / 60, 0.5, 1]
    for run in trained:
        own = result.sel(training_seed=run.seed)
        np.testing.assert_array_equal(own["held_out"], [one.held_out for one in run.checkpoints])
        np.testing.assert_allclose(own["loss"], run.loss)
        assert own["loss_images"].values.tolist() == [SEEN * step for step in run.loss_steps]
    # A network that predicts nothing is wrong by the noise itself: 1, up to the noise of these crops.
    np.testing.assert_allclose(result["held_out"].sel(checkpoint=0), 1.0, atol=0.15)
    assert (result["svcca_dims"], svcca_dims(64), svcca_dims(2048), svcca_dims(4)) == (3, 8, 10, 1)


def test_a_reduction_leaves_out_no_more_groups_than_asked(done):
    store, plan, _ = done
    inputs = Inputs(store, plan.requests["training"], sample_shape=(3, 8, 8), scheduler="sync", workers=1)
    columns = {"x": ("0/0/generation", "image"), "y": ("0/60/generation", "image")}
    found = {
        groups: inputs.reduce(columns, {"a": FeatureAlignment("x", "y", 3)}, max_groups=groups)["a"]["cka"]
        for groups in (None, 1)
    }
    # 24 images are two blocks of at most 16, which make two groups; of one group there is none to leave out.
    assert {groups: len(cka.replicates) for groups, cka in found.items()} == {None: 2, 1: 0}
    assert float(found[None]) == float(found[1])


# ---------------------------------------------------------------- what theory says of an untrained network


def test_an_untrained_network_scales_the_noise_and_every_image_and_noise_find_each_other(trained, tmp_path):
    untrained = replace(trained[0], checkpoints=trained[0].checkpoints[:1], loss=(), loss_steps=())
    made = carried_out(tmp_path / "s", (untrained,), "conventions=exact")
    noise, image = arrays(made, untrained, 0, "generation", "noise", "image")
    (latent,) = arrays(made, untrained, 0, "inversion", "latent")
    level = float(timestep_grid(card_of(untrained.checkpoints[0].model), T).alpha_bar[T])
    # It predicts 0, so a step only changes the scale sqrt(alpha_bar): x_0 = x_T / sqrt(alpha_bar_T), and back.
    np.testing.assert_allclose(image, noise / np.sqrt(level), rtol=1e-4)
    np.testing.assert_allclose(latent, noise, rtol=1e-4)
    result = made[2]
    assert float(result["distance"].sel(distance_between="noise_latent").item()) < 1e-4 * np.linalg.norm(
        noise[0]
    )
    assert float(result["angle"].sel(vertex="image").item()) < 1e-2
    assert result["accuracy"].values.ravel().tolist() == [1, 1]
    # One checkpoint is no training: nothing is claimed of it, and it can be shown.
    claims = json.loads(result.attrs["claims"])
    assert {claim["id"]: claim["verdict"] for claim in claims if claim["id"] != "CF17a"} == dict.fromkeys(
        ("CF16a", "CF16b", "CF17b", "CF18a", "CF18b", "CF19"), "not resolved"
    )
    _, failures = write_store_report(tmp_path / "s", None, force=True)
    assert not failures


def test_an_untrained_network_scales_the_final_images(trained, tmp_path):
    run = replace(trained[0], checkpoints=(trained[0].checkpoints[0], trained[0].checkpoints[-1]))
    made = carried_out(tmp_path / "s", (run,), "conventions=exact")
    (image,) = arrays(made, run, 1, "generation", "image")
    (latent,) = arrays(made, run, 0, "inversion", "latent")
    level = float(timestep_grid(card_of(run.checkpoints[0].model), T).alpha_bar[T])
    np.testing.assert_allclose(latent, np.sqrt(level) * image, rtol=1e-4, atol=1e-7)
    # The latent lies on the line from the image to the origin: its distance to the image is (1 - sqrt(level)) |x_0|.
    expected = (1 - np.sqrt(level)) * np.linalg.norm(image.reshape(N, -1), axis=1).mean()
    found = made[2]["distance"].sel(distance_between="image_latent", checkpoint=0).item()
    assert found == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- what is shown


def test_the_report_shows_figures_tables_and_claims(done, trained):
    store, _, result = done
    _, failures = write_store_report(store.path, None, force=True)
    assert not failures
    folder = store.path / "report"
    figures = {path.stem for path in (folder / "figures").glob("*.webp")}
    assert figures == {
        "fig16", "fig17", "fig18", "fig19", "fig19-power", "fig21", "training-loss", "training-held-out",
    }  # fmt: skip
    claims = {claim["id"]: claim for claim in json.loads((folder / "claims.json").read_text())}
    assert claims.keys() == {"CF16a", "CF16b", "CF17a", "CF17b", "CF18a", "CF18b", "CF19"}
    assert {"training seed 0", "training seed 10", "spread of the margin over training seeds"} <= claims[
        "CF16a"
    ]["numbers"].keys()
    rows = json.loads((folder / "results.json").read_text())
    cells = {(row["item"], row["row"], row["column"]): row for row in rows}
    name = "training seed 10 / step 30: 480 images, 50.0%"
    cell = cells["training-latents", name, "angle_noise"]
    assert cell["value"] == pytest.approx(
        float(result["angle"].sel(training_seed=10, checkpoint=30, vertex="noise"))
    )
    mean = cells["training-alignment", "mean, ± over seeds / step 30: 480 images, 50.0%", "svcca"]
    both = result["svcca"].sel(checkpoint=30).values
    assert (mean["value"], mean["spread"]) == pytest.approx((both.mean(), both.std(ddof=1)))
    assert cells["training-alignment", name, "features"]["proxy"] == "DINO"


def test_it_is_asked_by_its_name_or_a_figures_and_in_no_group():
    for group in GROUPS:
        assert "training" not in {study.name for study in find_studies([group])}
    (study,) = find_studies(["fig18"])
    assert study.name == "training" and study.trained_model and study.paper_section == "O"
    assert not any(other.trained_model for other in find_studies(["paper"]))


def test_the_key_of_a_result_follows_the_networks_and_the_bootstrap(trained, monkeypatch):
    study = find_studies(["training"])[0]
    these(monkeypatch, trained)

    def key(*sets):
        return study.result_key(context_of(trained[0], *sets))

    monkeypatch.setattr(type(extractor_named("pca-64")), "least_side", 8)
    first = key()
    for same in ("patch_size=4", "top_k=3", "training.seeds=0,10"):
        assert key(same) == first
    assert key("bootstrap_replicates=200") != first and key("training.extractor=pca-64") != first
    one = trained[0].checkpoints[1]
    other = replace(one, model=one.model.altered(fingerprint="another"))
    changed = (
        replace(trained[0], checkpoints=(trained[0].checkpoints[0], other, *trained[0].checkpoints[2:])),
        trained[1],
    )
    these(monkeypatch, changed)
    assert key() != first


@pytest.mark.follows(" Use another (taba list).", " Or use another (taba list).")
def test_another_extractor_is_the_way_out_of_one_that_does_not_do(trained, monkeypatch):
    study, own = find_studies(["training"])[0], type(extractor_named("random-convolutions"))
    these(monkeypatch, trained)
    given, other = context_of(trained[0]), context_of(trained[0], "training.extractor=pca-64")
    monkeypatch.setattr(own, "least_side", 9)
    monkeypatch.setattr(type(extractor_named("pca-64")), "least_side", 8)
    with pytest.raises(
        UsageError, match=r"with sides of at least 9, and this model's are 3x8x8\. Use another"
    ):
        study.requests(given)
    assert study.requests(other)
    monkeypatch.setattr(study_module, "check_images", lambda context, wanted: None)  # of no recipe of ours
    monkeypatch.setattr(own, "why_not", lambda self: "its weights are not here.")
    with pytest.raises(UsageError, match=r"its weights are not here\. Or use another"):
        study.check_runnable(given)
    study.check_runnable(other)


@pytest.mark.follows(" is negative; use 0 or more")
def test_seeds_are_the_papers_of_the_papers_models_unless_given():
    def seeds(model, *sets):
        return training_seeds(Context(model, "ddim", read_settings(sets)))

    assert seeds("photo-adm") == (0,) and seeds("adm-32") == seeds("adm-64") == (0, 10, 42)
    assert seeds("adm-32", "training.seeds=7") == (7,) and seeds("photo-adm", "training.seeds=3,1,3") == (
        3,
        1,
    )
    with pytest.raises(UsageError, match="give at least one training seed"):
        seeds("photo-adm", "training.seeds=")
    for option in ("seeds", "checkpoints"):
        with pytest.raises(UsageError, match="-1 is negative; use 0 or more"):
            seeds("photo-adm", f"training.{option}=3,-1")
        assert seeds("photo-adm", f"training.{option}=3,0")


def test_trainings_kept_at_different_steps_are_refused_and_so_is_an_unknown_extractor(trained, monkeypatch):
    study = find_studies(["training"])[0]
    these(monkeypatch, (trained[0], replace(trained[1], checkpoints=trained[1].checkpoints[1:])))
    with pytest.raises(UsageError, match="2 trainings that were kept at different steps"):
        study.requests(context_of(trained[0]))
    with pytest.raises(UsageError, match="unknown feature extractor 'dino'"):
        study.requests(context_of(trained[0], "training.extractor=dino"))
