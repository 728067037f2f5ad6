"""The command line: what can be typed after `taba`. Heavy imports come late."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from taba_core.errors import Stopped, WorkError
from workflows.command import cluster as cluster_commands
from workflows.command import edit as edit_command
from workflows.command import train as train_command
from workflows.command.arguments import DEFAULT_STORE, DeviceName, Method, StorePath, Weights, Where
from workflows.command.grouped import grouped

if TYPE_CHECKING:
    from workflows.planning.jobs import Asked


class _WithFields(TyperCommand):
    """A command that takes --set: its help ends with the fields, which take long to import and are read for it only."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from workflows.configuration.settings import FIELDS, Settings

        fields = (f"{name} ({Settings.model_fields[name].description})" for name in FIELDS)
        self.epilog = (
            f"Fields for --set (field=value, repeatable): {'; '.join(fields)}; model.NAME and method.NAME (options of "
            "the model or the method); STUDY.OPTION (see `taba list STUDY`); size (standard | small: how much of "
            "`paper` is computed where no --model is given)."
        )
        super().format_help(ctx, formatter)


class _Stoppable(TyperGroup):
    """Typer ends with status 130 on Ctrl-C; a stop is a status of its own here, whoever asked for it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; KeyboardInterrupt becomes Stopped."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped(str(stop).rstrip(".") or "stopped") from None


app = typer.Typer(
    cls=_Stoppable,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Audit how diffusion models turn noise into images, and images back into noise.",
    epilog="Fields for --set are at the end of `taba run --help`.",
)

app.add_typer(cluster_commands.app, name="cluster")
app.command("train")(grouped(train_command.train))
app.command("edit")(grouped(edit_command.edit))

Studies = Annotated[
    list[str],
    typer.Argument(
        help="Study names, aliases (table2, fig4), or groups: `main-text`, `paper-analysis`, `paper` (all; without "
        "--model every table and figure, of all that comes with taba; --set size=small takes fewer images)."
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="Model (see `taba list`), or the path of a card or diffusers directory; repeatable; `paper` is the "
        "paper's six, `box` the networks that come with taba and the mixture, each with the studies that the "
        "paper made with it or its like. Default: photo-mixture; of `paper` alone, every model that comes with taba.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SIZE",
        help="Most bytes the asked may take in the store, such as 500GB: whole sampling paths are kept where they fit, "
        "else their statistics. Default: 1 TB, or 80 % of the room at the store if that is less.",
    ),
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Set a field; repeatable.")
]
EMBEDDED_DEFAULT = "photo-mixture"


@dataclass(frozen=True)
class Question:
    """What is asked of which models, and where the answer is kept: options of `plan`, `simulate` and `run`."""

    studies: Studies
    store: StorePath = DEFAULT_STORE
    model: Models = None
    method: Method = "ddim"
    weights: Weights = None
    set_: Sets = None
    device: DeviceName = None

    def parts(self, budget: str | None = None) -> list[Asked]:
        """The question of each model; see `workflows.planning.jobs.each_model`."""
        from workflows.planning.jobs import Asked, default_model, each_model
        from workflows.planning.shipped import asked_of_shipped, check_no_size, is_of_shipped

        asked = Asked(self.studies, self.store, "", self.method, self.set_ or [], self.weights, budget=budget)
        if is_of_shipped(self.studies, self.model):
            return asked_of_shipped(asked)
        check_no_size(asked.assignments)
        return each_model(asked, self.model or [default_model(self.studies, EMBEDDED_DEFAULT)])

    def planned(self, budget: str | None = None, *, allocated: bool) -> list[Asked]:
        """`parts`, each with the device of its network; see `workflows.execution.resources.planned_device`."""
        from workflows.execution.resources import planned_device

        return [
            replace(part, device=planned_device(part.model, self.device, allocated=allocated))
            for part in self.parts(budget)
        ]


@app.command("list")
def list_everything(
    studies: Annotated[
        list[str] | None, typer.Argument(help="Studies whose options to list. Default: list what there is.")
    ] = None,
) -> None:
    """Models, inversion methods and studies, with the paper's sections, tables and figures; or options of studies."""
    from workflows.command.listing import print_listing, print_options

    if studies:
        print_options(studies)
    else:
        print_listing()


@app.command()
def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models, recap-coco (the prompt list), a measure of images such as lpips, or metrics (all of them). "
            "Default: say what is there."
        ),
    ] = None,
) -> None:
    """Download weights and prompt lists into the cache, on a machine with internet. Nothing else uses the network."""
    from workflows.command.fetch import fetch_all

    fetch_all(names or [])


