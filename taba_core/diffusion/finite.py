"""Whether predictions are finite: asked of each, or of all together at the end of a block.

An answer makes the processor wait for the device. Within `checked_together` the questions stay on the device, one
number each, so that a step is handed over while the one before it still runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from taba_core.errors import TabaError, WorkError

if TYPE_CHECKING:
    from torch import Tensor

_THREAD = threading.local()


@dataclass
class _Questions:
    """What a block has to ask at its end: 0-d booleans, and the complaint for each that is false, the first first."""

    flags: list[Tensor] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def ask(self, values: Tensor, complaint: str) -> None:
        import torch  # here, as below: methods are looked up where nothing is computed

        # In float64 the sum of float32 numbers is finite if and only if they all are.
        self.flags.append(torch.isfinite(values.detach().sum(dtype=torch.float64)))
        self.complaints.append(complaint)

    def raise_first(self) -> None:
        if self.flags:
            import torch

            place = self.flags[-1].device
            answers = torch.stack([flag.to(place, non_blocking=True) for flag in self.flags]).tolist()
            for answer, complaint in zip(answers, self.complaints, strict=True):
                if not answer:
                    raise WorkError(complaint)


@contextmanager
def checked_together() -> Iterator[None]:
    """A block at whose end all its predictions are checked, those of this thread.

    Raises:
      WorkError: the complaint of the first that was not finite; also where the block fails for what followed from it.
    """
    outer = getattr(_THREAD, "questions", None)
    questions = _THREAD.questions = _Questions()
    try:
        yield
        questions.raise_first()
    except TabaError:
        questions.raise_first()
        raise
    finally:
        _THREAD.questions = outer


def check_finite(
    prediction: Tensor, complaint: str, state: Tensor | None = None, complaint_of_state: str = ""
) -> None:
    """Refuse a prediction with NaN or infinity, now or at the end of the block of `checked_together`.

    Args:
      prediction: any shape.
      complaint: what is said then.
      state: what was handed to the network, where its own values may be to blame.
      complaint_of_state: what is said where it is not finite.
    Raises:
      WorkError: the prediction is not finite.
    """
    import torch

    questions = getattr(_THREAD, "questions", None)
    if questions is not None:
        if state is not None:
            questions.ask(state, complaint_of_state)
        questions.ask(prediction, complaint)
        return
    # A sum is finite only if all its terms are, and costs far less than asking each.
    if torch.isfinite(prediction.detach().sum()) or torch.isfinite(prediction).all():
        return
    blame_state = state is not None and not torch.isfinite(state).all()
    raise WorkError(complaint_of_state if blame_state else complaint)
