"""What a training needs before its first step: the network, and what draws its batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from taba_core.models.photos import Photo
from taba_core.training.captions import CaptionGrammar
from taba_core.training.crops import CropSource
from taba_core.training.draws import StepDraws
from taba_core.training.latents import latent_pool
from taba_core.training.networks import build_network
from taba_core.training.ranks import ALONE, Ranks
from taba_core.training.recipe import Recipe
from taba_core.training.trainee import AutoencoderTrainee, CropStream, DenoiserTrainee, LatentPool, Trainee


@dataclass(frozen=True)
class Preparation:
    """A network of a recipe on a device, and its data.

    Attributes:
      recipe: what is trained.
      photos: where crops are from.
      seed: of initial weights and of all draws.
      batch_size: rows of the global batch.
      device: of this process.
      ranks: the processes that share the training.
      pool: crops in the pool of a latent network.
    """

    recipe: Recipe
    photos: Sequence[Photo]
    seed: int
    batch_size: int
    device: torch.device
    ranks: Ranks = ALONE
    pool: int = 100_000

    @property
    def grammar(self) -> CaptionGrammar:
        """Captions of the photographs' crops."""
        return CaptionGrammar([photo.name for photo in self.photos])

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
        source = CropSource(self.photos, "training", device=self.device)
        draws = StepDraws(self.seed, self.batch_size, self.device, self.ranks.rank, self.ranks.count)
        autocast = torch.bfloat16 if self.device.type == "cuda" else None
        if self.recipe.autoencoder is not None:
            latents, photo = latent_pool(autoencoder(), source, self.pool, seed=self.seed, device=self.device)
            say(f"pool of {len(latents):,} latents, std {latents.std():.3f}")
            pool = LatentPool(latents, photo, draws)
            return DenoiserTrainee(self.recipe, draws, pool, autocast=autocast)
        stream = CropStream(source, draws, self.recipe.image_size)
        if self.recipe.family == "autoencoder":
            return AutoencoderTrainee(self.recipe, draws, stream, autocast=autocast)
        captions = self.grammar if self.recipe.family == "if" else None
        return DenoiserTrainee(self.recipe, draws, stream, captions=captions, autocast=autocast)
