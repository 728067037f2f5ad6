"""The most probable triangle of three histograms by one product, against the search over all pairs of bins."""

from __future__ import annotations

from typing import Any

from workflows.bench.paired import Comparison, Measurement, run_pairs, timed

_CALLS = 200  # of the fast side in one measurement: one call is too short for the clock


def measure(*, repeats: int = 5, num_samples: int = 8192, calls: int = _CALLS) -> Measurement:
    """Time three ways to the same triple of angles.

    Figures: ratio (definition that finds its bins by label, as the reference does), ratio_indexed (the same loop on
    arrays indexed by degree), same (1 if all three agree).
    """
    import numpy as np

    from taba_core import rng
    from taba_core.stats.angles import NUM_BINS, bin_of, most_probable_angles, most_probable_angles_direct

    # Bells at 39, 30 and 111 degrees, as of latents: angles of independent histograms, which is what the rule sees.
    draws = rng.normal(range(num_samples), (3,), seed=0, stream="angles")
    angles = np.array([39.0, 30.0, 111.0]) + 7.0 * draws
    histograms = np.stack([np.bincount(x, minlength=NUM_BINS) for x in bin_of(np.clip(angles, 0, 180)).T])
    labels = np.arange(NUM_BINS)

    def by_product() -> Any:
        for _ in range(calls):
            most_probable_angles(histograms)

    def by_labels() -> Any:
        image, noise, latent = histograms / histograms.sum(axis=1, keepdims=True)
        best, found = -1.0, (0, 0, 0)
        for c in labels:
            for a in labels:
                b = 180 - a - c
                if b in labels:
                    product = float((latent[labels == c] * image[labels == a] * noise[labels == b])[0])
                    if product > best:
                        best, found = product, (int(a), int(b), int(c))
        return found

    def by_index() -> Any:
        return most_probable_angles_direct(histograms)

    fast = timed(by_product)
    searched = run_pairs(lambda: fast() / calls, timed(by_labels), repeats=repeats)
    indexed = run_pairs(lambda: fast() / calls, timed(by_index), repeats=repeats)
    size = f"{num_samples} triangles, {NUM_BINS} bins"
    rows = (
        *Comparison("Eq. 10", size, ("one product", "pairs, bins by label"), target=">= 1000").rows(searched),
        *Comparison("Eq. 10", size, ("one product", "pairs, bins by index")).rows(indexed),
    )
    ours = tuple(most_probable_angles(histograms))
    same = float(ours == tuple(by_labels()) == tuple(by_index()))
    return Measurement(
        rows,
        {"ratio": searched.ratio, "ratio_indexed": indexed.ratio, "same": same},
        (f"most probable angles at image, noise, latent: {', '.join(f'{x:g}' for x in ours)}",),
    )
