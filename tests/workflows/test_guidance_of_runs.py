"""Guidance from the setting to the stored arrays: by the formula, by a plain loop, and counted as it was planned."""

from __future__ import annotations

import csv
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_runs import fingerprints, taba

import taba_core
from cluster.pool.executor import Resources
from cluster.pool.local import LocalExecutor
from taba_core.diffusion import CountedDenoiser
from taba_core.models.base import load_model
from taba_core.models.grids import timestep_grid
from taba_core.models.network import Network
from taba_core.models.photo_mixture import PhotoMixture
from taba_core.store import Store
from workflows.analysis.study import find_studies, read_settings
from workflows.compute.conditioning import condition
from workflows.compute.shared_models import SharedModels
from workflows.configuration.context import Context
from workflows.execution.engine import run_plan
from workflows.planning.plan import make_plan

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_checkpoints import tiny_dit
from tiny_text_checkpoints import save_tiny_sd

T = 4
SMALL = ["num_samples=6", "samples_per_shard=4", "batch_size=4", f"num_inference_steps={T}", "top_k=5",
         "bootstrap_replicates=100"]  # fmt: skip
MIXTURE = [*SMALL, "conditioning=class", "model.num_components_per_photo=2", "model.rank=8"]
BOTH = ["guidance_scale=3", "inversion_guidance_scale=2"]
MIXED_FIT = {"num_components_per_photo": 2, "rank": 8}


def run(path, sets, *, studies=("correlation",), model="photo-mixture", executor=None):
    context = Context(str(model), "ddim", read_settings(list(sets)))
    store = Store.open(path, mode="a")
    plan = make_plan(context, find_studies(list(studies)), store)
    units, make = plan.units, executor or (lambda: LocalExecutor(workers=1))
    run_plan(plan, store, make, Resources(num_cpus=1), workers=1, scheduler="synchronous")
    return plan, units


def stored(path, kind, name):
    """An array of the one artifact of a kind, whole shards."""
    tree = taba_core.open_store(path, whole_shards=True)
    (node,) = [node for node in tree.values() if node.attrs.get("kind") == kind]
    return node[name].values


# ---------------------------------------------------------------- the numbers


def guided_ends(network, card, x, alpha_bar, t, scale, cond, null):
    """x_0 and eps of states at alpha_bar, asked at the time t, from two outputs of the network, written out."""
    towards, anything = (
        (network.eps if card.prediction == "epsilon" else network._raw)(x, t, c) for c in (cond, null)
    )
    out = anything + scale * (towards - anything)
    alpha, sigma = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    if card.prediction == "v":
        return alpha * x - sigma * out, sigma * x + alpha * out
    return (x - sigma * out) / alpha, out


def ddim_with_guidance(network, x, card, levels, scale, cond, null):
    """DDIM with classifier-free guidance over the given moves from level to level, written out.

    The network is asked at the time of the upper level of a move, in both directions.
    """
    grid = timestep_grid(card, T)
    a = [float(value) for value in grid.alpha_bar]  # levels 0, ..., T
    for start, stop in itertools.pairwise(levels):
        t = float(grid.network_times[max(start, stop) - 1])
        x_0, eps = guided_ends(network, card, x, a[start], t, scale, cond, null)
        x = a[stop] ** 0.5 * x_0 + (1 - a[stop]) ** 0.5 * eps
    return x


DOWN, UP = range(T, -1, -1), range(T + 1)


def near(actual, expected, within=1e-6):
    """Equal to 1e-6 of the largest value, in float32 on both sides."""
    expected = expected.numpy() if isinstance(expected, torch.Tensor) else expected
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=within * max(1.0, float(np.abs(expected).max()))
    )


MODELS = {
    "tiny-dit": tiny_dit,
    "tiny-sd": save_tiny_sd,
    "photo-if": lambda folder: "photo-if",
    "photo-mixture": lambda folder: "photo-mixture",
}


def settings_of(name):
    if name == "photo-mixture":
        return MIXTURE
    return [*SMALL, "conventions=exact", *(["prompts=builtin"] if name == "tiny-sd" else [])]