@app.command(cls=_WithFields)
@grouped
def plan(
    question: Question,
    budget: Budget = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Also say how long it takes on this many.")] = None,
    workers_per_node: Annotated[
        int, typer.Option(min=1, help="With --nodes: workers on each, one a GPU.")
    ] = 4,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What would run: artifacts to compute or reuse, network evaluations, hours, bytes, memory. Changes nothing."""
    from workflows.command.plan_page import print_plan
    from workflows.planning.stages import Machines

    machines = None if nodes is None else Machines(nodes, workers_per_node)
    print_plan(question.planned(budget, allocated=nodes is not None), machines, as_json=json)


@app.command(cls=_WithFields)
@grouped
def simulate(
    question: Question,
    nodes: Annotated[str, typer.Option(help="Number of nodes, or several: 1,4,28,110.")] = "4",
    workers_per_node: Annotated[int, typer.Option(min=1, help="Workers on each node, one a GPU.")] = 4,
    failures: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=RATE,...",
            help="worker=.., node=.. (losses an hour of each), unit=.., hang=.. (shares of attempts).",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the failures.")] = 0,
) -> None:
    """How a plan would run on many nodes: the real scheduler, simulated units. Needs no cluster, changes nothing."""
    from workflows.planning.simulate import print_simulation, with_nodes
    from workflows.planning.stages import Machines

    machines = with_nodes(Machines(1, workers_per_node), nodes)
    print_simulation(question.planned(allocated=True), machines, failures, seed)


@app.command(cls=_WithFields)
@grouped
def run(
    question: Question,
    where: Where,
    budget: Budget = None,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    metrics: Annotated[
        bool,
        typer.Option(
            "--metrics", help="Units, seconds and bytes on Ray's Prometheus port (open to the network)."
        ),
    ] = False,
) -> None:
    """Compute what is missing and only that, reduce it, write the report. Resumable: run it again."""
    from workflows.execution.run import run_studies

    run_studies(
        question.parts(budget), **asdict(where), device=question.device, report=report, metrics=metrics
    )


@app.command()
def status(store: StorePath = DEFAULT_STORE) -> None:
    """What is complete in a store, per artifact and variable. Needs no Ray."""
    from workflows.command.status import print_status

    print_status(store)


@app.command()
def verify(
    store: StorePath = DEFAULT_STORE,
    deep: Annotated[bool, typer.Option(help="Read every shard and compare checksums.")] = False,
    forget: Annotated[
        bool, typer.Option(help="Drop receipts of damaged shards, so that `taba run` recomputes them.")
    ] = False,
) -> None:
    """Missing, truncated or corrupt shards of a store. Exit code 1 if there are any problems."""
    from workflows.command.status import print_verification

    print_verification(store, deep=deep, forget=forget)


@app.command()
def gc(
    store: StorePath = DEFAULT_STORE,
    delete: Annotated[
        bool, typer.Option("--delete/--dry-run", help="Delete what is listed. Default: list only.")
    ] = False,
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="Artifacts that no stored result refers to, too.")
    ] = False,
    artifact: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this artifact (with its receipts) or result.")
    ] = None,
    log_days: Annotated[float, typer.Option(min=0, help="Logs of runs older than this many days.")] = 30.0,
) -> None:
    """What a store holds that nothing needs: interrupted writes, old logs, stale results. Lists; --delete deletes."""
    from workflows.command.clean import collect_garbage

    collect_garbage(store, delete=delete, unreferenced=unreferenced, name=artifact, log_days=log_days)


@app.command()
def report(
    store: StorePath = DEFAULT_STORE,
    output: Annotated[Path | None, typer.Option(help="Folder (default: <store>/report).")] = None,
) -> None:
    """Tables and figures of all finished studies: HTML, CSV, Markdown, LaTeX, PNG, PDF, results and claims."""
    from workflows.report.from_store import write_store_report

    page, failures = write_store_report(store, output, force=True)
    print(page)
    if failures:
        raise WorkError(
            " ".join(failure.line for failure in failures)
            + f" The rest is written; details: {page.parent}/failures.json"
        )


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="Store, report folder, or a submission-METHOD.json of one.")],
    b: Annotated[str, typer.Argument(help="Another of the same kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with every number.")] = False,
) -> None:
    """What changed from A to B: results, numbers, verdicts, settings, versions. Exit code 1 if any number does."""
    from workflows.command.compare import print_comparison

    print_comparison(a, b, as_json=as_json)


@dataclass(frozen=True)
class OfBenchmarks:
    """Options of single benchmarks; `workflows.bench.OPTIONS` says which takes which."""

    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="step, profile-drift, whole-paths: models; repeatable."),
    ] = None
    profiles: Annotated[
        list[str] | None, typer.Option("--profile", help="reference, exact or fast; repeatable.")
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="step, whole-paths: images per evaluation.")
    ] = None
    weights: Annotated[str | None, typer.Option(help="profile-drift: weights of the model.")] = None
    num_samples: Annotated[int | None, typer.Option(min=2, help="profile-drift: images.")] = None
    kills: Annotated[int | None, typer.Option(min=1, help="chaos: processes to kill.")] = None
    size: Annotated[float | None, typer.Option(help="reduction: gigabytes of the store (default: 8).")] = None
    compiled: Annotated[
        bool, typer.Option("--compiled", help="step: also through torch.compile; profile-drift: compiled.")
    ] = False
    store: Annotated[
        str | None,
        typer.Option("--store", help="profile-drift: measure fetched weights, and keep it here for runs."),
    ] = None
    minutes: Annotated[float | None, typer.Option(help="gpu: wall time in all (default: 4).")] = None
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="step, gpu: what was measured, as JSON.")
    ] = None


@app.command()
@grouped
def bench(
    options: OfBenchmarks,
    names: Annotated[list[str] | None, typer.Argument(help="Benchmarks (default: list them).")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Paired runs of each side.")] = 5,
) -> None:
    """Benchmarks of the README's numbers: two sides in turn, medians and their ratio."""
    from workflows.bench import run_benchmarks

    given = {name: value for name, value in vars(options).items() if value}
    run_benchmarks(names or [], repeats=repeats, options=given)


@app.command()
def doctor(
    store: Annotated[
        str | None, typer.Option("--store", help="Where a store is or will be: its file system is examined.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model to be run: are its weights here? Repeatable.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address", help="Ray cluster to examine: auto, HOST:PORT. Default: RAY_ADDRESS, if set."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of the page.")] = False,
) -> None:
    """What would stop or endanger a run here, and what to do about it. Exit code 1 if anything FAILs."""
    from workflows.doctor import examine_and_print
    from workflows.doctor.finding import Subject

    examine_and_print(Subject(store, tuple(model or ()), address), as_json=as_json)
