"""Folders whose photographs a viewer shows alike give one run: the same keys, the same numbers to the bit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from engine_runs import fingerprints, taba
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "images"))
from picture_files import STORED, colours, exif, greys, orientation_chunk, write_png

OPTIONS = (
    "--executor", "inline", "--no-report", "--set", "num_samples=8", "--set", "num_inference_steps=4", "--set",
    "bootstrap_replicates=100", "--set", "model.num_components_per_photo=1", "--set", "model.rank=8",
)  # fmt: skip


def second(picture: np.ndarray) -> np.ndarray:
    """Another picture of the same size and kind."""
    return np.ascontiguousarray(picture[::-1, :, ::-1] // 2 + 60)


def on_white(picture: np.ndarray) -> np.ndarray:
    """As it looks where its upper half is transparent."""
    shown = picture.copy()
    shown[: len(shown) // 2] = 255
    return shown


def turned(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(np.ascontiguousarray(STORED[6](picture))).save(path, exif=exif(6))


def transparent(path: Path, picture: np.ndarray) -> None:
    """Colours that no viewer shows are hidden under the transparent half."""
    rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    rgba[: len(rgba) // 2] = (250, 20, 20, 0)
    Image.fromarray(rgba).save(path)


def deep_grey(path: Path, picture: np.ndarray) -> None:
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(path)


def deep_turned_colour(path: Path, picture: np.ndarray) -> None:
    stored = STORED[8](picture).astype(np.uint16) * 257
    write_png(path, stored, kind=2, depth=16, chunks=orientation_chunk(8))


CASES: dict[str, tuple[np.ndarray, Callable, Callable]] = {
    "turned": (colours(), lambda picture: picture, turned),
    "alpha": (colours(), on_white, transparent),
    "16bit": (greys(), lambda picture: picture, deep_grey),
    "16bit-colour-turned": (colours(), lambda picture: picture, deep_turned_colour),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_gives_the_run_of_the_plain_files_that_look_like_it(case, tmp_path):
    picture, shown, save = CASES[case]
    stores = {}
    for kind in ("plain", "other"):
        folder = tmp_path / kind
        folder.mkdir()
        for name, one in (("a.png", picture), ("b.png", second(picture))):
            if kind == "plain":
                Image.fromarray(shown(one)).save(folder / name)
            else:
                save(folder / name, one)
        store = tmp_path / f"store-{kind}"
        assert taba("run", "correlation", "--store", store, "--set", f"model.photos={folder}", *OPTIONS) == 0
        # Documents name the folder; the names of groups hold their keys, and chunks hold the numbers.
        stores[kind] = {
            name: digest for name, digest in fingerprints(store).items() if not name.endswith("zarr.json")
        }
    assert stores["plain"] == stores["other"]
    assert any("-inversion-" in name for name in stores["plain"])
    # The case is one: read without the rules, the files show something else.
    raw = [np.asarray(Image.open(tmp_path / kind / "a.png").convert("RGB")) for kind in ("plain", "other")]
    assert raw[0].shape != raw[1].shape or (raw[0] != raw[1]).any()
