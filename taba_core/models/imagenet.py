"""The 1000 ImageNet classes: short names in class order, and the class draws of the paper's DiT runs. No torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from taba_core import rng
from taba_core.errors import UsageError

NUM_CLASSES = 1000

# The reference draws a short name (a class's first synonym) and looks its id up in the list of all synonyms of
# all classes, where a later class wins. Four short names are synonyms of a later class too: crane, polecat
# (a synonym of skunk), maillot, missile (a synonym of projectile).
LATER_CLASS = {134: 517, 358: 361, 638: 639, 657: 744}


@cache
def class_names() -> tuple[str, ...]:
    """Short name of every class, in class order; "crane" and "maillot" name two classes each."""
    text = files("taba_core.models").joinpath("imagenet_names.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def reference_class_ids(num_samples: int, *, seed: int, noises_per_class: int = 1) -> NDArray[np.int64]:
    """Class ids as the reference code draws them (its `cond_seed`), (num_samples,).

    Names are drawn with replacement by Python's `random.choices` after `random.seed(seed)`, turned to ids by
    the reference's look-up, and each is repeated `noises_per_class` times consecutively. A longer draw begins
    with a shorter one.

    Raises:
      UsageError: num_samples is no multiple of noises_per_class, or one of them is not positive.
    """
    if num_samples < 1 or noises_per_class < 1 or num_samples % noises_per_class:
        raise UsageError(
            f"num_samples={num_samples} with noises_per_class={noises_per_class}: both must be positive, and the "
            "first a multiple of the second."
        )
    drawn = random.Random(seed).choices(range(NUM_CLASSES), k=num_samples // noises_per_class)
    ids = np.array([LATER_CLASS.get(i, i) for i in drawn], dtype=np.int64)
    return ids.repeat(noises_per_class)


def draw_class_ids(sample_ids: Sequence[int] | NDArray[np.integer], *, seed: int) -> NDArray[np.int64]:
    """Class ids by taba's own rule, uniform over all 1000: that of sample i depends on (seed, i) only."""
    return rng.integers(sample_ids, NUM_CLASSES, seed=seed, stream="class")
