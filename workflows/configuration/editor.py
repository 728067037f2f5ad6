"""An editor with its options, as it enters edits: what it needs, what it costs, which way its source goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from taba_core.artifacts.edit import SourcePath
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.errors import UsageError
from taba_core.models.attention_control import why_no_attention_control
from workflows.configuration.method import ChosenMethod

if TYPE_CHECKING:
    from taba_core.artifacts.images import ImageList
    from taba_core.diffusion.attention.editor import Editor
    from taba_core.models.cards import Card

SOURCE_PATH = "source_path"  # an option of every editor of attention; it is a field of the edit itself
_PATHS = ("pinned", "own")


@dataclass(frozen=True)
class ChosenEditor:
    """An editor, and the options it is not left to itself with; `source_path` among them."""

    name: str
    given: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def editor(self) -> Editor:
        """The editor. Raises UsageError: no such editor, or an option it does not have."""
        from taba_core.diffusion.attention.registry import editor_named

        made = editor_named(
            self.name, **{name: value for name, value in self.given.items() if name != SOURCE_PATH}
        )
        asked = self.given.get(SOURCE_PATH)
        if asked is not None and not made.controls_attention:
            raise UsageError(
                f"editor '{self.name}' has no source beside its target; leave {SOURCE_PATH} out."
            )
        if asked is not None and asked not in _PATHS:
            raise UsageError(
                f"editor '{self.name}', option {SOURCE_PATH}={asked}: use {' or '.join(_PATHS)}."
            )
        return made

    @cached_property
    def options(self) -> dict[str, Any]:
        """All options but `source_path`, defaults included: leaving one out is no other artifact."""
        return asdict(self.editor)  # type: ignore[call-overload, no-any-return]

    def altered(self, **options: Any) -> ChosenEditor:
        """The editor with other values of some options."""
        return ChosenEditor(self.name, {**self.given, **options})

    def check(self, card: Card) -> None:
        """Refuse (UsageError) an unknown editor, an option it does not have, or a model that it cannot control."""
        if self.editor.controls_attention and (reason := why_no_attention_control(card)):
            from taba_core.diffusion.attention.layers import no_attention_control

            raise UsageError(f"editor '{self.name}': {no_attention_control(reason)}")

    def fields(self, source: Generation | Inversion | ImageList, steps: int) -> dict[str, Any]:
        """The fields of an `Edit` that the editor decides.

        Args:
          source: where the edit starts.
          steps: T.
        Raises:
          UsageError: a method that the editor cannot follow, or a source that cannot be pinned.
        """
        common = {"editor": self.name, "editor_options": self.options}
        if not self.editor.controls_attention:
            predictions = self.editor.steps(steps)  # type: ignore[attr-defined]  # of SDEdit
            return {**common, "num_inference_steps": steps, "editor_predictions": predictions}
        if not isinstance(source, Inversion):
            return {**common, SOURCE_PATH: self._checked(self._path(None)), "editor_predictions": 2 * steps}
        method = ChosenMethod(source.method, source.method_options)
        self.editor.check_method(method.method)
        own = source.sampling_evaluations
        return {
            **common,
            SOURCE_PATH: self._checked(self._path(method)),
            "editor_predictions": 2 * (steps if own is None else own),
        }

    def _checked(self, path: SourcePath) -> SourcePath:
        if path != "pinned" and getattr(self.editor, "source_one_below", False):
            from taba_core.diffusion.attention.sampling import sources_not_pinned

            raise UsageError(sources_not_pinned(self.name))
        return path

    def _path(self, chosen: ChosenMethod | None) -> SourcePath:
        """The way of the source: as asked, else pinned where the method's states are those of the sampler's grid."""
        asked = self.given.get(SOURCE_PATH)
        if chosen is None:
            if asked == "pinned":
                raise UsageError(
                    f"editor '{self.name}', option {SOURCE_PATH}=pinned: a source that starts from its own noise comes "
                    f"back by itself; use {SOURCE_PATH}=own."
                )
            return "own"
        method = chosen.method
        can = not (method.own_sampler or getattr(method, "own_grid", False))
        if asked == "pinned" and not can:
            raise UsageError(
                f"editor '{self.name}', option {SOURCE_PATH}=pinned: inversion method '{chosen.name}' has a sampler or "
                f"levels of its own, by which the source goes back; use {SOURCE_PATH}=own."
            )
        return asked or ("pinned" if can else "own")


def parse_editor(name: str | None, assignments: tuple[str, ...]) -> ChosenEditor | None:
    """The editor that a user names, with options from `editor.NAME=VALUE` texts; None where none is named.

    Raises:
      UsageError: options without an editor, a text of another form, or what `ChosenEditor` refuses.
    """
    from workflows.configuration.settings import scalar

    given: dict[str, Any] = {}
    for text in assignments:
        option, equals, value = text.partition("=")
        group, dot, option = option.strip().partition(".")
        if not (equals and dot and group == "editor" and option):
            raise UsageError(f"--set {text}: write editor.NAME=VALUE, for example --set editor.start_step=4.")
        if option in given:
            raise UsageError(f"--set {text}: option {option} is given twice; give it once.")
        given[option] = scalar(value)
    if name is None:
        if given:
            raise UsageError(
                f"--set {assignments[0]}: this is an option of an editor; name it with --editor NAME."
            )
        return None
    chosen = ChosenEditor(name, given)
    _ = chosen.editor  # Making the editor is the check.
    return chosen
