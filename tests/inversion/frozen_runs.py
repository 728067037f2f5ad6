"""What generation and every inversion method return on small fixed problems, as numbers that must not move.

`tests/data/frozen_runs.npz` holds for each run a hash of all its bits, its mean magnitude and 16 of its values. The
bits belong to the processor and the libraries that made them, so the test compares values. Whether a change of the
code moves a single bit is asked on one machine, before and after the change:

    python tests/inversion/frozen_runs.py --write     # with the code as it was
    python tests/inversion/frozen_runs.py --bits      # with the changed code

`--write` is also the way to take up a number that has moved for a reason.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("inversion", "diffusion"))

from analytic_denoisers import LINEAR, normal, waves
from registered import TextWaves, quick

from taba_core.diffusion import (
    NoiseSchedule,
    TimestepGrid,
    generate,
    invert_with_report,
    list_methods,
    reconstruct,
    step_predictions,
)
from taba_core.diffusion.inversion.registry import inversion_method_class
from taba_core.errors import WorkError
from taba_core.models.base import load_model
from taba_core.theory import GaussianModes

FILE = Path(__file__).parents[1] / "data" / "frozen_runs.npz"
NUM_VALUES = 16

CONVENTIONS = {
    "target": {},
    "source": {"network_time": "source"},
    "shifted": {"network_time": "source", "levels": "shifted"},
    "clip": {"x0_rule": "clip"},
    "rederived": {"x0_rule": "clip-rederive"},
    "dynamic": {"x0_rule": "dynamic"},
    "forward-exact": {"forward_steps": 2},
    "forward-matched": {"forward_steps": 2, "forward_level": "matched"},
    "forward-shifted": {"forward_steps": 1, "network_time": "source", "levels": "shifted"},
    "forward-all": {"forward_steps": 6, "forward_level": "matched"},
}
VARIANTS = {
    "gnri": {"gradient": "network"},
    "hybrid-gradient": {"start_from": "noise", "num_gradient_steps": 5},
    "pix2pix-zero": {"reading": "official", "lambda_ac": 0.1, "lambda_kl": 0.1},
    "noise-level": {"inner": "predictor-corrector"},
}


# The published strengths are meant for images of 64 x 64: on 8 x 8 the steps of the regularisers diverge.
WEAKER = {"renoise": {"lambda_kl": 1e-4}, "pix2pix-zero": {"lambda_ac": 0.1, "lambda_kl": 0.1}}


def problems():
    """Name, model, grid, condition and dtype of every fixed problem; two samples and six steps each."""
    leading = TimestepGrid.build(LINEAR, 6)
    trailing = TimestepGrid.build(NoiseSchedule.cosine(), 6, "diffusers-trailing")
    first = TimestepGrid.build(NoiseSchedule.scaled_linear(), 6, steps_offset=1, final_alpha_bar="first")
    gaussian = load_model("gaussian", options={"size": 8})
    photos = load_model("photo-mixture")
    classes = {"class_id": torch.tensor([1, -1])}
    text = {"prompt_embeds": torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 2, 3)}
    yield "gaussian32", gaussian, TimestepGrid.build(gaussian.schedule, 6), {}, torch.float32
    yield "gaussian64", gaussian, TimestepGrid.build(gaussian.schedule, 6), {}, torch.float64
    yield "photos", photos, TimestepGrid.build(photos.schedule, 6), classes, torch.float32
    yield "waves-first", waves(first.schedule), first, {}, torch.float32
    yield "waves-trailing", waves(trailing.schedule), trailing, {}, torch.float64
    yield "text", TextWaves(None), leading, text, torch.float64


def runs():
    """(name, array) of everything that is frozen."""
    for name, model, grid, cond, dtype in problems():
        yield from _of_problem(name, model, grid, cond, dtype)
    modes = GaussianModes(np.array([1e-4, 1e-2, 1.0]), TimestepGrid.build(LINEAR, 6))
    for key, gain in {
        "F": modes.sampling_gain(),
        "G": modes.inversion_gain(),
        "fixed": modes.fixed_point_gain(2),
        "shifted": modes.inversion_gain(network_time="source", levels="shifted"),
        "std": modes.latent(2, "matched").std,
        "rmse": modes.latent(1).reconstruction_rmse,
        "marginal": modes.marginal_step_ratio(),
        "sampled": modes.sampled_eps_std(),
    }.items():
        yield f"theory/{key}", np.asarray(gain)


def _of_problem(name, model, grid, cond, dtype):
    noise, forward = (normal((2, *model.sample_shape), seed, dtype) for seed in (0, 9))
    records = []
    image = generate(model, noise, grid, cond, on_step=records.append)
    yield f"{name}/generate", image
    yield f"{name}/generate/eps", torch.stack([r.eps_t for r in records])
    for rule in ("clip", "clip-rederive", "dynamic"):
        yield f"{name}/generate/{rule}", generate(model, noise, grid, cond, x0_rule=rule)
    states = torch.stack([r.x_to for r in records], dim=1)
    for rule in ("none", "clip-rederive"):
        hat = step_predictions(model, states, grid, [6, 5, 4, 3, 2, 1], cond, x0_rule=rule)
        yield f"{name}/step_predictions/{rule}", hat
    given = dict(forward_noise=forward, sample_ids=[3, 8])
    for key, options in CONVENTIONS.items():
        report = invert_with_report(
            model, image, grid, "ddim", cond, measure_residual=True, **given, **options
        )
        yield from _of_report(f"{name}/ddim/{key}", report)
    # Other tests of the same process may have registered methods of their own.
    ours = [m for m in list_methods() if inversion_method_class(m).__module__.startswith("taba_core.")]
    chosen = [(m, replace(quick(m), **WEAKER.get(m, {}))) for m in ours]
    if name == "gaussian64":
        chosen += [(f"{m}/variant", type(quick(m))(**options)) for m, options in VARIANTS.items()]
    for key, method in chosen:
        if method.needs_text != (name == "text") or (name == "photos" and method.needs_gradient):
            continue
        try:
            report = invert_with_report(model, image, grid, method, cond, measure_residual=True, **given)
        except WorkError:  # a method may diverge on a problem that it is not made for
            continue
        yield from _of_report(f"{name}/{key}", report)
        back = reconstruct(
            model, report.latent, grid, method, cond, carried=report.carried, sample_ids=[3, 8]
        )
        yield f"{name}/{key}/reconstruction", back


def _of_report(name, report):
    yield f"{name}/latent", report.latent
    yield f"{name}/evaluations", report.evaluations
    if report.residual is not None:
        yield f"{name}/residual", report.residual
    for key, value in report.carried.items():
        yield f"{name}/{key}", value


def summary(array):
    """Hash of all bits; mean magnitude and up to 16 values spread over the array, float64."""
    array = np.ascontiguousarray(array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else array)
    flat = np.nan_to_num(array.astype(np.float64).ravel(), nan=-1.0)
    picked = flat[np.linspace(0, flat.size - 1, min(NUM_VALUES, flat.size)).round().astype(int)]
    values = np.zeros(NUM_VALUES + 1)
    values[0], values[1 : 1 + len(picked)] = np.abs(flat).mean(), picked
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest(), values


def summaries():
    """{run: (hash, values)}; one thread, so that sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: summary(array) for name, array in runs()}
    finally:
        torch.set_num_threads(threads)


def frozen():
    """{run: (hash, values)} as written."""
    file = np.load(FILE)
    hashes, values = file["hashes"].tolist(), file["values"]
    return dict(zip(file["names"].tolist(), zip(hashes, values, strict=True), strict=True))


def main():
    """Write the file, or compare bits with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--write", action="store_true")
    chosen.add_argument("--bits", action="store_true")
    found = summaries()
    if parser.parse_args().write:
        hashes, values = zip(*found.values(), strict=True)
        np.savez_compressed(FILE, names=list(found), hashes=list(hashes), values=np.array(values))
        return
    before = frozen()
    changed = [
        name for name in before.keys() | found.keys() if before.get(name, "")[0] != found.get(name, "")[0]
    ]
    print(f"{len(found)} runs, {len(changed)} with other bits", *sorted(changed), sep="\n  ")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
