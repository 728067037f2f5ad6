"""Text encoders of the flows that read prompts: Stable Diffusion 3 (CLIP twice and T5) and FLUX.1 (CLIP and T5).

Neither gives an encoder the mask of the padding, and the networks attend to all tokens, so how many tokens T5 makes of
a prompt (`max_tokens` of the card) changes what is computed. Prompts are taken as they are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from taba_core.diffusion.guidance import no_null_condition
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.conditional_unet import check_width
from taba_core.models.config_fields import component_folders
from taba_core.models.profile import Profile
from taba_core.models.prompt_tokens import (
    NUM_TOKENS,
    PromptTokenizer,
    load_clip_tokenizer,
    load_t5_tokenizer,
)
from taba_core.models.text import (
    Precision,
    PromptEmbeddings,
    PromptEncoder,
    check_vocabulary,
    load_text_model,
    precision_of_card,
    tokens_for,
)

# Axes: B prompts, L tokens of T5, D width of the embedding the network reads, P width of the pooled one.


@dataclass(frozen=True)
class Encoder:
    """A text network and its tokenizer."""

    model: Any
    tokenizer: PromptTokenizer

    def __call__(self, prompt: str, **options: Any) -> Any:
        """The network's output for one prompt, without a mask."""
        return self.model(tokens_for(self.tokenizer, prompt, self.model).ids, **options)


class SD3TextEncoder(PromptEncoder):
    """Stable Diffusion 3: two CLIP networks and T5 read the same prompt (Esser et al. 2024, Sec. 4).

    - prompt_embeds (B, 77 + L, D): the penultimate hidden states of both CLIP networks side by side, filled up with
      zeros to D, and behind them in the sequence the last hidden states of T5;
    - pooled (B, P): the projected outputs of both CLIP networks side by side.

    Float32. Without T5 its part is zeros, as in diffusers' pipeline.

    Args:
      clips: the CLIP networks with projection, L and G.
      t5: None where the pipeline has none.
      width: D.
      num_tokens: L.
    """

    def __init__(
        self,
        clips: tuple[Encoder, Encoder],
        t5: Encoder | None,
        *,
        width: int,
        num_tokens: int,
        precision: Precision = nullcontext,
    ) -> None:
        self.clips, self.t5, self.precision = clips, t5, precision
        self.width, self.num_tokens = width, num_tokens

    @property
    def embedding_width(self) -> int:
        """D: that of T5, or of the zeros in its place."""
        return self.width if self.t5 is None else int(self.t5.model.config.d_model)

    @property
    def pooled_width(self) -> int:
        """P."""
        return sum(int(clip.model.config.projection_dim) for clip in self.clips)

    def _networks(self) -> Sequence[Any]:
        return [encoder.model for encoder in (*self.clips, self.t5) if encoder is not None]

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        with self.precision():
            outputs = [clip(prompt, output_hidden_states=True) for clip in self.clips]
            last = None if self.t5 is None else self.t5(prompt).last_hidden_state.float()
        # hidden_states[-1] is the last layer's output, [-2] that of the layer before.
        states = torch.cat([output.hidden_states[-2].float() for output in outputs], dim=-1)
        if last is None:
            last = states.new_zeros(1, self.num_tokens, self.width)
        states = F.pad(states, (0, last.shape[-1] - states.shape[-1]))
        pooled = torch.cat([output.text_embeds.float() for output in outputs], dim=-1)
        return {"prompt_embeds": torch.cat([states, last], dim=1), "pooled": pooled}


class FluxTextEncoder(PromptEncoder):
    """FLUX.1: the last hidden states of T5, and one vector of CLIP.

    - prompt_embeds (B, L, D): the last hidden states of T5;
    - pooled (B, P): CLIP's state at the end of the text, after its final norm and without projection.

    Float32.

    Args:
      why_no_null: why there is no null condition, a clause.
    """

    def __init__(
        self, clip: Encoder, t5: Encoder, *, why_no_null: str, precision: Precision = nullcontext
    ) -> None:
        self.clip, self.t5, self.precision, self.why_no_null = clip, t5, precision, why_no_null

    @property
    def embedding_width(self) -> int:
        """D."""
        return int(self.t5.model.config.d_model)

    @property
    def pooled_width(self) -> int:
        """P."""
        return int(self.clip.model.config.hidden_size)

    def _networks(self) -> Sequence[Any]:
        return (self.clip.model, self.t5.model)

    def null(self, batch: int) -> PromptEmbeddings:
        """Raises UsageError: a distilled network has no null condition."""
        raise UsageError(no_null_condition(self.why_no_null))

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        with self.precision():
            pooled = self.clip(prompt).pooler_output
            states = self.t5(prompt).last_hidden_state
        return {"prompt_embeds": states.float(), "pooled": pooled.float()}


def load_sd3_encoder(
    directory: Path, card: Card, *, width: int, device: str, profile: Profile
) -> SD3TextEncoder:
    """The text encoders of a Stable Diffusion 3 pipeline, T5 only if model_index.json lists it.

    Args:
      width: D that the network reads.

    Raises:
      UsageError: one of them is missing or damaged.
    """
    from transformers import CLIPTextModelWithProjection

    def clip(number: str) -> Encoder:
        return _encoder(CLIPTextModelWithProjection, number, directory, card, device, profile)

    tokens = card.max_tokens or NUM_TOKENS
    t5 = None
    if "text_encoder_3" in component_folders(card.family, directory):
        t5 = _t5("_3", directory, card, device, profile)
    return SD3TextEncoder(
        (clip(""), clip("_2")),
        t5,
        width=width,
        num_tokens=tokens,
        precision=precision_of_card(card, device, profile),
    )


def load_flux_encoder(
    directory: Path, card: Card, *, why_no_null: str, device: str, profile: Profile
) -> FluxTextEncoder:
    """The text encoders of a FLUX.1 pipeline. Raises UsageError: one of them is missing or damaged."""
    from transformers import CLIPTextModel

    return FluxTextEncoder(
        _encoder(CLIPTextModel, "", directory, card, device, profile),
        _t5("_2", directory, card, device, profile),
        why_no_null=why_no_null,
        precision=precision_of_card(card, device, profile),
    )


def _encoder(kind: Any, number: str, directory: Path, card: Card, device: str, profile: Profile) -> Encoder:
    """A CLIP network and its tokenizer, from the folders with this number behind their names."""
    place = directory / f"tokenizer{number}"
    tokenizer = load_clip_tokenizer(place)
    model = load_text_model(kind, directory / f"text_encoder{number}", card, device, profile)
    check_vocabulary(place, tokenizer, model)
    return Encoder(model, tokenizer)


def _t5(number: str, directory: Path, card: Card, device: str, profile: Profile) -> Encoder:
    from transformers import T5EncoderModel

    place = directory / f"tokenizer{number}"
    tokenizer = load_t5_tokenizer(place, card.max_tokens or NUM_TOKENS)
    model = load_text_model(T5EncoderModel, directory / f"text_encoder{number}", card, device, profile)
    check_vocabulary(place, tokenizer, model)
    return Encoder(model, tokenizer)


def check_text_widths(
    card: Card, directory: Path, config: Mapping[str, Any], text: SD3TextEncoder | FluxTextEncoder
) -> None:
    """Refuse (UsageError) text encoders that make other widths than the transformer of a configuration reads."""
    check_width(
        card, directory, "prompt_embeds", reads=config["joint_attention_dim"], makes=text.embedding_width
    )
    check_width(
        card,
        directory,
        "the pooled embedding",
        reads=config["pooled_projection_dim"],
        makes=text.pooled_width,
    )
