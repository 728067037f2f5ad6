"""What every network family returns: a Denoiser over a callable, with its codec and text encoder beside it.

The state outside stays float32 (or float64); the network inside has the precision of its profile. What it returns
(epsilon, v, x_0 or a flow's velocity) becomes the two ends of the line a state lies on here, by formulas without a
division where there are such.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from taba_core.diffusion.attention.layers import no_attention_control
from taba_core.diffusion.ends import Ends, Held
from taba_core.diffusion.finite import check_finite
from taba_core.diffusion.guidance import no_null_condition
from taba_core.diffusion.level import Level
from taba_core.diffusion.schedule import NoiseSchedule
from taba_core.errors import UsageError
from taba_core.models.attention_control import why_no_attention_control
from taba_core.models.cards import Card, Prediction
from taba_core.models.grids import noise_schedule
from taba_core.models.profile import Profile, profile_named, usable_device

# Axes: B samples in a batch, C channels, H rows, W columns.

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

    def null(self, batch: int) -> dict[str, Tensor]:
        """What the network reads where nothing is said, `batch` rows: the null condition of guidance."""
        ...


@dataclass(frozen=True, eq=False)
class Network:
    """A network as a Denoiser. Build it with `Network.of_card`.

    Attributes:
      name: the card's name, for messages.
      output: raw network call, see `Predict`.
      schedule, sample_shape, value_range: as `Denoiser`.
      prediction: what the raw output means.
      profile, precision: profile and the card's precision, see `Profile`.
      device, dtype: where the network lies and the type of its floating inputs.
      class_names: names of the classes, () if there are none.
      codec: None for pixel models.
      text: None unless prompts condition the network.
      null_class: class id that stands for no class (classifier-free guidance); None if the network has none.
      unet: the U-Net whose attention editors can control, and how a U-Net becomes `output`; None where they cannot.
      no_attention_control: why they cannot, a clause.
    """

    name: str
    output: Predict
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
    null_class: int | None = None
    unet: tuple[Any, Callable[[Any], Predict]] | None = None
    no_attention_control: str = ""

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
        null_class: int | None = None,
    ) -> Network:
        """A network with the schedule, shape, prediction and precision of its card; profile `exact` if None."""
        profile = profile or profile_named("exact")
        return cls(
            name=card.name,
            output=predict,
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
            null_class=null_class,
            no_attention_control=why_no_attention_control(card),
        )

    def with_own_layers(self) -> tuple[Network, Any]:
        """This network over a copy of its U-Net, and the copy: layers of their own that share the weights.

        Whatever is changed of the copy's layers (processors, hooks) changes no other user of the network, be it another
        thread, and is gone with the copy.

        Raises:
          UsageError: a network without such layers, or one that is compiled, as graphs do not see what is changed.
        """
        if self.unet is None:
            reason = self.no_attention_control or f"{self.name} has no such layers"
            raise UsageError(no_attention_control(reason))
        module, predict_with = self.unet
        if not isinstance(module, torch.nn.Module):
            raise UsageError(
                f"{self.name} is compiled, and a compiled network does not see what an editor changes of its layers; "
                "use --set model.compile=false."
            )
        shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
        own = copy.deepcopy(module, shared)
        return replace(self, output=predict_with(own), unet=(own, predict_with)), own

    @property
    def held(self) -> Held:
        """What moves between levels carry: the noise, or eps - x_0 of networks that predict anything else."""
        return Held.NOISE if self.prediction == "epsilon" else Held.VELOCITY

    def null_condition(self, batch: int) -> dict[str, Tensor]:
        """The condition that says nothing, `batch` rows: that of the text encoder, or the null class.

        Raises:
          UsageError: an unconditional network, or one with classes that was trained without a null class.
        """
        if self.text is not None:
            return self.text.null(batch)
        if self.null_class is None:
            what = (
                f"{self.name} has classes but no null class"
                if self.class_names
                else f"{self.name} has no condition"
            )
            raise UsageError(no_null_condition(what))
        return {"class_id": torch.full((batch,), self.null_class, dtype=torch.int64, device=self.device)}

    def eps(self, x_t: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """Predict the noise in x_t, (B, C, H, W), in the dtype and on the device of x_t, at the level of the time t.

        Channels after the C-th (learned variance) are dropped. The weights take no gradients, so a graph is built only
        where x_t or cond asks for one.

        Raises:
          UsageError: conditioning of another batch size, or of a v- or x_0-predicting network a time outside its
            schedule.
          WorkError: the network returned NaN or infinity.
        """
        raw = self._raw(x_t, t, cond)
        if self.prediction == "epsilon":
            return raw
        return self._ends(x_t, self.schedule.level_at(t), raw).eps

    def predict(self, x: Tensor, level: Level, cond: Mapping[str, Tensor]) -> Ends:
        """The two ends of the line each state lies on, in the dtype and on the device of x.

        An output v is read at alpha and sigma of the state, whatever the time is that the network is asked at: an
        inversion step at target times keeps v itself, as diffusers' DDIMInverseScheduler does. Of an output x_0 such a
        step keeps the noise, which at a time of alpha = 0 is the state itself.

        Args:
          x: states, (B, C, H, W).
          level: their alpha and sigma, and the time the network is given.

        Raises:
          UsageError, WorkError: as `eps`.
        """
        assert level.time is not None, "a network is asked at a time"
        return self._ends(x, level, self._raw(x, level.time, cond))

    def _raw(self, x: Tensor, t: float, cond: Mapping[str, Tensor]) -> Tensor:
        """The network's output, (B, C, H, W), in the dtype and on the device of x."""
        batch = x.shape[0]
        for key, value in cond.items():
            if value.shape[0] != batch:
                raise UsageError(f"{self.name}: cond['{key}'] has {value.shape[0]} rows for {batch} states.")
        with self.profile.precision_of(self.device, self.precision):
            raw = self.output(
                self._entering(x),
                torch.full((batch,), float(t), dtype=torch.float32, device=self.device),
                {key: self._condition(value) for key, value in cond.items()},
            )
        raw = raw[:, : self.sample_shape[0]].to(device=x.device, dtype=x.dtype).contiguous()
        check_finite(
            raw,
            f"{self.name}: the network returned NaN or infinity at t={t:g} (profile {self.profile.name}). "
            "Check the weights; in half precision use profile=exact.",
        )
        return raw

    def _entering(self, x: Tensor) -> Tensor:
        layout = torch.channels_last if self.profile.channels_last else torch.contiguous_format
        return x.to(device=self.device, dtype=self.dtype, memory_format=layout)

    def _condition(self, value: Tensor) -> Tensor:
        dtype = self.dtype if value.is_floating_point() else value.dtype
        return value.to(device=self.device, dtype=dtype)

    def _ends(self, x: Tensor, level: Level, raw: Tensor) -> Ends:
        """The ends of the line through x from the raw output.

        - epsilon: eps as it is; x_0 = (x - sigma eps) / alpha where it is asked for.
        - v = alpha eps - sigma x_0 (Salimans & Ho 2022, App. D): x_0 = alpha x - sigma v, eps = sigma x + alpha v.
        - velocity = eps - x_0 (Lipman et al. 2023; Liu et al. 2023): see `Held.VELOCITY`.
        - sample: eps = (x - alpha x_0) / sigma at the level of the network's time, as a clean state (sigma = 0) says
          nothing of its noise; x_0 as it is where that is the level of the state, else what follows from eps.
        """
        if self.prediction == "epsilon":
            return Ends(x, level, raw)
        if self.prediction == "v":
            return Ends(x, level, level.sigma * x + level.alpha * raw, level.alpha * x - level.sigma * raw)
        if self.prediction == "velocity":
            return Held.VELOCITY.ends(raw, x, level)
        assert level.time is not None
        trained = self.schedule.level_at(level.time)
        eps = (x - trained.alpha * raw) / trained.sigma
        return Ends(x, level, eps, raw if trained.same_mix(level) else None)
