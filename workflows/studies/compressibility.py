"""Do images from latents compress too well? PNG bits of edits, in plain areas of the source and elsewhere (Table 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.stats.compressibility import MIN_PIXELS, PngBits
from taba_core.stats.estimate import Estimate
from taba_core.stats.regions import REGIONS
from taba_core.stats.verdict import positive
from workflows.analysis.choices import Choice, other_rule
from workflows.analysis.edits import (
    FRESH,
    LATENT,
    NOISE,
    Start,
    edit_requests,
    editing,
    pictures_of,
    repaired,
    request_name,
)
from workflows.analysis.findings import (
    Findings,
    Shown,
    cell,
    for_each,
    interval_numbers,
    item_context,
    item_id,
    method_text,
    row_labels,
    seed_of,
)
from workflows.analysis.presentation import DASH, Cell, Column, Section, Table
from workflows.analysis.published import paper_value
from workflows.analysis.step_counts import replaced_steps
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.options import Options, ReplacedSteps

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs


_SHARE = 0.4  # of the drop that may be left after the repair (claim C5)
_TITLES = {"plain": "Plain", "non_plain": "Non-plain", "all": "Whole image"}
_IN_PAPER = {
    NOISE: "Noise (baseline) [PNG bits per pixel]",
    LATENT: "Latent, DDIM Inv. [PNG bits per pixel]",
    "repaired": "Latent w/ Forward 4% [PNG bits per pixel]",
}
Bits = Mapping[str, Mapping[str, Estimate]]


class CompressibilityOptions(Options):
    """Options of study `compressibility`."""

    study = "compressibility"

    forward_steps: ReplacedSteps = Field(
        ("4%",), description="K of the repaired latents: counts or percentages of T, comma-separated"
    )


@register
class Compressibility(Study):
    """PNG bits a pixel of images sampled under another condition from noise, latents and repaired latents."""

    name = "compressibility"
    aliases = ("table5",)
    title = "Images from latents compress too well"
    question = "How many bits does PNG need for images sampled from latents, in plain areas and elsewhere?"
    paper_section = "4"
    paper_models = ("dit", "if")
    paper_steps = 50
    by_name_only = True
    options = CompressibilityOptions
    options_in_key = False
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """Images with their plain areas, and the edits of every start."""
        context, starts, steps = self._asked(context)
        shape = context.decoded_shape or context.card.sample_shape
        if shape[0] != 3:
            raise UsageError(
                f"compressibility measures RGB images, and those of {context.card.title} have {shape[0]} channels."
            )
        images = context.generation(steps)
        return {
            "images": context.request(images, ("image",)),
            "regions": context.request(context.regions(images), ("region",)),
            **edit_requests(context, images, starts),
        }

    def left_out(self, context: Context) -> tuple[Choice, ...]:
        """The rule of forward replacement that is not the model's own."""
        return other_rule(context)

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Bits by region and start, drops from noise, and claims C5."""
        context, starts, _ = self._asked(context)
        found = Findings()
        bits = {start.name: _bits(inputs, context, start) for start in starts}
        found.coordinate("start", [start.name for start in starts])
        found.coordinate("region", list(REGIONS))
        for name in ("label", "group"):
            found.array(f"start_{name}", [getattr(start, name) for start in starts], ("start",))
        for measure in ("bits", "data_bits", "pooled"):
            values = Estimate.stack([bits[start.name][measure] for start in starts])
            found.estimate(measure, values, ("start", "region"))
        drops = {name: 100.0 * (1.0 - of["bits"] / bits[NOISE]["bits"]) for name, of in bits.items()}
        found.estimate("drop", Estimate.stack([drops[s.name] for s in starts]), ("start", "region"))
        found.array("images", bits[NOISE]["images"].value, ("region",), long_name="images that count")
        for start in starts:
            if start.forward_steps:
                _claims(found, bits, drops, start)
        _claim_of_regions(found, drops)
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """Table 5 of each result, and the same without what a PNG file costs beside its data."""
        return self.section(results, tables=for_each(_tables, results, row_labels(results)))

    def _asked(self, context: Context) -> tuple[Context, list[Start], int]:
        context = editing(context)
        steps = context.num_steps(self.paper_steps)
        sweep = replaced_steps(context, steps, context.options(CompressibilityOptions), "forward_steps")
        starts = [Start(FRESH, "Fresh noise"), Start(NOISE, "Noise"), Start(LATENT, "Latent")]
        return context, [*starts, *repaired(context, sweep, steps)], steps


def _bits(inputs: Inputs, context: Context, start: Start) -> Mapping[str, Estimate]:
    """Bits a pixel by region of the edits of one start; regions are those of the source images."""
    columns = {
        "edit": pictures_of(context, request_name(start), "edit"),
        "region": ("regions", "region"),
    }
    return inputs.reduce(columns, {"png": PngBits(image="edit")}, context.settings.bootstrap_replicates)[
        "png"
    ]


def _claims(found: Findings, bits: Bits, drops: Mapping[str, Estimate], start: Start) -> None:
    """C5 of one repaired latent: between latent and noise, and how much of the drop is left."""
    order, left = {}, {}
    for index, region in enumerate(REGIONS[:2]):
        noise, latent, fixed = (bits[name]["bits"][index] for name in (NOISE, LATENT, start.name))
        order[f"{_TITLES[region]}, repaired - latent"] = fixed - latent
        order[f"{_TITLES[region]}, noise - repaired"] = noise - fixed
        left[_TITLES[region]] = _SHARE * drops[LATENT][index] - drops[start.name][index]
    about = f"K = {start.label}, {start.forward_level} rule"
    found.claim_margins(
        f"C5a-{start.name}",
        f"In both regions PNG needs the fewest bits for images from latents, more from repaired latents, most from "
        f"noise ({about}).",
        order,
    )
    found.claim_margins(
        f"C5c-{start.name}",
        f"In both regions the repair leaves at most {_SHARE:g} of the drop from noise to latents ({about}).",
        left,
    )


def _claim_of_regions(found: Findings, drops: Mapping[str, Estimate]) -> None:
    margin = drops[LATENT][0] - drops[LATENT][1]
    found.claim(
        "C5b",
        "The drop from noise to latents is larger in plain areas than elsewhere.",
        positive(margin),
        interval_numbers("margin", margin),
    )


def _tables(label: str, result: xr.Dataset, index: int, results: Sequence[xr.Dataset]) -> tuple[Table, ...]:
    return (
        _table(label, result, "bits", item_id("table5", index, results)),
        _table(label, result, "data_bits", item_id("table5-data", index, results)),
    )


def _table(label: str, result: xr.Dataset, measure: str, table_id: str) -> Table:
    names = [str(name) for name in result["start"].values]
    of_file = measure == "bits"
    columns: list[Column] = []
    for name, text, rule in zip(
        names, result["start_label"].values, result["start_group"].values, strict=True
    ):
        group = _heading(str(text), str(rule), method_text(result))
        columns.append(Column(name, "bits a pixel", group=group))
        if of_file and name not in (FRESH, NOISE):
            columns.append(Column(f"{name}-drop", "saved (%)", group=group))
    return Table(
        id=table_id,
        title=f"PNG bits a pixel{'' if of_file else ', data alone'}, {label}",
        caption="Bits that PNG needs for the pixels of a region of images sampled under another condition, from noise, "
        "from the latents of images, and from repaired latents."
        + ("" if of_file else " Without signature, header and frames, which are 456 bits of every file."),
        row_header="Region",
        rows=tuple(_TITLES[region] for region in REGIONS),
        columns=tuple(columns),
        cells=tuple(
            tuple(_cell(label, result, column.name, region, measure) for column in columns)
            for region in REGIONS
        ),
        seed=seed_of([result]),
        **item_context(result),
        notes=(
            "Regions are those of the source image, in which its latent is suspected, at the size of the pictures that "
            "are compressed: of a latent model the plain positions of the latent space, enlarged.",
            f"The pixels of a region are one row of an RGB picture at level 9; an image with fewer than {MIN_PIXELS} "
            "of them does not count. Images that count: "
            + ", ".join(f"{_TITLES[r].lower()} {int(result['images'].sel(region=r))}" for r in REGIONS)
            + ".",
            "Saved: 100 (1 - bits / bits from noise), with paired intervals. Fresh noise is independent of the source; "
            "noise is what the source was sampled from.",
        ),
    )


def _heading(text: str, rule: str, method: str) -> str:
    if text == "Latent":
        return f"{method} latent"
    return f"Repaired, {text}, {rule}" if rule else text


def _cell(label: str, result: xr.Dataset, column: str, region: str, measure: str) -> Cell:
    drop = column.endswith("-drop")
    start = column.removesuffix("-drop")
    if not float(result["images"].sel(region=region)):
        return DASH
    key = {NOISE: NOISE, LATENT: LATENT}.get(start, "repaired")
    paper = None
    if measure == "bits" and not drop and start != FRESH and _is_papers(result, start):
        paper = paper_value("5", f"{label} / {_TITLES[region]}", _IN_PAPER[key])
    name = "drop" if drop else measure
    shown = Shown(digits=1 if drop else 2, unit="%" if drop else "")
    return cell(result, name, shown, paper=paper, start=start, region=region)


def _is_papers(result: xr.Dataset, start: str) -> bool:
    """Whether the paper has a value for the start: noise, latent, and 4 % by the rule of its code."""
    if start in (NOISE, LATENT):
        return True
    return start == f"matched-{round(0.04 * int(result.attrs['T']))}"