@pytest.fixture(scope="module", params=MODELS)
def guided(request, tmp_path_factory):
    """Table 2 of a model under guidance 3 down and 2 up: the path of its store, its card and its network."""
    folder = tmp_path_factory.mktemp(request.param)
    model = str(MODELS[request.param](folder / request.param))
    sets = [*settings_of(request.param), *BOTH]
    assignments = [part for text in sets for part in ("--set", text)]
    assert taba("run", "correlation", "--model", model, "--store", folder / "s", "--executor", "local",
                "--workers", "1", *assignments) == 0  # fmt: skip
    options = MIXED_FIT if model == "photo-mixture" else None
    return folder / "s", Context(model, "ddim", read_settings(sets)).card, load_model(model, options=options)


def conditions(path, network, rows):
    """The condition of the first rows, as the store has it, and the null condition."""
    tree = taba_core.open_store(path, whole_shards=True)
    (node,) = [node for node in tree.values() if node.attrs.get("kind") == "generation"]
    names = [name for name in ("class_id", "prompt") if name in node]
    return condition(network, {n: node[n].values[:rows] for n in names}, "cpu"), network.null_condition(rows)


@torch.no_grad()
def test_stored_images_and_latents_are_those_of_a_plain_loop_with_guidance(guided):
    path, card, network = guided
    noise, image = (torch.from_numpy(stored(path, "generation", name)) for name in ("noise", "image"))
    cond, null = conditions(path, network, 4)
    # Trained networks and exact posteriors answer to the rounding of a state, which the first step divides by
    # sqrt(alpha_bar_T), about 1/17, and w = 3 takes 2 w - 1 = 5 times: 6e-8 * 17 * 5 = 5e-6 a step.
    within = 1e-6 if card.name.startswith("tiny") else 1e-4
    near(image[:4].numpy(), ddim_with_guidance(network, noise[:4], card, DOWN, 3.0, cond, null), within)
    latent = stored(path, "inversion", "latent")[:4]
    near(latent, ddim_with_guidance(network, image[:4], card, UP, 2.0, cond, null), within)
    # The scale is no detail: without it the same loop ends elsewhere.
    unguided = ddim_with_guidance(network, noise[:4], card, DOWN, 1.0, cond, null)
    assert float((image[:4] - unguided).abs().max()) > 10 * within


