"""Fit a mixture of Gaussians to the crops of each photograph, once; keep the fit in a cache.

Component k has weight pi_k, mean m_k and covariance  U_k U_k^T + diag(D_k)  in the basis of `basis.py`. U_k
holds principal components of the low frequencies. D_k is the variance of what they leave, estimated from the
median: a few crops with edges or stars must not put noise into all the plain ones (draws of the mixture have a
third more plain pixels than with the mean square).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
import warnings
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taba_core.blas import use_one_blas_thread
from taba_core.cache import cache_folder, one_process_at_a_time
from taba_core.models.basis import analyse, low_frequencies
from taba_core.models.crops import random_crops
from taba_core.models.options import PhotoMixtureOptions
from taba_core.models.photos import Photo, load_photos, photo_content

FIT_VERSION = 2  # raise when anything below changes a fitted value
CROP_SIZE = 32
CROPS_PER_COMPONENT = 200
MIN_CLUSTER = 24  # crops; a smaller cluster would be a memory of a few crops
INDEPENDENT = 0.02  # share of a principal variance that D takes over: bounds the condition of a covariance
MEDIAN_OF_NORMAL = 0.674490  # median |z| of a standard normal
MIN_VARIANCE = 1e-5  # of a remainder; a pixel standard deviation of 0.003, below one grey level


@dataclass(frozen=True)
class Mixture:
    """Parameters of the mixture, float32 but for the weights. K components, d = 3072, r = rank, L = 384."""

    class_names: tuple[str, ...]  # one a photograph
    component_class: NDArray[np.int64]  # (K,) photograph of a component
    log_weight: NDArray[np.float64]  # (K,) log of the share of all crops
    mean: NDArray[np.float32]  # (K, d)
    remainder: NDArray[np.float32]  # (K, d) variances D
    factors: NDArray[np.float32]  # (K, L, r) U on the low frequencies

    def mode_variance(self) -> NDArray[np.float64]:
        """Eigenvalues of every component's covariance U U^T + diag(D), (K, d), float64, in no common order."""
        low = low_frequencies(CROP_SIZE)
        variance = self.remainder.astype(np.float64)
        for k, factors in enumerate(self.factors.astype(np.float64)):
            variance[k, low] = np.linalg.eigvalsh(factors @ factors.T + np.diag(variance[k, low]))
        return variance


def fit_key(options: PhotoMixtureOptions) -> str:
    """Name of a fit: hash of the photographs, the options that matter to it and the version of the fit."""
    content = photo_content(options.photos).fingerprint
    text = f"{FIT_VERSION}/{content}/{options.num_components_per_photo}/{options.rank}/{options.fit_seed}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


_one_fit_at_a_time = threading.Lock()  # threads of one process would fit the same thing side by side


def cached_mixture(options: PhotoMixtureOptions) -> Mixture:
    """The fitted mixture, from the cache ($TABA_CACHE, else ~/.cache/taba) or fitted now and put there.

    Several processes may ask at once: one fits, the others of the machine wait for its file, so large photographs
    are in memory once. A damaged file is replaced.
    """
    path = cache_folder() / f"photo-mixture-{fit_key(options)}.npz"
    with _one_fit_at_a_time:
        found = _read(path)
        if found is not None:
            return found
        with one_process_at_a_time(path):
            found = _read(path)
            if found is None:
                found = fit_mixture(load_photos(options.photos), options)
                _write(path, found)
        return found


def fit_mixture(photos: tuple[Photo, ...], options: PhotoMixtureOptions) -> Mixture:
    """Fit every photograph by itself; the same bits from the same photographs, options and kind of machine.

    Args:
      photos: the classes, in order.
      options: components a photo, rank, seed.
    """
    from threadpoolctl import threadpool_limits

    use_one_blas_thread()
    with threadpool_limits(1, user_api="openmp"):  # the clustering's sums: another order would be other bits
        parts = [_fit_photo(photo, options) for photo in photos]
    sizes = [len(part[0]) for part in parts]
    share, mean, remainder, factors = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Mixture(
        class_names=tuple(photo.name for photo in photos),
        component_class=np.repeat(np.arange(len(photos)), sizes),
        log_weight=np.log(share / len(photos)),
        mean=mean.astype(np.float32),
        remainder=remainder.astype(np.float32),
        factors=factors.astype(np.float32),
    )


