"""Queries on images, features and numbers a sample has: similarity, texture, PNG bits, distances of sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from taba_core.stats.alignment import FeatureAlignment
from taba_core.stats.base import RowStatistic
from taba_core.stats.compressibility import MIN_PIXELS, PngBits
from taba_core.stats.frechet import FeatureMoments
from taba_core.stats.query.evaluate import Options, evaluate
from taba_core.stats.reconstruction import ReconstructionError
from taba_core.stats.regions import REGIONS
from taba_core.stats.similarity import StructuralSimilarity
from taba_core.stats.texture import DifferencePower, LocalVariance, PowerSpectrum
from taba_core.stats.values import Quantiles, TopExamples

if TYPE_CHECKING:
    import xarray as xr

_BY_REGION = ("region",)


def reconstruction_error(
    image: xr.DataArray, reconstruction: xr.DataArray, value_range: float = 2.0, **options: Unpack[Options]
) -> xr.Dataset:
    """Absolute error and PSNR of images made again (Tables 4, 7, 9); see `ReconstructionError`.

    >>> found = query.reconstruction_error(generation.image, reconstruction.reconstruction).compute()
    >>> bool(found.mae_low < found.mae < found.mae_high)
    True
    """
    arrays = {"image": image, "reconstruction": reconstruction}
    return evaluate(ReconstructionError("image", "reconstruction", value_range), arrays, **options)


def structural_similarity(
    image: xr.DataArray, other: xr.DataArray, value_range: float = 2.0, **options: Unpack[Options]
) -> xr.Dataset:
    """SSIM of pairs of images (Tables 6, 12); see `StructuralSimilarity`.

    >>> bool(query.structural_similarity(generation.image, generation.image).ssim == 1)
    True
    """
    arrays = {"image": image, "other": other}
    return evaluate(StructuralSimilarity("image", "other", value_range), arrays, **options)


def png_bits(
    image: xr.DataArray,
    region: xr.DataArray,
    value_range: tuple[float, float] = (-1.0, 1.0),
    min_pixels: int = MIN_PIXELS,
    **options: Unpack[Options],
) -> xr.Dataset:
    """PNG bits per pixel of plain and other areas (Table 5); see `PngBits`.

    >>> found = query.png_bits(generation.image, regions.region).compute()
    >>> bool(found.data_bits.sel(region="all") < found.bits.sel(region="all"))
    True
    """
    names = ("bits", "data_bits", "pooled", "data_pooled", "images")
    return evaluate(
        PngBits("image", "region", value_range, min_pixels),
        {"image": image, "region": region},
        dict.fromkeys(names, _BY_REGION),
        {"region": list(REGIONS)},
        **options,
    )


def local_variance(x: xr.DataArray, region: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Local variance in plain and other areas; see `LocalVariance`.

    >>> found = query.local_variance(generation.image, regions.region)
    >>> found.variance.dims
    ('region',)
    """
    arrays, dims = {"x": x, "region": region}, {"variance": _BY_REGION}
    return evaluate(LocalVariance("x", "region"), arrays, dims, {"region": list(REGIONS)}, **options)


def power_spectrum(x: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Radial power spectrum and its slope; see `PowerSpectrum`.

    >>> float(query.power_spectrum(generation.noise).power.mean().round(1))
    1.0
    """
    dims = dict.fromkeys(("frequency", "power"), ("radius",))
    return evaluate(PowerSpectrum("x"), {"x": x}, dims, **options)


def difference_power(image: xr.DataArray, other: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Power of differences above and below half the Nyquist frequency (Figure 19); see `DifferencePower`.

    >>> found = query.difference_power(generation.image, generation.image + generation.noise)
    >>> float(found.ratio.round(1))
    1.0
    """
    return evaluate(DifferencePower("image", "other"), {"image": image, "other": other}, **options)


def feature_moments(features: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Mean and covariance of features, for `frechet_distance` between sets of any sizes; see `FeatureMoments`.

    >>> query.feature_moments(features.of_photos).covariance.shape
    (6, 6)
    """
    dims = {"mean": ("feature",), "covariance": ("feature", "other_feature")}
    return evaluate(FeatureMoments("features"), {"features": features}, dims, **options)


def feature_alignment(
    x: xr.DataArray, y: xr.DataArray, dims: int = 10, **options: Unpack[Options]
) -> xr.Dataset:
    """CKA and SVCCA of two sets of features of the same samples (Figure 13); see `FeatureAlignment`.

    >>> found = query.feature_alignment(features.of_photos, features.of_photos, dims=4)
    >>> float(found.cka.round(6)), float(found.svcca.round(6))
    (1.0, 1.0)
    """
    return evaluate(FeatureAlignment("x", "y", dims), {"x": x, "y": y}, **options)


def quantiles(
    values: xr.DataArray, levels: tuple[float, ...] = (0.25, 0.5, 0.75), **options: Unpack[Options]
) -> xr.Dataset:
    """Quantiles of one number a sample; see `Quantiles`.

    >>> found = query.quantiles(features.score, (0.5,))
    >>> bool(found["quantile"][0] == features.score.median())
    True
    """
    statistic = Quantiles("values", levels)
    return evaluate(statistic, {"values": values}, {"quantile": ("q",)}, {"q": list(levels)}, **options)


def top_examples(
    of: RowStatistic,
    term: str,
    k: int = 8,
    *,
    largest: bool = True,
    options: Options | None = None,
    **arrays: xr.DataArray,
) -> xr.Dataset:
    """Samples with the largest term of a statistic, best first (Figures 14, 22); see `TopExamples`.

    >>> worst = query.top_examples(
    ...     ReconstructionError(), "mae", k=3, image=generation.image, reconstruction=reconstruction.reconstruction
    ... )
    >>> bool((worst.score.diff("rank") <= 0).all())
    True
    """
    dims = dict.fromkeys(("id", "score"), ("rank",))
    return evaluate(TopExamples(of, term, k, largest), arrays, dims, **(options or {}))
