"""`python -m taba_core.training.ship OUT`: put what `taba train box --out OUT` made into the package, for developers.

Cards (models/cards.yaml) are written by hand: where a recipe changed, so must its card.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taba_core.models.photos import Photo, load_photos
from taba_core.models.weights import BOX, content_hash
from taba_core.training.captions import CAPTION_SIZE, CaptionGrammar, facts_of
from taba_core.training.checkpoint import write_text_whole
from taba_core.training.crops import CropSource
from taba_core.training.export import WEIGHTS, unpack
from taba_core.training.recipe import box_recipes, recipe_named

NUM_CAPTIONS = 500
_CURVE = 40  # points that are kept of a loss curve


def ship(out: Path, box: Path = BOX, names: Sequence[str] = ()) -> None:
    """Write the weights, the facts (NAME.json) and the captions of trained networks.

    Args:
      out: folder of `taba train`.
      box: where to.
      names: recipes; () is those of the box.
    Raises:
      UsageError: a network was not trained.
    """
    for name in names or tuple(box_recipes()):
        facts = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        recipe = recipe_named(name)
        if recipe.family != "autoencoder":
            autoencoder = out / f"{recipe.autoencoder}.safetensors" if recipe.autoencoder else None
            fresh = box / f".{name}"  # complete before it takes the place of what may be in use
            unpack(out / f"{name}.safetensors", fresh, autoencoder=autoencoder)
            (fresh / "card.yaml").unlink(missing_ok=True)
            for path in fresh.rglob("*.safetensors"):
                path.chmod(0o644)  # whoever may use the installation may read them
            shutil.rmtree(box / name, ignore_errors=True)
            fresh.rename(box / name)
            one_file = recipe.family in ("adm", "classifier")
            weights = box / name / WEIGHTS if one_file else box / name
            facts = {"content": content_hash(weights), **facts}
        write_text_whole(box / f"{name}.json", _text(facts))
    write_text_whole(box / "captions.txt", "\n".join(captions(load_photos())) + "\n")


def captions(photos: Sequence[Photo]) -> list[str]:
    """Captions of training crops, each as often as its facts occur: prompts as photo-if was trained on them."""
    crops = CropSource(photos, "training").counted(
        range(NUM_CAPTIONS), CAPTION_SIZE, seed=0, stream="captions"
    )
    return CaptionGrammar([photo.name for photo in photos]).texts(facts_of(crops))


def _text(facts: dict[str, Any]) -> str:
    """JSON with the curve, thinned, on one line, and so the table of a classifier."""
    curve = facts["loss_curve"]
    kept = sorted({*range(0, len(curve), max(len(curve) // _CURVE, 1)), len(curve) - 1})
    on_a_line = {name: facts[name] for name in ("confusion",) if name in facts}
    on_a_line["loss_curve"] = [curve[i] for i in kept]
    rest = {name: value for name, value in facts.items() if name not in on_a_line}
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    return head + "".join(f',\n "{name}": {json.dumps(value)}' for name, value in on_a_line.items()) + "\n}\n"


if __name__ == "__main__":
    ship(Path(sys.argv[1]), names=sys.argv[2:])
