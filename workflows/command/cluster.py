"""`taba cluster env | status | drain JOBID`: a Ray cluster in a Slurm allocation, seen from the login node."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taba_core.errors import UsageError, WorkError
from workflows.text import duration_text, print_table

if TYPE_CHECKING:
    from cluster.slurm.allocation import Allocation

app = typer.Typer(
    no_args_is_help=True, help="A Ray cluster that a script of slurm/ has started: reach it, see it, stop it."
)

JobId = Annotated[str, typer.Argument(metavar="JOBID", help="Id of the Slurm job.")]
RunDirectory = Annotated[
    Path | None,
    typer.Option(
        "--run-dir", help="Where the launcher keeps its files (default: $TABA_RUN_DIR, else runs/slurm)."
    ),
]


@app.command()
def env(job_id: JobId, run_dir: RunDirectory = None) -> None:
    """Print what `ray job submit` needs, for the shell: eval "$(taba cluster env JOBID)"."""
    found = _find(job_id, run_dir)
    if found.dashboard is None:
        raise UsageError(
            f"job {job_id} runs one driver of its own and takes no jobs. slurm/cluster.sh holds a cluster for "
            "`ray job submit`."
        )
    if found.driver_status is not None:
        raise WorkError(
            f"the cluster of job {job_id} has {found.driver_state()}; start another: slurm/cluster.sh."
        )
    variables = {
        "RAY_API_SERVER_ADDRESS": found.dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(found.token_path),
        "RAY_ADDRESS": found.address,
    }
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    host, _, port = found.dashboard.removeprefix("http://").rpartition(":")
    print(
        "# From a machine that does not reach the compute nodes: copy the token (mode 600), and tunnel,\n"
        f"#   ssh -N -L {port}:{host}:{port} LOGIN_NODE     with RAY_API_SERVER_ADDRESS=http://127.0.0.1:{port}"
    )


@app.command()
def status(
    job_id: JobId,
    run_dir: RunDirectory = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask the cluster itself, too (slurm/cluster.sh only).")
    ] = False,
) -> None:
    """Nodes, attempt and driver of a cluster, from its files; needs no Ray."""
    from cluster.slurm.queue import job_state

    found = _find(job_id, run_dir)
    state = job_state(job_id)
    asked = {None: "Slurm cannot be asked here", "": "not in the queue any more"}.get(state, state)
    up = [node for node in found.nodes() if node.state == "up"]
    print(f"job {job_id}: {asked}; attempt {found.attempt}, started {found.started}")
    print(f"cluster: {found.address} on {found.head}, {len(up)} of {found.num_nodes} nodes up")
    print(f"driver: {found.driver_state()}")
    print(f"logs: {found.attempt_directory}\n")
    rows = [(str(n.number), n.host, n.address, n.state, duration_text(n.seconds)) for n in found.nodes()]
    print_table(("node", "host", "address", "state", "since"), rows)
    if live:
        _print_live(found)


@app.command()
def drain(
    job_id: JobId,
    run_dir: RunDirectory = None,
    requeue: Annotated[
        bool,
        typer.Option(
            help="Whether the job comes back and goes on (it does by default, as before its time limit)."
        ),
    ] = True,
) -> None:
    """Ask a run to stop gently: running units finish and are stored, nothing new starts."""
    from cluster.pool.executor import ClusterError

    found = _find(job_id, run_dir)
    try:
        found.drain(requeue=requeue)
    except ClusterError as error:
        raise WorkError(str(error)) from None
    except OSError as error:
        raise WorkError(f"{found.drain_file} cannot be written: {error.strerror}.") from None
    comes_back = requeue and found.requeues
    after = "is requeued and goes on from the store" if comes_back else "ends; the same command goes on later"
    print(f"job {job_id} is draining: running units finish, then it {after}.")


def _find(job_id: str, run_dir: Path | None) -> Allocation:
    from cluster.slurm.allocation import NoAllocation, find_allocation

    try:
        return find_allocation(job_id, run_dir)
    except NoAllocation as error:
        raise UsageError(str(error)) from None


def _print_live(found: Allocation) -> None:
    """What the cluster's own API says: nodes alive and jobs."""
    if found.dashboard is None:
        raise UsageError(f"job {found.job_id} has no API to ask; --live is for slurm/cluster.sh.")
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(found.token_path))
    from ray.job_submission import JobSubmissionClient
    from ray.util.state import list_nodes

    try:
        nodes = list_nodes(found.dashboard, timeout=20)
        jobs = JobSubmissionClient(found.dashboard).list_jobs()
    except Exception as error:  # whatever the client makes of a silent or refusing server
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WorkError(f"{found.dashboard} does not answer: {reason}") from None
    alive = [node for node in nodes if node.state == "ALIVE"]
    print(f"\nlive: {len(alive)} of {len(nodes)} nodes Ray has seen are alive")
    rows = [
        (job.submission_id or job.job_id or "", str(job.status), job.entrypoint)
        for job in jobs
        if job.submission_id
    ]
    print_table(("job", "status", "command"), rows)
    sys.stdout.flush()
