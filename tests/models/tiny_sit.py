"""A tiny SiT with random weights: a file with the names and the order of the published one, and an autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml
from tiny_checkpoints import fixed_weights

SIDE, PATCH, WIDTH, DEPTH, HEADS, CLASSES, CHANNELS = 8, 2, 32, 2, 4, 10, 4
NETWORK = {
    "patch_size": PATCH, "hidden_size": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": CLASSES,
    "learn_sigma": True,
}  # fmt: skip


def published_shapes(learn_sigma: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a SiT file, in its order."""
    block = {
        "attn.qkv.weight": (3 * WIDTH, WIDTH), "attn.qkv.bias": (3 * WIDTH,),
        "attn.proj.weight": (WIDTH, WIDTH), "attn.proj.bias": (WIDTH,),
        "mlp.fc1.weight": (4 * WIDTH, WIDTH), "mlp.fc1.bias": (4 * WIDTH,),
        "mlp.fc2.weight": (WIDTH, 4 * WIDTH), "mlp.fc2.bias": (WIDTH,),
        "adaLN_modulation.1.weight": (6 * WIDTH, WIDTH), "adaLN_modulation.1.bias": (6 * WIDTH,),
    }  # fmt: skip
    numbers = PATCH**2 * CHANNELS * (2 if learn_sigma else 1)
    return {
        "pos_embed": (1, (SIDE // PATCH) ** 2, WIDTH),
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (CLASSES + 1, WIDTH),
        **{f"blocks.{i}.{name}": shape for i in range(DEPTH) for name, shape in block.items()},
        "final_layer.linear.weight": (numbers, WIDTH),
        "final_layer.linear.bias": (numbers,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }


def random_state(learn_sigma: bool = True) -> dict[str, torch.Tensor]:
    """Tensors of those names and shapes; no layer is zero, as it is at the beginning of a training."""
    with fixed_weights(11):
        return {
            name: torch.randn(shape) * 0.5 / max(shape[-1], 4) ** 0.5
            for name, shape in published_shapes(learn_sigma).items()
        }


def save_tiny_sit(folder: Path, state=None) -> Path:
    """A folder of SiT weights, and beside it a card that says what differs from the published network's."""
    from diffusers import AutoencoderKL

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_state() if state is None else state, folder / "SiT-tiny.pt")
    with fixed_weights(12):
        vae = AutoencoderKL(
            block_out_channels=(4, 4), layers_per_block=1, latent_channels=CHANNELS, norm_num_groups=1,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
        vae.save_pretrained(folder / "vae")
    card = folder.with_name(f"{folder.name}.yaml")
    fields = {
        "extends": "sit-xl", "title": "Tiny SiT", "image_size": 2 * SIDE, "sample_shape": [CHANNELS, SIDE, SIDE],
        "network": NETWORK, "weights": folder.name,
        "defaults": {"num_samples": 4, "batch_size": 4, "num_inference_steps": 4},
    }  # fmt: skip
    card.write_text(yaml.safe_dump(fields))
    return card
