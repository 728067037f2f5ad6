"""What only this study reads: which trainings, and by which features generations are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from workflows.configuration.options import Options, listed

if TYPE_CHECKING:
    from workflows.configuration.context import Context

PAPER_MODELS = ("adm-32", "adm-64")
PAPER_SEEDS = (0, 10, 42)


def _from_zero(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is not None and min(value) < 0:
        raise ValueError(f"{min(value)} is negative; use 0 or more")
    return value


class TrainingOptions(Options):
    """Options of study `training`."""

    study = "training"

    seeds: Annotated[tuple[int, ...], listed("training seed, e.g. 0,10,42"), AfterValidator(_from_zero)] = (
        Field((0,), description="seeds of the trainings, comma-separated (of the paper's models: 0,10,42)")
    )
    steps: int | None = Field(None, ge=1, description="optimiser steps of a training (default: the recipe's)")
    checkpoints: Annotated[
        tuple[int, ...] | None, listed("step, e.g. 0,100,1000"), AfterValidator(_from_zero)
    ] = Field(None, description="steps whose networks are compared, comma-separated (default: the recipe's)")
    learning_rate: float | None = Field(None, gt=0, description="at its peak (default: the recipe's)")
    data_path: str | None = Field(
        None,
        min_length=1,
        description="folder or archive of the training images (default: see `taba train --help`)",
    )
    extractor: str = Field(
        "random-convolutions", description="feature extractor in place of DINO (see taba list)"
    )


def training_seeds(context: Context) -> tuple[int, ...]:
    """Seeds of the trainings: the user's, else of the paper's models the paper's three, else one."""
    options = context.options(TrainingOptions)
    if "seeds" not in options.model_fields_set and context.name in PAPER_MODELS:
        return PAPER_SEEDS
    return tuple(dict.fromkeys(options.seeds))
