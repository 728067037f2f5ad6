"""An inversion method with its options, as it enters artifacts: what it is, what it costs, what it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taba_core.conventions import UNGUIDED, Conventions
from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.null_condition import why_no_null_condition
from workflows.compute.own_module import OwnModule, own_module
from workflows.configuration.guidance import Guidance

if TYPE_CHECKING:
    from taba_core.diffusion.grid import TimestepGrid
    from taba_core.diffusion.inversion import Method

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ChosenMethod:
    """A registered method, or a user's own `package.module:Class`, and the options it is not left to itself with."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def module(self) -> OwnModule:
        """Where a user's own method is; empty for a built-in one."""
        return own_module(self.name)

    @cached_property
    def method(self) -> Method:
        """The method. Raises UsageError: no such method, or an option it does not have."""
        from taba_core.diffusion.inversion import inversion_method_named

        _ = self.module  # Finding a user's own file makes it importable, so this comes before the import.
        return inversion_method_named(self.name, **self.given)

    def check(self) -> None:
        """Refuse (UsageError) an unknown method, or an option that the method does not have."""
        _ = self.method  # Making the method is the check.

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options, defaults included: leaving one out is no other artifact."""
        return asdict(self.method)  # type: ignore[call-overload, no-any-return]

    @property
    def key(self) -> list[Any]:
        """The method as it enters a result's key: name, all options, and the hash of a user's own file."""
        own = [self.module.fingerprint] if self.module.fingerprint else []
        return [self.name, self.options, *own]

    def check_wraps(self, forward_steps: int) -> None:
        """Refuse (UsageError) to replace the first steps of a method that has none to replace."""
        if forward_steps:
            from taba_core.diffusion.inversion.wrapping import check_steps_can_be_replaced

            check_steps_can_be_replaced(self.method, f"forward_steps={forward_steps}")

    def check_condition(self, conditioning: str, card: Card) -> None:
        """Refuse (UsageError) a method that works on text on images that have none, and one that guides its own
        sampler on a model without a null condition."""
        if self.method.needs_text and conditioning != "prompt":
            raise UsageError(
                f"inversion method '{self.name}' works on a text condition, and the images of {card.title} have none; "
                "use a text-conditional model, or another method."
            )
        if reason := self.cannot_guide(card):
            raise UsageError(
                f"inversion method '{self.name}' compares the prompt with a null condition, and {reason}; use another "
                "method, or another model."
            )

    def cannot_guide(self, card: Card) -> str:
        """Why a method that guides its own sampler cannot guide this model, a clause; "" where it can or does not."""
        return why_no_null_condition(card) if self.method.own_guidance else ""

    def check_guidance(self, guidance: Guidance) -> None:
        """Refuse (UsageError) a guided inversion by a method that is defined at scale 1 and guides its own sampler."""
        if guidance.inversion != UNGUIDED and self.method.own_guidance:
            raise UsageError(
                f"inversion_guidance_scale={guidance.inversion:g}: inversion method '{self.name}' inverts without "
                "guidance by definition, and guides its own sampler (--set method.guidance_scale=W); use "
                "inversion_guidance_scale=1, or another method."
            )

    def check_held(self, conventions: Conventions) -> None:
        """Refuse (UsageError) another choice of what steps carry in a method that does not take steps so."""
        if self.cannot_hold(conventions):
            from taba_core.diffusion.inversion.wrapping import check_held

            check_held(self.method, conventions.held)

    def cannot_hold(self, conventions: Conventions) -> bool:
        """Whether the method has steps in which what is carried cannot be chosen, and a choice is asked."""
        return conventions.held != "auto" and not self.method.explicit

    def check_rules(self, conventions: Conventions) -> None:
        """Refuse (UsageError) a sampler of coupled states under an x_0 rule that it cannot undo."""
        if refused := self.rules_refused(conventions):
            raise UsageError(
                f"inversion method '{self.name}': {refused} Both rules at once: --set conventions=exact."
            )

    def rules_refused(self, conventions: Conventions) -> str:
        """Why the method does not go with the x_0 rules; "" where it does."""
        for rule in (conventions.sampling_x0_rule, conventions.inversion_x0_rule):
            try:
                self.method.check_rule(rule)
            except UsageError as error:
                return str(error)
        return ""

    def spec_fields(
        self,
        grid: TimestepGrid,
        forward_steps: int,
        sample_shape: Shape,
        cond_shapes: Mapping[str, Shape],
    ) -> dict[str, Any]:
        """The fields of an `Inversion` that the method decides."""
        method, steps = self.method, grid.num_inference_steps
        expected = method.evaluations(grid, forward_steps)
        low, high = (expected, expected) if isinstance(expected, int) else expected
        sampling = method.sampling_evaluations(grid)
        shapes = method.carried_shapes(grid, sample_shape, cond_shapes)
        return {
            "method": self.name,
            "method_options": self.options,
            "method_fingerprint": self.module.fingerprint,
            "method_location": self.module.location,
            "draws_noise": method.needs_noise,
            "expected_evaluations": None if low == high == steps - forward_steps else (low, high),
            "sampling_evaluations": None if sampling == steps else sampling,
            "carried": {name: _dims(name, shape, sample_shape, steps) for name, shape in shapes.items()},
        }


def _dims(name: str, shape: Shape, sample_shape: Shape, steps: int) -> dict[str, int]:
    """Dimensions of a carried tensor: those of a state or of a path where its shape says so, else its own."""
    if shape == sample_shape:
        return dict(zip(("channel", "y", "x"), shape, strict=True))
    if shape == (steps, *sample_shape):
        return dict(zip(("step", "channel", "y", "x"), shape, strict=True))
    per_step = len(shape) > 0 and shape[0] == steps
    return {("step" if per_step and not axis else f"{name}_{axis}"): size for axis, size in enumerate(shape)}
