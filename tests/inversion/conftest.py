"""Denoisers with known answers are shared with tests/diffusion."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "diffusion"))
