"""What is measured of edits in several studies: likeness to their sources, and whether they show what was asked.

Alignment is asked of judges: CLIP where a study is told to, the classifier of crops where it knows the photographs, and
the exact posterior where the model has one. Both of the latter stand in for CLIP-T, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.class_posterior import ClassPosterior
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.metrics.extractor import Extractor, extractor_named
from taba_core.metrics.extractors.clip import CLIP_SCORE_FACTOR, Clip
from taba_core.metrics.extractors.crop_classifier import CropClassifier
from taba_core.metrics.image_distance import distance_named
from taba_core.models.class_counts import num_classes
from taba_core.stats.compressibility import to_bytes
from taba_core.stats.similarity import WINDOW, structural_similarity
from taba_core.stats.values import CosineSimilarity
from workflows.analysis.edit_conditions import Conditions
from workflows.analysis.measured import classifier_knows, features_of
from workflows.configuration.context import Context

if TYPE_CHECKING:
    from workflows.analysis.inputs import Column, Inputs

Values = NDArray[np.float64]
DISTANCE, ALIGNMENT = "Distance from the source", "Alignment"
CLIP_MISSING = (
    "CLIP-T and CLIPScore were not asked for: `taba fetch metrics` gets CLIP's weights, and option `clip=on` of this "
    "study adds both."
)
CLIP_NOTE = (
    "CLIP-T: cosine of CLIP ViT-B/32 between the edit and the text, a prompt or the bare name of a class, of all edits "
    "whose target differs; CLIPScore: 100 times 2.5 max(cosine, 0)."
)
PROXY_NOTE = (
    "Columns with a proxy stand in for measures whose networks are not here; they are no numbers of the "
    "paper's."
)
_POSTERIOR = "posterior"
_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Measure:
    """One column.

    Attributes:
      name: in results. label: in tables.
      group: DISTANCE or ALIGNMENT.
      sign: 1 where the paper says that edits from noise have more of it than edits from latents, else -1.
      proxy: the measure it stands for; "" if it is the thing itself.
      of_photographs: whether it is taken only where source and target are two photographs that the judge knows.
      follows: whether it is another one in another unit, so that a claim on it would be made twice.
    """

    name: str
    label: str
    group: str
    sign: Literal[1, -1]
    proxy: str = ""
    of_photographs: bool = False
    follows: bool = False


MAE = Measure("mae", "mean |difference|", DISTANCE, 1)
SSIM = Measure("ssim", "SSIM", DISTANCE, -1)
_SIGNS: tuple[tuple[str, Literal[1, -1]], ...] = (("target", 1), ("source", -1))
_BY_JUDGE = {"classifier": "crop classifier", _POSTERIOR: "posterior"}
_BY_CLIP = {"clip-t": ("CLIP-T", False), "clip-score": ("CLIPScore (×100)", True)}
ALIGNMENTS = (
    *(
        Measure(f"{name}_{of}", f"{label}, {of}", ALIGNMENT, sign, follows=follows)
        for name, (label, follows) in _BY_CLIP.items()
        for of, sign in _SIGNS
    ),
    *(
        Measure(f"{judge}_{of}", f"{label}, {of}", ALIGNMENT, sign, f"CLIP-T ({of})", of_photographs=True)
        for judge, label in _BY_JUDGE.items()
        for of, sign in _SIGNS
    ),
)


def measure_named(name: str) -> Measure:
    """The measure of a result's column."""
    for known in (MAE, SSIM, *ALIGNMENTS):
        if known.name == name:
            return known
    if name.startswith("cosine/"):
        extractor = extractor_named(name.removeprefix("cosine/"))
        proxy = "DINO" if extractor.stands_for else ""
        return Measure(name, f"cosine, {extractor.title}", DISTANCE, -1, proxy)
    return distance_measure(name)


def distance_measure(name: str) -> Measure:
    """The measure of an image distance, or of the mean absolute difference; `ssim` is 1 - SSIM here."""
    if name == MAE.name:
        return MAE
    metric = distance_named(name)
    return Measure(name, metric.title, DISTANCE, 1, metric.stands_for)


def kept(name: str, conditions: Conditions) -> NDArray[np.bool_]:
    """The samples that a measure is taken of, bool (n,).

    Of edits whose target is their source's condition nothing is measured, and of those whose target is the same
    photograph no judge that knows photographs is asked: both ask for no change.
    """
    return conditions.recognisable if measure_named(name).of_photographs else conditions.differ


# ---------------------------------------------------------------- alignment


