"""What every network family returns: a Denoiser over a callable, with its codec and text encoder beside it.

The state outside stays float32 (or float64); the network inside has the precision of its profile. Epsilon is
what the rest of taba works with, so v- and x_0-predictions are converted here, by formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import Card
from taba_core.models.grids import noise_schedule
from taba_core.models.profile import Profile, profile_named, usable_device

# Axes: B samples in a batch, C channels, H rows, W columns.

Prediction = Literal["epsilon", "v", "sample"]
# predict(x, t, cond) -> raw output (B, >= C, H, W): x in the network's dtype, t float32 (B,) network times.
Predict = Callable[[Tensor, Tensor, Mapping[str, Tensor]], Tensor]


@runtime_checkable
class Codec(Protocol):
    """Between the latent space of a latent model and images."""

    @property
    def factor(self) -> int:
        """Pixels of a side that one latent position stands for."""
        ...

    def decode(self, x_0: Tensor) -> Tensor:
        """Latents (B, C, h, w) to images (B, 3, H, W), float32, about [-1, 1], unclamped."""
        ...

    def encode(
        self,
        image: Tensor,
        mode: Literal["mean", "sample"] = "mean",
        *,
        sample_ids: Sequence[int] | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to latents (B, C, h, w), float32.

        Args:
          mode: the posterior's mean, or a draw from it with counter-based noise of (seed, sample id).
          sample_ids: B ids; needed for mode="sample".
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """From prompts to what a text-conditional network reads."""

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Batch-first conditioning of B prompts (`prompt_embeds` (B, tokens, D), ...), on the network's device."""
        ...


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a Denoiser. Build it with `Network.of_card`.

    Attributes:
      name: the card's name, for messages.
      predict: raw network call, see `Predict`.
      schedule, sample_shape, value_range: as `Denoiser`.
      prediction: what the raw output means.
      profile, precision: profile and the card's precision, see `Profile`.
      device, dtype: where the network lies and the type of its floating inputs.
      class_names: names of the classes, () if there are none.
      codec: None for pixel models.
      text: None unless prompts condition the network.
    """

    name: str
    predict: Predict
    schedule: NoiseSchedule
    sample_shape: tuple[int, int, int]
    value_range: tuple[float, float]
    profile: Profile
    prediction: Prediction = "epsilon"
    precision: str = "fp32"
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    class_names: tuple[str, ...] = ()
    codec: Codec | None = None
    text: TextEncoder | None = None

    @classmethod
    def of_card(
        cls,
        card: Card,
        predict: Predict,
        *,
        device: str = "cpu",
        profile: Profile | None = None,
        class_names: Sequence[str] = (),
        codec: Codec | None = None,
        text: TextEncoder | None = None,
    ) -> Network:
        """A network with the schedule, shape, prediction and precision of its card; profile `exact` if None."""
        profile = profile or profile_named("exact")
        return cls(
            name=card.name,
            predict=predict,
            schedule=noise_schedule(card),
            sample_shape=card.sample_shape,
            value_range=card.value_range,
            profile=profile,
            prediction=card.prediction,
            precision=card.precision,
            device=str(usable_device(device)),
            dtype=profile.weights_dtype(card.precision),
            class_names=tuple(class_names),
            codec=codec,
            text=text,
        )

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Predict the noise in x_t, (B, C, H, W), in the dtype and on the device of x_t.

        Channels after the C-th (learned variance) are dropped. The weights take no gradients, so a graph is built only
        where x_t or cond asks for one.

        Raises:
          UsageError: conditioning of another batch size.
          WorkError: the network returned NaN or infinity.
        """
        batch = x_t.shape[0]
        for key, value in cond.items():
            if value.shape[0] != batch:
                raise UsageError(f"{self.name}: cond['{key}'] has {value.shape[0]} rows for {batch} states.")
        with self.profile.precision_of(self.device, self.precision):
            raw = self.predict(
                self._entering(x_t),
                torch.full((batch,), float(t), dtype=torch.float32, device=self.device),
                {key: self._condition(value) for key, value in cond.items()},
            )
        raw = raw[:, : self.sample_shape[0]].to(device=x_t.device, dtype=x_t.dtype)
        eps = self._epsilon(x_t, raw, t).contiguous()
        if not torch.isfinite(eps).all():
            raise WorkError(
                f"{self.name}: the network returned NaN or infinity at t={t:g} (profile {self.profile.name}). "
                "Check the weights; in half precision use profile=exact."
            )
        return eps

    def _entering(self, x: Tensor) -> Tensor:
        layout = torch.channels_last if self.profile.channels_last else torch.contiguous_format
        return x.to(device=self.device, dtype=self.dtype, memory_format=layout)

    def _condition(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        return value.to(device=self.device, dtype=dtype)

    def _epsilon(self, x_t: Tensor, raw: Tensor, t: float) -> Tensor:
        """Epsilon from the raw output, at alpha_bar a of the network time (the level the network assumes).

        - epsilon: as it is.
        - v = sqrt(a) eps - sqrt(1 - a) x_0 (Salimans & Ho 2022, App. D): eps = sqrt(a) v + sqrt(1 - a) x_t.
        - sample: eps = (x_t - sqrt(a) x_0) / sqrt(1 - a).
        """
        if self.prediction == "epsilon":
            return raw
        index = round(t / self.schedule.timestep_scale)
        alpha_bar = float(self.schedule.alpha_bar[index])
        if self.prediction == "v":
            return math.sqrt(alpha_bar) * raw + math.sqrt(1 - alpha_bar) * x_t
        return (x_t - math.sqrt(alpha_bar) * raw) / math.sqrt(1 - alpha_bar)
