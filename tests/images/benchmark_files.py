"""Tiny folders in the layouts of PIE-Bench and ImageNet-R-TI2I."""

from __future__ import annotations

import json

import numpy as np
import yaml
from PIL import Image

PROMPTS = [
    ("a red boat", "a [blue] boat"),
    ("the horse", "the [white] horse"),
    ("a cat on the boat", "a [red cat] on the boat"),
    ("the boat", "the [cat]"),
    ("a cat", "a cat on a horse"),
]
# Image 0: the second row of pixels but its ends; image 1: everything; others: a square of 6 x 6 at (4, 4).
SIDE = 16


def runs_of(index):
    if index == 0:
        return [SIDE + 1, SIDE - 2]
    if index == 1:
        return [0, SIDE * SIDE]
    return [number for row in range(4, 10) for number in (row * SIDE + 4, 6)]


def save_pie_bench(folder, count=5):
    """`count` images of 16 x 16 in two folders of types, mapping_file.json beside them."""
    rng, table = np.random.default_rng(3), {}
    for index in range(count):
        place = f"{index % 2}_kind_{index % 2}/{index:012}.png"
        file = folder / "annotation_images" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)).save(file)
        source, target = PROMPTS[index % len(PROMPTS)]
        table[f"{index:012}"] = {
            "image_path": place,
            "original_prompt": source,
            "editing_prompt": target,
            "editing_instruction": "",
            "editing_type_id": str(index % 2),
            "blended_word": "",
            "mask": runs_of(index),
        }
    write_table(folder, table)
    return folder


def read_table(folder):
    return json.loads((folder / "mapping_file.json").read_text())


def write_table(folder, table):
    (folder / "mapping_file.json").write_text(json.dumps(table))


def save_ti2i(folder):
    """Two images with two targets each, in folders whose case is not that of the table; one entry without an image."""
    rng, entries = np.random.default_rng(4), []
    for name in ("cat", "castle"):
        file = folder / "Real" / name.capitalize() / "one.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(file)
        entries.append(
            {
                "init_img": f"real/{name}/one.jpg",
                "target_prompts": [f"a photo of a {name}", f"an origami {name}"],
            }
        )
    entries[1]["source_prompts"] = ["the castle"]
    entries.append({"target_prompts": ["nothing"]})
    (folder / "imnetr-ti2i.yaml").write_text(yaml.safe_dump(entries))
    return folder
