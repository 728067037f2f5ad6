"""No field of a component's configuration that changes the result is ignored: over every field of every class."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from flow_field_cases import OF_FLOWS, of_a_flow
from published_configs import (
    CLIP_2022,
    CLIP_TOKENIZER,
    DIT_2023,
    FLUX_DEV_SCHEDULER,
    FLUX_VAE,
    IF_INDEX,
    SD3_INDEX,
    T5_XXL,
)
from tiny_checkpoints import edit_json, fixed_weights, tiny_kl, tiny_ldm, tiny_unet2d, tiny_vq
from tiny_text_checkpoints import save_tiny_sdxl, tiny_card
from torch.testing import assert_close

from taba_core.errors import UsageError
from taba_core.models import dit, stable_diffusion, unet
from taba_core.models.architectures import _described
from taba_core.models.catalog import load_card
from taba_core.models.codec import KLCodec, VQCodec
from taba_core.models.config_fields import refused_fields, understood_fields
from taba_core.models.profile import profile_named

EXACT = profile_named("exact")
T = torch.tensor([301.0, 301.0])
LABELS = torch.tensor([1, 3])
FAMILY = {"UNet2DModel": "unet", "DiTTransformer2DModel": "dit", "VQModel": "ldm", "T5EncoderModel": "if"}
FAMILY |= {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}
NETWORKS = (
    "UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel",
    "AutoencoderKL", "VQModel",
)  # fmt: skip
SCHEDULERS = (
    "DDIM", "DDPM", "PNDM", "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete",
    "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "KDPM2Discrete",
)  # fmt: skip
# A value off the default, for fields where no rule below makes one.
OTHER = {
    "down_block_types": {
        "UNet2DModel": ("AttnDownBlock2D", "DownBlock2D"),
        "UNet2DConditionModel": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "AutoencoderKL": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
        "VQModel": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"),
    },
    "up_block_types": {
        "UNet2DModel": ("UpBlock2D", "AttnUpBlock2D"),
        "UNet2DConditionModel": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "AutoencoderKL": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
        "VQModel": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"),
    },
    "mid_block_type": {"UNet2DModel": None, "UNet2DConditionModel": "UNetMidBlock2D"},
    "block_out_channels": {
        **dict.fromkeys(("UNet2DModel", "UNet2DConditionModel"), (16, 24)),
        **dict.fromkeys(("AutoencoderKL", "VQModel"), (8, 8, 16)),
    },
    "norm_type": {"VQModel": "spatial", "DiTTransformer2DModel": "layer_norm"},
    "act_fn": "gelu", "activation_fn": "gelu", "norm_num_groups": 4, "attn_norm_num_groups": 4, "norm_eps": 1e-3,
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift",
    "downsample_padding": 0, "attention_head_dim": 4, "time_embedding_dim": 48, "time_embedding_act_fn": "silu",
    "timestep_post_act": "silu", "conv_in_kernel": 5, "conv_out_kernel": 5, "cross_attention_norm": "layer_norm",
    "reverse_transformer_layers_per_block": [2, 1], "time_embedding_type": "fourier", "encoder_hid_dim": 20,
    "cross_attention_dim": 24, "sample_size": 32, "num_embeds_ada_norm": 12, "num_vq_embeddings": 32,
    "patch_size": 4, "num_attention_heads": 4, "num_layers": 1, "dropout": 0.5, "vq_embed_dim": 5,
    "scaling_factor": 0.5, "latent_channels": 6,
}  # fmt: skip
# Fields that say how many channels go in or out; what they mean together is tested beside the loaders.
CHANNELS = {"in_channels", "out_channels"}


def tiny(kind, **changes):
    """The tiny network of a class, with the same seed."""
    import diffusers

    bases = {
        "UNet2DConditionModel": {
            "sample_size": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (16, 32),
            "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 2, "cross_attention_dim": 16,
        },
        "DiTTransformer2DModel": {
            "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8,
            "num_layers": 2, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 10,
        },
        "SD3Transformer2DModel": {
            "sample_size": 8, "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8,
            "caption_projection_dim": 16, "joint_attention_dim": 16, "pooled_projection_dim": 12,
            "pos_embed_max_size": 8,
        },
        "FluxTransformer2DModel": {
            "num_layers": 2, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16,
            "joint_attention_dim": 16, "pooled_projection_dim": 12, "axes_dims_rope": (4, 4, 8),
        },
    }  # fmt: skip
    makers = {"UNet2DModel": tiny_unet2d, "AutoencoderKL": tiny_kl, "VQModel": tiny_vq}
    with fixed_weights():
        if kind in bases:
            return getattr(diffusers, kind)(**bases[kind] | changes).eval()
        return makers[kind](**changes).eval()


def arguments(kind):
    import diffusers

    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    return {name: p.default for name, p in parameters.items() if name != "self"}


def off_default(kind, field, default):
    if field in OF_FLOWS.get(kind, ()):
        return OF_FLOWS[kind][field][0]
    if field in OTHER:
        value = OTHER[field]
        return value[kind] if isinstance(value, dict) else value
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return "other" if isinstance(default, str) else 8


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ours_and_theirs(kind, module, monkeypatch):
    """What taba computes with a network, and diffusers' own forward pass called as its pipelines call it."""
    config = module.config
    with torch.no_grad():
        if kind in ("AutoencoderKL", "VQModel"):
            channels = config.get("vq_embed_dim") or config.latent_channels
            x_0 = normal(2, channels, 8, 8)
            codec = (KLCodec if kind == "AutoencoderKL" else VQCodec)(module, 0.5)
            image = normal(2, 3, 32, 32, seed=2)
            encoded = module.encode(image)
            theirs = encoded.latent_dist.mean if kind == "AutoencoderKL" else encoded.latents
            return (codec.decode(x_0), codec.encode(image)), (module.decode(x_0 / 0.5).sample, 0.5 * theirs)
        if kind == "UNet2DModel":
            x, count = normal(2, 3, 16, 16), config.num_class_embeds or 0
            labels = LABELS if count else None
            theirs = module(x, T.long(), class_labels=labels, return_dict=False)[0]
            learned = config.time_embedding_type == "learned"
            predict = unet._predict(EXACT.prepare(module, "fp32", "cpu"), count, learned)
            return predict(x, T, {"class_id": LABELS}), theirs
        if kind == "DiTTransformer2DModel":
            x = normal(2, 4, config.sample_size, config.sample_size)
            theirs = module(x, timestep=T.long(), class_labels=LABELS, return_dict=False)[0]
            predict = dit._predict(EXACT.prepare(module, "fp32", "cpu"), 10, 10)
            return predict(x, T, {"class_id": LABELS}), theirs
        if kind in OF_FLOWS:
            return of_a_flow(kind, module)
        width = config.encoder_hid_dim or config.cross_attention_dim
        x, text = normal(2, 4, 8, 8), normal(2, 77, width, seed=3)
        theirs = module(x, T[0].long(), encoder_hidden_states=text, return_dict=False)[0]
        encoder = SimpleNamespace(embedding_width=config.cross_attention_dim, encode=None)
        monkeypatch.setattr(stable_diffusion, "load_clip_encoder", lambda *args, **kwargs: encoder)
        model = stable_diffusion._sd(tiny_card("sd"), Path(), module, None, device="cpu", profile=EXACT)
        return model.output(x, T, {"prompt_embeds": text}), theirs


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_field_off_its_default_is_refused_by_name_or_computed_as_diffusers_does(kind, monkeypatch):
    treatments, family = understood_fields(kind), FAMILY.get(kind, "sd")
    needs = {
        "num_train_timesteps": {"time_embedding_type": "learned"},
        "class_embed_type": {"num_class_embeds": 5},
        # The spatial norm has 32 groups, whatever norm_num_groups says.
        "norm_type": {"block_out_channels": (32, 32, 32)},
    }
    for field, default in arguments(kind).items():
        value = off_default(kind, field, default)
        refused = refused_fields(kind, family, {field: value})
        if treatments[field] == "only":
            assert [text.split("=")[0] for text in refused] == [field], field
            # Being silent, and the class's own default, must pass.
            assert refused_fields(kind, family, {field: default}) == [], field
            continue
        assert refused == [], field
        if field in CHANNELS:
            continue
        if field == "num_train_timesteps":
            value = 1000
        also = OF_FLOWS.get(kind, {}).get(field, (None, needs.get(field, {})))[1]
        module = tiny(kind, **{field: value}, **also)
        assert module.config[field] == value
        ours, theirs = ours_and_theirs(kind, module, monkeypatch)
        assert_close(ours, theirs, atol=2e-5, rtol=1e-4, msg=lambda text, field=field: f"{field}: {text}")
        if treatments[field] == "unused":
            plain, _ = ours_and_theirs(kind, tiny(kind), monkeypatch)
            assert_close(ours, plain, atol=0, rtol=0, msg=lambda text, field=field: f"{field}: {text}")


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_values_that_are_allowed_beside_the_default_are_computed_too(kind, monkeypatch):
    allowed = {
        "UNet2DModel": [
            {"time_embedding_type": "learned", "num_train_timesteps": 1000},
            {"class_embed_type": "timestep", "num_class_embeds": 5},
        ],
        "UNet2DConditionModel": [
            {"addition_embed_type": "text", "encoder_hid_dim": 16, "addition_embed_type_num_heads": 4},
            {"encoder_hid_dim": 20, "encoder_hid_dim_type": "text_proj"},
        ],
    }
    for changes in allowed.get(kind, [{}]):
        assert refused_fields(kind, FAMILY.get(kind, "sd"), changes) == []
        ours, theirs = ours_and_theirs(kind, tiny(kind, **changes), monkeypatch)
        assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"])
