"""diffusers' attention processors under the control of an editor."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from taba_core.diffusion.attention.control import Call, Control, Heads
from taba_core.diffusion.attention.layers import AttentionLayer, attention_layers


class Switch:
    """The call that is running under control; None where the network is left to itself."""

    def __init__(self) -> None:
        self.call: Call | None = None


class ControlledProcessor:
    """A layer's own processor, and in touched layers of a controlled call the editor's attention in its place."""

    def __init__(self, own: Any, layer: AttentionLayer, control: Control, switch: Switch) -> None:
        self._own, self._layer, self._control, self._switch = own, layer, control, switch

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """The layer's output, (rows, N, width), as diffusers' AttnProcessor2_0 forms it in transformer blocks."""
        call = self._switch.call
        if call is None or not self._control.touches(call, self._layer):
            output: Tensor = self._own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return output
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        heads = Heads(
            *(
                _split(project(x), attn.heads)
                for project, x in ((attn.to_q, hidden_states), (attn.to_k, read), (attn.to_v, read))
            )
        )
        attended = self._control.attend(call, self._layer, heads)
        merged = attended.transpose(1, 2).flatten(2).to(hidden_states.dtype)
        output = attn.to_out[1](attn.to_out[0](merged))
        return output / attn.rescale_output_factor


def put_under_control(unet: Any, control: Control) -> Switch:
    """Give every attention layer of a U-Net a controlled processor, and every watched module a hook.

    Args:
      unet: layers that no one else uses; they stay under control.
    Returns:
      The switch that says which call is controlled.
    """
    switch = Switch()
    for layer in attention_layers(unet):
        layer.module.set_processor(ControlledProcessor(layer.module.processor, layer, control, switch))

    def hook(module: Any, entering: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if switch.call is None else control.replaced(switch.call, module, entering[0], output)

    for module in control.watched(unet):
        module.register_forward_hook(hook)
    return switch


def _split(x: Tensor, heads: int) -> Tensor:
    """(rows, N, h d) to (rows, h, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
