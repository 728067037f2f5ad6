"""Queries on noise, latents and paths: correlation, normality, error by region and by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from taba_core.stats.correlation import LAGS, LagCorrelation, PatchCorrelation
from taba_core.stats.floor import correlation_floor, kl_floor
from taba_core.stats.inversion_cost import InterpolationCurve, InversionCost
from taba_core.stats.masked import RegionLagCorrelation, RegionSpectrum
from taba_core.stats.moments import EntryKL
from taba_core.stats.pca import ChannelPCA
from taba_core.stats.query.evaluate import Options, evaluate
from taba_core.stats.regions import REGIONS, RegionError
from taba_core.stats.step_error import StepError
from taba_core.stats.trajectory import PathDistance
from taba_core.stats.triangle import SIDES, VERTICES, AngleHistogram, Triangle

if TYPE_CHECKING:
    import xarray as xr

_BY_REGION = ("region",)
_BY_STEP = ("region", "step")
_INTERVALS = ("first", "rest", "all")


def patch_correlation(
    x: xr.DataArray, patch_size: int | None = 8, top_k: int = 20, **options: Unpack[Options]
) -> xr.Dataset:
    """Largest correlations of the positions of a patch (Tables 2, 4, 7, 8); see `PatchCorrelation`.

    Beside its values: mean_top_floor and spread_floor, what white noise reads at this n (absent for n < 3).

    >>> found = query.patch_correlation(inversion.latent.sel(sample=slice(0, 31)), top_k=10).compute()
    >>> found.attrs["n"], bool(found.mean_top > found.mean_top_floor)
    (32, True)
    """
    statistic = PatchCorrelation("x", patch_size, top_k)
    found = evaluate(statistic, {"x": x}, {"values": ("patch", "rank")}, **options)
    sizes = dict(x.sizes)
    positions = sizes["channel"] * (sizes["y"] * sizes["x"] if patch_size is None else patch_size**2)
    if sizes["sample"] < 3:
        return found
    floor = correlation_floor(sizes["sample"], positions, top_k)
    return found.assign(mean_top_floor=floor.mean, spread_floor=floor.spread)


def lag_correlation(x: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Signed autocorrelation of neighbouring pixels; see `LagCorrelation`. The floor is 0 at every n.

    >>> bool(abs(query.lag_correlation(generation.noise).value) < 0.01)
    True
    """
    lags = [f"{dy},{dx}" for dy, dx in LAGS]
    return evaluate(LagCorrelation("x"), {"x": x}, {"lags": ("lag",)}, {"lag": lags}, **options)


def entry_kl(q: xr.DataArray, p: xr.DataArray | None = None, **options: Unpack[Options]) -> xr.Dataset:
    """KL(p || q) of a Gaussian per entry, nats an entry (Tables 4, 7, 9); p None is N(0, 1); see `EntryKL`.

    Beside its values: kl_floor, what white noise reads at this n (absent for n < 4).

    >>> found = query.entry_kl(inversion.latent)
    >>> bool(found.kl > found.kl_floor)
    True
    """
    arrays = {"q": q} if p is None else {"p": p, "q": q}
    found = evaluate(EntryKL(None if p is None else "p", "q"), arrays, **options)
    n = q.sizes["sample"]
    return found if n < 4 else found.assign(kl_floor=kl_floor(n, known_normal=p is None))


def region_error(
    noise: xr.DataArray, latent: xr.DataArray, region: xr.DataArray, **options: Unpack[Options]
) -> xr.Dataset:
    """Error and spread in plain and other areas (Table 3); see `RegionError`.

    >>> found = query.region_error(generation.noise, inversion.latent, regions.region)
    >>> found.error.sel(region="plain").shape, found.attrs["n"]
    ((), 40)
    """
    names = ("error", "rms_error", "std", "std_reference", "kl", "share")
    return evaluate(
        RegionError("noise", "latent", "region"),
        {"noise": noise, "latent": latent, "region": region},
        dict.fromkeys(names, _BY_REGION),
        {"region": list(REGIONS)},
        **options,
    )


def region_lag_correlation(
    latent: xr.DataArray, region: xr.DataArray, **options: Unpack[Options]
) -> xr.Dataset:
    """Signed correlation of neighbouring pixels of one region (Table 7's scorecard); see `RegionLagCorrelation`.

    >>> found = query.region_lag_correlation(generation.noise, regions.region)
    >>> bool(abs(found.value.sel(region="all")) < 0.01)
    True
    """
    return evaluate(
        RegionLagCorrelation("latent", "region"),
        {"latent": latent, "region": region},
        {"lags": ("region", "lag"), "value": _BY_REGION},
        {"region": list(REGIONS), "lag": [f"{dy},{dx}" for dy, dx in LAGS]},
        **options,
    )


