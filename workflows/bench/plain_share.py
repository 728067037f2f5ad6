"""Share of plain pixels in samples of the photo mixture, beside that of real crops.

Plain areas are where inversion errs; a model whose samples have none could not show it.
"""

from __future__ import annotations

from typing import Any

from workflows.bench.mixture import SEED, load_mixture
from workflows.bench.paired import Measurement, TableRow

BATCH = 64


def measure(
    *,
    repeats: int = 1,
    num_samples: int = 256,
    num_inference_steps: int = 50,
    options: dict[str, Any] | None = None,
) -> Measurement:
    """Plain share of generated images and of as many real crops. Deterministic: `repeats` changes nothing.

    Figures: generated, real (shares of all pixels).
    """
    import torch

    from taba_core import rng
    from taba_core.diffusion import generate
    from taba_core.models.catalog import load_card
    from taba_core.models.grids import timestep_grid
    from taba_core.stats.regions import THRESHOLD, plain_mask

    model = load_mixture(options)
    grid = timestep_grid(load_card("photo-mixture"), num_inference_steps)
    plain = 0
    for start in range(0, num_samples, BATCH):
        ids = range(start, min(start + BATCH, num_samples))
        noise = rng.normal(ids, model.sample_shape, seed=SEED, stream="noise")
        with torch.inference_mode():
            image = generate(model, torch.from_numpy(noise), grid)
        plain += int(plain_mask(image.numpy()).sum())
    shares = {
        "generated": plain / (num_samples * model.sample_shape[1] * model.sample_shape[2]),
        "real": float(plain_mask(model.real_crops(range(num_samples), seed=SEED)).mean()),
    }
    n = f"{num_samples} images, T={num_inference_steps}"
    what = f"pixels with a mean difference below {THRESHOLD} on [-1, 1]"
    return Measurement(
        (
            TableRow(what, n, "generated", f"{100 * shares['generated']:.1f} %", target=">= 10 %"),
            TableRow("", "", "real crops", f"{100 * shares['real']:.1f} %"),
        ),
        shares,
    )
