"""Study `pie-bench` on tiny benchmarks: rows, numbers by hand, counts, published rows, refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from engine_runs import nodes, result_of, taba
from real_image_runs import refused

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from benchmark_files import PROMPTS, SIDE, save_pie_bench, save_ti2i
from tiny_text_checkpoints import save_tiny_sd

from taba_core.errors import UsageError
from taba_core.images.benchmarks import open_benchmark
from taba_core.images.collection import open_images
from taba_core.stats.compressibility import to_bytes
from workflows.analysis.study import find_studies, read_settings
from workflows.configuration.context import Context
from workflows.studies.pie_bench.measures import edited_area
from workflows.studies.pie_bench.views import published

follows = pytest.mark.follows
(STUDY,) = find_studies(["pie-bench"])
SMALL = ("num_inference_steps=3", "batch_size=3", "bootstrap_replicates=100")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("pie")


@pytest.fixture(scope="module")
def pie(base):
    return save_pie_bench(base / "PIE-Bench_v1")


@pytest.fixture(scope="module")
def model(base):
    return save_tiny_sd(base / "own-sd")


def context(folder, *sets, model="photo-if"):
    return Context(str(model), "ddim", read_settings([*SMALL, f"images={folder}", *sets]))


def run(store, folder, model, *sets, report=False):
    every = [word for text in (*SMALL, f"images={folder}", *sets) for word in ("--set", text)]
    more = () if report else ("--no-report",)
    return taba("run", "pie-bench", "--model", model, "--store", store, "--executor", "inline", *every, *more)


def edit_of(store, editor, method):
    """The stored edits of an editor behind a method."""
    (node,) = [
        node
        for node in nodes(store, "edit")
        if (node.attrs["spec"]["editor"], node.attrs["spec"]["source"].get("method")) == (editor, method)
    ]
    return node["edit"].values


def test_editors_on_stable_diffusion_by_two_methods(base, pie, model, capsys):
    store = base / "sd"
    sets = ("pie-bench.editors=none,masactrl,prompt-to-prompt,sdedit", "pie-bench.guidance_scale=2")
    assert run(store, pie, model, *sets, report=True) == 0
    result = result_of(store, "pie-bench")
    names = [str(name) for name in result["edit"].values]
    assert names == [
        "ddim/none", "ddim/masactrl", "ddim/prompt-to-prompt", "direct-inversion/none", "direct-inversion/masactrl",
        "direct-inversion/prompt-to-prompt", "sdedit",
    ]  # fmt: skip
    assert (
        result.attrs["n"] == 5 and result.attrs["T"] == 3 and str(result["benchmark"].item()) == "PIE-Bench"
    )
    # Image 1 is to change everywhere: four images have a background.
    assert int(result["without_background"]) == 1
    assert (result["count"].sel(measure=["mse", "ssim"]).values == 4).all()
    # Direct inversion keeps its path whatever is asked: the sampler alone gives the source back.
    (images,) = nodes(store, "images")
    assert np.allclose(edit_of(store, "", "direct-inversion"), images["image"].values, atol=1e-5)
    # MasaCtrl begins with step 4 and there are 3, so behind DDIM it is the sampler alone.
    assert np.array_equal(edit_of(store, "masactrl", "ddim"), edit_of(store, "", "ddim"))
    assert not np.allclose(edit_of(store, "prompt-to-prompt", "ddim"), edit_of(store, "", "ddim"), atol=1e-3)
    specs = [node.attrs["spec"] for node in nodes(store, "edit")]
    paths = {(s["editor"], s["source"].get("method", "")): s["source_path"] for s in specs}
    assert paths["masactrl", "ddim"] == "pinned" and paths["masactrl", "direct-inversion"] == "own"
    shares = [s["editor_options"] for s in specs if s["editor"] == "prompt-to-prompt"]
    assert all((o["cross_share"], o["self_share"]) == (0.4, 0.6) for o in shares) and len(shares) == 2
    page = (store / "report" / "pages" / "study-pie-bench.html").read_text()
    assert "Published rows of PIE-Bench, for reference (13 rows)" in page and "219.88" in page
    assert "LPIPS of the unedited area (lpips)" in page and "structure distance (structure)" in page
    table = (store / "report" / "tables" / "pie-bench.csv").read_text()
    assert "219.88" not in table and "masactrl" in table


def test_the_numbers_are_those_of_the_stored_pictures(base, pie):
    store = base / "if"
    sets = ("pie-bench.methods=ddim", "pie-bench.editors=sdedit,none", "conventions=exact")
    assert run(store, pie, "photo-if", *sets) == 0
    result = result_of(store, "pie-bench")
    assert [str(text) for text in result["edit_label"].values] == ["sampler alone", "sdedit"]
    cases = open_benchmark(pie).cases
    source = open_images(pie).squares(0, 5, 32) / 255.0
    background = ~np.stack([edited_area(case, 32) for case in cases])
    for edit, kind in (("sdedit", "sdedit"), ("ddim/none", "")):
        (node,) = [n for n in nodes(store, "edit") if n.attrs["spec"]["editor"] == kind]
        picture = to_bytes(node["edit"].values) / 255.0
        square = ((picture - source) * background[:, None]) ** 2
        kept = background.any(axis=(1, 2))
        mse = square.mean(axis=(1, 2, 3))[kept]
        value = result["value"].sel(edit=edit)
        assert float(value.sel(measure="mse")) == pytest.approx(mse.mean(), rel=1e-9)
        assert float(value.sel(measure="psnr")) == pytest.approx((-10 * np.log10(mse)).mean(), rel=1e-9)
        low, high = (float(result[f"value_{end}"].sel(edit=edit, measure="mse")) for end in ("low", "high"))
        assert low < mse.mean() < high


def test_targets_are_those_of_the_benchmark(base):
    spec = next(n.attrs["spec"] for n in nodes(base / "if", "edit"))
    assert spec["targets"] == "listed" and spec["target_list"]["location"].endswith("mapping_file.json")
    (node,) = [n for n in nodes(base / "if", "edit") if n.attrs["spec"]["editor"] == "sdedit"]
    texts = [bytes(row).rstrip(b"\0").decode() for row in node["target_prompt"].values.astype(np.uint8)]
    assert texts == [" ".join(target.replace("[", "").replace("]", "").split()) for _, target in PROMPTS]


def test_the_preset_and_the_areas_are_in_the_key_of_the_result(pie, tmp_path):
    plain = STUDY.result_key(context(pie))
    assert STUDY.result_key(context(pie, "pie-bench.preset=clean")) != plain
    assert STUDY.result_key(context(pie, "pie-bench.measures=mse")) != plain
    assert STUDY.result_key(context(pie, "pie-bench.editors=none")) != plain  # other artifacts
    assert STUDY.result_key(context(save_pie_bench(tmp_path / "again"))) == plain
    table = tmp_path / "again" / "mapping_file.json"
    table.write_text(table.read_text().replace("[17, 14]", "[17, 13]"))
    assert STUDY.result_key(context(tmp_path / "again")) != plain


def test_ti2i_images_are_edited_once_for_each_target(tmp_path):
    folder = save_ti2i(tmp_path / "imnetr")
    requests = STUDY.requests(context(folder, "pie-bench.editors=sdedit"))
    assert {request.samples for request in requests.values()} == {4} and list(requests) == [
        "images",
        "sdedit",
    ]


def test_an_area_is_seen_as_the_model_sees_the_image(pie):
    case = open_benchmark(pie).cases[2]
    assert np.array_equal(edited_area(case, SIDE), case.mask())
    assert np.array_equal(edited_area(case, 2 * SIDE), np.kron(case.mask(), np.ones((2, 2), bool)))
    # Halved: the square of pixels 4..9 covers positions 2..4, the border the outer ones.
    expected = np.zeros((8, 8), bool)
    expected[[0, -1]] = expected[:, [0, -1]] = True
    expected[2:5, 2:5] = True
    assert np.array_equal(edited_area(case, 8), expected)


def test_the_published_rows_are_those_of_their_sources():
    rows = published().rows
    assert len(rows) == 13
    assert rows["DDIM + MasaCtrl"]["PSNR, dB"].value == 22.17
    assert rows["direct + P2P"]["LPIPS (SqueezeNet) × 10³"].value == 54.55
    assert {cell.provenance for cell in rows["SPDInv + P2P"].values()} == {"secondary"}
    assert "two rows share structure 11.65" in rows["direct + P2P"]["structure × 10³"].note


@follows("pie-bench: give the folder of PIE-Bench")
def test_images_that_are_no_benchmark(pie, tmp_path, capsys):
    with pytest.raises(UsageError, match="--set images=FOLDER"):
        STUDY.requests(Context("photo-if", "ddim", read_settings([*SMALL])))
    with pytest.raises(UsageError, match="is no benchmark of editing"):
        STUDY.requests(context(tmp_path))
    assert STUDY.requests(context(pie))
    line = refused(capsys, "run", "pie-bench", "--model", "photo-if", "--store", tmp_path / "s", "--executor", "inline",
                   "--set", f"images={tmp_path}")  # fmt: skip
    assert "no benchmark of editing" in line or "holds no image" in line


@follows("use a text model such as sd, sdxl or photo-if")
def test_a_model_without_prompts(pie):
    with pytest.raises(UsageError, match="Photo DiT reads none"):
        STUDY.requests(context(pie, model="photo-dit"))
    assert STUDY.requests(context(pie, model="photo-if"))


def test_what_a_row_cannot_be_is_refused_at_once(pie, model):
    with pytest.raises(UsageError, match="editor 'masactrl': editors control layers"):
        STUDY.requests(context(pie, "pie-bench.editors=masactrl"))
    with pytest.raises(UsageError, match="unknown editor 'masa'"):
        STUDY.requests(context(pie, "pie-bench.editors=masa"))
    with pytest.raises(UsageError, match="unknown inversion method 'dim'"):
        STUDY.requests(context(pie, "pie-bench.methods=dim"))
    asked = context(
        pie,
        "pie-bench.editors=masactrl",
        "pie-bench.methods=edict",
        "pie-bench.source_path=pinned",
        model=model,
    )
    with pytest.raises(UsageError, match="source_path=own"):
        STUDY.requests(asked)
    with pytest.raises(UsageError, match="measures=lips"):
        context(pie, "pie-bench.measures=lips")


def test_measures_of_missing_weights_are_refused_before_anything_runs(pie, monkeypatch, tmp_path):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="taba fetch metrics"):
        STUDY.check_runnable(context(pie, "pie-bench.measures=mse,clip-whole"))
    STUDY.check_runnable(context(pie))
