"""Every field of the transformers of text and flow off its default, and what taba and diffusers compute with it."""

from __future__ import annotations

import torch

from taba_core.models import flux, stable_diffusion_3
from taba_core.models.catalog import load_card
from taba_core.models.profile import profile_named

EXACT = profile_named("exact")
T = torch.tensor([301.0, 301.0])
# Of the transformers of flows: a value off the default, and what else it needs.
OF_FLOWS = {
    "SD3Transformer2DModel": {
        "num_attention_heads": (4, {"caption_projection_dim": 32}),
        "attention_head_dim": (16, {"caption_projection_dim": 32}),
        "caption_projection_dim": (32, {"num_attention_heads": 4}),
        "dual_attention_layers": ((0,), {}),
        "qk_norm": ("rms_norm", {}),
        "joint_attention_dim": (20, {}),
        "pooled_projection_dim": (10, {}),
        "pos_embed_max_size": (6, {}),
    },
    "FluxTransformer2DModel": {
        "attention_head_dim": (8, {"axes_dims_rope": (2, 2, 4)}),
        "axes_dims_rope": ((8, 4, 4), {}),
        "num_single_layers": (2, {}),
        "joint_attention_dim": (20, {}),
        "pooled_projection_dim": (10, {}),
    },
}


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_a_flow(kind, module):
    """`ours_and_theirs` of a transformer of text and flow."""
    from diffusers import FluxPipeline

    config, x = module.config, normal(2, 16, 8, 8)
    text = {"prompt_embeds": normal(2, 7, config.joint_attention_dim, seed=3)}
    text["pooled"] = normal(2, config.pooled_projection_dim, seed=4)
    given = {"encoder_hidden_states": text["prompt_embeds"], "pooled_projections": text["pooled"]}
    if kind == "SD3Transformer2DModel":
        theirs = module(x, timestep=T, **given, return_dict=False)[0]
        predict = stable_diffusion_3.predict_with(
            load_card("sd3-medium"), EXACT.prepare(module, "fp32", "cpu")
        )
        return predict(x, T, text), theirs
    w = 3.5 if config.guidance_embeds else None
    packed = module(
        FluxPipeline._pack_latents(x, 2, 16, 8, 8),
        timestep=T / 1000,
        guidance=None if w is None else torch.full((2,), w),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
        txt_ids=torch.zeros(7, 3),
        **given,
        return_dict=False,
    )[0]
    card = load_card("flux-dev").model_copy(update={"distilled_guidance": w})
    predict = flux.predict_with(card, EXACT.prepare(flux.FluxOnLatents(module), "fp32", "cpu"))
    return predict(x, T, text), FluxPipeline._unpack_latents(packed, 64, 64, 8)
