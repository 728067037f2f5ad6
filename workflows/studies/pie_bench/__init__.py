"""Do edits of a benchmark keep what was not to change? PIE-Bench and ImageNet-R-TI2I, by any inversion and editor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from taba_core.images.benchmarks import EditBenchmark, open_benchmark, table_of
from workflows.analysis.findings import Findings
from workflows.analysis.inputs import PICTURE_DIMS
from workflows.analysis.means import mean_of
from workflows.analysis.presentation import Section
from workflows.analysis.study import Study, register
from workflows.configuration.context import Context
from workflows.configuration.editor import SOURCE_PATH, ChosenEditor
from workflows.configuration.edits import edit_of
from workflows.configuration.guidance import edit_guidance
from workflows.configuration.method import ChosenMethod
from workflows.studies.pie_bench.measures import check_measures, edited_area, measured, structure_of
from workflows.studies.pie_bench.options import NO_EDITOR, PieBenchOptions
from workflows.studies.pie_bench.views import figures_of, tables_of

if TYPE_CHECKING:
    import xarray as xr

    from workflows.analysis.inputs import Inputs

_EXAMPLES = 6
# Settings of the benchmark's own code that are not the editors' published defaults.
_OF_THE_BENCHMARK: Mapping[str, Mapping[str, Any]] = {
    "prompt-to-prompt": {"cross_share": 0.4, "self_share": 0.6}
}


@dataclass(frozen=True)
class Row:
    """Edits of all images by one method and one editor.

    Attributes:
      method: inversion method in front; "" of an editor without an inversion.
      editor: None is the sampler alone.
    """

    method: str
    editor: ChosenEditor | None

    @property
    def name(self) -> str:
        """Of the row in requests and results."""
        editor = self.editor.name if self.editor is not None else NO_EDITOR
        return f"{self.method}/{editor}" if self.method else editor

    @property
    def label(self) -> str:
        """As tables call it, under the method."""
        if self.editor is None:
            return "sampler alone"
        given = ", ".join(f"{name}={value}" for name, value in self.editor.given.items())
        return self.editor.name + (f" ({given})" if given else "")

    @property
    def group(self) -> str:
        """Heading of the row."""
        return self.method or "no inversion"


@register
class PieBench(Study):
    """The edits of a benchmark by inversion methods and editors: errors of the unedited area, CLIP similarity."""

    name = "pie-bench"
    title = "Edits of a benchmark"
    question = "Do edits keep what was not to change, and show what was asked?"
    paper_section = "4"
    paper_models = ()
    paper_steps = 50
    by_name_only = True
    options = PieBenchOptions
    reads = ("bootstrap_replicates",)

    def requests(self, context: Context) -> Mapping[str, Request]:
        """The images, and the edits of every row."""
        context, _, rows = self._asked(context)
        measures = context.options(PieBenchOptions).measures
        steps, scale = context.num_steps(self.paper_steps), _guidance(context)
        images = context.images(steps)
        latent = context.card.domain == "latent"
        asked = {"images": context.request(images, images.always_stored(latent=latent))}
        for row in rows:
            source: Any = images
            if row.method:
                source = context.inversion(images, num_inference_steps=steps, chosen=ChosenMethod(row.method))
            edit = edit_of(
                context,
                source,
                guidance_scale=scale,
                editor=row.editor,
                num_inference_steps=steps,
            )
            asked[row.name] = context.request(edit, edit.always_stored(latent=latent))
            if "structure" in measures:
                asked[f"structure/{row.name}"] = context.request(structure_of(edit, images), ("distance",))
        return asked

    def check_runnable(self, context: Context) -> None:
        """Refuse (UsageError) a measure whose packages or weights are missing."""
        check_measures(context.options(PieBenchOptions))

    def option_key(self, context: Context) -> dict[str, Any]:
        """How edits are measured, and the areas and prompts of the benchmark."""
        options = context.options(PieBenchOptions)
        return {
            "options": {"preset": options.preset, "measures": options.measures},
            "benchmark": _benchmark(context).fingerprint,
        }

    def analyse(self, inputs: Inputs, context: Context) -> xr.Dataset:
        """Every measure of every row, and examples."""
        context, benchmark, rows = self._asked(context)
        options, replicates = context.options(PieBenchOptions), context.settings.bootstrap_replicates
        cases, found = benchmark.cases[: inputs.num_samples], Findings()
        found.coordinate("edit", [row.name for row in rows])
        found.coordinate("measure", list(options.measures))
        values, counts = [], []
        for row in rows:
            by_name = measured(inputs, context, row.name, cases)
            each = [by_name[name] for name in options.measures]
            counts.append([int(np.isfinite(value).sum()) for value in each])
            values.append([_mean(value, replicates) for value in each])
        for suffix, part in zip(("", "_low", "_high"), np.moveaxis(np.array(values), -1, 0), strict=True):
            found.array(f"value{suffix}", part, ("edit", "measure"), interval="bootstrap")
        found.array("count", counts, ("edit", "measure"))
        for name in ("label", "group"):
            found.array(f"edit_{name}", [getattr(row, name) for row in rows], ("edit",))
        size = context.card.image_size
        areas = np.stack([edited_area(case, size) for case in cases])
        for name, fact in (
            ("benchmark", benchmark.title),
            ("preset", options.preset),
            ("guidance_scale", _guidance(context)),
            ("without_background", int(areas.all(axis=(1, 2)).sum())),
        ):
            found.array(name, fact)
        _find_examples(found, inputs, rows, areas)
        found.array("target", [case.target for case in cases[:_EXAMPLES]], ("example",))
        return found.dataset()

    def present(self, results: Sequence[xr.Dataset]) -> Section:
        """A table of each result, with the published rows folded under it, and examples."""
        return self.section_of_each(results, tables_of, figures_of)

    def _asked(self, context: Context) -> tuple[Context, EditBenchmark, list[Row]]:
        """The context that asks for the benchmark's targets, the benchmark, and the rows.

        Raises:
          UsageError: no benchmark, a model that reads no prompts, or methods, editors and prompts that do not go
            together.
        """
        benchmark, options = _benchmark(context), context.options(PieBenchOptions)
        if context.card.conditional != "text":
            raise UsageError(
                f"pie-bench: the edits of {benchmark.title} are asked for by prompts, and {context.card.title} reads "
                "none; use a text model such as sd, sdxl or photo-if."
            )
        rows = _rows(context, options)
        pairs = {(case.source, case.target) for case in benchmark.cases[: context.num_samples]}
        for row in rows:
            if row.editor is not None:
                for source, target in sorted(pairs):
                    row.editor.editor.check_prompts(source, target)
        table = str(benchmark.table.resolve())
        return (
            replace(context, settings=context.settings.model_copy(update={"targets": table})),
            benchmark,
            rows,
        )


def _benchmark(context: Context) -> EditBenchmark:
    """The benchmark that the images of a run are. Raises UsageError: there are none, or they are no benchmark."""
    given = context.settings.images
    if given is None:
        raise UsageError(
            "pie-bench: give the folder of PIE-Bench or ImageNet-R-TI2I, the one that holds mapping_file.json or "
            "imnetr-ti2i.yaml: --set images=FOLDER."
        )
    folder = Path(given).expanduser().resolve()
    return open_benchmark(table_of(folder) or folder)


def _rows(context: Context, options: PieBenchOptions) -> list[Row]:
    """Methods by editors; an editor without an inversion once. Raises UsageError: a name that is unknown."""
    rows: dict[str, Row] = {}
    for name in dict.fromkeys(options.editors):
        editor = None
        if name != NO_EDITOR:
            given = dict(_OF_THE_BENCHMARK.get(name, {}))
            editor = ChosenEditor(name, given)
            if editor.editor.controls_attention and options.source_path != "default":
                editor = editor.altered(**{SOURCE_PATH: options.source_path})
        methods = dict.fromkeys(options.methods) if editor is None or editor.editor.inverts else [""]
        for method in methods:
            if method:
                ChosenMethod(method).check()
                ChosenMethod(method).check_rules(context.conventions)
            row = Row(method, editor)
            rows[row.name] = row
    return sorted(rows.values(), key=lambda row: [*options.methods, ""].index(row.method))


def _guidance(context: Context) -> float:
    given = context.options(PieBenchOptions).guidance_scale
    return edit_guidance(context.card) if given is None else given


def _mean(values: Any, replicates: int) -> tuple[float, float, float]:
    """The mean over the images where a measure is defined, with its 95 % interval; NaN where it is of none."""
    if not np.isfinite(values).any():
        return np.nan, np.nan, np.nan
    mean = mean_of(values, np.isfinite(values), replicates)[0]
    low, high = mean.interval(0.95)
    return float(mean.value), float(low), float(high)


def _find_examples(found: Findings, inputs: Inputs, rows: Sequence[Row], areas: Any) -> None:
    """Pictures of the first images: the source, its unedited area, and every edit."""
    examples = np.arange(min(_EXAMPLES, inputs.num_samples))
    found.coordinate("example", examples)
    found.coordinate("shown", [row.name for row in rows])
    source = inputs.pictures("images", examples)
    background = ~areas[examples][:, None]
    found.array("picture_source", source, PICTURE_DIMS)
    found.array("picture_background", np.where(background, source, -1.0).astype(np.float32), PICTURE_DIMS)
    pictures = [inputs.pictures(row.name, examples) for row in rows]
    found.array("picture", np.stack(pictures), ("shown", *PICTURE_DIMS))
