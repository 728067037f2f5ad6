"""The notebook runs cell by cell, its numbers are those of plain arithmetic, and the README's picture is its like."""

from __future__ import annotations

import ast
import io
import json
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import taba_core
import workflows.notebooks
from workflows.notebooks import opening_picture

FOLDER = Path(workflows.notebooks.__file__).parent
NOTEBOOK = FOLDER / "ten_photographs.ipynb"
PICTURE = FOLDER / "opening_picture.png"


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def ran():
    """The names that all cells leave behind, and the seconds of a processor that they took."""
    matplotlib.use("Agg")
    names: dict[str, object] = {}
    start = time.process_time()
    for cell in code_cells():
        exec(compile(cell, str(NOTEBOOK), "exec"), names)
    matplotlib.pyplot.close("all")
    return names, time.process_time() - start


def by_hand(model, photos, steps):
    """DDIM inversion of the linear schedule's leading grid, P x + Q eps."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    times = np.arange(steps) * (1000 // steps)
    levels = np.concatenate([[1.0], alpha_bar[times]])
    x = photos
    for step in range(steps):
        a, b = levels[step], levels[step + 1]
        p = (b / a) ** 0.5
        q = (1 - b) ** 0.5 - p * (1 - a) ** 0.5
        x = p * x + q * model.eps(x, float(times[step]), {})
    return x


def test_its_latents_are_those_of_the_plain_loop(ran):
    names, _ = ran
    model, photos = names["model"], names["photos"]
    latents = by_hand(model, photos, names["STEPS"])
    torch.testing.assert_close(names["latents"], latents, rtol=0, atol=2e-3)
    # The number that is printed, from these latents and a mask of two differences.
    step = torch.zeros_like(photos)
    step[:, :, :-1] += (photos[:, :, 1:] - photos[:, :, :-1]).abs()
    step[..., :-1] += (photos[..., 1:] - photos[..., :-1]).abs()
    plain = (step / 2 < 0.025).all(1, keepdim=True).expand_as(photos)
    told = names["table"]["DDIM"]["std, plain"]
    assert told == pytest.approx(latents[plain].std(correction=0).item(), abs=1e-3)


def test_it_shows_what_it_says(ran):
    names, _ = ran
    plain, elsewhere = (
        {n: row[f"std, {area}"] for n, row in names["table"].items()} for area in ("plain", "elsewhere")
    )
    assert plain["noise"] == pytest.approx(1, abs=0.03) and plain["DDIM"] < 0.7 < plain["repaired"]
    assert abs(1 - plain["DDIM"]) > abs(1 - elsewhere["DDIM"])
    back = names["back"]
    assert back["solved"] < back["DDIM"] < back["repaired"]


def test_it_is_quick_and_uses_public_functions_only(ran):
    _, seconds = ran
    assert seconds < 60
    tree = ast.parse("\n".join(code_cells()))
    modules = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name.split(".")[0] in ("taba_core", "workflows", "cluster")}
    assert ours == {"taba_core", "taba_core.stats"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if ast.unparse(node).startswith("taba_core.") and isinstance(node, ast.Attribute)
    }
    assert used and used <= set(taba_core.__all__)


def test_it_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]


def test_a_folder_of_ones_own_photographs_takes_the_place_of_the_built_in_ones(tmp_path):
    for seed in range(2):
        noise = np.random.default_rng(seed).integers(0, 256, (90, 70, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{seed}.png")
    squares = taba_core.square_photos(tmp_path, size=7)
    assert squares.shape == (2, 3, 7, 7)
    # Of 90 x 70 the rows 10 to 79 are the square; a pixel of 7 x 7 is the mean of 10 x 10.
    mean = noise[10:20, :10].reshape(-1, 3).mean(0) / 127.5 - 1
    np.testing.assert_allclose(squares[1][:, 0, 0], mean, atol=0.5 / 127.5 + 1e-6)


def test_the_picture_of_the_readme_is_the_one_that_its_command_draws():
    assert PICTURE.stat().st_size <= 60_000
    drawn = np.asarray(Image.open(io.BytesIO(opening_picture.draw())).convert("RGB"), dtype=int)
    kept = np.asarray(Image.open(PICTURE).convert("RGB"), dtype=int)
    assert drawn.shape == kept.shape and np.abs(drawn - kept).mean() < 4


def test_the_picture_shows_latents_that_are_flat_where_photographs_are_plain():
    from taba_core.stats import plain_mask

    shown = opening_picture.pictures()
    photographs, latents, repaired, noise = (shown[name] for name in opening_picture.ROWS)
    plain = np.broadcast_to(plain_mask(photographs)[:, None], photographs.shape)
    assert latents[plain].std() < 0.7 < repaired[plain].std()
    assert noise[plain].std() == pytest.approx(1, abs=0.03)