def judge_requests(context: Context, edits: Mapping[str, Artifact], *, clip: str) -> dict[str, Request]:
    """What the judges ask of edits, by the name of the judge and of the edits.

    Args:
      clip: "on" or "off", whether CLIP is one of them. It is a choice and not what lies on this machine, so that a
        result has one key everywhere.
    """
    extractors: list[Extractor] = []
    if classifier_knows(context):
        extractors.append(CropClassifier())
    if clip == "on":
        extractors.append(Clip())
    asked = {
        f"{one.name}/{of}": context.request(features_of(edit, one), ("features",))
        for one in extractors
        for of, edit in edits.items()
    }
    if context.card.embedded and context.conditioning == "class":
        # A mixture that is conditioned on a class knows the probability of each.
        count = num_classes(context.card, context.model_spec)
        for of, edit in edits.items():
            posterior = ClassPosterior(source=edit, num_classes=count)
            asked[f"{_POSTERIOR}/{of}"] = context.request(posterior, ("probability",))
    return asked


def check_clip(context: Context, study: str, clip: str) -> None:
    """Refuse (UsageError) to ask CLIP where its weights are not, or of pictures that it does not take."""
    reason = Clip().unsuited(context.decoded_shape or context.card.sample_shape) or Clip().why_not()
    if clip == "on" and reason:
        raise UsageError(f"--set {study}.clip=on: {reason} Or leave CLIP out: --set {study}.clip=off.")


def alignments(inputs: Inputs, context: Context, of: str, conditions: Conditions) -> dict[str, Values]:
    """By measure what each judge says of the edits of one name: of what they were asked for, and of their source's.

    Cosines of CLIP, 100 times its score, and probabilities of the classifier and of the posterior; (n,) each.
    """
    n, found = inputs.num_samples, {}
    judged = {}
    if f"{Clip.name}/{of}" in inputs.requests:
        found |= _by_clip(inputs.head(f"{Clip.name}/{of}", "features", n), conditions)
    if f"{CropClassifier.name}/{of}" in inputs.requests and classifier_knows(context):
        features = inputs.head(f"{CropClassifier.name}/{of}", "features", n)
        judged["classifier"] = CropClassifier().probabilities(features)
    if f"{_POSTERIOR}/{of}" in inputs.requests:
        judged[_POSTERIOR] = inputs.head(f"{_POSTERIOR}/{of}", "probability", n)
    for judge, probability in judged.items():
        for which, photographs in (("target", conditions.target), ("source", conditions.source)):
            found[f"{judge}_{which}"] = np.take_along_axis(probability, photographs[:, None], axis=1)[:, 0]
    return found


def _by_clip(features: NDArray[Any], conditions: Conditions) -> dict[str, Values]:
    cosines = {
        which: text_cosines(features, texts)
        for which, texts in (("target", conditions.target_texts), ("source", conditions.source_texts))
    }
    scores = {
        f"clip-score_{which}": 100 * CLIP_SCORE_FACTOR * np.maximum(cosine, 0.0)
        for which, cosine in cosines.items()
    }
    return {f"clip-t_{which}": cosine for which, cosine in cosines.items()} | scores


def text_cosines(features: NDArray[Any], texts: Sequence[str]) -> Values:
    """CLIP-T: cosine of CLIP's features (n, 512) of image i and of text i, (n,); no words are put before a text."""
    every = list(dict.fromkeys(texts))
    parts = [every[first : first + _TEXTS_AT_ONCE] for first in range(0, len(every), _TEXTS_AT_ONCE)]
    rows = np.concatenate([Clip().text_rows(part).cpu().numpy() for part in parts])
    place = {text: row for row, text in enumerate(every)}
    block = {"image": features, "text": rows[[place[text] for text in texts]]}
    return np.asarray(CosineSimilarity("image", "text").rows(block)["cosine"], dtype=np.float64)


def has_clip(names: Sequence[str]) -> bool:
    """Whether these measures include CLIP's."""
    return any(name.split("_")[0] in _BY_CLIP for name in names)


# ---------------------------------------------------------------- likeness, means


def likeness(inputs: Inputs, image: Column, edit: Column) -> dict[str, Values]:
    """Mean absolute difference, in units of [-1, 1], and SSIM of 8-bit pictures and their sources, (n,) each."""

    def of(block: Mapping[str, NDArray[Any]]) -> Values:
        a, b = (to_bytes(block[name]).astype(np.float64) for name in ("image", "edit"))
        mae = np.abs(a - b).mean(axis=(1, 2, 3)) / 127.5
        if min(a.shape[2:]) < WINDOW:
            return np.stack([mae], axis=1)
        return np.stack([mae, structural_similarity(a, b, 255.0)], axis=1)

    values = inputs.per_sample({"image": image, "edit": edit}, of)
    return dict(zip((MAE.name, SSIM.name), values.T, strict=False))
