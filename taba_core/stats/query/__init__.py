"""The statistics as plain functions of xarray arrays, for a notebook.

A function takes DataArrays of a store (`taba_core.open_store`), or any with a dimension `sample`, on any selection of
samples (a range, a class, a share of plain pixels), and returns a lazy xarray Dataset: nothing is read before
`.compute()`. Beside each value v stand v_low and v_high, its 95 % interval; v_floor where white noise has one at that
n; the attributes hold n and all parameters. `sample < 128` of a run of 256 gives the bits of a run of 128.

    from taba_core.stats import query
    tree = taba_core.open_store("runs/demo")
    generation = taba_core.find(tree, kind="generation")
    inversion = taba_core.find(tree, kind="inversion", forward_steps=0)
    third = inversion.latent.isel(sample=generation.class_id.values == 3)
    query.patch_correlation(third).compute()

Several statistics in one pass over the data: `taba_core.stats.reduce`.
"""

from taba_core.stats.query.evaluate import Options, evaluate
from taba_core.stats.query.pictures import (
    difference_power,
    feature_alignment,
    feature_moments,
    local_variance,
    png_bits,
    power_spectrum,
    quantiles,
    reconstruction_error,
    structural_similarity,
    top_examples,
)
from taba_core.stats.query.plain import (
    cosine_similarity,
    frechet_distance,
    global_kl,
    inception_score,
    moments,
    value_mean,
    value_range,
)
from taba_core.stats.query.states import (
    angle_histogram,
    channel_pca,
    entry_kl,
    interpolation_curve,
    inversion_cost,
    lag_correlation,
    patch_correlation,
    path_distance,
    region_error,
    region_lag_correlation,
    region_spectrum,
    step_error,
    triangle,
)

__all__ = [
    "Options",
    "angle_histogram",
    "channel_pca",
    "cosine_similarity",
    "difference_power",
    "entry_kl",
    "evaluate",
    "feature_alignment",
    "feature_moments",
    "frechet_distance",
    "global_kl",
    "inception_score",
    "interpolation_curve",
    "inversion_cost",
    "lag_correlation",
    "local_variance",
    "moments",
    "patch_correlation",
    "path_distance",
    "png_bits",
    "power_spectrum",
    "quantiles",
    "reconstruction_error",
    "region_error",
    "region_lag_correlation",
    "region_spectrum",
    "step_error",
    "structural_similarity",
    "top_examples",
    "triangle",
    "value_mean",
    "value_range",
]
