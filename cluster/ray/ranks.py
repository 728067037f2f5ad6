"""Processes that compute together on a Ray cluster, one rank each, with torch's process group between them (Ray Train).

Ray Train places the ranks and makes the process group (gloo on CPUs, nccl on GPUs). Where one is lost, all of them are
started again; what the function raises ends them for good. What they compute, and where it is kept, is the function's
business: it must go on where it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from cluster.pool.executor import THREAD_VARIABLES, ClusterError
from cluster.ray.code import Code, describe, run_code_of
from cluster.ray.same_code import send_by_value

RESTARTS = 3  # of all ranks, where one is lost


class RanksFailed(ClusterError):
    """The function raised, or ranks were lost too often. `cause` is what was raised, None if nothing was."""

    def __init__(self, text: str, cause: BaseException | None = None) -> None:
        super().__init__(text)
        self.cause = cause


def run_ranks(
    function: Callable[[int, int, str], None], *, count: int, use_gpu: bool, code: Code, scratch: str
) -> None:
    """Call `function(rank, count, device)` in `count` processes at once; returns when all have returned.

    The process must be connected to Ray.

    Args:
      function: picklable by name.
      count: number of ranks; each holds a core, and a device with `use_gpu`.
      code: what the ranks have to run.
      scratch: directory that all nodes see, for Ray Train's own files.
    Raises:
      RanksFailed: see there.
    """
    from ray import cloudpickle

    send_by_value()
    trainer_class, config_class, scaling, failure = _ray_train()
    pickled: bytes = cloudpickle.dumps(function)
    trainer: Any = trainer_class(
        _by_value(),
        train_loop_config={
            "function": pickled,
            "code": code,
            "use_gpu": use_gpu,
            "threads": THREAD_VARIABLES,
        },
        scaling_config=scaling(num_workers=count, use_gpu=use_gpu),
        run_config=config_class(
            name="training", storage_path=os.path.abspath(scratch), failure_config=failure(max_failures=0)
        ),
    )
    for attempt in range(RESTARTS + 1):
        try:
            trainer.fit()
            return
        except Exception as error:  # Ray Train's own classes, by its version
            failed = _failure(error)
            if failed.cause is not None or attempt == RESTARTS:
                raise failed from error


def _ray_train() -> tuple[Any, Any, Any, Any]:
    """Ray Train's classes, with its own messages turned down: progress is told by whoever calls."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    for name in ("ray.train", "ray.tune", "ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    return TorchTrainer, RunConfig, ScalingConfig, FailureConfig


def _by_value() -> Callable[[dict[str, Any]], None]:
    """The function of a rank, which Ray sends whole: what it needs is not looked up on the node."""

    def rank(config: dict[str, Any]) -> None:
        import os
        import pickle

        for name in config["threads"]:
            os.environ[name] = "1"
        differences = run_code_of(config["code"])
        if differences:
            raise RuntimeError(describe(differences))
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        device = str(ray.train.torch.get_device()) if config["use_gpu"] else "cpu"
        pickle.loads(config["function"])(context.get_world_rank(), context.get_world_size(), device)

    return rank


def _failure(error: Exception) -> RanksFailed:
    """The first exception of a rank, or what Ray says."""
    causes = list(getattr(error, "worker_failures", {}).values())
    for cause in causes:
        inner = getattr(cause, "_base_exc", cause)
        if isinstance(inner, Exception) and type(inner).__module__.partition(".")[0] != "ray":
            return RanksFailed(str(inner), inner)
    text = str(causes[0] if causes else error).strip().splitlines() or [type(error).__name__]
    return RanksFailed(text[-1])
