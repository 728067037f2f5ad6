"""Which denoisers there are, by name: describe one (`model_spec`) or build one (`load_model`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import Card, list_cards, load_card
from taba_core.models.options import GaussianOptions, PhotoMixtureOptions, validate_options
from taba_core.spec import ModelSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taba_core.diffusion.denoiser import Denoiser

GAUSSIAN_VERSION = 1


def model_spec(name: str, options: Mapping[str, Any] | None = None) -> ModelSpec:
    """Describe a model completely without building it: all options, and a hash of what it is made from.

    Fast (no fit, no torch): the photo mixture's fingerprint is a hash of photographs and fit version.

    Args:
      name: a card's name.
      options: a subset of the model's options (taba_core.models.options).
    Raises:
      UsageError: unknown model or option, impossible value, unusable photo folder, or a model that has a
        card and no adapter in this version.
    """
    chosen = validate_options(_runnable(name).name, options)
    stated, location = chosen.model_dump(mode="json"), ""
    if stated.get("photos", "builtin") != "builtin":
        # Which photographs is said by the fingerprint; where they lie may not change a key.
        location = stated.pop("photos")
    return ModelSpec(name=name, options=stated, fingerprint=_fingerprint(chosen), location=location)


def load_spec(spec: ModelSpec, *, device: str = "cpu") -> Denoiser:
    """Build the denoiser a spec describes.

    Raises:
      UsageError: as `model_spec`. WorkError: what lies at the spec's location is not what the spec was made from.
    """
    options = spec.options | ({"photos": spec.location} if spec.location else {})
    found = model_spec(spec.name, options).fingerprint
    if found != spec.fingerprint:
        raise WorkError(
            f"{spec.name} was described with fingerprint {spec.fingerprint}, but {spec.location or 'this version'} "
            f"gives {found}: the files changed since. Start again with the files as they are, or put them back."
        )
    return load_model(spec.name, device=device, options=options)


def card_with_options(name: str, options: Mapping[str, Any] | None = None) -> Card:
    """The card of a model as its options make it: `gaussian` has the shape its `size` says.

    Raises:
      UsageError: unknown model, unknown option or impossible value.
    """
    card = load_card(name)
    if name != "gaussian":
        return card
    size = validate_options(name, options).model_dump()["size"]
    return card.model_copy(update={"sample_shape": (3, size, size), "image_size": size})


def load_model(
    name: str,
    *,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> Denoiser:
    """Build a denoiser by name.

    Args:
      name: a card's name.
      device: where its tensors live ("cpu", "cuda", "cuda:1").
      options: a subset of the model's options; the same as in `model_spec`.
      weights: a file that replaces the card's weights; the embedded models have none.
    Raises:
      UsageError: as `model_spec`; also weights given to a model that has none.
    """
    card = _runnable(name)
    if weights is not None:
        raise UsageError(
            f"weights={str(weights)!r}: {card.name} is embedded and reads no weights; leave it out."
        )
    chosen = validate_options(card.name, options)
    if isinstance(chosen, PhotoMixtureOptions):
        from taba_core.models.photo_mixture import PhotoMixture

        return PhotoMixture.fit(chosen, device=device)
    assert isinstance(chosen, GaussianOptions)
    from taba_core.models.gaussian import GaussianField

    return GaussianField(chosen, device=device)


def training_images(spec: ModelSpec, count: int) -> NDArray[np.float32] | None:
    """Images of the kind a model was made from, (count, C, H, W) in [-1, 1]; None if they are not at hand."""
    if spec.name != "photo-mixture":
        return None
    from taba_core.models.photos import load_photos, real_crops

    return real_crops(load_photos(spec.location or "builtin"), np.arange(count), seed=0)


def _runnable(name: str) -> Card:
    card = load_card(name)
    if not card.embedded:
        runs = ", ".join(other.name for other in list_cards() if other.embedded)
        raise UsageError(
            f"model '{name}' has a card, so `taba plan` can cost it, but this version has no "
            f"adapter to run it. Models that run: {runs}."
        )
    return card


def _fingerprint(options: PhotoMixtureOptions | GaussianOptions | Any) -> str:
    if isinstance(options, PhotoMixtureOptions):
        from taba_core.models.mixture_fit import fit_key

        return fit_key(options)
    text = f"gaussian/{GAUSSIAN_VERSION}/{options.model_dump_json()}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