def test_every_field_of_a_text_encoder_is_understood(kind):
    from transformers import CLIPTextConfig, T5Config

    config = (T5Config if kind == "T5EncoderModel" else CLIPTextConfig)().to_dict()
    assert refused_fields(kind, FAMILY.get(kind, "sdxl"), config) == []
    for field, value in {
        "use_attention_mask": True,  # diffusers' pipeline would then give the encoder the mask of the padding
        "return_dict": False,
        "chunk_size_feed_forward": 2,
        "is_decoder": True,
        "model_type": "xlm-roberta",
        "quantization_config": {"load_in_8bit": True},
        "invented": 0,
    }.items():
        (refused,) = refused_fields(kind, FAMILY.get(kind, "sdxl"), config | {field: value})
        assert refused.startswith(f"{field}=")


def test_every_field_of_every_scheduler_is_understood():
    import diffusers

    treatments = understood_fields("Scheduler")
    for name in SCHEDULERS:
        for field, default in arguments(f"{name}Scheduler").items():
            assert refused_fields("Scheduler", "sd", {field: default}) == [], (name, field)
            if treatments[field] == "only":
                assert refused_fields("Scheduler", "sd", {field: off_default(name, field, default)}), field
    # What DDIM itself knows is read, none of it is set aside.
    assert {treatments[field] for field in arguments("DDIMScheduler")} == {"read"}
    assert diffusers.DDIMScheduler.config_name == "scheduler_config.json"
    assert refused_fields("Scheduler", "sd", {"predict_epsilon": False})
    assert refused_fields("Scheduler", "sd", {"timestep_type": "continuous"})


