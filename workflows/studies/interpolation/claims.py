"""Claims CF5: what interpolating plain latents costs, and how much of it repaired latents give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taba_core.metrics.extractor import extractor_named
from taba_core.stats.estimate import Estimate
from taba_core.stats.verdict import positive
from taba_core.verdicts import Verdict
from workflows.analysis.findings import Findings, interval_numbers
from workflows.studies.interpolation.priors import LATENT, NOISE, title_of

Path = Sequence[Mapping[str, Estimate]]
_LEAST_LOSS = 0.02  # of recall, that the paper's Figure 5 shows beyond doubt
_LEAST_GROUPS = 10  # of the jackknife, 40 images: of fewer its intervals may be far too narrow by chance
_KEPT = 0.5  # share of the gap to noise that a repaired latent may keep


def find_claims(found: Findings, paths: Mapping[str, Mapping[str, Path]]) -> None:
    """Test claims CF5 by every extractor; paths[extractor][prior] has the measures at every point."""
    if all(extractor_named(name).stands_for for name in paths):
        found.claim(
            "CF5",
            "By the features of Inception-v3 images between two plain latents leave the real images.",
            "not resolved",
            {},
            "Not decided: the weights of Inception-v3 were not asked for, and stand-ins decide claims of their own "
            "(CF5~). `taba fetch metrics` and --set interpolation.extractors=inception-clean ask for them.",
        )
    for extractor, of_prior in paths.items():
        _find(found, extractor, of_prior)


def _find(found: Findings, extractor: str, of_prior: Mapping[str, Path]) -> None:
    of = extractor_named(extractor)
    mark, by = ("~" if of.stands_for else ""), f"by {of.title}"
    noise, latent = of_prior[NOISE], of_prior[LATENT]
    bulge = contrast(latent) - contrast(noise)
    found.claim(
        f"CF5a{mark}, {extractor}",
        f"The path between plain latents leads away from the real images: FD(.5) less the mean of both ends is larger "
        f"for latents than for noise, {by}.",
        _verdict(bulge),
        {
            **interval_numbers("margin", bulge),
            **interval_numbers("latent", contrast(latent)),
            **interval_numbers("noise", contrast(noise)),
            **interval_numbers("as_the_paper_has_it", _as_stated(noise, latent)),
        },
        "The paper compares FD(.5) - FD(0) of latents with three times the range of noise over the path, which at "
        "these numbers of images is the chance of single points; its margin is as_the_paper_has_it.",
    )
    lost = _middle(noise)["recall"] - _middle(latent)["recall"] - _LEAST_LOSS
    found.claim(
        f"CF5b{mark}, {extractor}",
        f"Images between plain latents are less diverse: recall(.5) of latents < recall(.5) of noise - .02, {by}.",
        _verdict(lost),
        interval_numbers("margin", lost),
    )
    for prior, path in of_prior.items():
        if prior in (NOISE, LATENT):
            continue
        kept = _KEPT * bulge - abs(contrast(path) - contrast(noise))
        found.claim(
            f"CF5c{mark}, {prior.removeprefix(LATENT + '-')}, {extractor}",
            f"Repaired latents ({title_of(prior)}) give at least half of it back: their FD(.5) less the mean of both "
            f"ends differs from that of noise by at most half of what plain latents differ by, {by}.",
            _verdict(kept),
            {**interval_numbers("margin", kept), **interval_numbers("repaired", contrast(path))},
        )


def _verdict(margin: Estimate) -> Verdict:
    """Whether a margin is above 0; not resolved where a jackknife of a few groups gives no interval to decide on."""
    return positive(margin) if len(margin.group_sizes) >= _LEAST_GROUPS else "not resolved"


def contrast(path: Path) -> Estimate:
    """FD(.5) less the mean of both ends: what all points share, such as the floor at this n, falls out."""
    return _middle(path)["frechet"] - (path[0]["frechet"] + path[-1]["frechet"]) / 2


def _as_stated(noise: Path, latent: Path) -> Estimate:
    along = Estimate.stack([point["frechet"] for point in noise])
    spread = along.map(lambda values: values.max() - values.min())
    return _middle(latent)["frechet"] - latent[0]["frechet"] - 3 * spread


def _middle(path: Path) -> Mapping[str, Estimate]:
    return path[len(path) // 2]
