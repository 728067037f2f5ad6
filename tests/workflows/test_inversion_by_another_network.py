"""An inversion by another network than the images are from: its key, its latents, and what stays the images' own."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import taba_core
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.artifacts.base import from_attrs
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.diffusion.guidance import Guided, null_condition
from taba_core.diffusion.inversion import invert, reconstruct
from taba_core.model_spec import ModelSpec
from taba_core.models.base import card_of, load_model, model_spec
from taba_core.models.grids import timestep_grid
from taba_core.store import Store
from workflows.analysis.study import Study, read_settings
from workflows.command.plan_page import inversion_text
from workflows.compute import shared_models
from workflows.compute.decoding import round_trip
from workflows.compute.shared_models import KEPT, SharedModels
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_checkpoints import tiny_dit

N, T, W = 6, 4, 2.0
OWN, OTHER = ModelSpec(name="own", fingerprint="a"), ModelSpec(name="other", fingerprint="b")
IMAGES = Generation(model=OWN, batch_size=4, num_inference_steps=T, seed=0)


# ---------------------------------------------------------------- the spec


def test_the_network_is_in_the_key_by_its_content_and_only_where_it_is_another():
    plain = Inversion(source=IMAGES, num_inference_steps=T)
    by_other = plain.altered(network=OTHER)
    assert "network" not in plain.content() and by_other.content()["network"]["fingerprint"] == "b"
    keys = {plain.key, by_other.key, plain.altered(network=OTHER.altered(fingerprint="c")).key}
    assert len(keys) == 3
    assert plain.altered(network=OTHER.altered(location="elsewhere")).key == by_other.key
    # The images' own network by its name is the ordinary inversion, which other studies have made.
    named = plain.altered(network=OWN.altered(location="elsewhere"))
    assert named.network is None and named.key == plain.key
    assert from_attrs(json.loads(json.dumps(by_other.attrs()))) == by_other
    assert (plain.predictor, by_other.predictor) == (OWN, OTHER)
    assert plain.num_evaluations() == by_other.num_evaluations() == T
    assert inversion_text(by_other) == "ddim by other" and inversion_text(plain) == "ddim"


def test_a_network_of_another_shape_is_refused_where_the_cards_say_it():
    def of(name, *shape):
        return ModelSpec(name=name, fingerprint=name, card={"sample_shape": list(shape)})

    images = IMAGES.altered(model=of("small", 3, 8, 8))
    with pytest.raises(
        ValueError, match="network large works on states of 3x16x16, and the images are of small, on 3x8x8"
    ):
        Inversion(source=images, num_inference_steps=T, network=of("large", 3, 16, 16))
    for fitting in (of("alike", 3, 8, 8), OTHER):
        assert Inversion(source=images, num_inference_steps=T, network=fitting).network == fitting


# ---------------------------------------------------------------- the numbers


class ByAnother(Study):
    """Images of one network, inverted by another and sampled again."""

    name, title, question, paper_section = "by-another", "By another", "?", "O"

    def __init__(self, network: ModelSpec) -> None:
        self.network = network

    def requests(self, context):
        inversion = context.inversion(context.generation(T)).altered(network=self.network)
        return {
            "inversion": context.request(inversion, ("latent",)),
            "reconstruction": context.request(context.reconstruction(inversion), ("reconstruction",)),
        }

    def analyse(self, inputs, context):
        return xr.Dataset(attrs={"claims": "[]"})

    def present(self, results):
        return self.section(results)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two latent class-conditional models, with other weights in network and autoencoder."""
    folder = tmp_path_factory.mktemp("models")
    return tiny_dit(folder / "dit-one"), tiny_dit(folder / "dit-two", num_layers=3)


def test_latents_are_those_of_inverting_by_hand_and_the_codec_stays_the_images_own(places, tmp_path):
    own, other = (load_model(str(place)) for place in places)
    settings = [f"num_samples={N}", f"batch_size={N}", "guidance_scale=3", f"inversion_guidance_scale={W}"]
    context = Context(str(places[0]), "ddim", read_settings([*settings, "round_trip=mean"]))
    store = Store.open(tmp_path / "s", mode="a")
    spec = model_spec(str(places[1]))
    plan = make_plan(context, [ByAnother(spec)], store)
    run_plan(plan, store, lambda: LocalExecutor(1), Resources(), workers=1, scheduler="synchronous")
    made = {p.artifact.kind: store.open_artifact(p.artifact) for p in plan.artifacts}
    read = made["generation"].read_samples(0, N, ("image", "class_id"))

    image = round_trip(own, torch.from_numpy(read["image"]), "mean", np.arange(N), 420)
    grid, cond = (
        timestep_grid(card_of(spec), T),
        {"class_id": torch.from_numpy(read["class_id"].astype(np.int64))},
    )
    rules = context.conventions
    guided = {w: Guided(other, w, null_condition(other, 1)) for w in (W, 3.0)}
    with torch.no_grad():
        latent = invert(
            guided[W], image, grid, "ddim", cond,
            network_time=rules.network_time, levels=rules.levels, x0_rule=rules.inversion_x0_rule,
        )  # fmt: skip
        again = reconstruct(guided[3.0], latent, grid, "ddim", cond, x0_rule=rules.sampling_x0_rule)
        by_own = invert(Guided(own, W, null_condition(own, 1)), image, grid, "ddim", cond)
    stored = made["inversion"].read_samples(0, N, ("latent",))["latent"]
    np.testing.assert_allclose(stored, latent.numpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(stored - by_own.numpy()).max() > 1e-2
    sampled = made["reconstruction"].read_samples(0, N, ("reconstruction",))["reconstruction"]
    np.testing.assert_allclose(sampled, again.numpy(), rtol=1e-4, atol=1e-4)
    attrs = store.open_artifact(plan.artifacts[-1].artifact).artifact.attrs()
    assert attrs["spec"]["source"]["network"]["name"] == "dit-two"
    node = taba_core.find(taba_core.open_store(tmp_path / "s"), kind="inversion")
    assert (node.attrs["model"], node.attrs["network"]) == ("dit-one", "dit-two")


# ---------------------------------------------------------------- many networks


def test_a_worker_keeps_the_networks_it_was_asked_for_last(monkeypatch):
    loaded = []

    class Loaded:
        pass

    def load(spec, *, device):
        loaded.append(spec.options["size"])
        return Loaded()

    monkeypatch.setattr(shared_models, "load_spec", load)
    specs = [model_spec("gaussian", {"size": size}) for size in (8, 16, 32)]
    models = SharedModels("cpu")
    assert KEPT == 2
    first = models.get(specs[0])
    models.get(specs[1])
    assert models.get(specs[0]) is first and loaded == [8, 16]
    models.get(specs[2])  # the second one goes, which was asked for longest ago
    assert models.get(specs[0]) is first and loaded == [8, 16, 32]
    models.get(specs[1])
    assert loaded == [8, 16, 32, 16]
    gc.collect()
    assert sum(isinstance(one, Loaded) for one in gc.get_objects()) == KEPT
