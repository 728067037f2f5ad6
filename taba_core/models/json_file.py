"""Reading the JSON files of a pipeline directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taba_core.errors import UsageError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises UsageError if it is missing or does not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing; give a complete diffusers pipeline directory.") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no readable JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds a {type(value).__name__}, not an object; it is damaged.")
    return value
