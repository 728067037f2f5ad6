"""Networks that are trained in a store: which runs a study needs, and what is there of them.

A network at a step of a run is a model by the content of its files. Before it is trained, it is planned as a model
without a fingerprint, like a network whose weights are elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.training import Training
from taba_core.errors import UsageError, unknown_name
from taba_core.model_spec import ModelSpec
from taba_core.models.base import model_spec
from taba_core.models.photos import content_of, load_photos
from taba_core.store import Store
from taba_core.store.trainings import TrainingFolder, training_folder

if TYPE_CHECKING:
    from workflows.configuration.context import Context

FIRST_LEVELS = (
    3  # levels of the grid of 50 steps whose held-out errors are told: those of the first inversion steps
)


@dataclass(frozen=True)
class Checkpoint:
    """A network at a step of its training.

    Attributes:
      step: steps done.
      images: images seen.
      share: images seen over all images of the run, 0 to 1.
      model: the network as it enters keys; without a fingerprint before it is trained.
      held_out: errors of the predicted noise on held-out images at the first levels; empty before it is trained.
    """

    step: int
    images: int
    share: float
    model: ModelSpec
    held_out: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrainedRun:
    """A training as far as a store has it.

    Attributes:
      seed: of the training.
      checkpoints: by step, ascending; the last is the final network.
      loss_steps, loss: mean loss since the entry before; empty before the run is complete.
    """

    seed: int
    checkpoints: tuple[Checkpoint, ...]
    loss_steps: tuple[int, ...] = ()
    loss: tuple[float, ...] = ()


def training_of(
    context: Context, seed: int, steps: int | None = None, checkpoints: Sequence[int] | None = None
) -> Training:
    """The training of the context's model.

    Args:
      seed: of initial weights and all draws.
      steps: None = the recipe's number.
      checkpoints: steps whose network is kept; None = the recipe's, as far as the run goes, and its end.
    Raises:
      UsageError: the model has no recipe, works on latents, its data are not here, or steps that cannot be.
    """
    from taba_core.training.recipe import recipes

    name = context.card.name
    if name not in recipes():
        trainable = [r.name for r in recipes().values() if r.family != "autoencoder" and not r.autoencoder]
        raise unknown_name("model that can be trained", name, trainable)
    recipe = recipes()[name]
    if recipe.autoencoder is not None:
        raise UsageError(
            f"{name} works on the latents of an autoencoder; networks on pixels can be trained within a study. "
            f"`taba train {name}` trains this one."
        )
    data, location = _data(context)
    wanted = steps or recipe.steps
    kept = recipe.checkpoints if checkpoints is None else tuple(checkpoints)
    return Training(
        recipe=recipe.model_dump(mode="json"),
        seed=seed,
        steps=wanted,
        batch_size=recipe.cpu_batch_size,
        learning_rate=recipe.learning_rate,
        checkpoints=tuple(sorted({step for step in kept if step < wanted} | {wanted})),
        data=data,
        data_location=location,
    )


def _data(context: Context) -> tuple[str, str]:
    location = str(context.settings.model_options.get("photos", "builtin"))
    return _fingerprint(location), location


@cache
def _fingerprint(location: str) -> str:
    return content_of(load_photos(location)).fingerprint


def trained_run(context: Context, spec: Training) -> TrainedRun:
    """What the context's store has of a training."""
    folder = _folder(context, spec)
    found = [_checkpoint(context, spec, step, folder) for step in spec.checkpoints]
    steps, loss = _curve(folder)
    return TrainedRun(spec.seed, tuple(found), steps, loss)


def _folder(context: Context, spec: Training) -> TrainingFolder | None:
    if not context.store or not Store.is_there(context.store):
        return None
    folder = training_folder(Store.open(context.store, mode="r"), spec)
    return folder if folder.path.is_dir() else None


def _checkpoint(context: Context, spec: Training, step: int, folder: TrainingFolder | None) -> Checkpoint:
    facts = None if folder is None else folder.facts(step)
    images = spec.images(step)
    if folder is None or facts is None:
        planned = ModelSpec(
            name=spec.label(step), options={"profile": "reference"}, card=context.card.model_dump(mode="json")
        )
        return Checkpoint(step, images, step / spec.steps, planned)
    card = folder.folder(step) / "card.yaml"
    place = str(card if card.exists() else folder.folder(step))
    errors = tuple(float(error) for error in facts["held_out_errors"][:FIRST_LEVELS])
    return Checkpoint(step, images, step / spec.steps, _model(place, context), errors)


def _model(place: str, context: Context) -> ModelSpec:
    options = {key: value for key, value in context.settings.model_options.items() if key != "photos"}
    return model_spec(place, options)


def _curve(folder: TrainingFolder | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if folder is None or not folder.complete:
        return (), ()
    arrays: Any = folder.arrays()
    steps = tuple(int(step) for step in arrays["loss_step"].values)
    return steps, tuple(float(loss) for loss in arrays["loss"].values)
