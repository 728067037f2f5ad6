"""What an editor is: a small frozen dataclass whose fields are its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from taba_core.diffusion.attention.control import Control
from taba_core.diffusion.attention.layers import AttentionLayer
from taba_core.diffusion.inversion.method import Method

# Axes: B images, C channels, H rows, W columns.

StartStep = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, eq=False)
class Prompts:
    """What B images show, and what their edits are to show.

    Attributes:
      source, target: a prompt for each image.
    """

    source: Sequence[str]
    target: Sequence[str]


class Editor:
    """Base of all editors; subclasses are frozen dataclasses, their fields are options.

    Class attributes:
      name: under which the editor is registered.
      inverts: starts from the latent of an inversion, or from the noise of a generation; else from the image itself.
      controls_attention: changes attention layers of the network, and needs one that has them.
    """

    name: str = ""
    inverts: bool = True
    controls_attention: bool = True

    @property
    def changes_under_the_same_prompt(self) -> bool:
        """Whether it changes an image whose target is what it shows already."""
        return False

    def check_prompts(self, source: str, target: str) -> None:
        """Refuse (UsageError) prompts that the editor cannot take together."""

    def check_method(self, method: Method) -> None:
        """Refuse (UsageError) an inversion method that the editor cannot follow."""


class AttentionEditor(Editor, ABC):
    """An editor that samples source and target side by side and controls the attention between them.

    Class attributes:
      source_one_below: the network sees the source one state below the target's level, where the inversion asked it at
        the same time; its sources must be pinned to the states of the inversion.
    """

    source_one_below: bool = False

    @abstractmethod
    def control(
        self, layers: Sequence[AttentionLayer], prompts: Prompts, tokenizer: Any, device: str
    ) -> Control:
        """What is changed in the network for given prompts.

        Args:
          layers: those of the network, in order of execution.
          tokenizer: the `PromptTokenizer` of the network's text encoder.
          device: where tensors that the control holds are to lie.
        """

    def target_start(self, latent: Tensor, sample_ids: Sequence[int]) -> Tensor:
        """Where the targets start, (B, C, H, W): the latent, unless an editor says otherwise."""
        return latent
