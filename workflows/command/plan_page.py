"""What `taba plan` prints: artifacts and their costs, time on a cluster, the allocation to ask for."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.training import Training
from taba_core.conventions import UNGUIDED
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.weights import status
from taba_core.store import Store
from taba_core.store.trainings import training_folder
from workflows.configuration.numerics import numerics_line, profile_of
from workflows.configuration.prompt_list import prompt_note
from workflows.planning.budget import over_budget
from workflows.planning.jobs import Asked, Job, check_all, notes_of
from workflows.planning.left_out import LeftOut, left_out
from workflows.planning.plan import Plan
from workflows.planning.stages import Machines, Timetable, timetable, train_hours
from workflows.text import bytes_text, count_text, duration_text, print_table

_DEFAULT_METHOD = "ddim"  # of `taba run`


def print_plan(parts: list[Asked], machines: Machines | None, *, as_json: bool) -> None:
    """Print what every model's studies would compute; with machines also how long that takes there."""
    jobs, store = check_all(parts, write=False)
    plans = [job.plan(store) for job in jobs]
    refusal = over_budget(plans, parts[0].store, parts[0].budget)
    if refusal and parts[0].budget is not None:
        raise UsageError(refusal)
    tables = (
        [timetable(plan, machines, _to_train(job, store)) for job, plan in zip(jobs, plans, strict=True)]
        if machines
        else []
    )
    if as_json:
        print(json.dumps({**_as_json(jobs, plans, tables, store), "fits_budget": not refusal}, indent=1))
        return
    where = parts[0].store if store is not None else f"{parts[0].store} (does not exist yet)"
    print(f"store {where}")
    for note in notes_of(jobs):
        print(note)
    if refusal:  # the room is that of this machine, and the plan may be for another
        print(f"`taba run` here would refuse: {refusal}")
    print()
    for index, plan in enumerate(plans):
        _print_what(plan, jobs[index].asked.device)
        _print_trainings(jobs[index], store)
        if (
            len(plans) == 1
        ):  # artifacts of several models would hide the totals; ask for one model to see its own
            _print_artifacts(plan)
        _print_costs(plan)
        _print_left_out(jobs[index], plan, store)
        if tables:
            print()
            _print_stages(tables[index], plan)
        print()
    if len(plans) > 1:
        _print_models(plans, tables)
    if tables:
        print(_request(jobs, tables))


def _print_what(plan: Plan, device: str) -> None:
    print(f"{plan.context.title}: {', '.join(s.name for s in plan.studies)}")
    asks_weights = not all(study.trained_model for study in plan.studies)
    here = not status(plan.context.card).startswith(("missing", "not trained"))
    if asks_weights and not here and plan.context.weights is None:
        print(f"weights: {status(plan.context.card)}")
    if line := numerics_line(plan.context, device):
        print(line)
    if guidance := plan.context.guidance.text:
        print(f"guidance: {guidance}; a prediction under a scale other than 1 takes two network evaluations")
    if note := prompt_note(plan.context.prompts):
        print(f"prompts: {note}")


def _print_trainings(job: Job, store: Store | None) -> None:
    """Trainings that come first, and what they cost."""
    to_do = _to_train(job, store)
    for spec in job.trainings:
        hours = f"about {train_hours(spec, job.context.card):.2f} {_hours_of(job.context.card)}"
        print(
            f"training, seed {spec.seed}: {spec.steps:,} steps of {spec.batch_size} images, {len(spec.checkpoints)} "
            f"networks kept: {count_text(spec.images(spec.steps))} images, "
            f"{hours + ', before anything else' if spec in to_do else 'done'}"
        )


def _to_train(job: Job, store: Store | None) -> list[Training]:
    """The trainings that a store has not whole."""
    return [s for s in job.trainings if store is None or not training_folder(store, s).complete]


