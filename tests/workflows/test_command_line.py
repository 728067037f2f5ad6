"""What a user types, right and wrong: one clear message, the right exit code, nothing lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from workflows.__main__ import main
from workflows.report.from_store import print_headline

SMALL = [
    "--set", "num_samples=32", "--set", "num_inference_steps=10", "--set", "forward_steps=1,2",
    "--set", "bootstrap_replicates=100",
]  # fmt: skip


def taba(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "workflows", *map(str, arguments)], capture_output=True, text=True, **options
    )


def refused(done, code, *parts):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("taba: error: ") and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small finished store of the gaussian model."""
    path = tmp_path_factory.mktemp("cli") / "store"
    done = taba("run", "correlation", "--model", "gaussian", "--store", path, "--executor", "local", *SMALL)
    assert done.returncode == 0, done.stderr
    return path


BAD = [
    (["run", "corelation"], "unknown study 'corelation': did you mean correlation"),
    (
        ["run", "correlation", "--model", "photo-mixtur"],
        "unknown model 'photo-mixtur': did you mean photo-mixture",
    ),
    (["run", "correlation", "--method", "dim"], "unknown inversion method 'dim': did you mean ddim"),
    (["run", "correlation", "--set", "num_sample=3"], "unknown field 'num_sample': did you mean num_samples"),
    (["run", "correlation", "--set", "num_samples"], "write field=value"),
    (["run", "correlation", "--set", "num_samples=3"], "greater than or equal to 4"),
    (["run", "correlation", "--set", "num_samples=many"], "valid integer"),
    (["run", "correlation", "--set", "num_inference_steps=0"], "greater than or equal to 1"),
    (["run", "correlation", "--set", "num_inference_steps=1001"], "1000"),
    (["run", "fix", "--set", "forward_steps=1%"], "0.5 steps; it must be whole"),
    (["run", "fix", "--set", "forward_steps=50"], "1 <= K < T"),
    (["run", "correlation", "--set", "levels=shifted"], "network_time=source"),
    (
        ["run", "correlation", "--set", "model.rnak=3"],
        "unknown photo-mixture option 'rnak': did you mean rank",
    ),
    (["run", "correlation", "--set", "method.steps=3"], "has no option 'steps'"),
    (["run", "correlation", "--model", "adm-64"], "weights of ADM-64 are not here"),
    (["run", "correlation", "--weights", "w.pt"], "photo-mixture is embedded and reads no weights"),
    (
        ["run", "correlation", "--set", "conditioning=prompt"],
        "conditioning=prompt: Photo mixture reads classes",
    ),
    (
        ["plan", "correlation", "--model", "dit", "--set", "conditioning=none"],
        "conditioning=none: DiT reads classes; use conditioning=class",
    ),
    (
        ["run", "correlation", "--model", "gaussian", "--set", "conditioning=class"],
        "conditioning=class: Gaussian field has no condition; use conditioning=none",
    ),
    (["run", "correlation", "--executor", "dask"], "use ray (the default), local or inline"),
    (["run", "correlation", "--set", "seed=-1"], "greater than or equal to 0"),
    (["run", "correlation", "--set", "patch_size=7"], "patch_size=7"),
    (["run", "correlation", "--set", "top_k=999999"], "top_k=999999"),
    (
        ["run", "correlation", "--set", "seed=99999999999999999999999"],
        "less than or equal to 9223372036854775807",
    ),
    (["run", "correlation", "--set", "seed=1", "--set", "seed=2"], "given twice"),
    (["run", "correlation", "--set", "conditioning=class", "--set", "draws=reference"], "ImageNet's classes"),
    (["bench", "mixtur"], "unknown benchmark 'mixtur': did you mean mixture"),
    (["status", "--store", "nowhere"], "no such directory"),
]


