"""Networks trained in a store: killed anywhere, shared by ranks, damaged, refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import taba_core
from cluster.pool.executor import Resources
from taba_core.artifacts.training import Training
from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.models.base import load_model, model_spec
from taba_core.models.photos import content_of, load_photos
from taba_core.store import Store
from taba_core.store.audit import audit
from taba_core.store.trainings import TrainingFolder, training_folder, trainings
from taba_core.training.recipe import box_recipes, recipe_named
from workflows.analysis.study import read_settings
from workflows.compute.training import TrainTask
from workflows.configuration.context import Context
from workflows.configuration.trained import Wanted, check_images, trained_run, training_of
from workflows.execution.training import TrainingHost, line_of, told, train_missing
from workflows.planning.stages import ranks_for

INLINE = TrainingHost("inline", None, None, Resources(num_cpus=1))
STEPS = (0, 4, 12)


def training(**fields) -> Training:
    """A network of 8x8 crops, so small that a step takes milliseconds."""
    recipe = recipe_named("photo-tiny").model_dump(mode="json")
    recipe |= {"image_size": 8, "network": {**recipe["network"], "image_size": 8, "num_channels": 32}}
    chosen = {"steps": STEPS[-1], "batch_size": 4, "learning_rate": 1e-3, "checkpoints": STEPS}
    chosen |= {"seed": 0, "data": content_of(load_photos("builtin")).fingerprint}
    return Training(recipe=recipe, **chosen | fields)


def trained(root: Path, spec: Training, host: TrainingHost = INLINE) -> TrainingFolder:
    store = Store.open(root, mode="a")
    train_missing([spec], store, host, lambda stage: None)
    return training_folder(store, spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained") / "store", training())


def weights(folder: TrainingFolder, step: int) -> dict[str, torch.Tensor]:
    # Cloned: what was loaded is a view of the file, and some tests change the file.
    held = load_file(folder.folder(step) / "weights.safetensors")
    return {name: value.clone() for name, value in held.items()}


def test_every_network_is_kept_as_a_model_of_its_content(folder):
    specs = [model_spec(str(folder.folder(step) / "card.yaml")) for step in STEPS]
    assert len({spec.fingerprint for spec in specs}) == len(STEPS)
    assert [spec.name for spec in specs] == [f"photo-tiny-seed0-step{step}" for step in STEPS]
    model = load_model(str(folder.folder(0) / "card.yaml"))
    x = torch.randn(2, 3, 8, 8)
    assert torch.count_nonzero(model.eps(x, 100.0, {})) == 0, "an untrained network predicts no noise"


def test_the_store_tells_loss_and_held_out_errors(folder):
    tree = taba_core.open_store(folder.root)
    found = taba_core.find(tree, kind="training")
    assert found["checkpoint"].values.tolist() == list(STEPS)
    assert found["loss_step"].values.tolist() == [4, 12]
    facts = [folder.facts(step) for step in STEPS]
    assert found["held_out_error"].values.tolist() == [fact["held_out_errors"] for fact in facts]
    assert [fact["images"] for fact in facts] == [0, 16, 48]
    assert not folder.state.exists() and not folder.progress.exists()


def test_a_complete_run_is_not_trained_again(folder):
    assert train_missing([folder.spec], Store.open(folder.root, mode="a"), INLINE, lambda stage: None) == 0


def test_killed_twice_it_ends_with_the_bits_of_an_undisturbed_run(folder, tmp_path):
    """SIGKILL while a process trains: once after its first network, once after its second."""
    spec = training()
    root = tmp_path / "store"
    for step in STEPS[:2]:
        code = (
            f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_trainings import *\n"
            "import taba_core.training.loop as loop, taba_core.training.kept as kept\n"
            "loop.STEPS_BETWEEN_CHECKS = 2; kept.STATE_SECONDS = -1.0\n"
            "step = loop.Loop._step\n"
            "loop.Loop._step = lambda self, k: (time.sleep(0.3), step(self, k))[1]\n"
            f"trained(Path({str(root)!r}), training())"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
        facts = root / spec.name / "checkpoints" / f"{spec.label(step)}.json"
        until = time.monotonic() + 120
        while not (facts.exists() and (root / spec.name / "checkpoints" / "state.pt").exists()):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    again = trained(root, spec)
    for step in STEPS:
        held = weights(folder, step)
        assert all(torch.equal(held[name], value) for name, value in weights(again, step).items())
        assert again.facts(step)["held_out_errors"] == folder.facts(step)["held_out_errors"]


@pytest.mark.cluster
def test_two_ranks_on_ray_equal_one(tmp_path):
    """Gradients of the same batch: the sums round differently, the rest is the same."""
    spec = training(steps=50, checkpoints=(50,))
    alone = weights(trained(tmp_path / "one", spec), 50)
    shared = trained(tmp_path / "two", spec, TrainingHost("ray", None, 2, Resources(num_cpus=1)))
    assert shared.facts(50)["workers"] == 2
    differences = [
        float((alone[name].float() - value.float()).abs().max())
        for name, value in weights(shared, 50).items()
    ]
    assert max(differences) < 1e-4


def test_a_nan_ends_the_run_and_keeps_its_networks(tmp_path):
    spec = training(learning_rate=1e30)
    with pytest.raises(WorkError, match=r"the loss is (nan|inf) at step \d+.*--set training.learning_rate"):
        trained(tmp_path / "store", spec)
    folder = training_folder(Store.open(tmp_path / "store", mode="r"), spec)
    assert folder.facts(0) is not None and not folder.complete
    assert trained(tmp_path / "store", training()).complete


def test_a_full_disk_leaves_whole_networks_only(tmp_path, monkeypatch):
    import taba_core.store.trainings as module

    spec, sync = training(), module.sync_tree

    def full(path):
        if "step4" in str(path):
            raise OSError(28, "No space left on device")
        sync(path)

    monkeypatch.setattr(module, "sync_tree", full)
    with pytest.raises(WorkError, match=r"No space left on device.*Free space"):
        trained(tmp_path / "store", spec)
    folder = training_folder(Store.open(tmp_path / "store", mode="r"), spec)
    assert [folder.facts(step) is not None for step in STEPS] == [True, False, False]
    monkeypatch.undo()
    assert trained(tmp_path / "store", spec).complete


@pytest.mark.parametrize("what", ["network", "arrays"])
def test_damage_is_found_and_made_good(tmp_path, what):
    folder = trained(tmp_path / "store", training())
    before = weights(folder, 4)
    damaged = (
        folder.folder(4) / "weights.safetensors"
        if what == "network"
        else next(path for path in (folder.path / "held_out_error" / "c").rglob("*") if path.is_file())
    )
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    store = Store.open(folder.root, mode="a")
    found = audit(store, deep=True).problems
    assert [problem.kind for problem in found] == ["checksum"]
    assert audit(store, deep=True, forget=True).problems
    assert train_missing([folder.spec], store, INLINE, lambda stage: None) == 1
    assert not audit(store, deep=True).problems
    assert all(torch.equal(before[name], value) for name, value in weights(folder, 4).items())


@pytest.mark.follows("Remove its directory")
def test_the_group_of_another_run_is_refused(tmp_path):
    folder = trained(tmp_path / "store", training(checkpoints=(STEPS[-1],)))
    other = training()
    target = folder.root / other.name
    folder.path.rename(target)
    with pytest.raises(StoreError, match=r"another training than its name says\. Remove its directory"):
        trained(tmp_path / "store", other)
    shutil.rmtree(target)
    assert trained(tmp_path / "store", other).complete


@pytest.mark.follows("Give --store a directory; the store may be copied")
def test_a_store_on_object_storage_is_refused(folder):
    store = Store.open("memory://trainings/x", mode="a")
    with pytest.raises(UsageError, match=r"Give --store a directory"):
        train_missing([training()], store, INLINE, lambda stage: None)
    assert trainings(store) == []
    assert [run.spec for run in trainings(Store.open(folder.root))] == [training()]


@pytest.mark.follows("Put them back, or start again: other images are another run.")
def test_other_images_are_another_run(tmp_path, folder):
    with pytest.raises(UsageError, match=r"have fingerprint .* and the run is of other"):
        trained(tmp_path / "store", training(data="other"))
    assert training(data="other").key != folder.spec.key and folder.complete


@pytest.mark.follows("; use a number of workers that divides ")
def test_ranks_that_cannot_share_a_batch_are_refused(tmp_path):
    folder = training_folder(Store.open(tmp_path / "store", mode="a"), training(steps=1, checkpoints=(1,)))
    folder.prepare()
    task = TrainTask(str(folder.root), folder.spec.attrs())
    with pytest.raises(UsageError, match="4 rows of a batch cannot be shared by 3 workers"):
        task(0, 3, "cpu")
    task(0, ranks_for(4, 1), "cpu")
    assert folder.facts(1) is not None


@pytest.mark.follows(
    " works on the latents of an autoencoder; networks on pixels can be trained here. `taba train ",
    ": networks on pixels with a number of steps of their own are trained within a study (",
)
def test_networks_on_latents_are_trained_by_a_command_of_their_own(tmp_path):
    ldm = recipe_named("photo-ldm").model_dump(mode="json")
    spec = training().altered(recipe=ldm)
    with pytest.raises(UsageError, match=r"photo-ldm works on .* `taba train photo-ldm` trains this one"):
        trained(tmp_path / "store", spec)
    with pytest.raises(UsageError, match=r"photo-ldm: networks on pixels .* `taba train photo-ldm` trains"):
        training_of(Context("photo-ldm", "ddim", read_settings([])), 0)
    assert "photo-ldm" in box_recipes()


@pytest.mark.follows("networks are kept; run the same command again: it goes on from the last state.")
def test_lost_ranks_leave_what_is_kept(folder):
    from cluster.ray.ranks import RanksFailed

    error = told(RanksFailed("a worker was lost"), folder)
    assert isinstance(error, WorkError) and "a worker was lost. 3 networks are kept" in str(error)
    assert told(RanksFailed("x", UsageError("said")), folder).args == ("said",)
    assert train_missing([folder.spec], Store.open(folder.root, mode="a"), INLINE, lambda stage: None) == 0


@pytest.mark.follows("Leave later steps out, or train longer (--set training.steps).")
def test_a_checkpoint_after_the_end_is_refused():
    context = Context("photo-tiny", "ddim", read_settings([]))
    wanted = Wanted(steps=100, checkpoints=(0, 50, 200))
    with pytest.raises(UsageError, match=r"training\.checkpoints=0,50,200: the training ends at step 100"):
        training_of(context, 0, wanted)
    assert training_of(context, 0, Wanted(100, (0, 50))).checkpoints == (0, 50, 100)
    assert training_of(context, 0, Wanted(300, (0, 50, 200))).checkpoints == (0, 50, 200, 300)


def test_images_that_are_elsewhere_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path))
    context = Context("adm-32", "ddim", read_settings([]))
    spec = training_of(context, 10)
    assert spec.data == "" and spec.steps == 700_000 and len(spec.checkpoints) == 122
    with pytest.raises(UsageError, match="cifar-10 is not here"):
        check_images(context, Wanted())


def test_a_run_that_is_not_trained_yet_is_planned_by_its_labels():
    context = Context("photo-tiny", "ddim", read_settings([]))
    run = trained_run(context, training_of(context, 3, Wanted(100, (0, 50))))
    assert [one.model.name for one in run.checkpoints] == [f"photo-tiny-seed3-step{k}" for k in (0, 50, 100)]
    assert [one.share for one in run.checkpoints] == [0.0, 0.5, 1.0]
    assert {one.model.fingerprint for one in run.checkpoints} == {""} and not run.loss


def test_steps_must_ascend_to_the_end():
    with pytest.raises(ValueError, match="the last of them 12, the end"):
        training(checkpoints=(0, 4))
    with pytest.raises(ValueError, match="ascending"):
        training(checkpoints=(4, 0, 12))


def test_the_key_is_of_what_changes_the_network():
    spec = training()
    assert spec.key == training(data_location="/elsewhere").key
    others = [{"steps": 13, "checkpoints": (13,)}, {"batch_size": 8}, {"learning_rate": 2e-3}]
    assert len({spec.key, *(training(**other).key for other in others)}) == 4
    assert Training.model_validate(json.loads(json.dumps(spec.attrs()["spec"]))).key == spec.key


@pytest.mark.parametrize(
    ("batch", "places", "asked", "count"),
    [(32, 2, None, 2), (32, 7, None, 4), (32, 440, None, 8), (30, 4, None, 3), (32, 4, 3, 2), (1, 4, 4, 1)],
)
def test_ranks_divide_the_batch(batch, places, asked, count):
    assert ranks_for(batch, places, asked) == count


def test_the_live_view_is_one_line():
    progress = {"step": 40, "steps": 1500, "loss": 0.51234, "images_per_second": 88.4, "seconds_left": 130.0}
    line = line_of(progress, [1.0, 0.5, 0.25])
    assert line.startswith("step 40 of 1,500, loss 0.5123, held-out error 1.000 0.500 0.250, 88 images/s, ")
