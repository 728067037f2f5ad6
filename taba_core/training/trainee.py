"""What is trained: for each family, the batch of a step and its loss.

A trainee draws the tensors of step k as a function of (seed, k, row), and its `loss` is a function of the module and
those tensors alone, so that it can be compiled as one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from taba_core.training.captions import CaptionGrammar, facts_of
from taba_core.training.crops import Crops
from taba_core.training.data import Part
from taba_core.training.draws import StepDraws
from taba_core.training.objectives import Process
from taba_core.training.recipe import Recipe

# Axes: B rows of this worker, C channels, H rows, W columns.

Batch = dict[str, Tensor]


class Trainee(Protocol):
    """One network in training."""

    recipe: Recipe

    def batch(self, step: int) -> Batch:
        """The tensors of a step."""
        ...

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean loss of a batch, float32."""
        ...


class ImageStream:
    """Fresh images at every step."""

    def __init__(self, part: Part, draws: StepDraws, size: int) -> None:
        self.part, self.draws, self.size = part, draws, size

    def __call__(self, step: int) -> Crops:
        """The images of a step."""
        return self.part.drawn(self.draws, step, self.size)


class LatentPool:
    """Latents of a large fixed pool of crops, drawn with replacement at every step.

    Args:
      latents: (pool, C, H, W), float32.
      photo: the photograph of each, int64 (pool,).
    """

    def __init__(self, latents: Tensor, photo: Tensor, draws: StepDraws) -> None:
        self.latents, self.photo, self.draws = latents, photo, draws

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """(latents (B, C, H, W), photographs (B,)) of a step."""
        rows = self.draws.integers(step, "pool", len(self.latents))
        return self.latents[rows], self.photo[rows]


class DenoiserTrainee:
    """A denoiser: x_0 of the data, noise, a timestep, and a prediction to compare.

    Args:
      recipe: of a family with a schedule.
      draws: numbers of the run.
      data: step to (x_0, photograph index, crops or None).
      captions: grammar of the captions (family if).
      autocast: type of the products inside the network, None for float32.
    """

    def __init__(
        self,
        recipe: Recipe,
        draws: StepDraws,
        data: ImageStream | LatentPool,
        *,
        captions: CaptionGrammar | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.recipe, self.draws, self.data = recipe, draws, data
        self.captions, self.autocast = captions, autocast
        self.objective = recipe.objective
        self.process = Process(recipe.noise_schedule()).to(draws.device)
        self.device_type = draws.device.type

    def batch(self, step: int) -> Batch:
        """The tensors of a step: x_0, eps, t, and the condition of the family."""
        drawn = self.data(step)
        x_0, photo = (drawn.images, drawn.photo) if isinstance(drawn, Crops) else drawn
        u = self.draws.uniform(step, "timestep", (2,))
        t = self.process.timesteps(u, self.recipe.low_share, self.recipe.low_power)
        batch = {"x_0": x_0, "eps": self.draws.normal(step, "noise", tuple(x_0.shape[1:])), "t": t}
        dropped = self.draws.uniform(step, "drop") < self.recipe.drop_condition
        if self.recipe.family == "dit":
            batch["class_id"] = torch.where(dropped, int(self.recipe.network["num_embeds_ada_norm"]), photo)
        if self.captions is not None:
            assert isinstance(drawn, Crops)
            batch["ids"], batch["mask"] = self.captions.ids(facts_of(drawn), dropped)
        return batch

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The mean of the recipe's objective over the rows."""
        x_t = self.process.noised(batch["x_0"], batch["eps"], batch["t"])
        time = batch["t"].float() * self.process.timestep_scale
        with _autocast(self.device_type, self.autocast):
            output = self._output(module, x_t, time, batch)
        losses = self.process.loss(
            self.objective, output.float(), batch["x_0"], batch["eps"], x_t, batch["t"]
        )
        return losses.mean()

    def _output(self, module: Any, x_t: Tensor, time: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        if "class_id" in batch:
            return module(x_t, timestep=time, class_labels=batch["class_id"], return_dict=False)[0]
        if "ids" in batch:
            text = module.text_encoder(input_ids=batch["ids"], attention_mask=batch["mask"]).last_hidden_state
            return module.unet(x_t, time, encoder_hidden_states=text, return_dict=False)[0]
        return module(x_t, time, return_dict=False)[0]


class AutoencoderTrainee:
    """A variational autoencoder: L1 of the pixels and of their differences, and a small KL term.

    The decoder reads latents with a little noise, so that it bears the errors of a diffusion model.
    """

    def __init__(
        self, recipe: Recipe, draws: StepDraws, data: ImageStream, *, autocast: torch.dtype | None = None
    ) -> None:
        self.recipe, self.draws, self.data, self.autocast = recipe, draws, data, autocast
        self.device_type = draws.device.type
        self.latent_noise, self.kl_weight = recipe.latent_noise, recipe.kl_weight
        self.gradient_weight = recipe.gradient_weight
        channels = int(recipe.network["latent_channels"])
        side = recipe.image_size // 2 ** (len(recipe.network["block_out_channels"]) - 1)
        self.latent_shape = (channels, side, side)

    def batch(self, step: int) -> Batch:
        """Crops, and the noise of the posterior and of the decoder's input."""
        return {
            "image": self.data(step).images,
            "posterior": self.draws.normal(step, "posterior", self.latent_shape),
            "decoder": self.draws.normal(step, "decoder", self.latent_shape),
        }

    def loss(self, module: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean absolute error of pixels, plus that of differences, plus the KL divergence over the pixels."""
        image = batch["image"]
        with _autocast(self.device_type, self.autocast):
            mean, log_variance = module.quant_conv(module.encoder(image)).float().chunk(2, dim=1)
            log_variance = log_variance.clamp(-30.0, 20.0)
            latent = mean + torch.exp(0.5 * log_variance) * batch["posterior"]
            spread = latent.detach().std() * self.latent_noise
            output = module.decoder(module.post_quant_conv(latent + spread * batch["decoder"]))
        output = output.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum() / image.numel()
        steps = sum(_l1(output.diff(dim=axis), image.diff(dim=axis)) for axis in (2, 3))
        return _l1(output, image) + self.gradient_weight * steps + self.kl_weight * divergence


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().mean()


def _autocast(device_type: str, dtype: torch.dtype | None) -> Any:
    return torch.autocast(device_type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
