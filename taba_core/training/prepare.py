"""What a training needs before its first step: the network, and what draws its batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taba_core.training.captions import CaptionGrammar
from taba_core.training.classifier import ClassifierTrainee
from taba_core.training.data import Source
from taba_core.training.draws import StepDraws
from taba_core.training.latents import latent_pool
from taba_core.training.networks import build_network
from taba_core.training.ranks import ALONE, Ranks
from taba_core.training.recipe import Recipe
from taba_core.training.trainee import AutoencoderTrainee, DenoiserTrainee, ImageStream, LatentPool, Trainee


@dataclass(frozen=True)
class Preparation:
    """A network of a recipe on a device, and its data.

    Attributes:
      recipe: what is trained.
      source: the images.
      seed: of initial weights and of all draws.
      batch_size: rows of the global batch.
      device: of this process.
      ranks: the processes that share the training.
      pool: crops in the pool of a latent network.
    """

    recipe: Recipe
    source: Source
    seed: int
    batch_size: int
    device: torch.device
    ranks: Ranks = ALONE
    pool: int = 100_000

    @property
    def grammar(self) -> CaptionGrammar:
        """Captions of the images."""
        return CaptionGrammar(self.source.names)

    def network(self) -> Any:
        """The network with its initial weights, which are the same on every rank."""
        module: Any = build_network(self.recipe, self.seed, vocabulary=len(self.grammar.vocabulary)).to(
            self.device
        )
        if self.device.type == "cuda":
            module = module.to(memory_format=torch.channels_last)
        if self.recipe.family == "dit":
            module.eval()  # its own label dropout draws from no counted stream; rows are dropped by ours
        return module

    def trainee(
        self, autoencoder: Callable[[], Path], say: Callable[[str], None] = lambda text: None
    ) -> Trainee:
        """What is trained, with its data.

        Args:
          autoencoder: gives the file of the recipe's autoencoder; called for latent networks only.
          say: where a line of text goes.
        """
        part = self.source.part("training", device=self.device)
        draws = StepDraws(self.seed, self.batch_size, self.device, self.ranks.rank, self.ranks.count)
        autocast = torch.bfloat16 if self.device.type == "cuda" and self.recipe.precision == "bf16" else None
        if self.recipe.autoencoder is not None:
            latents, photo = latent_pool(autoencoder(), part, self.pool, seed=self.seed, device=self.device)
            say(f"pool of {len(latents):,} latents, std {latents.std():.3f}")
            pool = LatentPool(latents, photo, draws)
            return DenoiserTrainee(self.recipe, draws, pool, autocast=autocast)
        stream = ImageStream(part, draws, self.recipe.image_size)
        if self.recipe.family == "classifier":
            return ClassifierTrainee(self.recipe, draws, stream)
        if self.recipe.family == "autoencoder":
            return AutoencoderTrainee(self.recipe, draws, stream, autocast=autocast)
        captions = self.grammar if self.recipe.family == "if" else None
        return DenoiserTrainee(self.recipe, draws, stream, captions=captions, autocast=autocast)


def of_recipe(recipe: Recipe) -> dict[str, Any]:
    """Settings of a loop that a recipe decides alone."""
    return {
        "warmup_steps": recipe.warmup_steps,
        "rate_fall": recipe.rate_fall,
        "ema": recipe.ema,
        "ema_warmup": recipe.ema_warmup,
        "clip": recipe.clip,
    }
