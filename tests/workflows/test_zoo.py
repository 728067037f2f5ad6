"""Every family of networks runs Table 2 from a tiny checkpoint on the CPU; a new checkpoint costs one card."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import taba_core
from taba_core.models.catalog import load_card
from taba_core.stats.regions import plain_mask
from workflows.__main__ import main
from workflows.compute.conditioning import prompts_from_bytes, prompts_to_bytes
from workflows.compute.decoding import latent_view

MODELS = Path(__file__).parents[1] / "models"
sys.path.insert(0, str(MODELS))
import tiny_checkpoints as tiny  # noqa: E402
import tiny_flow_checkpoints as tiny_flow  # noqa: E402
import tiny_sit  # noqa: E402
import tiny_text_checkpoints as tiny_text  # noqa: E402

SMALL = [
    "num_samples=6", "samples_per_shard=4", "num_inference_steps=4", "bootstrap_replicates=100", "top_k=5",
    "patch_size=8", "prompts=builtin",
]  # fmt: skip


def write_card(path: Path, **fields) -> Path:
    path.write_text(yaml.safe_dump(fields))
    return path


def adm_card(folder: Path) -> Path:
    """A checkpoint of a known family: its weights, and one card that says what differs from adm-64."""
    flags = json.loads((MODELS.parent / "data" / "adm_flags.json").read_text())["adm64"]
    process = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "predict_xstart")
    (folder / "ema.pt").write_bytes((MODELS.parent / "data" / "adm64.pt").read_bytes())
    return write_card(
        folder / "tiny-adm.yaml",
        extends="adm-64",
        title="Tiny ADM",
        image_size=32,
        sample_shape=[3, 32, 32],
        network={k: v for k, v in flags.items() if k not in process},
        weights="ema.pt",
    )


MAKERS = {
    "tiny-adm": lambda folder: adm_card(folder),
    "tiny-unet": lambda folder: tiny.tiny_unet(folder / "tiny-unet"),
    "tiny-class-unet": lambda folder: tiny.tiny_class_unet(folder / "tiny-class-unet"),
    "tiny-ldm": lambda folder: tiny.tiny_ldm(folder / "tiny-ldm"),
    "tiny-dit": lambda folder: tiny.tiny_dit(folder / "tiny-dit"),
    "tiny-if": lambda folder: tiny_text.save_tiny_if(folder / "tiny-if"),
    "tiny-sd": lambda folder: tiny_text.save_tiny_sd(folder / "tiny-sd"),
    "tiny-sdxl": lambda folder: tiny_text.save_tiny_sdxl(folder / "tiny-sdxl"),
    "tiny-sit": lambda folder: tiny_sit.save_tiny_sit(folder / "tiny-sit"),
    "tiny-sd3": lambda folder: tiny_flow.save_tiny_sd3(folder / "tiny-sd3"),
    "tiny-flux-small": lambda folder: tiny_flow.flux_card(tiny_flow.save_tiny_flux(folder / "tiny-flux")),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The path `--model` is given, made once a family."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = MAKERS[name](tmp_path_factory.mktemp(name))
        return made[name]

    return of


def taba(*arguments) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return int(stop.value.code or 0)


def run(model, store, *, study="correlation", executor="local", settings=SMALL, workers=1) -> int:
    assignments = [part for text in settings for part in ("--set", text)]
    return taba(
        "run", study, "--model", model, "--store", store, "--executor", executor, "--workers", workers,
        *assignments,
    )  # fmt: skip


def node(store, kind, model=""):
    tree = taba_core.open_store(store)
    return next(a for a in tree.values() if a.attrs.get("kind") == kind and a.name.startswith(model))


@pytest.fixture(scope="module")
def open_ray():
    """One local cluster for all runs of this file: an executor uses the connection this process has."""
    from cluster.ray.session import RaySession

    session = RaySession("local", num_cpus=2)
    yield
    session.close()


@pytest.fixture(scope="module")
def zoo(checkpoint, tmp_path_factory, open_ray):
    """A store with Table 2 of every family: one run of all models, whose worker loads one after the other."""
    store = tmp_path_factory.mktemp("zoo") / "store"
    models = [part for name in MAKERS for part in ("--model", checkpoint(name))]
    settings = [part for text in SMALL for part in ("--set", text)]
    where = ("--store", store, "--executor", "ray", "--workers", 1)
    assert taba("run", "correlation", *models, *where, *settings) == 0
    return store


@pytest.mark.cluster
@pytest.mark.parametrize("name", MAKERS)
def test_every_family_gives_table_2_from_a_tiny_checkpoint_through_ray(name, checkpoint, zoo):
    card = load_card(str(checkpoint(name)))
    with (zoo / "report" / "tables" / "table2.csv").open() as file:
        (row,) = (row for row in csv.DictReader(file) if row["Model"] == card.title)
    assert all(0 < float(row[o]) <= 1 for o in ("noise", "latent", "image", "noise_floor"))
    generation, inversion = (node(zoo, kind, f"{name}-{kind}-") for kind in ("generation", "inversion"))
    assert np.isfinite(inversion["latent"].values).all()
    # Not the identity: the network moved the state, and the inversion came near the noise, not to it.
    error = abs(inversion["latent"].values - generation["noise"].values).mean()
    assert 0 < error < 3
    assert ("decoded" in generation) == (card.domain == "latent")
    assert ("prompt" in generation) == (card.conditional == "text")
    classes = generation["class_id"].values
    assert (classes >= 0).all() if card.conditional == "class" else (classes == -1).all()


@pytest.mark.cluster
def test_one_family_through_ray_gives_the_same_bits_as_without(checkpoint, tmp_path, open_ray):
    model = checkpoint("tiny-ldm")
    assert run(model, tmp_path / "ray", executor="ray", workers=2) == 0
    assert run(model, tmp_path / "local") == 0
    for kind, name in (("generation", "image"), ("generation", "decoded"), ("inversion", "latent")):
        ray, local = (node(tmp_path / where, kind)[name].values for where in ("ray", "local"))
        np.testing.assert_array_equal(ray, local)


@pytest.mark.parametrize("name", ["tiny-sd3", "tiny-flux-small"])
def test_flows_of_text_give_the_same_bits_in_other_shards(name, checkpoint, tmp_path, capsys):
    """Shards of 4 and of 2 samples, by one worker and by two; the network sees two at once either way."""
    batch = [text for text in SMALL if not text.startswith("samples_per_shard")]
    for shard, workers in ((4, 1), (2, 2)):
        settings = [*batch, f"samples_per_shard={shard}", "batch_size=2"]
        assert run(checkpoint(name), tmp_path / str(shard), settings=settings, workers=workers) == 0, (
            capsys.readouterr().err
        )
    for kind, variable in (("generation", "image"), ("generation", "decoded"), ("inversion", "latent")):
        one, other = (node(tmp_path / shard, kind)[variable].values for shard in ("4", "2"))
        np.testing.assert_array_equal(one, other)


@pytest.mark.follows("; use another method, or another model.")
def test_flux_refuses_guidance_and_methods_that_compare_with_a_null_condition(checkpoint, tmp_path, capsys):
    model = checkpoint("tiny-flux-small")
    asked = ["--model", model, "--store", tmp_path / "s", *(p for t in SMALL for p in ("--set", t))]
    assert taba("plan", "correlation", *asked, "--set", "guidance_scale=3.5") == 2
    said = capsys.readouterr().err
    assert (
        "w is the field distilled_guidance of its card (1), the same in both directions; use another" in said
    )
    # The way out: a card that says w.
    guided = model.with_name("guided.yaml")
    guided.write_text(model.read_text()[:-1] + ', "distilled_guidance": 3.5}')
    assert taba("plan", "correlation", "--model", guided, *asked[2:]) == 0
    capsys.readouterr()
    assert taba("plan", "correlation", *asked, "--method", "null-text") == 2
    assert "'null-text' compares the prompt with a null condition, and tiny-flux" in capsys.readouterr().err
    assert taba("plan", "correlation", *asked, "--method", "uni-inv") == 0
    # The comparison of all methods leaves them out.
    assert taba("plan", "methods", *asked, "--set", "methods=all") == 0


def test_the_weights_are_in_the_key_and_their_place_is_not(checkpoint, tmp_path):
    import shutil

    from workflows.analysis.study import read_settings
    from workflows.configuration.context import Context

    def key(folder):
        return Context(str(folder), "ddim", read_settings(SMALL)).generation(4).key

    first = checkpoint("tiny-unet")
    moved = shutil.copytree(first, tmp_path / "tiny-unet")
    assert key(moved) == key(first)
    tiny.tiny_unet(tmp_path / "other" / "tiny-unet", layers_per_block=2)
    assert key(tmp_path / "other" / "tiny-unet") != key(first)
    scheduler = moved / "scheduler" / "scheduler_config.json"
    tiny.edit_json(scheduler, beta_end=0.03)
    assert key(moved) != key(first)


def test_a_checkpoint_of_another_place_is_given_by_weights(checkpoint, tmp_path, capsys):
    store = tmp_path / "store"
    arguments = ["--store", store, "--executor", "local", *(p for t in SMALL for p in ("--set", t))]
    model = write_card(tmp_path / "mine.yaml", **yaml.safe_load(checkpoint("tiny-adm").read_text()))
    assert taba("run", "correlation", "--model", model, *arguments) == 2
    assert "weights of Tiny ADM are not here" in capsys.readouterr().err
    weights = checkpoint("tiny-adm").parent / "ema.pt"
    assert taba("run", "correlation", "--model", model, "--weights", weights, *arguments) == 0
    assert taba("plan", "correlation", "--model", model, "--store", store) == 0


def test_missing_weights_are_refused_without_touching_store_or_network(tmp_path):
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('the network was touched')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "from workflows.__main__ import main\nmain(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "correlation", "--model", "ldm", "--store", tmp_path / "s"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("taba: error: weights of LDM are not here (")
    assert "`taba fetch ldm` on a machine with internet, or --weights PATH." in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_missing_prompt_list_is_refused_and_its_plan_is_not(checkpoint, tmp_path, capsys):
    model, settings = checkpoint("tiny-if"), [s for s in SMALL if not s.startswith("prompts")]
    assert run(model, tmp_path / "s", settings=settings) == 2
    assert "taba fetch recap-coco" in capsys.readouterr().err and not (tmp_path / "s").exists()
    assert taba("plan", "correlation", "--model", model, *(p for t in settings for p in ("--set", t))) == 0


def test_another_prompt_seed_gives_other_prompts_and_images(checkpoint, tmp_path):
    model = checkpoint("tiny-sd")
    for seed in (1, 2):
        assert run(model, tmp_path / str(seed), settings=[*SMALL, f"class_seed={seed}"]) == 0
    first, second = (node(tmp_path / str(seed), "generation") for seed in (1, 2))
    assert prompts_from_bytes(first["prompt"].values) != prompts_from_bytes(second["prompt"].values)
    np.testing.assert_array_equal(first["noise"].values, second["noise"].values)
    assert not np.array_equal(first["image"].values, second["image"].values)


@pytest.mark.slow
def test_all_studies_run_on_a_latent_model(checkpoint, tmp_path, capsys):
    sweeps = [
        "inversion_steps=2,4",
        "long_steps=5",
        "long_forward_steps=1,2",
        "mapping_steps=2",
        "more-steps.own_path=on",
    ]
    methods = "methods=ddim,forward-2-exact,noise-initialised,hybrid-gradient,edict,exact-dpm-1"
    settings = [*SMALL, "forward_steps=1,2", *sweeps, methods]
    assert run(checkpoint("tiny-dit"), tmp_path / "s", study="paper", settings=settings) == 0, (
        capsys.readouterr().err
    )
    # Regions of a latent model: the decoded image averaged over each latent position, then the plain rule. There are
    # two sets of images: `long_steps` has its own.
    tree = taba_core.open_store(tmp_path / "s", whole_shards=True)
    masks = [a for a in tree.values() if a.attrs.get("kind") == "regions"]
    assert len({regions.attrs["source"] for regions in masks}) == 2
    for regions in masks:
        expected = plain_mask(latent_view(tree[regions.attrs["source"]]["decoded"].values, 8, 8), 0.025)
        assert len(expected) == 8
        np.testing.assert_array_equal(regions["region"].values, expected)
    with (tmp_path / "s" / "report" / "tables" / "table1.csv").open() as file:
        assert [row["Model"] for row in csv.DictReader(file)][-2:] == ["FLUX.1 [schnell]", "tiny-dit"]


def test_a_plan_counts_decoded_images_and_says_what_is_missing(capsys, tmp_path):
    settings = ("--set", "num_samples=8", "--set", "num_inference_steps=10")
    assert taba("plan", "correlation", "--model", "dit", "--store", tmp_path / "s", *settings) == 0
    out = capsys.readouterr().out
    assert "weights: missing: 3.3 GB, taba fetch dit" in out
    # Generation: noise and image 4x32x32 float32, class ids int32, decoded 3x256x256 bytes, 8 samples of each;
    # 24 bytes of checksums and index a file: 8 (2 x 16384 + 4 + 196608) + 4 x 24 = 1,835,136.
    assert "1.8 MB" in out and "noise image class_id decoded" in out


def test_the_latent_view_is_the_area_average():
    # 2x2 pixels of 0, 255, 255, 0: mean 127.5 -> 0 on [-1, 1]; all 255 -> 1.
    decoded = np.full((1, 3, 2, 4), 255, np.uint8)
    decoded[0, :, 0, 0] = decoded[0, :, 1, 1] = 0
    np.testing.assert_array_equal(latent_view(decoded, 1, 2)[0, 0], [[0.0, 1.0]])


def test_prompts_survive_storage_and_are_cut_at_a_whole_character():
    prompts = ["a red boat", "", "ein großes Haus", "é" * 600]
    stored = prompts_to_bytes(prompts)
    assert stored.shape == (4, 1024) and stored.dtype == np.uint8
    # 1024 bytes hold 512 letters of two bytes.
    assert prompts_from_bytes(stored) == [*prompts[:3], "é" * 512]


def test_keys_of_the_embedded_models_did_not_move():
    from taba_core.artifacts.generation import Generation
    from taba_core.artifacts.inversion import Inversion
    from taba_core.models.base import model_spec

    generation = Generation(model=model_spec("gaussian"), batch_size=32, num_inference_steps=50, seed=420)
    inversion = Inversion(source=generation, num_inference_steps=50, forward_steps=1)
    assert (generation.key, inversion.key) == ("90d83872ca3a", "557b0c017040")


def test_a_round_trip_through_the_decoder_is_another_inversion(checkpoint, tmp_path):
    sets = [part for s in SMALL for part in ("--set", s)]
    common = [
        "run",
        "correlation",
        "--model",
        checkpoint("tiny-sd"),
        "--executor",
        "local",
        "--no-report",
        *sets,
    ]
    for mode in ("none", "mean", "sample"):
        assert taba(*common, "--store", tmp_path / "s", "--set", f"round_trip={mode}") == 0
    latents = {
        node.attrs["round_trip"]: node["latent"].values
        for node in taba_core.open_store(tmp_path / "s").values()
        if node.attrs["kind"] == "inversion"
    }
    assert set(latents) == {"none", "mean", "sample"}
    assert not np.allclose(latents["none"], latents["mean"])
    assert not np.allclose(latents["mean"], latents["sample"])


def test_a_round_trip_needs_a_decoder(tmp_path, capsys):
    arguments = ["plan", "correlation", "--model", "gaussian", "--set", "round_trip=mean"]
    assert taba(*arguments, "--store", tmp_path / "none") == 2
    assert "Gaussian field has no decoder" in capsys.readouterr().err
