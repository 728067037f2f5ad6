"""The picture at the head of the README: photographs, their DDIM latents, repaired latents, and noise.

`python -m workflows.notebooks.opening_picture FILE` draws it with the default model, the exact denoiser of a mixture of
photographs. The same command gives the same picture.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import taba_core
from taba_core import rng
from taba_core.stats import plain_mask

MODEL, STEPS, REPLACED = "photo-mixture", 50, 2
COLUMNS, SIZE = 7, 32
CANDIDATES, PLAIN = 400, (0.35, 0.75)  # crops to choose from, and the share of plain area that is shown
RANGE = 2.5  # standard deviations from black to white
COLOURS = 128  # of the file: noise does not compress, so that the number of colours decides its size
ROWS = ("photographs", "their DDIM latents", "repaired latents", "white noise")


def pictures() -> dict[str, NDArray[np.float32]]:
    """What the rows show, each (COLUMNS, 3, 32, 32): crops of photographs on [-1, 1], the others as they are.

    The crops are the first, by number, whose plain area has a share within PLAIN, of different photographs: where a
    picture is plain its DDIM latent is not noise.
    """
    model = taba_core.load_model(MODEL)
    grid = taba_core.timestep_grid(taba_core.load_card(MODEL), STEPS)
    photos = torch.from_numpy(_crops())
    noise = torch.from_numpy(rng.normal(range(COLUMNS), (3, SIZE, SIZE), seed=42, stream="forward"))
    white = rng.normal(range(COLUMNS), (3, SIZE, SIZE), seed=42, stream="noise")
    latents = taba_core.invert(model, photos, grid)
    repaired = taba_core.invert(
        model, photos, grid, forward_steps=REPLACED, forward_level="matched", forward_noise=noise
    )
    shown = (photos.numpy(), latents.numpy(), repaired.numpy(), white)
    return dict(zip(ROWS, shown, strict=True))


def _crops() -> NDArray[np.float32]:
    from taba_core.models.crops import photos_of_crops, real_crops
    from taba_core.models.photos import load_photos

    photographs, ids = load_photos(), np.arange(CANDIDATES)
    crops = real_crops(photographs, ids, seed=0, size=SIZE)
    share = plain_mask(crops).mean((1, 2))
    fit = ids[(share > PLAIN[0]) & (share < PLAIN[1])]
    # The first that fits, of each photograph.
    _, first = np.unique(photos_of_crops(len(photographs), fit, seed=0), return_index=True)
    return crops[np.sort(fit[first])[:COLUMNS]]


def draw() -> bytes:
    """The picture as a PNG file of few colours."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 11}):
        figure = Figure(figsize=(9.6, 4.2), dpi=100)
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(ROWS), COLUMNS)
        figure.subplots_adjust(left=0.19, right=0.998, top=0.995, bottom=0.005, wspace=0.05, hspace=0.05)
        for line, (name, images) in zip(axes, pictures().items(), strict=True):
            for place, image in zip(line, images, strict=True):
                scale = 1.0 if name == ROWS[0] else RANGE
                place.imshow(
                    (np.clip(image / scale, -1, 1) + 1).transpose(1, 2, 0) / 2, interpolation="nearest"
                )
                place.set_axis_off()
            box = line[0].get_position()
            figure.text(box.x0 - 0.012, (box.y0 + box.y1) / 2, name, ha="right", va="center")
        held = io.BytesIO()
        figure.savefig(held, format="png")
    packed = io.BytesIO()
    Image.open(held).convert("RGB").quantize(COLOURS).save(packed, format="PNG", optimize=True)
    return packed.getvalue()


def main(arguments: list[str]) -> None:
    """Draw it to the file named on the command line."""
    (file,) = arguments or [str(Path(__file__).with_suffix(".png"))]
    Path(file).write_bytes(draw())
    print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
