"""What a claim can come to."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["holds", "fails", "not resolved"]
