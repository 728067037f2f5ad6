"""A folder as users have them: full of files and packages that bear the names of modules."""

from __future__ import annotations

from pathlib import Path

# Packages of ours, the standard library, what a worker imports before and after it takes the driver's code over.
NAMES = (
    "cluster", "workflows", "taba_core", "torch", "numpy", "ray", "random", "types", "pickle", "dataclasses", "socket",
    "hashlib", "importlib", "yaml", "zarr", "scipy", "queue", "typing", "logging", "json",
)  # fmt: skip
SAID = "a file of the current directory was imported"


def fill(folder: Path) -> None:
    """Put a thing of every name into a folder, every second one a file, the others packages; importing any fails."""
    for number, name in enumerate(NAMES):
        if number % 2:
            file = folder / f"{name}.py"
        else:
            (folder / name).mkdir()
            file = folder / name / "__init__.py"
        file.write_text(f'raise SystemExit("{SAID}")\n')
