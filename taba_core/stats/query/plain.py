"""Queries that are a statistic of some arrays and nothing else: one table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from taba_core.stats.base import Statistic
from taba_core.stats.frechet import FrechetDistance, InceptionScore
from taba_core.stats.inputs import function_name
from taba_core.stats.moments import GlobalKL, Moments
from taba_core.stats.query.evaluate import evaluate
from taba_core.stats.values import CosineSimilarity, ValueMean, ValueRange

if TYPE_CHECKING:
    import xarray as xr


def _query(statistic: Statistic, arrays: tuple[str, ...], doc: str) -> Callable[..., xr.Dataset]:
    """The function of a statistic whose inputs are named as the function's arrays are."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation="xr.DataArray") for name in arrays]
    options = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation="Unpack[Options]")
    signature = inspect.Signature([*parameters, options], return_annotation="xr.Dataset")

    def query(*given: Any, **named: Any) -> xr.Dataset:
        found = signature.bind(*given, **named).arguments
        return evaluate(statistic, {name: found[name] for name in arrays}, **found.get("options", {}))

    query.__name__ = query.__qualname__ = function_name(statistic)
    query.__doc__, query.__signature__ = doc, signature  # type: ignore[attr-defined]
    return query


moments = _query(
    Moments("x"),
    ("x",),
    """Mean, std, skewness, excess kurtosis, Jarque-Bera of all entries; see `Moments`.

    >>> sorted(query.moments(generation.noise).data_vars)[:3]
    ['excess_kurtosis', 'excess_kurtosis_high', 'excess_kurtosis_low']
    """,
)
global_kl = _query(
    GlobalKL("p", "q"),
    ("p", "q"),
    """KL(p || q) of one Gaussian each for all entries, nats; see `GlobalKL`.

    >>> bool(query.global_kl(generation.noise, inversion.latent).kl > 0)
    True
    """,
)
frechet_distance = _query(
    FrechetDistance("real", "generated"),
    ("real", "generated"),
    """Fréchet distance of two sets of features (FID, Figure 5); see `FrechetDistance`.

    >>> bool(query.frechet_distance(features.of_photos, features.of_samples).distance > 0)
    True
    """,
)
inception_score = _query(
    InceptionScore("probability"),
    ("probability",),
    """Inception score of class probabilities, one split; see `InceptionScore`.

    >>> bool(query.inception_score(features.probability).score > 1)
    True
    """,
)
cosine_similarity = _query(
    CosineSimilarity("x", "y"),
    ("x", "y"),
    """Cosine of features of pairs (DINO, CLIP; Tables 6, 7, 12); see `CosineSimilarity`.

    >>> float(query.cosine_similarity(features.of_photos, -features.of_photos)["mean"].round(6))
    -1.0
    """,
)
value_mean = _query(
    ValueMean("values"),
    ("values",),
    """Mean and spread of one number a sample (LPIPS, CLIP-T, ...); see `ValueMean`.

    >>> query.value_mean(features.score).attrs["interval"]
    'bootstrap'
    """,
)
value_range = _query(
    ValueRange("x"),
    ("x",),
    """Smallest and largest entry, without an interval; see `ValueRange`.

    >>> bool(query.value_range(generation.image).high == generation.image.max())
    True
    """,
)
