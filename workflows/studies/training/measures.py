"""What is measured of every checkpoint of a training, beside the final network.

Axes: r training seeds, s checkpoints, n images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taba_core.stats.alignment import FeatureAlignment
from taba_core.stats.attractors import accuracy, binomial_interval, hits
from taba_core.stats.estimate import Estimate
from taba_core.stats.mapping import SmallestDistance
from taba_core.stats.similarity import WINDOW, StructuralSimilarity
from taba_core.stats.texture import DifferencePower
from taba_core.stats.triangle import SIDES, VERTICES, Triangle
from taba_core.stats.values import CosineSimilarity, ValueRange
from workflows.analysis.candidates import divided, samples_per_read
from workflows.analysis.findings import Findings
from workflows.configuration.context import Context
from workflows.configuration.trained import TrainedRun

if TYPE_CHECKING:
    from workflows.analysis.inputs import Inputs

DISTANCES = ("noise_latent", "image_latent")  # of the sides of the triangle, those that Figure 16 shows
# Direction "queries_candidates", and which way of the mapping of noises to images it is.
DIRECTIONS = {"image_noise": "back", "noise_image": "forth"}
# How alike the generations of a checkpoint and of the final network are.
ALIGNMENTS = ("cka", "cka_unbiased", "svcca", "features", "ssim")
LEVELS = (0, 1, 2)  # of the grid of 50 steps, at which held-out errors are measured
# A jackknife of CKA and SVCCA takes products of all pairs of images once more for every group: 5 s of one core at 2048
# images of 3x32x32, for each of hundreds of checkpoints.
_GROUPS = 8
_SVCCA_DIMS, _IMAGES_A_DIM = 10, 8  # the paper's directions; fewer where there are not so many images to each


class Measured(NamedTuple):
    """One training.

    Attributes:
      seed: of the training.
      share: (s,), of the training that is done.
      images: seen by the whole training.
      values: by name an estimate a checkpoint: angle (3,) in the order of VERTICES, distance (2,) of DISTANCES,
        power_ratio, and the scalars of ALIGNMENTS.
      accuracy: by direction an estimate a checkpoint.
      hits: by direction the queries of every checkpoint that find their own, n booleans each.
    """

    seed: int
    share: NDArray[np.float64]
    images: int
    values: Mapping[str, Sequence[Estimate]]
    accuracy: Mapping[str, Sequence[Estimate]]
    hits: Mapping[str, Sequence[NDArray[np.bool_]]]


def request_name(run: TrainedRun, index: int, what: str) -> str:
    """Name of a request: seed and step of the checkpoint, and what of it ("generation", "inversion", "features")."""
    return f"{run.seed}/{run.checkpoints[index].step}/{what}"


def svcca_dims(num_samples: int) -> int:
    """Directions of SVCCA: the paper's ten, but no more than one to eight images."""
    return max(1, min(_SVCCA_DIMS, num_samples // _IMAGES_A_DIM))


def measure(inputs: Inputs, context: Context, run: TrainedRun) -> Measured:
    """Every measure of every checkpoint of one training."""
    replicates, last = context.settings.bootstrap_replicates, len(run.checkpoints) - 1
    final = request_name(run, last, "generation")
    final_range = _range(inputs, final)
    values: dict[str, list[Estimate]] = {}
    found: dict[str, list[NDArray[np.bool_]]] = {direction: [] for direction in DIRECTIONS}
    accuracies: dict[str, list[Estimate]] = {direction: [] for direction in DIRECTIONS}
    for index in range(len(run.checkpoints)):
        names = {what: request_name(run, index, what) for what in ("generation", "inversion", "features")}
        of = _triangle(inputs, final, names["inversion"], replicates)
        of |= _alignment(inputs, final, names["generation"], final_range, replicates)
        columns = {
            "features_real": (request_name(run, last, "features"), "features"),
            "features": (names["features"], "features"),
        }
        of["features"] = inputs.reduce(columns, {"cosine": CosineSimilarity()}, replicates)["cosine"]["mean"]
        for name, value in of.items():
            values.setdefault(name, []).append(value)
        mapping = SmallestDistance("noise", "image", metrics=("l2",))
        state = inputs.reduce_pairs(
            {name: (names["generation"], name) for name in ("noise", "image")},
            {"mapping": mapping},
            division=divided(inputs.num_samples),
            samples_per_read=samples_per_read(context.card.sample_shape),
        )["mapping"]
        nearest = mapping.found(state, inputs.num_samples)
        for direction, way in DIRECTIONS.items():
            found[direction].append(hits(nearest[f"{way}/l2"]))
            accuracies[direction].append(accuracy(nearest[f"{way}/l2"], num_replicates=replicates))
    share = np.array([checkpoint.share for checkpoint in run.checkpoints])
    return Measured(run.seed, share, run.checkpoints[-1].images, values, accuracies, found)


def _triangle(inputs: Inputs, final: str, inversion: str, replicates: int) -> dict[str, Estimate]:
    """Mean angles and sides of noise, final image and latent: where the checkpoint's inversion ends (Figure 16)."""
    columns = {"noise": (final, "noise"), "image": (final, "image"), "latent": (inversion, "latent")}
    triangle = inputs.reduce(columns, {"triangle": Triangle()}, replicates)["triangle"]
    sides = [SIDES.index(side) for side in DISTANCES]
    return {"angle": triangle["angle_mean"], "distance": triangle["side_mean"][sides,]}


def _alignment(
    inputs: Inputs, final: str, generation: str, final_range: tuple[float, float], replicates: int
) -> dict[str, Estimate]:
    """How alike a checkpoint's images are to the final network's from the same noise (Figures 18 and 19)."""
    columns = {"final": (final, "image"), "own": (generation, "image")}
    statistics = {
        "alignment": FeatureAlignment("final", "own", svcca_dims(inputs.num_samples)),
        "power": DifferencePower("final", "own"),
    }
    shape = inputs.sample_shape
    if min(shape[1:]) >= WINDOW:
        own_range = _range(inputs, generation)
        statistics["ssim"] = StructuralSimilarity("final", "own", 1.0, final_range, own_range)
    of = inputs.reduce(columns, statistics, replicates, max_groups=_GROUPS)
    alignment = {name: of["alignment"][name] for name in ("cka", "cka_unbiased", "svcca")}
    ssim = {"ssim": of["ssim"]["ssim"]} if "ssim" in of else {}
    return {**alignment, **ssim, "power_ratio": of["power"]["ratio"]}


def _range(inputs: Inputs, generation: str) -> tuple[float, float]:
    """Extremes of a whole set of images, by which its pixels are scaled to [0, 1] (paper, App. O)."""
    ends = inputs.reduce({"image": (generation, "image")}, {"range": ValueRange("image")})["range"]
    low, high = float(ends["low"]), float(ends["high"])
    return low, high if high > low else low + 1.0


def keep_measures(found: Findings, measured: Sequence[Measured]) -> None:
    """Store every measure with its intervals over images, (r, s) and its own dimensions."""
    found.coordinate("vertex", VERTICES)
    found.coordinate("distance_between", DISTANCES)
    found.coordinate("direction", list(DIRECTIONS))
    own_dims = {"angle": ("vertex",), "distance": ("distance_between",)}
    for name in measured[0].values:
        rows = [Estimate.stack(of.values[name]) for of in measured]
        dims = ("training_seed", "checkpoint", *own_dims.get(name, ()))
        found.array(name, np.stack([row.value for row in rows]), dims, interval=rows[0].kind)
        ends = zip(*(row.interval(0.95) for row in rows), strict=True)
        for suffix, values in zip(("_low", "_high"), ends, strict=True):
            found.array(name + suffix, np.stack(values), dims, interval=rows[0].kind)
    dims = ("training_seed", "checkpoint", "direction")
    counted = [[[of.hits[way][s] for way in DIRECTIONS] for s in range(len(of.share))] for of in measured]
    count, n = np.sum(counted, axis=-1), len(counted[0][0][0])
    bounds = np.array([binomial_interval(int(c), n) for c in count.ravel()]).reshape(*count.shape, 2)
    found.array("accuracy", count / n, dims, interval="Clopper-Pearson")
    found.array("accuracy_low", bounds[..., 0], dims)
    found.array("accuracy_high", bounds[..., 1], dims)
    found.array("guessing", len(np.unique(divided(n))) / n)


def keep_trainings(found: Findings, runs: Sequence[TrainedRun]) -> None:
    """Store what the trainings themselves say: checkpoints, held-out errors, the loss."""
    first = runs[0]
    found.coordinate("training_seed", [run.seed for run in runs])
    found.coordinate("checkpoint", [one.step for one in first.checkpoints])
    found.array("images", [one.images for one in first.checkpoints], ("checkpoint",))
    found.array("share", [one.share for one in first.checkpoints], ("checkpoint",))
    if all(len(one.held_out) == len(LEVELS) for run in runs for one in run.checkpoints):
        found.coordinate("level", LEVELS)
        errors = [[one.held_out for one in run.checkpoints] for run in runs]
        found.array("held_out", errors, ("training_seed", "checkpoint", "level"))
    curves = [_thinned(run) for run in runs]
    if all(len(images) for images, _ in curves):
        entries = max(len(images) for images, _ in curves)
        for place, name in enumerate(("loss_images", "loss")):
            padded = [np.pad(c[place], (0, entries - len(c[0])), constant_values=np.nan) for c in curves]
            found.array(name, padded, ("training_seed", "entry"))


_LOSS_ENTRIES = 400


def _thinned(run: TrainedRun) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Images seen and the mean loss of as many runs of consecutive entries as a figure can show."""
    final = run.checkpoints[-1]
    images = np.asarray(run.loss_steps, dtype=np.float64) * (final.images / max(final.step, 1))
    loss = np.asarray(run.loss, dtype=np.float64)
    parts = max(min(_LOSS_ENTRIES, len(loss)), 1)
    together = np.array_split(np.arange(len(loss)), parts) if len(loss) else []
    return np.array([images[i[-1]] for i in together]), np.array([loss[i].mean() for i in together])