def test_the_table_says_the_scales_and_counts_both_evaluations(guided):
    path, _, _ = guided
    with (path / "report" / "tables" / "table2.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert 0 < float(row["latent"]) <= 1
    page = (path / "report" / "pages" / "study-correlation.html").read_text()
    assert "guidance_scale=3, inversion_guidance_scale=2" in page
    tree = taba_core.open_store(path)
    scales = {node.attrs["kind"]: node.attrs.get("guidance_scale") for node in tree.values()}
    assert scales == {"generation": 3.0, "inversion": 2.0, "result": None}


def test_the_guided_noise_of_the_mixture_is_the_formula_of_two_exact_posteriors(tmp_path):
    run(tmp_path / "s", [*MIXTURE, "guidance_scale=3", "trajectories=all"], studies=["step-error"])
    x_t, eps_t = (stored(tmp_path / "s", "generation", name) for name in ("x_t", "eps_t"))
    class_id = torch.from_numpy(stored(tmp_path / "s", "generation", "class_id").astype(np.int64))
    model = load_model("photo-mixture", options=MIXED_FIT)
    grid = timestep_grid(Context("photo-mixture", "ddim", read_settings(MIXTURE)).card, T)
    for level in range(1, T + 1):
        x, t = torch.from_numpy(x_t[:, level - 1]), float(grid.network_times[level - 1])
        # The posterior of the photograph, and that of any photograph.
        towards, anything = model.eps(x, t, {"class_id": class_id}), model.eps(x, t, {})
        near(eps_t[:, level - 1], 3 * towards - 2 * anything)
    # The inversion's predictions from these states are at its own scale, 1.
    image, eps_hat = (
        stored(tmp_path / "s", "generation", "image"),
        stored(tmp_path / "s", "step-predictions", "eps_hat"),
    )
    first = model.eps(torch.from_numpy(image), float(grid.network_times[0]), {"class_id": class_id})
    near(eps_hat[:, 0], first)


# ---------------------------------------------------------------- what it costs


@pytest.fixture
def counted(monkeypatch):
    """Counts what the network itself is asked, below guidance, clocks and methods."""
    counters, load = [], SharedModels.get

    def get(self, spec):
        held = self.__dict__.setdefault("counted", {})
        if spec not in held:
            held[spec] = CountedDenoiser(load(self, spec))
            counters.append(held[spec])
        return held[spec]

    monkeypatch.setattr(SharedModels, "get", get)
    return lambda: sum(counter.num_evaluations for counter in counters)


@pytest.mark.parametrize("scales", [[], ["guidance_scale=3"], ["inversion_guidance_scale=2"], BOTH])
def test_a_plan_counts_what_the_network_is_asked(scales, counted, tmp_path):
    sets = [*MIXTURE, "forward_steps=1", "trajectories=2", *scales]
    plan, _ = run(tmp_path / "s", sets, studies=["correlation", "step-error", "fix", "location"])
    assert plan.evaluations == counted() > 0


def test_what_an_inversion_is_told_to_have_taken_counts_both(counted, tmp_path):
    methods = ["arc_samples=6", "methods=ddim,forward-2-exact,edict,fixed-point-5,noise-initialised"]
    spent = {}
    for name, scales in (("plain", []), ("guided", BOTH)):
        run(tmp_path / name, [*MIXTURE, *methods, *scales], studies=["methods"])
        tree = taba_core.open_store(tmp_path / name)
        nodes = [node for node in tree.values() if node.attrs.get("kind") == "inversion"]
        spent[name] = {
            (node.attrs["method"], node.attrs["forward_steps"]): node["evaluations"].values for node in nodes
        }
        assert spent[name]["ddim", 0].tolist() == [T * (2 if scales else 1)] * 6
    assert spent["plain"].keys() == spent["guided"].keys() and len(spent["plain"]) == 5
    for method, evaluations in spent["plain"].items():
        assert (2 * evaluations == spent["guided"][method]).all(), method


def test_the_null_condition_is_encoded_once_a_worker(counted, tmp_path, monkeypatch):
    encoded = []
    for kind in (Network, PhotoMixture):
        own = kind.null_condition
        monkeypatch.setattr(
            kind, "null_condition", lambda self, n, own=own: encoded.append(n) or own(self, n)
        )
    run(tmp_path / "s", [*MIXTURE, *BOTH])
    assert encoded == [1]


# ---------------------------------------------------------------- the same bits


class LastFirst(LocalExecutor):
    """Hands units over in the opposite order, as far as their dependencies allow."""

    def execute(self, units, make_worker, resources, on_event=None):
        return super().execute(list(reversed(units)), make_worker, resources, on_event)


STUDIES = ("correlation", "step-error", "fix")
WHOLE = [*MIXTURE, *BOTH, "forward_steps=1"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "s"
    run(path, WHOLE, studies=STUDIES)
    return fingerprints(path)


@pytest.mark.parametrize("executor", [lambda: LocalExecutor(workers=2), lambda: LastFirst(workers=1)])
def test_any_workers_and_any_order_give_the_same_bits(reference, executor, tmp_path):
    run(tmp_path / "s", WHOLE, studies=STUDIES, executor=executor)
    assert fingerprints(tmp_path / "s") == reference


@pytest.mark.cluster
def test_ray_gives_the_same_bits(reference, tmp_path):
    from cluster.ray.executor import RayExecutor

    run(tmp_path / "s", WHOLE, studies=STUDIES, executor=lambda: RayExecutor(address=None, num_workers=2))
    assert fingerprints(tmp_path / "s") == reference


def test_a_guided_store_grows_beside_an_unguided_one(tmp_path):
    more = [text.replace("samples=6", "samples=12") for text in MIXTURE]
    run(tmp_path / "s", MIXTURE)
    before = fingerprints(tmp_path / "s")
    run(tmp_path / "s", [*MIXTURE, *BOTH])
    after = fingerprints(tmp_path / "s")
    assert {name: after[name] for name in before if name != "zarr.json"} == {
        name: bits for name, bits in before.items() if name != "zarr.json"
    }
    _, units = run(tmp_path / "s", [*more, *BOTH])
    assert units == 2  # generation and inversion of one shard more
    run(tmp_path / "whole", [*more, *BOTH])
    grown, whole = fingerprints(tmp_path / "s"), fingerprints(tmp_path / "whole")
    shards = [name for name in whole if "/c/" in name]
    assert shards and all(grown[name] == whole[name] for name in shards)