def _print_artifacts(plan: Plan) -> None:
    rows = [
        (
            p.artifact.name,
            inversion_text(p.artifact),
            " ".join(p.variables),
            f"{p.num_shards - len(p.missing)}/{p.num_shards}",
            count_text(p.sample_evaluations * p.num_samples),
            count_text(plan.missing_evaluations_of(p)),
            f"{plan.hours(plan.missing_evaluations_of(p)):.2f}",
            bytes_text(plan.bytes_of(p)),
            count_text(plan.files_of(p)),
        )
        for p in plan.artifacts
    ]
    total = (
        "total",
        "",
        "",
        "",
        count_text(plan.evaluations),
        count_text(plan.evaluations_missing),
        f"{plan.hours(plan.evaluations_missing):.2f}",
        bytes_text(plan.bytes_total),
        count_text(plan.files_total),
    )
    costs = ("shards done", "NFE", "NFE to do", "device-hours", "bytes", "inodes")
    header = ("artifact", "inversion", "variables", *costs)
    print_table(header, [*rows, total])


def inversion_text(artifact: Artifact) -> str:
    """The inversion an artifact is or comes from: method, T if not the images', K, w, network if not theirs."""
    inversion = artifact if isinstance(artifact, Inversion) else getattr(artifact, "source", None)
    if not isinstance(inversion, Inversion):
        return ""
    T, K = inversion.num_inference_steps, inversion.forward_steps
    parts = [inversion.method]
    parts += [f"T={T}"] if inversion.source.num_steps != T else []
    parts += [f"K={K} {inversion.forward_level}"] if K else []
    parts += [f"w={inversion.guidance_scale:g}"] if inversion.guidance_scale != UNGUIDED else []
    parts += [f"by {inversion.network.name}"] if inversion.network else []
    return " ".join(parts)


def _print_costs(plan: Plan) -> None:
    cost = plan.cost
    if plan.least_evaluations_missing < plan.evaluations_missing:
        print(
            f"At least {count_text(plan.least_evaluations_missing)} network evaluations; what is said here is the most "
            "that methods which stop by themselves, and measuring residuals, may take."
        )
    print(
        f"{count_text(plan.evaluations_missing)} network evaluations (image-NFE) to do = "
        f"{plan.hours(plan.evaluations_missing):.2f} {_hours_of(plan.context.card)} at {cost.step_seconds:.4g} s per "
        f"step of {cost.batch_size} images ({cost.source}); {plan.units} units; "
        f"{bytes_text(plan.bytes_total)} in {sum(p.num_files for p in plan.artifacts)} shard "
        f"files; about {bytes_text(plan.peak_memory)} of memory per worker."
    )


def _print_left_out(job: Job, plan: Plan, store: Store | None) -> None:
    """What nobody asked for, and how to ask for it."""
    for left in left_out(job, plan, store):
        print(
            f"left out of {' and '.join(left.studies)}: {left.choice.what}; --set {left.choice.setting} adds "
            f"{plan.hours(left.evaluations):.2f} {_hours_of(plan.context.card)}."
        )


def _hours_of(card: Card) -> str:
    return "CPU-hours (one core)" if card.runs_anywhere else "GPU-hours"


def _print_stages(table: Timetable, plan: Plan) -> None:
    rows = [
        (
            stage.kinds,
            count_text(stage.units),
            duration_text(stage.longest),
            f"{stage.device_seconds / 3600:.2f}",
            count_text(stage.waves),
            duration_text(stage.seconds),
        )
        for stage in table.stages
    ]
    if not rows:
        print("nothing to compute; analysing takes about " + duration_text(table.reduce_seconds) + ".")
        return
    print_table(("stage", "units", "longest unit", "device-hours", "waves", "wall time"), rows)
    print(
        f"on {_machines(table.machines)}: {duration_text(table.seconds)} in all, one stage after another, with "
        f"{duration_text(table.load_seconds)} to load the model and {duration_text(table.reduce_seconds)} to reduce"
        f"{f', after {duration_text(table.train_seconds)} of training' if table.train_seconds else ''}."
    )


def _machines(machines: Machines) -> str:
    nodes = f"{machines.nodes} node{'s' if machines.nodes > 1 else ''}"
    return f"{nodes} of {machines.workers_per_node} workers"


