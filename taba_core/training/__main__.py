"""`python -m taba_core.training NAME | box`: train one network or all, with torch and without Ray, stores and rich.

`taba train` is the same with the rest of taba at hand.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from taba_core.errors import TabaError
from taba_core.training.box import BoxRun, check_data, failed, train_box
from taba_core.training.one import OneRun, train_one

# Options of one network's training that `box` passes on.
_SHARED = (
    "seed", "photos", "data", "data_path", "batch_size", "learning_rate", "compile", "pool", "held_out",
    "picture_rows", "report_seconds",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is 0, 2 for an impossible request, 3 if a network of the box failed, 1 otherwise."""
    given = _parser().parse_args(arguments)
    shared = {name: getattr(given, name) for name in _SHARED if getattr(given, name) is not None}
    try:
        if given.name != "box":
            run = OneRun(given.name, given.out, given.seconds, given.steps, given.device, **shared)
            train_one(run)
            return 0
        options = [part for name, value in shared.items() for part in _option(name, value)]
        names = tuple(given.networks.split(",")) if given.networks else ()
        box = BoxRun(
            given.out, given.minutes, given.steps, names, given.device, given.parallel, tuple(options)
        )
        chosen = {name: shared[name] for name in ("data", "data_path", "photos") if name in shared}
        check_data(box, **chosen)
        return 3 if failed(train_box(box)) else 0
    except TabaError as error:
        print(f"taba: error: {error}", file=sys.stderr)
        return error.exit_code


def _option(name: str, value: object) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    return [flag, str(value)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m taba_core.training", description=__doc__)
    parser.add_argument("name", help="a network's name, or box for all")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of all files; the same command goes on"
    )
    parser.add_argument("--minutes", type=float, help="box: minutes for everything together")
    parser.add_argument("--seconds", type=float, help="one network: seconds of training")
    parser.add_argument("--steps", type=int, help="steps of each network: reproducible to the bit")
    parser.add_argument("--networks", help="box: names, comma-separated; all if left out")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--parallel", action=argparse.BooleanOptionalAction, help="box: train at once")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--photos", help="a folder of photographs; the embedded ones if left out")
    parser.add_argument("--data", help="a source of images in place of the recipe's")
    parser.add_argument("--data-path", help="where the images lie; $TABA_CACHE/datasets/NAME if left out")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile; on a GPU yes"
    )
    parser.add_argument("--pool", type=int, help="crops whose latents are kept")
    parser.add_argument("--held-out", type=int, help="crops of the held-out measurement")
    parser.add_argument("--picture-rows", type=int, help="rows of ten samples in the picture")
    parser.add_argument("--report-seconds", type=float, help="seconds between reports")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