@pytest.fixture
def taba_here(capsys):
    """The command line in this process: the same entry point, without paying for imports each time."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, stop.value.code or 0, out, err)

    return call


VERDICTS = {"holds", "fails", "not resolved"}


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_a_bad_request_is_refused_before_anything_is_written(
    arguments, text, tmp_path, monkeypatch, taba_here
):
    monkeypatch.chdir(tmp_path)
    refused(taba_here(*arguments), 2, text)
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_the_same_in_a_process_of_its_own(tmp_path):
    refused(taba("run", "corelation", cwd=tmp_path), 2, "did you mean correlation")


@pytest.mark.parametrize("content", [None, [], ["notes.txt"]])
def test_a_folder_without_images_is_refused(content, tmp_path, taba_here):
    folder = tmp_path / "photos"
    if content is not None:
        folder.mkdir()
        for name in content:
            (folder / name).write_text("no image")
    done = taba_here("run", "correlation", "--store", tmp_path / "s", "--set", f"model.photos={folder}")
    refused(done, 2, str(folder))
    assert not (tmp_path / "s").exists()


def test_a_finished_store_computes_nothing_again(store, taba_here):
    done = taba_here(
        "run", "correlation", "--model", "gaussian", "--store", store, "--executor", "local", *SMALL
    )
    assert done.returncode == 0
    assert "0 of 2 shards to compute" in done.stdout and "reused 1" in done.stdout
    assert "**Correlation of noise, latents and samples.**" in done.stdout
    verdicts = done.stdout.partition("claims, each tested on its 95 % interval:\n")[2]
    assert {line[:14].strip() for line in verdicts.splitlines() if line[:2] == "  "} <= VERDICTS
    assert sorted(re.findall(r"C2\w", verdicts)) == ["C2a", "C2b", "C2c"]


def test_verdicts_of_several_models_have_a_line_for_each(tmp_path, capsys):
    tables = tmp_path / "report" / "tables"
    tables.mkdir(parents=True)
    (tables / "table2.md").write_text("the table\n")
    (tmp_path / "report" / "results.json").write_text('[{"study": "correlation", "item": "table2"}]')
    claims = [
        ("C2a", "C2a", "a", "holds"),
        ("C2b", "C2b", "a", "fails"),
        ("C2a, B", "C2a", "b", "holds"),
        ("C2b, B", "C2b", "b", "holds"),
    ]
    keys = ("id", "base", "model", "verdict")
    records = [{"study": "correlation", **dict(zip(keys, claim, strict=True))} for claim in claims]
    for count, shown in ((4, ["  holds         a: C2a", "                b: C2a; C2b", "  fails         a: C2b"]),
                         (2, ["  holds         C2a", "  fails         C2b"])):  # fmt: skip
        (tmp_path / "report" / "claims.json").write_text(json.dumps(records[:count]))
        print_headline(tmp_path, ["correlation"])
        assert capsys.readouterr().out.splitlines()[-len(shown) :] == shown


def test_status_and_verify_of_a_finished_store(store, taba_here):
    assert "complete" in taba_here("status", "--store", store).stdout
    assert "complete" in taba_here("status", "--store", store.as_uri()).stdout
    done = taba_here("verify", "--store", store, "--deep")
    assert done.returncode == 0 and "no problems" in done.stdout


def test_a_truncated_shard_is_found_and_recomputed_by_the_same_command(store, taba_here):
    shard = next(store.glob("gaussian-inversion-*/latent/c.0*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    found = taba_here("verify", "--store", store)
    assert found.returncode == 1 and "latent" in found.stdout
    done = taba_here(
        "run", "correlation", "--model", "gaussian", "--store", store, "--executor", "local", *SMALL
    )
    assert done.returncode == 0 and "1 of 2 shards to compute" in done.stdout
    assert shard.read_bytes() == whole


def test_a_flipped_bit_is_found_by_a_deep_verify_and_recomputed_after_forget(store, taba_here):
    shard = next(store.glob("gaussian-inversion-*/latent/c.0*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    assert taba_here("verify", "--store", store).returncode == 0
    assert taba_here("verify", "--store", store, "--deep", "--forget").returncode == 1
    done = taba_here(
        "run", "correlation", "--model", "gaussian", "--store", store, "--executor", "local", *SMALL
    )
    assert done.returncode == 0 and shard.read_bytes() == whole


def test_a_store_of_another_schema_version_is_refused(store, tmp_path, taba_here):
    other = tmp_path / "old"
    other.mkdir()
    meta = json.loads((store / "zarr.json").read_text())
    meta["attributes"]["schema_version"] = 0
    (other / "zarr.json").write_text(json.dumps(meta))
    refused(
        taba_here("run", "correlation", "--store", other, "--executor", "local"),
        1,
        "schema version 0",
        "new path",
    )


def test_a_group_made_by_another_spec_is_refused(store, tmp_path, taba_here):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    meta = next(copy.glob("gaussian-generation-*/zarr.json"))
    content = json.loads(meta.read_text())
    content["attributes"]["spec"]["seed"] = 7
    meta.write_text(json.dumps(content))
    done = taba_here(
        "run", "correlation", "--model", "gaussian", "--store", copy, "--executor", "local", *SMALL
    )
    refused(done, 1, "made by another spec")


def test_a_store_that_is_a_file_or_somebody_elses_directory_is_refused(tmp_path, taba_here):
    (tmp_path / "file").write_text("x")
    refused(taba_here("run", "correlation", "--store", tmp_path / "file"), 2, "is a file")
    refused(taba_here("run", "correlation", "--store", tmp_path), 2, "not empty and no taba store")


def test_a_full_disk_ends_the_run_with_one_message_and_the_same_command_completes_it(tmp_path):
    # A file size limit of 200 kB stands in for a full disk: shards of 393 kB cannot be written.
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        "from workflows.__main__ import main; main(sys.argv[1:])"
    )
    arguments = [
        "run",
        "correlation",
        "--model",
        "gaussian",
        "--store",
        str(tmp_path / "s"),
        "--executor",
        "local",
        *SMALL,
    ]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True)
    refused(done, 1, "cannot write", "then run the same command again")
    assert not list(tmp_path.rglob("*.partial"))
    assert taba(*arguments).returncode == 0


def test_planning_the_main_text_needs_no_weights_and_touches_no_store(tmp_path, taba_here):
    done = taba_here(
        *("plan", "correlation", "regions", "location", "step-error", "fix"),
        *("--model", "adm-64", "--set", "num_samples=10240", "--store", tmp_path / "s", "--budget", "1TB"),
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "s").exists()
    # T=100 for Tables 2, 3 and Figure 3: generation and inversion, 2 x 100 x 10240 evaluations;
    # T=50 for Figure 4 and Table 4: generation 50, cached states 50, DDIM 50, K = 1, 2, 5, 10: 182, 5 reconstructions.
    # Under the ADM conventions the two forward rules are one, so nothing is computed twice.
    evaluations = 10240 * (200 + 50 + 50 + 50 + (49 + 48 + 45 + 40) + 5 * 50)
    assert f"{evaluations:,}" in done.stdout
    hours = evaluations * 0.093 / 128 / 3600
    assert f"{hours:.2f} GPU-hours at 0.093 s per step of 128 images" in done.stdout


def test_table_and_figure_names_are_aliases_of_studies(tmp_path, taba_here):
    by_alias = taba_here("plan", "table2", "fig4", "--store", tmp_path / "s").stdout
    assert by_alias == taba_here("plan", "correlation", "step-error", "--store", tmp_path / "s").stdout


def test_list_shows_models_methods_and_studies(taba_here):
    out = taba_here("list").stdout
    assert "not trained yet: taba run training --model photo-tiny" in out
    for name in ("photo-mixture", "adm-64", "sdxl", "ddim", "table4", "step-error"):
        assert name in out


def test_every_number_keeps_its_own_context_when_runs_differ(tmp_path, taba_here):
    store = tmp_path / "s"
    common = ["run", "correlation", "--model", "gaussian", "--store", store, "--executor", "local"]
    other = ["--set", "seed=7", "--set", "network_time=source", "--set", "levels=shifted"]
    assert taba_here(*common, *SMALL).returncode == 0
    assert taba_here(*common, *SMALL, *other).returncode == 0
    rows = json.loads((store / "report" / "results.json").read_text())
    found = {(r["seed"], "levels=shifted" in r["conventions"]) for r in rows if r["item"] == "table2"}
    assert found == {(420, False), (7, True)}


def test_a_line_of_the_log_cut_by_a_crash_does_not_break_the_report(store, taba_here):
    with (store / "_ledger" / "runs.jsonl").open("a") as log:
        log.write('{"command": "taba ru')
    assert taba_here("report", "--store", store).returncode == 0


def test_damaged_coordinates_and_results_are_made_anew(store, taba_here):
    again = ["run", "correlation", "--model", "gaussian", "--store", store, "--executor", "local", *SMALL]
    coordinate = next(store.glob("gaussian-inversion-*/alpha_bar/c.0"))
    whole = coordinate.read_bytes()
    coordinate.write_bytes(b"XXXX")
    number = next(store.glob("gaussian-correlation-*/lag1_noise_high/c*"))
    number.write_bytes(b"X")
    refused(taba_here("report", "--store", store), 1, "is damaged", "Run its study again")
    # A shard is missing too, so that the templates are looked at.
    next(store.glob("gaussian-inversion-*/latent/c.0*")).unlink()
    assert taba_here(*again).returncode == 0
    assert coordinate.read_bytes() == whole
    assert taba_here("report", "--store", store).returncode == 0


def test_the_default_sweep_keeps_what_is_a_whole_step(tmp_path, taba_here):
    # 2 % and 4 % of T = 10 are no whole steps, 10 % and 20 % are K = 1 and 2.
    done = taba_here("plan", "fix", "--store", tmp_path / "s", "--set", "num_inference_steps=10")
    # Generation 10, K = 0 inversion 10, two rules of K = 1, 2 (9 + 8), five reconstructions of 10; 256 images.
    assert done.returncode == 0 and f"{256 * (10 + 10 + 2 * 17 + 5 * 10):,}" in done.stdout


def test_rows_of_one_model_are_told_apart_by_their_settings(tmp_path, taba_here):
    common = [
        "run",
        "correlation",
        "--model",
        "gaussian",
        "--store",
        tmp_path / "s",
        "--executor",
        "local",
        *SMALL,
    ]
    assert taba_here(*common).returncode == 0
    assert taba_here(*common, "--set", "sampling_x0_rule=clip").returncode == 0
    rows = json.loads((tmp_path / "s" / "report" / "results.json").read_text())
    labels = {r["row"] for r in rows if r["item"] == "table2"}
    assert labels == {"Gaussian field, sampling_x0_rule=None", "Gaussian field, sampling_x0_rule=clip"}
    claims = json.loads((tmp_path / "s" / "report" / "claims.json").read_text())
    assert {c["model"] for c in claims} == {"gaussian"} and len({c["result"] for c in claims}) == 2


def test_a_store_that_would_be_gone_with_the_process_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["run", "correlation", "--model", "gaussian", "--store", "memory://runs/taba"])
    assert end.value.code == 2
    assert "gone with it; use a directory or s3://BUCKET/PREFIX" in capsys.readouterr().err
