"""Text encoders: from prompts to what conditions a text-to-image network.

Every distinct prompt is encoded alone, so its embedding does not depend on the batch it comes in, and a prompt
shared by many samples costs one pass.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taba_core.errors import UsageError, WorkError
from taba_core.models.cards import Card
from taba_core.models.component import load_component
from taba_core.models.json_file import read_json
from taba_core.models.profile import Profile, usable_device
from taba_core.models.prompt_tokens import (
    NUM_TOKENS,
    PromptTokenizer,
    Tokens,
    load_clip_tokenizer,
    load_t5_tokenizer,
)

# Axes: B prompts, L = 77 tokens, D width of the embedding the network reads, P width of the pooled one.

PromptEmbeddings = dict[str, Tensor]
Precision = Callable[[], AbstractContextManager[None]]
# transformers puts hooks into a network to collect its hidden states, and threads may share the network.
_ENCODING = threading.Lock()


class PromptEncoder(ABC):
    """Base of encoders that encode prompts one by one, so that a prompt's embedding does not depend on the others.

    Their networks are large (T5-XXL has 4.7 billion weights) and needed once a prompt: `rest` takes them off a device.
    """

    _left: Any = None  # the device that the networks left, and come back to

    def encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """PromptEmbeddings of B prompts. Raises UsageError for no prompts."""
        return encode_distinct(prompts, self._encode_on_device)

    def rest(self) -> None:
        """Move the networks to main memory, until the next prompt is encoded; on a CPU nothing happens."""
        with _ENCODING:
            for network in self._networks():
                if network.device.type != "cpu":
                    self._left = network.device
                    network.to("cpu")

    def _encode_on_device(self, prompt: str) -> PromptEmbeddings:
        if self._left is not None:
            for network in self._networks():
                network.to(self._left)
            self._left = None
        return self._encode_one(prompt)

    @abstractmethod
    def _networks(self) -> Sequence[Any]:
        """The text networks, torch modules of transformers."""

    def null(self, batch: int) -> PromptEmbeddings:
        """The null condition of guidance: the empty prompt, `batch` rows."""
        return self.encode([""] * batch)

    @abstractmethod
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        """PromptEmbeddings of one prompt, batch size 1."""


class T5TextEncoder(PromptEncoder):
    """DeepFloyd IF: the last hidden states of T5, `prompt_embeds` (B, L, D) float32.

    Prompts are stripped and lower-cased (the pipeline's preprocessing without caption cleaning), padded to 77
    tokens, and the mask of the padding is given to T5 only: the network attends to all 77 positions.
    """

    def __init__(self, model: Any, tokenizer: PromptTokenizer, precision: Precision = nullcontext) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision

    @property
    def embedding_width(self) -> int:
        """D."""
        return int(self.model.config.d_model)

    def encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """PromptEmbeddings of B prompts. Raises UsageError for no prompts."""
        return super().encode([prompt.lower().strip() for prompt in prompts])

    def _networks(self) -> Sequence[Any]:
        return (self.model,)

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        tokens = tokens_for(self.tokenizer, prompt, self.model)
        with self.precision():
            states = self.model(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        return {"prompt_embeds": states.float()}


class CLIPTextEncoder(PromptEncoder):
    """Stable Diffusion 1.x: the last hidden states of CLIP after its final norm, `prompt_embeds` (B, L, D) float32."""

    def __init__(self, model: Any, tokenizer: PromptTokenizer, precision: Precision = nullcontext) -> None:
        self.model, self.tokenizer, self.precision = model, tokenizer, precision

    @property
    def embedding_width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    def _networks(self) -> Sequence[Any]:
        return (self.model,)

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        with self.precision():
            states = self.model(tokens_for(self.tokenizer, prompt, self.model).ids).last_hidden_state
        return {"prompt_embeds": states.float()}


class CLIPPairTextEncoder(PromptEncoder):
    """Stable Diffusion XL: two CLIP encoders read the same prompt (Podell et al. 2023, Sec. 2.1-2.2).

    - prompt_embeds (B, L, D1 + D2): penultimate hidden states of both, concatenated;
    - pooled (B, P): projected output of the second;
    - time_ids (B, 6): original height and width, top and left of the crop, target height and width.

    All float32. `zero_null` says that the null condition is zeros, not the empty prompt.
    """

    def __init__(
        self,
        first: Any,
        second: Any,
        tokenizers: tuple[PromptTokenizer, PromptTokenizer],
        *,
        image_size: int,
        zero_null: bool = True,
        precision: Precision = nullcontext,
    ) -> None:
        self.first, self.second, self.tokenizers, self.zero_null = first, second, tokenizers, zero_null
        self.image_size, self.precision = image_size, precision

    @property
    def tokenizer(self) -> PromptTokenizer:
        """That of the first encoder; both part a prompt into the same tokens, and differ in their padding."""
        return self.tokenizers[0]

    @property
    def embedding_width(self) -> int:
        """D1 + D2."""
        return int(self.first.config.hidden_size + self.second.config.hidden_size)

    @property
    def pooled_width(self) -> int:
        """P."""
        return int(self.second.config.projection_dim)

    def _networks(self) -> Sequence[Any]:
        return (self.first, self.second)

    def encode(self, prompts: Sequence[str]) -> PromptEmbeddings:
        """PromptEmbeddings of B prompts. Raises UsageError for no prompts."""
        cond = super().encode(prompts)
        size = float(self.image_size)
        sizes = torch.tensor([[size, size, 0.0, 0.0, size, size]], device=cond["prompt_embeds"].device)
        return cond | {"time_ids": sizes.repeat(len(prompts), 1)}

    def null(self, batch: int) -> PromptEmbeddings:
        """The null condition of guidance, `batch` rows: zeros with the sizes of an image, or the empty prompt.

        SDXL was trained with zeros in place of dropped prompts, and its pipeline says so
        (`force_zeros_for_empty_prompt`).
        """
        empty = self.encode([""] * batch)
        if not self.zero_null:
            return empty
        return {key: value if key == "time_ids" else torch.zeros_like(value) for key, value in empty.items()}

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> PromptEmbeddings:
        with self.precision():
            outputs = [
                model(tokens_for(tokenizer, prompt, model).ids, output_hidden_states=True)
                for model, tokenizer in zip((self.first, self.second), self.tokenizers, strict=True)
            ]
        # hidden_states[-1] is the last layer's output, [-2] that of the layer before.
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"prompt_embeds": states.float(), "pooled": outputs[1].text_embeds.float()}


def load_t5_encoder(directory: Path, card: Card, *, device: str, profile: Profile) -> T5TextEncoder:
    """The T5 encoder of a pipeline directory (`text_encoder`, `tokenizer`). Raises UsageError if it is incomplete."""
    from transformers import T5EncoderModel

    tokenizer = load_t5_tokenizer(directory / "tokenizer")
    model = load_text_model(T5EncoderModel, directory / "text_encoder", card, device, profile)
    check_vocabulary(directory / "tokenizer", tokenizer, model)
    return T5TextEncoder(model, tokenizer, precision_of_card(card, device, profile))


def load_clip_encoder(directory: Path, card: Card, *, device: str, profile: Profile) -> CLIPTextEncoder:
    """The CLIP encoder of a pipeline directory (`text_encoder`, `tokenizer`). Raises UsageError if incomplete."""
    from transformers import CLIPTextModel

    tokenizer = load_clip_tokenizer(directory / "tokenizer")
    model = load_text_model(CLIPTextModel, directory / "text_encoder", card, device, profile)
    check_vocabulary(directory / "tokenizer", tokenizer, model)
    return CLIPTextEncoder(model, tokenizer, precision_of_card(card, device, profile))


def load_clip_pair_encoder(
    directory: Path, card: Card, *, device: str, profile: Profile
) -> CLIPPairTextEncoder:
    """Both CLIP encoders of a pipeline directory (`text_encoder`, `text_encoder_2`, `tokenizer`, `tokenizer_2`).

    Raises:
      UsageError: one of them is missing or damaged.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizers = (
        load_clip_tokenizer(directory / "tokenizer"),
        load_clip_tokenizer(directory / "tokenizer_2"),
    )
    first = load_text_model(CLIPTextModel, directory / "text_encoder", card, device, profile)
    second = load_text_model(CLIPTextModelWithProjection, directory / "text_encoder_2", card, device, profile)
    check_vocabulary(directory / "tokenizer", tokenizers[0], first)
    check_vocabulary(directory / "tokenizer_2", tokenizers[1], second)
    return CLIPPairTextEncoder(
        first,
        second,
        tokenizers,
        image_size=card.image_size,
        # What the pipeline's class takes where its file says nothing.
        zero_null=bool(read_json(directory / "model_index.json").get("force_zeros_for_empty_prompt", True)),
        precision=precision_of_card(card, device, profile),
    )


def load_text_model(kind: Any, directory: Path, card: Card, device: str, profile: Profile) -> Any:
    """A text network of transformers on its device, in the precision in which the profile reads files.

    Raises:
      UsageError: the directory does not hold it.
    """
    # Not `profile.prepare`: T5 keeps its output projections in float32 among half weights, and overflows without.
    model = load_component(kind, directory, profile.loading_dtype(card.precision))
    return model.to(usable_device(device))


def precision_of_card(card: Card, device: str, profile: Profile) -> Precision:
    """The context in which a card's text networks are called."""
    return lambda: profile.precision_of(device, card.precision)


def tokens_for(tokenizer: PromptTokenizer, prompt: str, model: Any) -> Tokens:
    """Token ids and mask of one prompt, each (1, L), where the model is."""
    tokens = tokenizer([prompt])
    return Tokens(tokens.ids.to(model.device), tokens.mask.to(model.device))


def encode_distinct(
    prompts: Sequence[str], encode_one: Callable[[str], PromptEmbeddings]
) -> PromptEmbeddings:
    """PromptEmbeddings of B prompts, one pass for each distinct one.

    Args:
      encode_one: embeddings of one prompt, each (1, ...).

    Raises:
      UsageError: no prompts. WorkError: an embedding that is NaN or infinite.
    """
    if not prompts:
        raise UsageError("no prompts to encode; give one for each sample.")
    place = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompts))}
    with _ENCODING:
        encoded = [encode_one(prompt) for prompt in place]
    rows = [place[prompt] for prompt in prompts]
    cond = {key: torch.cat([one[key] for one in encoded])[rows] for key in encoded[0]}
    for key, value in cond.items():
        if not torch.isfinite(value).all():
            raise WorkError(
                f"the text encoder returned NaN or infinity in {key}. Check its weights; in half precision use "
                "profile=exact."
            )
    return cond


def check_vocabulary(directory: Path, tokenizer: PromptTokenizer, model: Any) -> None:
    """Refuse (UsageError) a tokenizer that makes more ids, or more tokens, than the text network beside it takes."""
    rows = int(model.config.vocab_size)
    if tokenizer.vocabulary_size > rows:
        raise UsageError(
            f"{directory} has {tokenizer.vocabulary_size} tokens and the text encoder beside it embeds {rows}: they "
            "are not of one model. Fetch the directory again."
        )
    # T5 has relative positions, and so no limit.
    positions = int(getattr(model.config, "max_position_embeddings", NUM_TOKENS))
    if positions < NUM_TOKENS:
        raise UsageError(
            f"{directory} makes {NUM_TOKENS} tokens of a prompt and the text encoder beside it has "
            f"max_position_embeddings={positions}: they are not of one model. Fetch the directory again."
        )