def _print_models(plans: list[Plan], tables: list[Timetable]) -> None:
    times = [duration_text(table.seconds) for table in tables] or [""] * len(plans)
    rows = [
        (
            plan.context.title,
            str(len(plan.studies)),
            count_text(plan.evaluations_missing),
            f"{plan.hours(plan.evaluations_missing):.2f}",
            bytes_text(plan.bytes_total),
            count_text(plan.files_total),
            time,
        )
        for plan, time in zip(plans, times, strict=True)
    ]
    total = (
        "all, one after another",
        "",
        count_text(sum(plan.evaluations_missing for plan in plans)),
        f"{sum(plan.hours(plan.evaluations_missing) for plan in plans):.2f}",
        bytes_text(sum(plan.bytes_total for plan in plans)),
        count_text(sum(plan.files_total for plan in plans)),
        duration_text(sum(table.seconds for table in tables)) if tables else "",
    )
    header = ("model", "studies", "NFE to do", "device-hours", "bytes", "inodes", "wall time")
    print_table(header, [*rows, total])
    print()


def _request(jobs: list[Job], tables: list[Timetable]) -> str:
    machines = tables[0].machines
    minutes = sum(table.time_limit for table in tables)
    signal = max(table.signal_seconds for table in tables)
    asked = jobs[0].asked
    models = list(dict.fromkeys(job.asked.group or job.asked.model for job in jobs))
    words = [*asked.studies, *(word for model in models for word in ("--model", model))]
    words += [] if asked.method == _DEFAULT_METHOD else ["--method", asked.method]
    words += [] if asked.weights is None else ["--weights", asked.weights]
    words += [word for text in asked.assignments for word in ("--set", text)]
    words += ["--store", asked.store] + ([] if asked.budget is None else ["--budget", asked.budget])
    # What was planned: on other devices a network has another profile, hence other keys.
    devices = {job.asked.device for job in jobs if not job.context.card.embedded}
    words += ["--device", *devices] if len(devices) == 1 else []
    return (
        "ask for:\n"
        f"  sbatch --nodes={machines.nodes} --gpus-per-node={machines.workers_per_node} "
        f"--time={minutes // 60}:{minutes % 60:02d}:00 --signal=B:USR1@{signal} \\\n"
        f"    slurm/full_repro.sh {shlex.join(words)}\n"
        "The limit has a margin of a quarter. A shorter one also works: the job stops gently, is queued again and goes "
        "on."
    )


def _as_json(
    jobs: list[Job], plans: list[Plan], tables: list[Timetable], store: Store | None
) -> dict[str, Any]:
    return {
        "models": [
            {
                "model": plan.context.name,
                "device": jobs[index].asked.device,
                "profile": profile_of(plan.context)[0] or None,
                "guidance_scale": plan.context.guidance.sampling,
                "inversion_guidance_scale": plan.context.guidance.inversion,
                "studies": [study.name for study in plan.studies],
                "evaluations": plan.evaluations,
                "evaluations_missing": plan.evaluations_missing,
                "step": asdict(plan.cost),
                "device_hours": plan.hours(plan.evaluations_missing),
                "units": plan.units,
                "bytes": plan.bytes_total,
                "inodes": plan.files_total,
                "memory_per_worker": plan.peak_memory,
                "left_out": [_left_out_json(left, plan) for left in left_out(jobs[index], plan, store)],
                **({"stages": _stages(tables[index])} if tables else {}),
            }
            for index, plan in enumerate(plans)
        ],
        "store": jobs[0].asked.store,
        **(
            {
                "nodes": tables[0].machines.nodes,
                "workers_per_node": tables[0].machines.workers_per_node,
                "seconds": sum(table.seconds for table in tables),
                "time_limit_minutes": sum(table.time_limit for table in tables),
                "signal_seconds": max(table.signal_seconds for table in tables),
            }
            if tables
            else {}
        ),
    }


def _left_out_json(left: LeftOut, plan: Plan) -> dict[str, Any]:
    return {
        "studies": list(left.studies),
        "what": left.choice.what,
        "set": left.choice.setting,
        "evaluations": left.evaluations,
        "device_hours": plan.hours(left.evaluations),
    }


def _stages(table: Timetable) -> list[dict[str, Any]]:
    return [vars(stage) for stage in table.stages]
