"""Every way out that a run, its options or its report names works: it is followed as it is written."""

from __future__ import annotations

import os
import re
import shutil

import pytest
from engine_runs import taba

from cluster.pool.executor import ClusterLost, Resources
from cluster.pool.local import LocalExecutor
from taba_core.errors import UsageError, WorkError
from taba_core.metrics.distances.lpips import Lpips
from taba_core.model_spec import PromptSpec
from taba_core.models.prompts import load_prompts
from taba_core.store import Store
from workflows.analysis.study import find_studies
from workflows.compute.conditioning import _prompts
from workflows.configuration.context import Context
from workflows.configuration.settings import parse_settings
from workflows.execution import resources
from workflows.execution import run as runs
from workflows.execution.engine import run_plan
from workflows.execution.resources import worker_resources
from workflows.execution.run import check_room, choose_executor
from workflows.planning.jobs import Asked, check_all
from workflows.planning.plan import make_plan

follows = pytest.mark.follows
SETTINGS = ["num_samples=8", "samples_per_shard=4", "num_inference_steps=5", "bootstrap_replicates=100"]
RUN = [
    "run", "correlation", "--model", "gaussian", "--no-report",
    *(word for text in SETTINGS for word in ("--set", text)),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    assert taba(*RUN, "--executor", "local", "--store", path) == 0
    return path


@follows(" no GPU; leave the option out.")
@follows(": this model computes on CPUs only; leave the option out.")
@follows(" has no workers that hold devices; use --executor ray.")
@follows(": give a part of a device, such as 0.5, or a whole number of them.")
def test_a_share_of_devices_that_cannot_be_is_left_out_or_corrected(monkeypatch):
    def held(executor="ray", embedded=False, **share):
        return worker_resources(executor, "local", embedded=embedded, **share)

    monkeypatch.setattr(resources, "_has_gpu", lambda: False)
    with pytest.raises(UsageError, match="leave the option out"):
        held(gpus_per_worker=1)
    assert held().num_gpus == 0
    with pytest.raises(UsageError, match="leave the option out"):
        held(embedded=True, gpus_per_worker=1)
    assert held(embedded=True) == Resources(num_cpus=1)
    monkeypatch.setattr(resources, "_has_gpu", lambda: True)
    with pytest.raises(UsageError, match="use --executor ray"):
        held("local", gpus_per_worker=0.5)
    with pytest.raises(UsageError, match=r"such as 0\.5, or a whole number"):
        held(gpus_per_worker=1.5)
    assert [held(gpus_per_worker=share).num_gpus for share in (0.5, 1, 2)] == [0.5, 1, 2]


@follows("--device cuda: ")
@follows(": use cpu or cuda; without the option, GPUs where there are any.")
@follows(": --device cpu asks for none; leave one of the two out.")
def test_a_device_that_cannot_be_is_left_out_or_another(monkeypatch):
    def held(**asked):
        return worker_resources("ray", "local", embedded=False, **asked).num_gpus

    monkeypatch.setattr(resources, "_has_gpu", lambda: False)
    with pytest.raises(
        UsageError, match="this machine has no GPU; use --device cpu, or leave the option out"
    ):
        held(device="cuda")
    assert held(device="cpu") == held() == 0
    with pytest.raises(
        UsageError, match="--device gpu: use cpu or cuda; without the option, GPUs where there"
    ):
        held(device="gpu")
    monkeypatch.setattr(resources, "_has_gpu", lambda: True)
    assert held(device="cuda") == held() == 1 and held(device="cpu") == 0
    with pytest.raises(UsageError, match=r"--gpus-per-worker 0\.5: --device cpu asks for none"):
        held(device="cpu", gpus_per_worker=0.5)
    assert held(device="cpu") == 0 and held(gpus_per_worker=0.5) == 0.5


@follows(": use ray (the default), local or inline.")
@follows("--executor inline has one worker; use --executor local for several threads.")
def test_the_executors_that_a_refusal_names_exist():
    with pytest.raises(UsageError, match=r"use ray \(the default\), local or inline"):
        choose_executor("dask", None, None, embedded=True)
    for name in ("ray", "local", "inline"):
        choose_executor(name, None, 1, embedded=True)[0]()
    with pytest.raises(UsageError, match="use --executor local for several threads"):
        choose_executor("inline", None, 3, embedded=True)
    assert choose_executor("local", None, 3, embedded=True)[0]().workers == 3


@follows("gone with it; use a directory or s3://BUCKET/PREFIX.")
def test_a_store_in_memory_gives_way_to_a_directory(tmp_path):
    assert taba(*RUN, "--store", "memory://runs/taba") == 2
    assert (
        taba(*RUN, "--store", tmp_path / "s", "--executor", "local") == 0
    )  # as under Ray, without its start


class Room:
    """What the file system of a store has left: bytes and files."""

    f_frsize, f_files = 1, 1_000_000

    def __init__(self, free=10**12, files=10**6):
        self.f_bavail, self.f_favail = free, files


@follows(
    "are free there. Free space, use another --store, or a smaller --set num_samples. Nothing was computed."
)
@follows("are free there. Use another --store, or a larger --set samples_per_shard. Nothing was computed.")
def test_a_store_without_room_gets_room_or_less_to_hold(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()

    def plan(*changes):
        names = {text.partition("=")[0] for text in changes}
        kept = [text for text in SETTINGS if text.partition("=")[0] not in names]
        context = Context("gaussian", "ddim", parse_settings([*kept, *changes]))
        return make_plan(context, find_studies(["correlation"]), None)

    def room(full):
        monkeypatch.setattr(runs.os, "statvfs", lambda path: full if path.name == "full" else Room())

    many, few = plan("num_samples=64"), plan("num_samples=8")
    room(Room(free=many.bytes_missing - 1))
    with pytest.raises(WorkError, match="Free space, use another --store, or a smaller --set num_samples"):
        check_room([many], tmp_path / "full")
    check_room([few], tmp_path / "full")
    check_room([many], tmp_path / "another")
    room(Room())
    check_room([many], tmp_path / "full")
    large = plan("num_samples=64", "samples_per_shard=64")
    assert large.files_missing < many.files_missing
    room(Room(files=many.files_missing - 1))
    with pytest.raises(WorkError, match="Use another --store, or a larger --set samples_per_shard"):
        check_room([many], tmp_path / "full")
    check_room([large], tmp_path / "full")
    check_room([many], tmp_path / "another")


@follows("see to the machine (memory, disk), then run the same command again.")
def test_a_run_whose_cluster_dies_again_and_again_is_completed_by_the_same_command(tmp_path, finished):
    store = Store.open(tmp_path / "s", mode="a")
    context = Context("gaussian", "ddim", parse_settings(SETTINGS))

    def command(make):
        plan = make_plan(context, find_studies(["correlation"]), store)
        return run_plan(plan, store, make, Resources(), workers=1, scheduler="synchronous")

    def dies():
        raise ClusterLost("Ray on this machine has died (raylet ended).")

    with pytest.raises(WorkError, match="died 3 times in a row without finishing a unit"):
        command(dies)
    assert command(lambda: LocalExecutor(1)).units == 4
    (held,), (wanted,) = store.results(), Store.open(finished).results()
    assert held == wanted and store.read_result(held).equals(Store.open(finished).read_result(wanted))


@follows(" are drawn without a class here; use whole or ", " divisions; use whole.")
def test_divisions_that_cannot_be_give_way_to_those_that_are_named(capsys):
    def plan(divisions, *more, model="gaussian"):
        words = ["--set", "num_samples=4", "--set", "num_inference_steps=5", *more]
        return taba("plan", "mapping", "--model", model, "--set", f"mapping_divisions={divisions}", *words)

    assert plan("eighths") == 2 and "use whole." in capsys.readouterr().err
    assert (
        plan("class") == 2
        and "use whole or eighths, or a conditioning=class model" in capsys.readouterr().err
    )
    assert plan("whole") == 0
    assert plan("class", "--set", "conditioning=class", model="photo-mixture") == 0


@follows(" Or leave LPIPS out: --set methods.lpips=off.")
def test_lpips_is_left_out_where_it_cannot_be_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(Lpips, "why_not", lambda self: "its weights are not here.")

    def checked(value):
        asked = Asked(["methods"], str(tmp_path / value), "photo-mixture", "ddim", [f"lpips={value}"])
        return check_all([asked], write=True)

    with pytest.raises(UsageError, match=r"Or leave LPIPS out: --set methods\.lpips=off"):
        checked("on")
    jobs, _ = checked("off")
    assert [study.name for study in jobs[0].studies] == ["methods"]


@follows(": it changed since. Put it back, or start again.")
def test_a_list_of_prompts_that_changed_is_put_back_or_planned_anew(tmp_path):
    own = tmp_path / "prompts.txt"

    def spec():
        read = load_prompts(str(own))
        return PromptSpec(fingerprint=read.fingerprint, location=str(own))

    own.write_text("a red boat\n")
    planned = spec()
    own.write_text("a blue boat\n")
    with pytest.raises(WorkError, match="Put it back, or start again"):
        _prompts(planned)
    assert _prompts(spec()).prompts == ("a blue boat",)
    own.write_text("a red boat\n")
    assert _prompts(planned).prompts == ("a red boat",)


@follows("space; free some, or write the report elsewhere.")
def test_a_report_that_cannot_be_written_is_written_elsewhere_or_later(finished, tmp_path, capsys):
    store = shutil.copytree(finished, tmp_path / "store")
    (store / "report").write_text("a file where the folder was to be")
    assert taba("report", "--store", store) == 1
    assert "free some, or write the report elsewhere" in capsys.readouterr().err
    assert taba("report", "--store", store, "--output", tmp_path / "elsewhere") == 0
    (store / "report").unlink()
    assert taba("report", "--store", store) == 0


@follows(" holds no results yet; run a study first: taba run correlation --store ")
def test_a_store_without_results_gets_some_by_the_command_that_is_named(tmp_path, capsys):
    Store.open(tmp_path / "s", mode="a")
    assert taba("report", "--store", tmp_path / "s") == 2
    (command,) = re.findall(r"run a study first: taba (.*)\.$", capsys.readouterr().err, re.MULTILINE)
    assert taba(*command.split(), *RUN[2:], "--executor", "local") == 0
    assert taba("report", "--store", tmp_path / "s") == 0 and os.path.exists(tmp_path / "s" / "report")