def _fit_photo(photo: Photo, options: PhotoMixtureOptions) -> tuple[NDArray[np.float64], ...]:
    num_crops = CROPS_PER_COMPONENT * options.num_components_per_photo
    crops = random_crops(photo, range(num_crops), seed=options.fit_seed, size=CROP_SIZE)
    labels = _cluster(crops, options.num_components_per_photo, options.fit_seed)
    coefficients = analyse(crops)
    low = low_frequencies(CROP_SIZE)
    groups = [coefficients[labels == label] for label in np.unique(labels)]
    fitted = [_fit_component(group, low, options.rank) for group in groups]
    share = np.array([len(group) / num_crops for group in groups])
    mean, remainder, factors = (np.stack(arrays) for arrays in zip(*fitted, strict=True))
    return share, mean, remainder, factors


def _cluster(crops: NDArray[np.float32], num_clusters: int, seed: int) -> NDArray[np.int64]:
    """Group crops by coarse colour and local texture: plain crops are not to share with busy ones.

    A photograph with fewer different crops than clusters has fewer clusters; one of a single colour has one.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    features = _features(crops)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # it tells of fewer clusters than asked for: see above
        labels = KMeans(num_clusters, n_init=3, random_state=seed).fit_predict(features)
    counts = np.bincount(labels, minlength=num_clusters)
    small = np.flatnonzero(counts < MIN_CLUSTER)
    large = np.flatnonzero(counts >= MIN_CLUSTER)
    if len(small) and len(large):
        centres = np.stack([features[labels == label].mean(0) for label in large])
        moved = np.flatnonzero(np.isin(labels, small))
        distances = ((features[moved, None] - centres) ** 2).sum(2)
        labels[moved] = large[distances.argmin(1)]
    return labels


def _features(crops: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean colour and log mean gradient of the 4x4 blocks of a crop: (n, 48 + 16), comparable scales."""
    n, _, size, _ = crops.shape
    block = size // 4
    gradient = np.zeros((n, size, size))
    gradient[:, :-1] += np.abs(np.diff(crops, axis=2)).mean(1)
    gradient[:, :, :-1] += np.abs(np.diff(crops, axis=3)).mean(1)
    texture = np.log(gradient.reshape(n, 4, block, 4, block).mean((2, 4)) + 0.003)
    colour = crops.reshape(n, 3, 4, block, 4, block).mean((3, 5))
    return np.concatenate([colour.reshape(n, -1), texture.reshape(n, -1)], axis=1).astype(np.float64)


def _fit_component(
    group: NDArray[np.float64], low: NDArray[np.int64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean (d,), remainder (d,) and factors (L, r) of one cluster; principal components give U."""
    from scipy.linalg import eigh

    mean = group.mean(0)
    rest = group - mean
    covariance = rest[:, low].T @ rest[:, low] / len(group)
    values, vectors = eigh(covariance, subset_by_index=(len(low) - rank, len(low) - 1))
    values = np.maximum(values, 0.0)
    rest[:, low] -= rest[:, low] @ vectors @ vectors.T
    remainder = (np.median(np.abs(rest), axis=0) / MEDIAN_OF_NORMAL) ** 2
    remainder[low] += INDEPENDENT * (vectors**2 @ values)
    return mean, np.maximum(remainder, MIN_VARIANCE), vectors * np.sqrt((1.0 - INDEPENDENT) * values)


def _read(path: Path) -> Mixture | None:
    """The mixture in a file, or None when there is none or it is damaged (the checksum of a zip tells)."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {field.name: stored[field.name] for field in fields(Mixture)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    names = tuple(str(name) for name in arrays.pop("class_names"))
    return Mixture(class_names=names, **arrays)


def _write(path: Path, mixture: Mixture) -> None:
    """Write beside and rename, so that no reader sees half a file; a read-only cache is no error."""
    arrays = {field.name: np.asarray(getattr(mixture, field.name)) for field in fields(Mixture)}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.chmod(draft, 0o644)  # a shared cache is read by others
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
