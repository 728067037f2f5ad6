"""Any inversion method in any study: wrapped by the fix, refused before work, with its options, on text."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from engine_runs import taba
from method_runs import context, report_of, run

from taba_core.errors import UsageError
from taba_core.store import Store
from workflows.analysis.study import find_studies

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_text_checkpoints as tiny_text


def test_tables_4_and_9_take_any_method_and_wrap_the_fix_around_it(tmp_path):
    sets = ("num_samples=8", "num_inference_steps=10", "forward_steps=1", "bootstrap_replicates=100")
    long = ("long_steps=20", "long_forward_steps=1")
    store = run(tmp_path / "store", ["fix", "fix-long"], *sets, *long, method="aidi-a")
    run(tmp_path / "store", ["fix"], *sets)
    rows, _ = report_of(store.path)
    assert {r["row"] for r in rows if r["item"].startswith("table4") and "latent" in r["row"]} == {
        "DDIM latent (K=0)", "aidi-a latent (K=0)",
    }  # fmt: skip
    assert "aidi-a latent" in {r["row"] for r in rows if r["item"] == "table9"}
    # Anderson's latents are nearer the noise than DDIM's, and the paper says nothing of them.
    by_row = {r["row"]: r for r in rows if r["item"].startswith("table4") and r["column"] == "mae"}
    assert by_row["aidi-a latent (K=0)"]["value"] < 0.1 * by_row["DDIM latent (K=0)"]["value"]
    assert not [r for r in rows if r["paper"]]
    shared = [
        g for g in store.artifacts() if g.artifact.kind == "inversion" and g.artifact.method == "aidi-a"
    ]
    # K = 0 and K = 1 under two rules, at T = 10 and at T = 20.
    assert len(shared) == 6


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "edict",
            "forward_steps=1: inversion method 'edict' owns its trajectory, so its first steps cannot be replaced; use "
            "another method.",
        ),
        ("reverse-dpm", "forward_steps=1: inversion method 'reverse-dpm' moves on a grid of its own"),
        ("null-text", "inversion method 'null-text' works on a text condition"),
        ("edictt", "unknown inversion method 'edictt': did you mean edict"),
    ],
)
def test_what_cannot_be_wrapped_is_refused_before_work(method, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        find_studies(["fix"])[0].requests(context(method=method))


def test_an_option_of_a_method_is_checked_and_makes_another_artifact():
    def key(*sets):
        requests = find_studies(["correlation"])[0].requests(context(*sets, method="edict"))
        return requests["inversion"].artifact.key

    assert key("method.p=0.93") == key() != key("method.p=0.9")
    with pytest.raises(UsageError, match=re.escape("inversion method 'edict', option p=2: ")):
        key("method.p=2")
    with pytest.raises(UsageError, match=re.escape("inversion method 'edict' has no option 'q'; it has: p.")):
        key("method.q=1")


def test_text_methods_run_on_a_text_model_and_what_they_carry_is_stored(tmp_path):
    model = tiny_text.save_tiny_sd(tmp_path / "tiny-sd")
    sets = [*(["num_samples=4", "num_inference_steps=3", "prompts=builtin", "bootstrap_replicates=100", "top_k=5"]),
            "patch_size=4", "methods=ddim,null-text,negative-prompt"]  # fmt: skip
    arguments = [part for one in sets for part in ("--set", one)]
    place = tmp_path / "store"
    run = ("run", "methods", "--model", model, "--store", place, "--executor", "local", "--no-report")
    assert taba(*run, *arguments) == 0
    store = Store.open(place, mode="r")
    inversions = {g.artifact.method: g for g in store.artifacts() if g.artifact.kind == "inversion"}
    # A null embedding of 77 tokens for each of three steps.
    null = inversions["null-text"].read_samples(0, 4, ("null_embeds", "evaluations"))
    assert null["null_embeds"].shape[:3] == (4, 3, 77) and (null["evaluations"] > 3).all()
    (name,) = store.results()
    found = store.read_result(name)
    same = [inversions[m].read_samples(0, 4, ("latent",))["latent"] for m in ("ddim", "null-text")]
    assert same[0].tobytes() == same[1].tobytes()
    # With the prompt in place of the null prompt guidance has nothing to push from: DDIM's images come back.
    mae = found["mae"]
    assert float(mae.sel(row="negative-prompt")) == pytest.approx(float(mae.sel(row="ddim")), rel=1e-4)
    assert abs(float(mae.sel(row="null-text")) - float(mae.sel(row="ddim"))) > 1e-3
