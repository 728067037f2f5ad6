"""What of noise, image and latent is settled early in a training, and what is not? (Figures 16 to 21; Appendix O)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.features import Features
from taba_core.artifacts.request import Request
from taba_core.artifacts.training import Training
from taba_core.errors import UsageError
from taba_core.metrics.extractor import extractor_named
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.preferred import with_preferred
from workflows.analysis.presentation import Section
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.trained import TrainedRun, Wanted, check_images, trained_run, training_of
from workflows.studies.training.claims import find_claims
from workflows.studies.training.figures import figures_of
from workflows.studies.training.measures import (
    keep_measures,
    keep_trainings,
    measure,
    request_name,
    svcca_dims,
)
from workflows.studies.training.options import PAPER_MODELS, TrainingOptions, training_seeds
from workflows.studies.training.tables import tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

# Models that run everywhere: enough images that all of them finding their noise is told from 95 %. Batches are the
# card's, so that other studies of the final network share its images and latents.
CHEAP = {"num_samples": 128}
PAPER_SAMPLES = 2048
_NOISES, _SHOWN = 5, 8  # rows and columns of the grid of images


@register
class TrainingStudy(Study):
    """Checkpoints of trainings: their images, and their inversions of the final network's images."""

    name = "training"
    aliases = ("fig16", "fig17", "fig18", "fig19", "fig20", "fig21")
    title = "Noise and image are tied early in training"
    question = "When in a training is it settled which image comes from which noise, and where latents lie?"
    paper_section = "O"
    paper_models = PAPER_MODELS
    costly = True
    by_name_only = True
    trained_model = "photo-tiny"
    options = TrainingOptions
    options_in_key = False
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Of every checkpoint its images, their features, and its latents of the final network's images."""
        context = with_preferred(context, CHEAP, PAPER_SAMPLES)
        extractor = extractor_named(context.options(TrainingOptions).extractor)
        if unsuited := extractor.unsuited(context.decoded_shape or context.card.sample_shape):
            raise UsageError(f"training.extractor={extractor.name}: {unsuited} Use another (taba list).")
        base = context.generation(context.num_steps(self.paper_steps))
        asked: dict[str, Request] = {}
        for run in _runs(context):
            final = base.altered(model=run.checkpoints[-1].model)
            inversion = context.inversion(final)
            for index, checkpoint in enumerate(run.checkpoints):
                images = base.altered(model=checkpoint.model)
                features = Features(
                    source=images,
                    extractor=extractor.name,
                    fingerprint=extractor.fingerprint(),
                    num_features=extractor.num_features,
                )
                for what, artifact, variables in (
                    ("generation", images, ("noise", "image")),
                    ("inversion", inversion.altered(network=checkpoint.model), ("latent",)),
                    ("features", features, ("features",)),
                ):
                    asked[request_name(run, index, what)] = context.request(artifact, variables)
        return asked

    def trainings(self, context: Context) -> tuple[Training, ...]:
        """One a training seed."""
        return _trainings(context)

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) an extractor whose packages or weights are missing, or images that are not here."""
        name = context.options(TrainingOptions).extractor
        if reason := extractor_named(name).why_not():
            raise UsageError(f"training.extractor={name}: {reason} Or use another (taba list).")
        check_images(context, _wanted(context))

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of every checkpoint of every training; claims CF16 to CF19; pictures of the first training."""
        context = with_preferred(context, CHEAP, PAPER_SAMPLES)
        runs, found = _runs(context), Findings()
        keep_trainings(found, runs)
        measured = [measure(inputs, context, run) for run in runs]
        keep_measures(found, measured)
        found.array("svcca_dims", svcca_dims(inputs.num_samples))
        found.array("extractor", context.options(TrainingOptions).extractor)
        found.array("side", context.card.image_size)
        _keep_pictures(found, inputs, runs[0])
        find_claims(found, measured)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Figures 16 to 21 with their numbers, the loss and the held-out errors."""
        return self.section_of_each(results, tables_of, figures_of)


def _trainings(context: Context) -> tuple[Training, ...]:
    return tuple(training_of(context, seed, _wanted(context)) for seed in training_seeds(context))


def _wanted(context: Context) -> Wanted:
    options = context.options(TrainingOptions)
    return Wanted(options.steps, options.checkpoints, options.learning_rate, options.data_path)


def _runs(context: Context) -> tuple[TrainedRun, ...]:
    """The trainings, all kept at the same steps."""
    runs = tuple(trained_run(context, spec) for spec in _trainings(context))
    steps = {tuple(one.step for one in run.checkpoints) for run in runs}
    if len(steps) != 1 or not min(steps):
        raise UsageError(
            f"training: {context.title} has {len(runs)} trainings that were kept at different steps, or none; they "
            "are compared step by step."
        )
    return runs


def _keep_pictures(found: Findings, inputs: Inputs, run: TrainedRun) -> None:
    """Images of the first noises at a few checkpoints, and their differences to the final ones, in model space."""
    last = len(run.checkpoints) - 1
    shown = np.unique(np.linspace(0, last, min(_SHOWN, last + 1)).round().astype(int))
    noises = np.arange(min(_NOISES, inputs.num_samples))
    names = [request_name(run, int(index), "generation") for index in shown]
    found.array("example_id", noises, ("example",))
    found.array("shown_images", [run.checkpoints[index].images for index in shown], ("shown",))
    found.array(
        "picture", np.stack([inputs.pictures(name, noises) for name in names]), ("shown", *PICTURE_DIMS)
    )
    images = [inputs.pick(name, "image", noises) for name in names]
    if len(images) > 1:
        difference = np.stack([image - images[-1] for image in images[:-1]])
        found.array("difference", difference, ("earlier", "example", "channel", "y", "x"))
