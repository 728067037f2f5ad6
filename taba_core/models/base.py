"""Which denoisers there are, by name: describe one (`model_spec`) or build one (`load_model`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.errors import UsageError, WorkError
from taba_core.model_spec import ModelSpec
from taba_core.models.cards import Card, GridCard
from taba_core.models.catalog import list_cards, load_card
from taba_core.models.options import (
    LEVELS,
    GaussianOptions,
    NetworkOptions,
    PhotoMixtureOptions,
    validate_options,
)
from taba_core.models.pipeline_dir import check_directory
from taba_core.models.profile import profile_named
from taba_core.models.weights import locate, network_fingerprint, require_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taba_core.diffusion.denoiser import Denoiser

GAUSSIAN_VERSION = 1


def model_spec(
    name: str, options: Mapping[str, Any] | None = None, weights: str | Path | None = None
) -> ModelSpec:
    """Describe a model completely without building it: all options, and a hash of what it is made from.

    Without fit and torch: the photo mixture's fingerprint is a hash of photographs and fit version, a network's
    one of its weights (a large file is read once and remembered) and of its card's numbers.

    Args:
      name: a card's name, or the path of a card or of a diffusers directory.
      options: a subset of the model's options (taba_core.models.options).
      weights: file or directory in place of the fetched weights; the embedded models have none.
    Raises:
      UsageError: unknown model or option, impossible value, unusable photo folder, weights that are not
        here, that contradict the card or whose configuration asks for what taba does not do, or weights given
        to a model that has none.
    """
    card = load_card(name)
    chosen = validate_options(card.name, options)
    stated = chosen.model_dump(mode="json")
    if not card.embedded:
        source = require_weights(card, weights)
        if source.is_dir():
            check_directory(card, source)
        return ModelSpec(
            name=card.name,
            options=stated,
            fingerprint=network_fingerprint(card, source),
            location=str(source.resolve()),
            card=own_card(card),
        )
    _refuse_weights(card, weights)
    location = ""
    if stated.get("photos", "builtin") != "builtin":
        # Which photographs is said by the fingerprint; where they lie may not change a key.
        location = stated.pop("photos")
    return ModelSpec(name=name, options=stated, fingerprint=_fingerprint(chosen), location=location)


def planned_spec(
    name: str, options: Mapping[str, Any] | None = None, weights: str | Path | None = None
) -> ModelSpec:
    """`model_spec` for planning: where the weights are not here, a spec without a fingerprint.

    Raises:
      UsageError: as `model_spec`, missing weights excepted.
    """
    card = load_card(name)
    if card.embedded or weights is not None or locate(card) is not None:
        return model_spec(name, options, weights)
    stated = validate_options(card.name, options).model_dump(mode="json")
    return ModelSpec(name=card.name, options=stated, card=own_card(card))


def own_card(card: Card) -> dict[str, Any] | None:
    """The card as data if it is a user's own, None if it is built in."""
    return None if any(card == known for known in list_cards()) else card.model_dump(mode="json")


def card_of(spec: ModelSpec) -> Card:
    """The card a spec was made with, as its options make it.

    Raises:
      UsageError: a built-in model this version does not have.
    """
    return _with_options(_stated_card(spec), spec.options)


def _stated_card(spec: ModelSpec) -> Card:
    """The card of a spec before its options say anything: what its weights were made for."""
    return Card.model_validate(spec.card) if spec.card else load_card(spec.name)


def network_spec(spec: ModelSpec) -> ModelSpec:
    """The spec of what is loaded: without the options that lay the levels of a sampler."""
    kept = {name: value for name, value in spec.options.items() if name not in LEVELS}
    return spec if kept == spec.options else spec.altered(options=kept)


def load_spec(spec: ModelSpec, *, device: str = "cpu") -> Denoiser:
    """Build the denoiser a spec describes.

    Raises:
      UsageError: as `model_spec`. WorkError: what lies at the spec's location is not what the spec was made from.
    """
    card = _stated_card(spec)
    if card.embedded:
        options = spec.options | ({"photos": spec.location} if spec.location else {})
        found = model_spec(spec.name, options).fingerprint
    else:
        options = spec.options
        found = network_fingerprint(card, require_weights(card, spec.location))
    if found != spec.fingerprint:
        raise WorkError(
            f"{spec.name} was described with fingerprint {spec.fingerprint}, but {spec.location or 'this version'} "
            f"gives {found}: the files changed since. Start again with the files as they are, or put them back."
        )
    weights = None if card.embedded else spec.location
    return _build(card, device=device, options=options, weights=weights)


