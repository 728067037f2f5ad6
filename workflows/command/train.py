"""`taba train`: train networks, one or all of the box, within a time budget or for a number of steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

What = Annotated[
    str,
    typer.Argument(
        help="`box`: the networks that come with taba; or one: photo-adm, photo-ldm, photo-dit, photo-flow, photo-if, "
        "photo-tiny, crop-classifier; and the paper's adm-32 (CIFAR-10) and adm-64 (ImageNet-64), trained as there."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder of all files; the same command goes on there.")]
Minutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Time budget of everything together: 10 on a GPU, hours on a CPU."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Steps of each network in place of a budget: the same bits every time. Default of photo-tiny, adm-32 and "
        "adm-64: the whole training.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
Parallel = Annotated[
    bool | None,
    typer.Option(
        "--parallel/--in-turn", help="Whether the networks train at once. Default: at once on a GPU."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of initial weights and all draws.")]
Photos = Annotated[
    str, typer.Option("--photos", help="A folder of photographs. Default: the ten embedded ones.")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", help="photographs, cifar-10 or imagenet-64. Default: what the network is made for."
    ),
]
DataPath = Annotated[
    str | None,
    typer.Option("--data-path", help="Where the images lie. Default: $TABA_CACHE/datasets/NAME."),
]
Batch = Annotated[int | None, typer.Option("--batch-size", help="Rows of a step. Default: the recipe's.")]
Rate = Annotated[float | None, typer.Option("--learning-rate", help="At its peak. Default: the recipe's.")]


@dataclass(frozen=True)
class Recipe:
    """What every network is trained on and by; the process of each network takes these options as they are."""

    seed: Seed = 0
    photos: Photos = "builtin"
    data: Data = None
    data_path: DataPath = None
    batch_size: Batch = None
    learning_rate: Rate = None

    def arguments(self) -> tuple[str, ...]:
        """As arguments of a command; what is not given is left to the recipe."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return tuple(
            part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))
        )


def train(
    recipe: Recipe,
    what: What = "box",
    out: Out = Path("runs/box"),
    minutes: Minutes = None,
    steps: Steps = None,
    device: Device = "cpu",
    parallel: Parallel = None,
) -> None:
    """Train small networks of the paper's families as those that come with taba, or the paper's own two.

    `--model OUT/trained-NAME` (of photo-adm: OUT/trained-photo-adm/card.yaml) asks a trained network any question.
    """
    from taba_core.training.box import BoxRun, check_data, failed, train_box

    names = () if what == "box" else (what,)
    run = BoxRun(out, minutes, steps, names, device, parallel, recipe.arguments())
    check_data(run, data=recipe.data, data_path=recipe.data_path, photos=recipe.photos)
    if failed(train_box(run)):
        raise SystemExit(3)
