"""Which models differ in what? (Table 1)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.models.base import training_images
from taba_core.models.cards import Card
from taba_core.models.catalog import list_cards
from workflows.analysis.findings import Findings, for_each, item_context, item_id, row_labels
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.presentation import DASH, Cell, Column, Figure, Section, Table
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.report import plots

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_SHOWN = 24
_COLUMNS = (
    Column("diffusion", "Diffusion"),
    Column("image_size", "Image res."),
    Column("latent_size", "Latent res."),
    Column("train_set", "Trainset"),
    Column("conditional", "Cond?"),
    Column("backbone", "Backbone"),
    Column("parameters", "Parameters"),
    Column("state", "State C×H×W"),
)


@register
class ModelCard(Study):
    """No network is run; the shapes are checked against arrays that are stored."""

    name = "model-card"
    aliases = ("table1",)
    title = "The models"
    question = "Which models differ in what?"
    paper_section = "2"
    profile_statistics = ()
    reads = ()

    def requests(self, context: Context) -> Mapping[str, Request]:
        """The generated images, to compare the card's shape with what is stored."""
        generation = context.generation(context.num_steps(self.paper_steps))
        return {"generation": context.request(generation, ("noise", "image"))}

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Compare the card's shapes with the stored arrays'."""
        found = Findings()
        stored = {name: inputs.head("generation", name, 1).shape[1:] for name in ("noise", "image")}
        stated = tuple(context.card.sample_shape)
        verdict = "holds" if all(shape == stated for shape in stored.values()) else "fails"
        found.claim(
            "C1",
            "The shapes of the card are the shapes of the stored arrays.",
            verdict,
            {"card": list(stated)} | {name: list(shape) for name, shape in stored.items()},
        )
        shown = np.arange(min(_SHOWN, context.num_samples))
        found.array("samples", inputs.pictures("generation", shown), PICTURE_DIMS)
        crops = training_images(context.model_spec, _SHOWN)
        if crops is not None:
            found.array("training_images", crops, ("crop", "channel", "y", "x"))
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 1 of every model there is a card for, the user's own last; a trained one only where it is asked."""
        own = [result.attrs["model_spec"].get("card") for result in results]
        asked = {result.attrs["model_spec"]["name"] for result in results}
        known = [card for card in list_cards() if card.weights.source != "trained" or card.name in asked]
        cards = [*known, *{c["name"]: Card.model_validate(c) for c in own if c}.values()]
        table = Table(
            id="table1",
            title="Models",
            caption="Models and their training data; resolutions in pixels.",
            rows=tuple(card.title for card in cards),
            columns=_COLUMNS,
            cells=tuple(_row(card) for card in cards),
            notes=(
                "The Photo models and the Gaussian field come with taba, and SiT, SD 3, SD 3.5 and FLUX.1 are flows "
                "beside the paper's models; the others are the paper's.",
            ),
        )
        return self.section(
            results,
            tables=(table,),
            figures=for_each(_samples, results, row_labels(results)),
        )


def _samples(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Figure, ...]:
    halves = np.array_split(result["samples"].values, 2)
    rows, names = [plots.image_tiles(half) for half in halves], ["samples", ""]
    if "training_images" in result:
        rows += [plots.image_tiles(half) for half in np.array_split(result["training_images"].values, 2)]
        names += ["real crops", ""]
    if len({len(row) for row in rows}) > 1:
        rows = [row[: min(map(len, rows))] for row in rows]
    return (
        Figure(
            item_id("samples", index, results),
            f"Samples of {label}",
            "Generated images, the first by sample id, and below them (where the model has them) images of the kind "
            "it was made from.",
            lambda: plots.tile_grid(rows, names),
            **item_context(result),
        ),
    )


def _row(card: Card) -> tuple[Cell, ...]:
    size = card.sample_shape[-1]
    return (
        Cell(card.domain),
        Cell(f"{card.image_size}×{card.image_size}"),
        Cell(f"{size}×{size}") if card.domain == "latent" else DASH,
        Cell(card.train_set),
        Cell("no" if card.conditional == "none" else card.conditional),
        Cell(card.backbone),
        Cell(f"{card.num_parameters / 1e6:.1f} M"),
        Cell("×".join(map(str, card.sample_shape))),
    )
