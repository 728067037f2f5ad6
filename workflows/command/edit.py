"""`taba edit`: a user's own photographs, inverted, repaired and edited."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from workflows.command.arguments import DEFAULT_STORE, DeviceName, Method, StorePath, Weights, Where

Place = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE_OR_FOLDER",
        help="A photograph, or a folder of them; captions or classes of a folder lie in its metadata.jsonl.",
    ),
]
To = Annotated[
    str,
    typer.Option(
        "--to", metavar="TARGET", help="What the edits are to show: a prompt, or a class by name or number."
    ),
]
Prompt = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="SOURCE",
        help="What the images show: a prompt, or a class. Default: what their folder says; without captions a text "
        "model inverts under the empty prompt, which keeps less of the image.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model that reads classes or prompts (see `taba list`), or the path of a card or diffusers directory. "
        "Default: photo-dit where the target is one of its classes, else photo-if.",
    ),
]
ForwardSteps = Annotated[
    list[str] | None,
    typer.Option(
        "--forward-steps",
        metavar="K",
        help="First steps of the inversion that forward diffusion replaces, a number or a percentage of the steps; "
        "repeatable; 0 is the latent as inverted. Default: 0 and 4 %.",
    ),
]
Seeds = Annotated[int, typer.Option("--seeds", help="Forward noises that each K > 0 is repaired with.")]
Scale = Annotated[
    float | None,
    typer.Option(
        "--guidance-scale",
        metavar="W",
        help="Classifier-free guidance of the edits; 1 is none. Default: 7.5 of Stable Diffusion, 3 of others, 1 where "
        "a model cannot be guided. Inversion and reconstruction are not guided.",
    ),
]
Editor = Annotated[
    str | None,
    typer.Option(
        "--editor",
        metavar="NAME",
        help="What samples the edits under control of their source (see `taba list`): masactrl, tic, rival, "
        "prompt-to-prompt, plug-and-play and style-aligned on Stable Diffusion and SDXL, sdedit on every model. "
        "Default: the sampler alone.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="editor.NAME=VALUE", help="An option of the editor (see `taba list`); repeatable."
    ),
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="T, steps of the inversion and of the sampler.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FOLDER", help="Of the pictures. Default: runs/edits/IMAGE-to-TARGET."),
]


@dataclass(frozen=True)
class Wanted:
    """What the edits are, beside the images and the target."""

    prompt: Prompt = None
    model: Model = None
    method: Method = "ddim"
    weights: Weights = None
    forward_steps: ForwardSteps = None
    seeds: Seeds = 4
    guidance_scale: Scale = None
    steps: Steps = 50
    editor: Editor = None
    assignments: Set = None


def edit(
    wanted: Wanted,
    where: Where,
    place: Place,
    to: To,
    output: Output = None,
    store: StorePath = DEFAULT_STORE,
    device: DeviceName = None,
) -> None:
    """Edit your own photographs: invert them, repair their latents, and sample another prompt or class.

    Each image is taken as its centre square in the size of the model. Its latent is repaired by forward noise in place
    of the first K steps of the inversion, once with each seed. An editor (--editor) samples the edits beside their
    source, from the same latents.

    The output folder gets every picture as a PNG file; contact-sheet.png with the source, its reconstruction, the edit
    from the latent and the edits from repaired latents; and edits.json with settings, seeds, hashes, distances from
    the source and seconds. The arrays are in the store: the same command computes only what is missing there.
    """
    from workflows.execution.edit import EditAsked, edit_pictures

    given = asdict(wanted) | {
        "forward_steps": tuple(wanted.forward_steps or ()),
        "assignments": tuple(wanted.assignments or ()),
    }
    asked = EditAsked(place, to, **given)
    edit_pictures(asked, store=store, output=output, device=device, where=asdict(where))
