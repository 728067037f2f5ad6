"""Reading what `nvidia-smi` prints, and which build of torch fits a driver."""

from __future__ import annotations

import re
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Driver:
    """The installed driver and the newest CUDA it runs, (major, minor)."""

    version: str
    cuda: tuple[int, int]


@dataclass(frozen=True)
class Gpu:
    """One device; memory in GiB, NaN where the driver does not say."""

    index: int
    name: str
    total: float
    used: float


def parse_driver(text: str) -> Driver | None:
    """The driver from the header `nvidia-smi` prints; None if the text has no such header."""
    driver = re.search(r"Driver Version:\s*([\d.]+)", text)
    cuda = re.search(r"CUDA (?:UMD )?Version:\s*(\d+)\.(\d+)", text)
    if driver is None or cuda is None:
        return None
    return Driver(driver.group(1), (int(cuda.group(1)), int(cuda.group(2))))


def parse_gpus(text: str) -> list[Gpu]:
    """Devices from the lines of `QUERY`; lines that are no device are left out."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 4 and cells[0].isdigit():
            found.append(Gpu(int(cells[0]), cells[1], _gib(cells[2]), _gib(cells[3])))
    return found


def runs_on(build: tuple[int, int], driver: tuple[int, int]) -> bool:
    """Whether a CUDA build runs on a driver: within a major version any minor does (CUDA compatibility guide)."""
    return build[0] <= driver[0]


def torch_index(driver: tuple[int, int]) -> str | None:
    """Index with builds of torch for a driver (x86-64 and aarch64); None if the driver is too old for any."""
    if driver[0] < 12:
        return None
    return f"https://download.pytorch.org/whl/{'cu130' if driver[0] >= 13 else 'cu126'}"


def _gib(mebibytes: str) -> float:
    return float(mebibytes) / 1024 if re.fullmatch(r"[\d.]+", mebibytes) else float("nan")
