"""A denoiser whose targets are evaluated beside their sources, under the control of an editor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taba_core.diffusion.attention.control import Call
from taba_core.diffusion.attention.editor import AttentionEditor, Prompts
from taba_core.diffusion.attention.layers import attention_layers, no_attention_control
from taba_core.diffusion.attention.processor import put_under_control
from taba_core.diffusion.denoiser import Denoiser, WrappedDenoiser, predict_ends
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.level import Level
from taba_core.diffusion.sampling import Conditioning
from taba_core.errors import UsageError

# Axes: B images; R = 2 B rows, sources first; C channels, H rows, W columns.

_EMBEDS = "prompt_embeds"


class Controlled(WrappedDenoiser):
    """A network on pairs of states: rows 0..B-1 are sources, rows B..2B-1 their targets, in every call.

    A pair is evaluated together; what comes out depends on the two rows of the image only. Any sampler that treats rows
    alike takes it for a denoiser of twice as many images: DDIM under guidance, or the own sampler of an inversion
    method. It works on layers of its own, so the network that it was made from stays as it is.
    """

    def __init__(
        self, denoiser: Denoiser, editor: AttentionEditor, prompts: Prompts, grid: TimestepGrid
    ) -> None:
        """Take a network under an editor's control.

        Attributes:
          cond: what all 2 B rows read: the prompts of the sources, then those of the targets.

        Args:
          grid: of the sampler; the time of a call says which step it is of.
        Raises:
          UsageError: a network whose attention cannot be controlled, or a compiled one; prompts that the editor cannot
            take together.
        """
        super().__init__(denoiser)
        self._own, unet = with_own_layers(denoiser)
        for source, target in zip(prompts.source, prompts.target, strict=True):
            editor.check_prompts(source, target)
        text = denoiser.text  # type: ignore[attr-defined]  # networks with such layers read text
        sources, targets = text.encode(list(prompts.source)), text.encode(list(prompts.target))
        self.cond: dict[str, Tensor] = {key: torch.cat([sources[key], targets[key]]) for key in sources}
        device = str(self.cond[_EMBEDS].device)
        self._control = editor.control(attention_layers(unet), prompts, text.tokenizer, device)
        self._switch = put_under_control(unet, self._control)
        self._times = np.asarray(grid.network_times)

    def step_at(self, time: float) -> int:
        """How many of the T sampling steps lie above a time of the network, 0..T-1.

        It is the step that asks there; a call between two grid points belongs to the step that it is part of.
        """
        above = int((self._times > time * (1 + 1e-6) + 1e-6).sum())
        return min(above, len(self._times) - 1)

    def eps(self, x_t: Tensor, t: float, cond: Conditioning) -> Tensor:
        """The noise in all rows, (R, C, H, W). Arguments as `Denoiser.eps`."""
        call, cond = self._call(t, cond)
        if not self._control.active(call):
            rows = self._apart(x_t, cond)
            return torch.cat([self.denoiser.eps(x, t, part) for x, part in rows])
        self._switch.call = call
        try:
            return self._own.eps(x_t, t, cond)
        finally:
            self._switch.call = None

    def predict(self, x: Tensor, level: Level, cond: Conditioning) -> Ends:
        """Both ends of all rows. Where nothing is controlled, sources and targets have the bits of plain sampling."""
        assert level.time is not None, "a denoiser is asked at a time"
        call, cond = self._call(level.time, cond)
        if not self._control.active(call):
            apart = [predict_ends(self.denoiser, part, level, read) for part, read in self._apart(x, cond)]
            return _together(x, level, apart)
        self._switch.call = call
        try:
            return predict_ends(self._own, x, level, cond)
        finally:
            self._switch.call = None

    @property
    def corrects_noise(self) -> bool:
        """Whether the editor changes the noise that is predicted."""
        return self._control.corrects_noise

    def corrected(self, eps: Tensor, time: float) -> Tensor:
        """What the editor puts in place of the noise predicted in all rows after guidance, (R, C, H, W)."""
        call = Call(self.step_at(time), len(self._times), True, len(eps) // 2)
        return self._control.corrected(call, eps)

    def _call(self, time: float, cond: Conditioning) -> tuple[Call, Conditioning]:
        """Which call this is, and what its rows read."""
        conditional = torch.equal(cond[_EMBEDS], self.cond[_EMBEDS])
        images = len(cond[_EMBEDS]) // 2
        if not conditional and self._control.source_keeps_prompt:
            cond = {key: torch.cat([self.cond[key][:images], value[images:]]) for key, value in cond.items()}
        return Call(self.step_at(time), len(self._times), conditional, images), cond

    def _apart(self, x: Tensor, cond: Conditioning) -> list[tuple[Tensor, Mapping[str, Tensor]]]:
        """Sources and targets with what they read."""
        half = len(x) // 2
        return [
            (x[rows], {key: value[rows] for key, value in cond.items()})
            for rows in (slice(None, half), slice(half, None))
        ]


class CorrectedNoise(WrappedDenoiser):
    """A denoiser of pairs, guided or not, whose noise is corrected by the editor that controls it."""

    def __init__(self, denoiser: Denoiser, controlled: Controlled) -> None:
        super().__init__(denoiser)
        self._controlled = controlled

    def eps(self, x_t: Tensor, t: float, cond: Conditioning) -> Tensor:
        """The noise in all rows, (R, C, H, W). Arguments as `Denoiser.eps`."""
        return self._controlled.corrected(self.denoiser.eps(x_t, t, cond), t)

    def predict(self, x: Tensor, level: Level, cond: Conditioning) -> Ends:
        """The ends of all rows by their corrected noise."""
        assert level.time is not None, "a denoiser is asked at a time"
        ends = predict_ends(self.denoiser, x, level, cond)
        return Ends(x, level, self._controlled.corrected(ends.eps, level.time))


def _together(x: Tensor, level: Level, apart: list[Ends]) -> Ends:
    """The ends of all rows from those of some after the others."""
    clean = [part.clean for part in apart if part.clean is not None]
    return Ends(x, level, torch.cat([part.eps for part in apart]), torch.cat(clean) if clean else None)


def with_own_layers(denoiser: Denoiser) -> tuple[Denoiser, Any]:
    """A network over layers of its own that share the weights, and its U-Net. Raises UsageError: as `Controlled`."""
    own = getattr(denoiser, "with_own_layers", None)
    if own is None:
        raise UsageError(no_attention_control(f"{type(denoiser).__name__} has no such layers"))
    copied: tuple[Denoiser, Any] = own()
    return copied
