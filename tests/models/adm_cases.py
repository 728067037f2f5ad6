"""Small ADM networks with recorded runs, and the parameters of OpenAI's U-Net from its constructor's loop."""

import json
from pathlib import Path

from taba_core.models.adm_flags import adm_flags
from taba_core.models.catalog import load_card

DATA = Path(__file__).parents[1] / "data"
TINY = ("adm32", "adm64", "adm256")
PROCESS = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "predict_xstart")


def network_flags(name):
    """Flags of a recorded network, without those of the process; lists are text, as OpenAI writes them."""
    recorded = json.loads((DATA / "adm_flags.json").read_text())[name]
    return {flag: value for flag, value in recorded.items() if flag not in PROCESS}


def tiny_card(name, **fields):
    """The card of the full-size model (schedule, grid, conventions) with the small network."""
    card = load_card({"adm32": "adm-32", "adm64": "adm-64", "adm256": "adm-256"}[name])
    network = fields.pop("network", network_flags(name))
    update = {
        "name": name,
        "network": network,
        "image_size": 32,
        "sample_shape": (3, 32, 32),
        "precision": "fp32",
    }
    return card.model_copy(update=update | fields)


def tiny_weights(name):
    return DATA / f"{name}.pt"


def full_flags(model):
    return adm_flags(model, load_card(model).network)


def openai_parameters(flags):
    """{name: shape} in the order in which guided_diffusion.unet.UNetModel creates its parameters."""
    shapes, width, time = {}, flags.num_channels, 4 * flags.num_channels

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    def residual(name, ch, out):
        layer(f"{name}.in_layers.0", ch)
        layer(f"{name}.in_layers.2", out, ch, 3, 3)
        layer(f"{name}.emb_layers.1", 2 * out if flags.use_scale_shift_norm else out, time)
        layer(f"{name}.out_layers.0", out)
        layer(f"{name}.out_layers.3", out, out, 3, 3)
        if ch != out:
            layer(f"{name}.skip_connection", out, ch, 1, 1)

    def attention(name, ch):
        layer(f"{name}.norm", ch)
        layer(f"{name}.qkv", 3 * ch, ch, 1)
        layer(f"{name}.proj_out", ch, ch, 1)

    layer("time_embed.0", time, width)
    layer("time_embed.2", time, time)
    if flags.class_cond:
        shapes["label_emb.weight"] = (flags.num_classes, time)
    layer("input_blocks.0.0", width, 3, 3, 3)
    # ds: how much smaller than the image; block: number in the list of all blocks
    attention_ds = [flags.image_size // resolution for resolution in flags.attention_resolutions]
    ch, skips, block, ds = width, [width], 1, 1
    for level, mult in enumerate(flags.channel_mult):
        for _ in range(flags.num_res_blocks):
            residual(f"input_blocks.{block}.0", ch, mult * width)
            ch = mult * width
            if ds in attention_ds:
                attention(f"input_blocks.{block}.1", ch)
            skips.append(ch)
            block += 1
        if level != len(flags.channel_mult) - 1:
            if flags.resblock_updown:
                residual(f"input_blocks.{block}.0", ch, ch)
            else:
                layer(f"input_blocks.{block}.0.op", ch, ch, 3, 3)
            skips.append(ch)
            block, ds = block + 1, ds * 2
    residual("middle_block.0", ch, ch)
    attention("middle_block.1", ch)
    residual("middle_block.2", ch, ch)
    block = 0
    for level, mult in reversed(list(enumerate(flags.channel_mult))):
        for i in range(flags.num_res_blocks + 1):
            residual(f"output_blocks.{block}.0", ch + skips.pop(), mult * width)
            ch, place = mult * width, 1
            if ds in attention_ds:
                attention(f"output_blocks.{block}.1", ch)
                place = 2
            if level and i == flags.num_res_blocks:
                if flags.resblock_updown:
                    residual(f"output_blocks.{block}.{place}", ch, ch)
                else:
                    layer(f"output_blocks.{block}.{place}.conv", ch, ch, 3, 3)
                ds //= 2
            block += 1
    layer("out.0", ch)
    layer("out.2", 6 if flags.learn_sigma else 3, width, 3, 3)
    return shapes