def make_ahead(spec: ModelSpec) -> None:
    """Make what the first process that builds a model makes and leaves in the cache for the others: the mixture's fit.

    Without torch. Whoever builds the model meanwhile waits for it.
    """
    if spec.name != "photo-mixture":
        return
    from taba_core.models.mixture_fit import cached_mixture

    options = validate_options(spec.name, spec.options | ({"photos": spec.location} if spec.location else {}))
    assert isinstance(options, PhotoMixtureOptions)
    cached_mixture(options)


def card_with_options(name: str, options: Mapping[str, Any] | None = None) -> Card:
    """The card of a model as its options make it: `gaussian` has the shape its `size` says, a flow the levels that
    `shift` and `grid` say.

    Raises:
      UsageError: unknown model, unknown option or impossible value, or levels of a flow for a model that is none.
    """
    return _with_options(load_card(name), options)


def _with_options(card: Card, options: Mapping[str, Any] | None) -> Card:
    if card.name == "gaussian":
        size = validate_options(card.name, options).model_dump()["size"]
        return card.model_copy(update={"sample_shape": (3, size, size), "image_size": size})
    if not any(options and options.get(name) is not None for name in LEVELS):
        return card
    chosen = validate_options(card.name, options)
    assert isinstance(chosen, NetworkOptions)
    if card.schedule.kind != "flow":
        given = ", ".join(f"model.{n}={v}" for n in LEVELS if (v := getattr(chosen, n)) is not None)
        raise UsageError(
            f"{given}: {card.title} is no flow, whose levels alone are laid so; leave it out, or use a flow."
        )
    shift = card.schedule.shift if chosen.shift is None else chosen.shift
    grid = GridCard(style=chosen.grid or "shifted", steps_offset=0, final_alpha_bar="one")
    schedule = card.schedule.model_copy(update={"shift": shift})
    return card.model_copy(update={"schedule": schedule, "grid": grid})


def load_model(
    name: str,
    *,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> Denoiser:
    """Build a denoiser by name.

    Args:
      name: a card's name, or the path of a card or of a diffusers directory.
      device: where its tensors live ("cpu", "cuda", "cuda:1").
      options: a subset of the model's options; the same as in `model_spec`.
      weights: a file or directory in place of the fetched weights; the embedded models have none.
    Raises:
      UsageError: as `model_spec`; also weights that do not fit the card.

    >>> model = taba_core.load_model("gaussian", options={"size": 8})
    >>> model.sample_shape
    (3, 8, 8)
    >>> model.eps(torch.ones(2, 3, 8, 8), 500.0, {}).shape
    torch.Size([2, 3, 8, 8])
    """
    return _build(load_card(name), device=device, options=options, weights=weights)


def _build(
    card: Card, *, device: str, options: Mapping[str, Any] | None, weights: str | Path | None
) -> Denoiser:
    chosen = validate_options(card.name, options)
    if isinstance(chosen, NetworkOptions):
        from taba_core.models.families import load_network

        source = require_weights(card, weights)
        return load_network(
            card, source, device=device, profile=profile_named(chosen.profile, compile=chosen.compile)
        )
    _refuse_weights(card, weights)
    if isinstance(chosen, PhotoMixtureOptions):
        from taba_core.models.photo_mixture import PhotoMixture

        return PhotoMixture.fit(chosen, device=device)
    assert isinstance(chosen, GaussianOptions)
    from taba_core.models.gaussian import GaussianField

    return GaussianField(chosen, device=device)


def training_images(spec: ModelSpec, count: int) -> NDArray[np.float32] | None:
    """Images of the kind a model was made from, (count, C, H, W) in [-1, 1]; None if they are not at hand."""
    place = training_photos(spec)
    if place is None:
        return None
    from taba_core.models.crops import real_crops
    from taba_core.models.photos import load_photos

    return real_crops(load_photos(place), np.arange(count), seed=0, size=card_of(spec).image_size)


def training_photos(spec: ModelSpec) -> str | None:
    """The photographs whose crops a model was made from: "builtin" or a folder; None if it was made from others."""
    if spec.name == "photo-mixture":
        return spec.location or "builtin"
    return "builtin" if card_of(spec).weights.source in ("package", "trained") else None


def model_notes(spec: ModelSpec) -> tuple[str, ...]:
    """What a user should know of what a model is made from: files not read, photographs that are equal.

    Raises:
      UsageError: as `model_spec`.
    """
    if spec.name != "photo-mixture":
        return ()
    from taba_core.models.photos import photo_notes

    return photo_notes(spec.location or "builtin")


def _refuse_weights(card: Card, weights: str | Path | None) -> None:
    if weights is not None:
        raise UsageError(
            f"weights={str(weights)!r}: {card.name} is embedded and reads no weights; leave it out."
        )


def _fingerprint(options: Any) -> str:
    if isinstance(options, PhotoMixtureOptions):
        from taba_core.models.mixture_fit import fit_key

        return fit_key(options)
    text = f"gaussian/{GAUSSIAN_VERSION}/{options.model_dump_json()}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
