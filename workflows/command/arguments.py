"""Options that several commands take: the store, the method, the weights, and what computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

StorePath = Annotated[
    str,
    typer.Option(
        "--store",
        help="Store: a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="PATH", help="Weights in place of the fetched ones: a file or directory."
    ),
]
Method = Annotated[str, typer.Option("--method", help="Inversion method (see `taba list`).")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", help="Ray cluster to join: auto, ray://..., HOST:PORT. Default: start one here."
    ),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor", help="ray; without Ray: local (threads) or inline (the calling thread, to debug)."
    ),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="What networks are evaluated on: cpu (profile exact unless set) or cuda (the paper's profile, reference). "
        "Default: GPUs where there are any; in a plan for nodes, GPUs.",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Workers (default: one per core or GPU).")
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-worker", help="Devices of a Ray worker; 0.5 puts two on each. Default: 1, if any."
    ),
]

DEFAULT_STORE = "runs/taba"


@dataclass(frozen=True)
class Where:
    """What computes a run."""

    address: Address = None
    executor: ExecutorName = "ray"
    workers: Workers = None
    gpus_per_worker: GpusPerWorker = None