@pytest.mark.parametrize(
    ("kind", "family", "config", "refused"),
    [
        ("UNet2DConditionModel", "sd", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256 (allowed: null)"),
        ("UNet2DConditionModel", "sd", {"addition_embed_type": "text_time"}, 'addition_embed_type="text_time" ('),
        ("UNet2DConditionModel", "sdxl", {"addition_embed_type": "image"}, 'addition_embed_type="image" (allowed'),
        ("UNet2DConditionModel", "sdxl", {"quantization_config": {"bits": 4}}, 'quantization_config={"bits": 4} ('),
        ("AutoencoderKL", "sd", {"latents_mean": [0.0]}, "latents_mean=[0.0] (allowed: null)"),
        ("AutoencoderKL", "sdxl", {"shift_factor": 0.0609}, "shift_factor=0.0609 (allowed: null or 0)"),
        ("AutoencoderKL", "sd", {"new": None}, "new=null (not a field that this version knows)"),
        ("DiTTransformer2DModel", "dit", {"caption_channels": 4096}, "caption_channels=4096 (allowed: null)"),
        ("CLIPTokenizer", "sd", {"model_max_length": 248}, "model_max_length=248 (allowed: 77)"),
        ("CLIPTokenizer", "sd", {"padding_side": "left"}, 'padding_side="left" (allowed: "right")'),
        ("T5Tokenizer", "if", {"sp_model_kwargs": {"enable_sampling": True}}, "sp_model_kwargs={"),
        ("Pipeline", "sdxl", {"requires_aesthetics_score": True}, "requires_aesthetics_score=true (allowed: false)"),
        ("Pipeline", "sd", {"controlnet": ["diffusers", "ControlNetModel"]}, 'controlnet=["diffusers", "Control'),
        ("Pipeline", "sd", {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"]}, "image_encoder="),
    ],
)  # fmt: skip
def test_inputs_and_scales_that_taba_does_not_have_are_refused(kind, family, config, refused):
    (found,) = refused_fields(kind, family, config)
    assert found.startswith(refused)


@pytest.mark.parametrize(
    ("kind", "family", "config"),
    [
        ("Pipeline", "sdxl", {"force_zeros_for_empty_prompt": True, "add_watermarker": None}),
        ("Pipeline", "sd", {"safety_checker": ["stable_diffusion", "X"], "requires_safety_checker": True}),
        ("Pipeline", "sd", {"image_encoder": [None, None], "_name_or_path": "x"}),
        ("AutoencoderKL", "sdxl", {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "shift_factor": 0.0}),
        ("T5Tokenizer", "if", {"model_max_length": 512, "extra_ids": 100, "legacy": True}),
        ("DiTTransformer2DModel", "dit", {"use_linear_projection": False, "only_cross_attention": False}),
    ],
)  # fmt: skip
def test_fields_that_cannot_matter_pass(kind, family, config):
    assert refused_fields(kind, family, config) == []


@pytest.mark.parametrize(
    ("kind", "family", "config"),
    [
        ("CLIPTextModel", "sd", CLIP_2022),
        ("CLIPTextModelWithProjection", "sdxl", CLIP_2022),
        ("T5EncoderModel", "if", T5_XXL),
        ("DiTTransformer2DModel", "dit", DIT_2023),
        ("CLIPTokenizer", "sdxl", CLIP_TOKENIZER),
        ("T5Tokenizer", "if", {"extra_ids": 100, "sp_model_kwargs": {}, "pad_token": {"content": "<pad>"}}),
        ("Pipeline", "if", IF_INDEX),
        ("AutoencoderKL", "sd3", FLUX_VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        ("AutoencoderKL", "flux", FLUX_VAE),
        ("FlowMatchEulerDiscreteScheduler", "flux", FLUX_DEV_SCHEDULER),
        ("FlowMatchEulerDiscreteScheduler", "sd3", {"num_train_timesteps": 1000, "shift": 3.0}),
        ("Pipeline", "sd3", SD3_INDEX),
        ("Scheduler", "ldm", {"timestep_values": None, "timesteps": 1000, "clip_sample": False}),
    ],
)
def test_published_configurations_pass(kind, family, config):
    assert refused_fields(kind, family, config) == []


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, name) for name in ("ldm", "dit", "if", "sdxl", "sd")),
        *((name, "sd3") for name in ("sd3-medium", "sd35-medium", "sd35-large")),
        *((name, "flux") for name in ("flux-dev", "flux-schnell")),
    ],
)
def test_the_published_architectures_pass(name, family):
    described = _described()[name]
    assert refused_fields(described["class"], family, described["config"]) == []


