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
from taba_core.store import Store
from taba_core.store.trainings import TrainingFolder, training_folder

if TYPE_CHECKING:
    from taba_core.training.recipe import Recipe
    from workflows.configuration.context import Context

_ON_PIXELS = ("adm", "if")
_NOT_OF_A_RUN = {"box", "minutes_share", "steps", "checkpoints"}  # fields of a recipe
# Levels of the grid of 50 steps whose held-out errors are told: those of the first inversion steps.
FIRST_LEVELS = 3


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


@dataclass(frozen=True)
class Wanted:
    """What a user may choose of a training.

    Attributes:
      steps: None = the recipe's number.
      checkpoints: steps whose network is kept; None = the recipe's, as far as the run goes. The last step always is.
      learning_rate: None = the recipe's.
      data_path: where the images lie; None = the default place of the recipe's source.
    """

    steps: int | None = None
    checkpoints: Sequence[int] | None = None
    learning_rate: float | None = None
    data_path: str | None = None


def training_of(context: Context, seed: int, wanted: Wanted = Wanted()) -> Training:
    """The training of the context's model.

    Args:
      seed: of initial weights and all draws.
    Returns:
      The training; without a fingerprint of its images where they are not here: it can be planned and not run.
    Raises:
      UsageError: the model has no recipe, works on latents, or steps that cannot be.
    """
    from taba_core.training.recipe import checkpoint_grid

    recipe = _recipe(context)
    steps = wanted.steps or recipe.steps or 0
    kept = wanted.checkpoints
    if kept is not None and any(step > steps for step in kept):
        raise UsageError(
            f"training.checkpoints={','.join(map(str, kept))}: the training ends at step {steps}. Leave later steps "
            "out, or train longer (--set training.steps)."
        )
    grid = checkpoint_grid(recipe, steps) if kept is None else tuple(sorted({*kept, steps}))
    batch_size, rate = recipe.cpu_batch_size, wanted.learning_rate or recipe.learning_rate
    # What the run says itself, and what only another command reads, is not said twice.
    as_run = {"batch_size": batch_size, "cpu_batch_size": batch_size, "learning_rate": rate}
    return Training(
        recipe=recipe.model_copy(update=as_run).model_dump(mode="json", exclude=_NOT_OF_A_RUN),
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=rate,
        checkpoints=grid,
        data=_fingerprint(recipe.name, wanted.data_path) if images_are_here(context, wanted) else "",
        data_location=wanted.data_path or "",
    )


def _recipe(context: Context) -> Recipe:
    from taba_core.training.recipe import recipes

    name = context.card.name
    trainable = [r.name for r in recipes().values() if r.family in _ON_PIXELS and r.steps]
    if name not in recipes():
        raise unknown_name("trainable model", name, trainable)
    recipe = recipes()[name]
    if name not in trainable:
        raise UsageError(
            f"{name}: networks on pixels with a number of steps of their own are trained within a study "
            f"({', '.join(trainable)}). `taba train {name}` trains this one."
        )
    return recipe


def images_are_here(context: Context, wanted: Wanted) -> bool:
    """Whether the images of the training of the context's model are on this machine, whole and of the right kind."""
    try:
        check_images(context, wanted)
    except UsageError:
        return False
    return True


def check_images(context: Context, wanted: Wanted) -> None:
    """Refuse (UsageError) images that are not here or not what they should be; the message says how to get them."""
    _fingerprint(_recipe(context).name, wanted.data_path)


@cache
def _fingerprint(recipe: str, path: str | None) -> str:
    from taba_core.training.data import source_for
    from taba_core.training.recipe import recipe_named

    return source_for(recipe_named(recipe), path=path).fingerprint


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
        planned = context.model_spec.altered(name=spec.label(step), card=context.card.model_dump(mode="json"))
        return Checkpoint(step, images, step / spec.steps, planned)
    card = folder.folder(step) / "card.yaml"
    place = str(card if card.exists() else folder.folder(step))
    errors = tuple(float(error) for error in facts["held_out_errors"][:FIRST_LEVELS])
    return Checkpoint(step, images, step / spec.steps, _model(place, context), errors)


def _model(place: str, context: Context) -> ModelSpec:
    return model_spec(place, context.settings.model_options)


def _curve(folder: TrainingFolder | None) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if folder is None or not folder.complete:
        return (), ()
    arrays: Any = folder.arrays()
    steps = tuple(int(step) for step in arrays["loss_step"].values)
    return steps, tuple(float(loss) for loss in arrays["loss"].values)
