"""`taba doctor` on one machine: every check finds what it is for, says what to do, and leaves nothing behind."""

from __future__ import annotations

import math
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import pytest
from doctor_cases import (
    MOUNTS,
    QUERY_GH200,
    SMI_580,
    SMI_GH200,
    SMI_MISMATCH,
    SMI_V100_OLD,
    machine,
    with_gpus,
)

from taba_core.errors import UsageError
from workflows import doctor
from workflows.doctor import gpu, models, nvidia, page, scratch, software, storage
from workflows.doctor.finding import CHECKS, Finding, Ran, Registered, Subject, fail, ok, skipped, warn
from workflows.doctor.mounts import existing, file_system

GIB = 2**30
ROOT = Path(__file__).parent.parent.parent

# ----------------------------------------------------------------------------------- the page itself


def test_what_is_not_in_order_says_what_to_do():
    with pytest.raises(ValueError, match=r"'disk full' needs a remedy: a FAIL says what to do about it\."):
        Finding("FAIL", "disk full")


def test_a_check_that_breaks_off_fails_and_the_others_go_on(tmp_path):
    def broken(subject):
        raise OSError("no such device")

    found = doctor._examine(Registered("s", "n", broken), machine(tmp_path))
    assert (found.status, found.found) == ("FAIL", "the check broke off: OSError: no such device")