def test_a_directory_is_refused_with_all_fields_of_the_file_before_it_is_planned(tmp_path):
    directory = save_tiny_sdxl(tmp_path / "mine")
    edit_json(directory / "vae" / "config.json", shift_factor=0.1, invented=[1, 2])
    message = (
        f"{directory}/vae/config.json: these fields are not supported for an AutoencoderKL: shift_factor=0.1 "
        "(allowed: null or 0); invented=[1, 2] (not a field that this version knows). To ignore them would change "
        "what the model computes. Use a model without, or, if the weights do not depend on it, give the field an "
        "allowed value or delete it from this file."
    )
    with pytest.raises(UsageError) as caught:
        load_card(str(directory))
    assert str(caught.value) == message
    # The way out that the message names.
    edit_json(directory / "vae" / "config.json", shift_factor=None, invented=...)
    assert load_card(str(directory)).family == "sdxl"


def test_a_built_in_card_asks_the_directory_before_it_is_planned(tmp_path):
    from taba_core.models.base import model_spec

    directory = tiny_ldm(tmp_path / "mine")
    edit_json(directory / "unet" / "config.json", invented=1)
    with pytest.raises(
        UsageError, match=r"unet/config.json: this field is not supported for a UNet2DModel: inv"
    ):
        model_spec("ldm", weights=directory)


def test_a_component_of_another_class_is_refused(tmp_path):
    directory = save_tiny_sdxl(tmp_path / "mine")
    edit_json(directory / "vae" / "config.json", _class_name="AutoencoderTiny")
    with pytest.raises(
        UsageError, match="is a AutoencoderTiny, and a model of this family needs an AutoencoderKL"
    ):
        load_card(str(directory))