def region_spectrum(latent: xr.DataArray, region: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Radial power spectrum by region and its slope (Table 7's scorecard); see `RegionSpectrum`.

    >>> found = query.region_spectrum(generation.noise, regions.region)
    >>> bool(abs(found.slope.sel(region="all")) < 0.1)
    True
    """
    by_radius = dict.fromkeys(("frequency", "power"), ("region", "radius"))
    return evaluate(
        RegionSpectrum("latent", "region"),
        {"latent": latent, "region": region},
        by_radius | {"slope": _BY_REGION},
        {"region": list(REGIONS)},
        **options,
    )


def inversion_cost(
    evaluations: xr.DataArray, residual: xr.DataArray, fallback: xr.DataArray, **options: Unpack[Options]
) -> xr.Dataset:
    """Evaluations, residuals and fallbacks of an inversion (Table 7's scorecard); see `InversionCost`.

    >>> found = query.inversion_cost(inversion.evaluations, inversion.residual, inversion.fallback)
    >>> bool(found.residual > 0), float(found.fallback_steps)
    (True, 0.0)
    """
    return evaluate(
        InversionCost("evaluations", "residual", "fallback"),
        {"evaluations": evaluations, "residual": residual, "fallback": fallback},
        {"residual_by_step": ("step",)},
        **options,
    )


def interpolation_curve(distance: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Distance to the image along the arc from noise to latent (self-interpolation); see `InterpolationCurve`.

    >>> found = query.interpolation_curve(interpolation.distance)
    >>> float(found.distance[0]), bool(found.largest >= found.distance[-1])
    (0.0, True)
    """
    return evaluate(
        InterpolationCurve("distance"), {"distance": distance}, {"distance": ("weight",)}, **options
    )


def step_error(
    eps_t: xr.DataArray,
    eps_hat: xr.DataArray,
    region: xr.DataArray,
    first: float = 0.1,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Error of the inversion's predictions by step and region (Figure 4, Table 11); see `StepError`.

    >>> found = query.step_error(generation.eps_t, predictions.eps_hat, regions.region)
    >>> found.error.dims, found.interval_error.dims
    (('region', 'step'), ('region', 'interval'))
    """
    by_step = ("error", "error_per_image", "std", "std_reference", "std_ratio")
    by_interval = ("interval_error", "interval_error_per_image")
    coords: dict[str, Any] = {"region": list(REGIONS), "interval": list(_INTERVALS)}
    return evaluate(
        StepError("eps_t", "eps_hat", "region", first),
        {"eps_t": eps_t, "eps_hat": eps_hat, "region": region},
        dict.fromkeys(by_step, _BY_STEP)
        | dict.fromkeys(by_interval, ("region", "interval"))
        | {"first_share": _BY_REGION},
        coords,
        **options,
    )


def path_distance(
    noise: xr.DataArray,
    latent: xr.DataArray,
    x_t: xr.DataArray,
    image: xr.DataArray | None = None,
    **options: Unpack[Options],
) -> xr.Dataset:
    """Distance of the sampling path to the segment from noise to latent (Figure 3); see `PathDistance`.

    >>> found = query.path_distance(generation.noise, inversion.latent, generation.x_t, generation.image)
    >>> dict(found.distance.sizes)
    {'level': 6, 'weight': 25}
    """
    arrays = {"noise": noise, "latent": latent, "x_t": x_t} | ({} if image is None else {"image": image})
    statistic = PathDistance("noise", "latent", "x_t", None if image is None else "image")
    names = ("nearest", "to_noise", "to_latent", "share_nearer_latent")
    dims = dict.fromkeys(names, ("level",)) | {"distance": ("level", "weight")}
    return evaluate(statistic, arrays, dims, {"weight": list(statistic.weights)}, **options)


def triangle(
    noise: xr.DataArray, image: xr.DataArray, latent: xr.DataArray, **options: Unpack[Options]
) -> xr.Dataset:
    """Sides and angles of the triangle noise, image, latent (Table 10); see `Triangle`.

    >>> found = query.triangle(generation.noise, generation.image, inversion.latent)
    >>> int(found.angle_mean.sum().round())
    180
    """
    by_vertex = (
        "angle_mean",
        "angle_std",
        "angle_of_mean_cosine",
        "most_probable",
        "joint_mode",
        "peak_width",
        "peaks",
    )
    return evaluate(
        Triangle("noise", "image", "latent"),
        {"noise": noise, "image": image, "latent": latent},
        dict.fromkeys(("side_mean", "side_std"), ("side",)) | dict.fromkeys(by_vertex, ("vertex",)),
        {"side": list(SIDES), "vertex": list(VERTICES)},
        **options,
    )


def angle_histogram(
    noise: xr.DataArray, image: xr.DataArray, latent: xr.DataArray, **options: Unpack[Options]
) -> xr.Dataset:
    """Counts of the angles over whole degrees (Figure 11); see `AngleHistogram`.

    >>> found = query.angle_histogram(generation.noise, generation.image, inversion.latent)
    >>> int(found.histogram.sel(vertex="image").sum())
    40
    """
    dims = {
        "histogram": ("vertex", "degrees"),
        "joint": ("at_image", "at_noise"),
        "most_probable": ("vertex",),
        "joint_mode": ("vertex",),
    }
    arrays = {"noise": noise, "image": image, "latent": latent}
    statistic = AngleHistogram("noise", "image", "latent")
    return evaluate(statistic, arrays, dims, {"vertex": list(VERTICES)}, **options)


def channel_pca(x: xr.DataArray, **options: Unpack[Options]) -> xr.Dataset:
    """Principal components of the channels (Figure 2c); see `ChannelPCA`.

    >>> query.channel_pca(inversion.latent).components.dims
    ('component', 'channel')
    """
    dims = {
        "mean": ("channel",),
        "components": ("component", "channel"),
        "variance": ("component",),
        "share": ("component",),
    }
    return evaluate(ChannelPCA("x"), {"x": x}, dims, **options)