@pytest.mark.parametrize(
    ("finding", "code"), [(ok("fine"), 0), (warn("slow", "wait"), 0), (fail("open", "lock it"), 1)]
)
def test_only_a_failure_changes_the_exit_code(finding, code, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(
        doctor, "diagnose", lambda subject, on_check: [(Registered("s", "n", lambda s: finding), finding)]
    )
    ended = 0
    try:
        doctor.examine_and_print(machine(tmp_path), as_json=False)
    except SystemExit as stop:
        ended = stop.code
    assert ended == code
    assert finding.found in capsys.readouterr().out


def test_the_page_fits_100_columns_with_the_remedy_below_its_finding(capsys):
    def row(section, name, finding):
        return Registered(section, name, lambda subject: finding), finding

    long = "/scratch/project/" + "x" * 120
    page.print_page(
        [
            row("one", "a", ok("good")),
            row("one", "b", fail(f"{long} is full", "free [some] of it")),
            row("two", "c", skipped("no store")),
            row("two", "d", skipped("no store")),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    at = next(i for i, line in enumerate(lines) if line.startswith("  FAIL     b"))
    assert any(line.strip() == "-> free [some] of it" for line in lines[at : at + 5])
    assert "  skipped  2 checks          no store" in lines
    assert lines[-1] == "1 FAIL, 0 warn, 1 ok, 2 skipped"


def test_every_check_has_a_place_of_its_own_and_a_line_of_explanation(tmp_path):
    doctor.diagnose(machine(tmp_path, answers={Path(sys.executable).name: Ran(1, "")}))
    places = [(entry.section, entry.name) for entry in CHECKS]
    assert len(set(places)) == len(places) > 25
    assert all(entry.check.__doc__ and len(entry.name) <= 16 for entry in CHECKS)


def test_an_unknown_model_is_refused_before_anything_is_examined(tmp_path):
    with pytest.raises(UsageError, match="unknown model 'adm-65': did you mean adm-64"):
        doctor.examine_and_print(machine(tmp_path, models=("adm-65",)), as_json=False)


# ------------------------------------------------------------------------------------------ software


def test_an_import_that_fails_or_ends_the_process_is_named_and_the_rest_is_still_tried(tmp_path, monkeypatch):
    (tmp_path / "lacks_symbol.py").write_text("raise ImportError('undefined symbol: x\\nlast line')")
    (tmp_path / "aborts.py").write_text("import os; print('{}', flush=True); os.abort()")
    (tmp_path / "works.py").write_text("print('hello')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seconds, broken = software.import_each(Subject(), ("lacks_symbol", "aborts", "works"))
    assert broken == {
        "lacks_symbol": "ImportError: last line",
        "aborts": "ends the process with SIGABRT",
    }
    assert 0 < seconds < 30


def test_an_interpreter_that_does_not_start_is_a_failure(tmp_path):
    broken = machine(tmp_path, answers={Path(sys.executable).name: Ran(1, "")})
    found = software.native_imports(broken)
    assert found.status == "FAIL"
    assert found.found == "numpy: the importing process ended with status 1"


@pytest.mark.parametrize(
    ("need", "problem"),
    [
        ("numpy>=1", ""),
        ("numpy>=99", r"2\.\d.* \(needs >=99\)"),
        ("no-such-package>=2", r"missing \(needs >=2\)"),
    ],
)
def test_a_package_is_held_against_its_requirement(need, problem):
    assert re.fullmatch(problem, software._unfit(software.Requirement(need)))


@pytest.mark.parametrize("size", [4096, 65536])
def test_the_page_size_of_the_kernel_is_mentioned(size, tmp_path, monkeypatch):
    monkeypatch.setattr(software.os, "sysconf", lambda name: size)
    assert f"pages of {size // 1024} KiB" in software.python(machine(tmp_path)).found


# ---------------------------------------------------------------------------------------------- GPUs


def test_the_driver_is_read_from_the_header():
    assert nvidia.parse_driver(SMI_GH200) == nvidia.Driver("560.35.03", (12, 6))
    assert nvidia.parse_driver(SMI_580) == nvidia.Driver("580.65.06", (13, 0))
    assert nvidia.parse_driver(SMI_MISMATCH) is None


def test_devices_are_read_from_the_query_also_where_memory_is_not_said():
    four = nvidia.parse_gpus(QUERY_GH200)
    assert [device.index for device in four] == [0, 1, 2, 3]
    assert four[0].total == pytest.approx(97871 / 1024)
    (unsaid,) = nvidia.parse_gpus("0, NVIDIA GB10, [N/A], [N/A]\nwarning: infoROM is corrupted\n")
    assert math.isnan(unsaid.total)


@pytest.mark.parametrize(
    ("header", "torch", "status", "remedy"),
    [
        (SMI_GH200, {}, "ok", ""),
        (SMI_580, {}, "ok", ""),  # a newer driver runs older builds
        (SMI_GH200, {"cuda": "12.8"}, "ok", ""),  # and, within 12.x, newer ones
        (SMI_GH200, {"cuda": "13.0"}, "FAIL", "--index-url https://download.pytorch.org/whl/cu126"),
        (SMI_GH200, {"version": "2.13.0+cpu", "cuda": None}, "FAIL", "whl/cu126"),
        (SMI_580, {"version": "2.13.0+cpu", "cuda": None}, "FAIL", "whl/cu130"),
        (SMI_V100_OLD, {}, "FAIL", "update the driver to 525 or newer"),
        (SMI_GH200, {"count": 0}, "FAIL", "CUDA_VISIBLE_DEVICES"),
        (SMI_GH200, {"error": "CUDA error: uncorrectable ECC error encountered"}, "FAIL", "whl/cu126"),
    ],
)
def test_torch_must_be_built_for_the_driver(header, torch, status, remedy, tmp_path):
    found = gpu.driver_and_torch(with_gpus(tmp_path, torch, header))
    assert found.status == status
    assert remedy in found.remedy
    assert nvidia.parse_driver(header).version in found.found


def test_devices_of_one_kind_are_counted(tmp_path):
    assert gpu.devices(with_gpus(tmp_path)) == ok(
        "4 x NVIDIA GH200 120GB (96 GiB)"
    )  # 97871 MiB / 1024 = 95.6


def test_a_device_somebody_uses_and_devices_that_are_hidden_are_warnings(tmp_path):
    used = with_gpus(tmp_path, query="0, NVIDIA A100-SXM4-80GB, 81920, 40960\n")
    assert gpu.devices(used).found == "1 x NVIDIA A100-SXM4-80GB (80 GiB); in use: 40 GiB of device 0"
    hidden = with_gpus(tmp_path, environ={"CUDA_VISIBLE_DEVICES": ""})
    assert gpu.devices(hidden).remedy == "unset CUDA_VISIBLE_DEVICES"


def test_a_broken_driver_fails_and_no_gpu_is_fine(tmp_path):
    broken = machine(tmp_path, answers={"nvidia-smi": Ran(18, SMI_MISMATCH)})
    assert gpu.devices(broken).status == "FAIL"
    assert "Driver/library version mismatch" in gpu.devices(broken).found
    assert gpu.devices(machine(tmp_path)) == ok("none (CPU run)")
    assert gpu.driver_and_torch(machine(tmp_path)).status == "skipped"


def test_a_driver_without_nvidia_smi_is_a_warning(tmp_path):
    subject = machine(tmp_path)
    (subject.proc / "driver" / "nvidia").mkdir(parents=True)
    (subject.proc / "driver" / "nvidia" / "version").write_text("NVRM version: 560.35.03")
    assert gpu.devices(subject).status == "warn"


# ------------------------------------------------------------------------------------------- storage


def test_the_file_system_is_that_of_the_deepest_and_latest_mount():
    assert file_system(Path("/home/ada"), MOUNTS) == "ext4"
    assert file_system(Path("/dev/shm/x"), MOUNTS) == "tmpfs"
    assert file_system(Path("/my disk/x"), MOUNTS) == "xfs"  # the kernel writes \040
    assert file_system(Path("/scratch/ada"), MOUNTS) == "nfs4"  # mounted over lustre
    assert file_system(Path("/scratch-2"), MOUNTS) == "ext4"  # no prefix of text, a path
    assert file_system(Path("/x"), "") == "unknown"


def test_a_store_that_does_not_exist_is_examined_where_it_will_be(tmp_path):
    assert existing(tmp_path / "not" / "yet.zarr") == tmp_path


def mounted(tmp_path, kind):
    return f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n40 22 0:9 / {tmp_path.resolve()} rw - {kind} source rw\n"


@pytest.mark.parametrize(
    ("kind", "nodes_of_job", "said"),
    [
        ("tmpfs", "1", "is tmpfs: memory, gone with the node"),
        ("ext4", "2", "other nodes of this job may not see it"),
    ],
)
def test_memory_and_a_disk_other_nodes_lack_are_warnings(kind, nodes_of_job, said, tmp_path):
    subject = machine(
        tmp_path,
        mounts=mounted(tmp_path, kind),
        store=str(tmp_path / "s"),
        environ={"SLURM_NNODES": nodes_of_job},
    )
    assert storage.kind_of(subject).status == "warn"
    assert said in storage.kind_of(subject).found


def test_what_a_commit_needs_is_tried_and_removed(tmp_path):
    (tmp_path / "place").mkdir()
    subject = machine(tmp_path, store=str(tmp_path / "place" / "run.zarr"))
    assert storage.commit(subject).status == "ok"
    assert storage.speed(subject).status in ("ok", "warn")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_place_where_nothing_can_be_written_fails(tmp_path):
    found = storage.commit(machine(tmp_path, store="/proc/taba"))
    assert found.status == "FAIL"
    assert found.remedy == "choose a --store where you may write, and that is not full"


def test_a_url_and_no_store_are_skipped(tmp_path):
    assert storage.commit(machine(tmp_path, store="s3://bucket/run")).found == (
        "the store is a URL; only directories are examined"
    )
    assert storage.space(machine(tmp_path)).found == "no --store given"


@pytest.mark.parametrize(("rate", "status"), [(39e6, "warn"), (41e6, "ok")])
def test_a_file_system_slower_than_a_gpu_writes_is_a_warning(rate, status):
    assert storage.judge_speed(rate).status == status


def held(free_bytes: float, free_inodes: int, inodes: int = 10**9):
    return os.statvfs_result(
        (4096, 4096, 10**9, free_bytes / 4096, free_bytes / 4096, inodes, *[free_inodes] * 2, 0, 255)
    )


@pytest.mark.parametrize(
    ("left", "status"),
    [
        (held(100e9, 10**6), "ok"),
        (held(100e9, 0, inodes=0), "ok"),  # btrfs counts none
        (held(10e9, 10**6), "warn"),
        (held(0.5e9, 10**6), "FAIL"),
        (held(100e9, 5000), "warn"),
        (held(100e9, 1000), "FAIL"),
    ],
)
def test_space_and_inodes_run_out(left, status, tmp_path, monkeypatch):
    monkeypatch.setattr(storage.os, "statvfs", lambda path: left)
    assert storage.space(machine(tmp_path, store=str(tmp_path))).status == status


@pytest.mark.parametrize(("count", "status"), [("1", "ok"), ("4", "ok"), ("-1", "warn"), ("64", "warn")])
def test_lustre_striping_over_all_targets_is_a_warning(count, status, tmp_path):
    said = f"stripe_count:  {count} stripe_size:   1048576 pattern:       0 stripe_offset: -1\n"
    subject = machine(
        tmp_path, mounts=mounted(tmp_path, "lustre"), answers={"lfs": Ran(0, said)}, store=str(tmp_path)
    )
    assert storage.striping(subject).status == status


# ------------------------------------------------------------------------------- Ray on this machine


def test_scratch_with_a_path_too_long_for_sockets_is_a_warning(tmp_path):
    long = tmp_path / ("x" * 40)
    long.mkdir()
    found = scratch.scratch(machine(tmp_path, environ={"TMPDIR": str(long)}))
    assert found.status == "warn"
    assert "26 characters" in found.remedy  # 42 for Ray, less 16 of "/taba-xxxxxxxx/r"


def test_scratch_of_the_launcher_goes_before_that_of_the_shell(tmp_path):
    subject = machine(tmp_path, environ={"TMPDIR": "/nowhere", "TABA_LOCAL_TMP": "/tmp"})
    assert scratch.scratch_folder(subject) == Path("/tmp")
    assert (
        scratch.scratch(machine(tmp_path, environ={"TMPDIR": "/nowhere"})).found == "/nowhere is not writable"
    )


def test_a_containers_small_shared_memory_is_a_warning():
    assert scratch.judge_shared_memory(64 * 2**20).remedy.endswith("--shm-size=1g")
    assert scratch.judge_shared_memory(4 * GIB).status == "ok"


# -------------------------------------------------------------------------------------------- models


def test_weights_and_prompts_that_are_missing_fail_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    subject = machine(tmp_path, models=("photo-mixture", "adm-64", "sdxl"))
    found = models.weights(subject)
    assert found.status == "FAIL"
    assert "taba fetch adm-64 sdxl on a machine with internet" in found.remedy
    assert "photo-mixture" not in found.found
    assert models.prompts(subject).remedy.startswith("taba fetch recap-coco")
    assert models.prompts(machine(tmp_path, models=("adm-64",))).status == "skipped"


def test_a_network_that_nobody_trained_fails_with_the_command_that_trains_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    found = models.weights(machine(tmp_path, models=("photo-tiny", "adm-64")))
    assert (found.status, found.found.split(", ")[0]) == ("FAIL", "photo-tiny is not trained yet")
    assert found.remedy.startswith("taba fetch adm-64 on a machine with internet")
    assert found.remedy.endswith("; taba run training --model photo-tiny")
    assert models.weight_files(machine(tmp_path, models=("photo-tiny",))) == []


def test_weights_that_are_here_are_in_order(tmp_path, monkeypatch):
    from taba_core.models.catalog import load_card
    from taba_core.models.weights import stored_at

    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    place = stored_at(load_card("adm-64"))
    place.parent.mkdir(parents=True)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
    subject = machine(tmp_path, models=("photo-mixture", "adm-64"))
    assert models.weights(subject) == ok("photo-mixture none needed, adm-64 present")
    assert models.weight_files(subject) == [place]


def test_weights_that_are_something_else_fail_and_are_named(tmp_path, monkeypatch):
    from taba_core.models.catalog import load_card
    from taba_core.models.weights import stored_at

    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    place = stored_at(load_card("adm-64"))
    place.parent.mkdir(parents=True)
    place.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 3438167534\n")
    found = models.weights(machine(tmp_path, models=("adm-64",)))
    assert found.status == "FAIL"
    assert found.found == (
        f"{place} is a Git LFS pointer: 135 bytes that stand for a file of 3438 MB, not a PyTorch file. Run "
        "`git lfs pull` in the repository it was cloned with, or download the file itself."
    )
