"""The edits of a user's pictures: which latents they start from, and the artifacts that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from taba_core.artifacts.decoded import Decoded
from taba_core.artifacts.request import Request
from taba_core.errors import UsageError
from workflows.configuration.editor import ChosenEditor
from workflows.configuration.edits import edit_of
from workflows.configuration.pictures import PictureContext

SOURCE, RECONSTRUCTION, LATENT = "source", "reconstruction", "edit-latent"
_REPAIRED = 0.04  # share of T that is replaced where the user says nothing (paper, Section 4.1)


@dataclass(frozen=True)
class Variant:
    """One row of a contact sheet: a picture that is made of every source.

    Attributes:
      name: of its files and of its request.
      label: as the sheet shows it, in lines.
      forward_steps: K first steps of the inversion that are replaced; None of the source, and of edits without an
        inversion.
      seed: of the forward noise, or of an editor's noise on the image; None where there is none.
    """

    name: str
    label: str
    forward_steps: int | None = None
    seed: int | None = None

    @property
    def is_edit(self) -> bool:
        """Whether it is sampled under the target."""
        return self.name not in (SOURCE, RECONSTRUCTION)


def replaced(context: PictureContext, steps: int, given: Sequence[str]) -> tuple[int, ...]:
    """The K that edits start from, ascending and without repeats: as given, else 0 and the step nearest to 4 % of T.

    Args:
      steps: T.
      given: counts, or percentages of T.
    Raises:
      UsageError: no whole step of T, or more steps than T.
    """
    grid = context.grid(steps)
    if not given:
        return (0, max(1, round(_REPAIRED * steps)))
    counts = []
    for text in given:
        try:
            counts.append(grid.steps_of(text))
        except UsageError as error:
            raise UsageError(f"--forward-steps {text}: {error}") from None
    return tuple(sorted(set(counts)))


def variants(steps: int, counts: Sequence[int], seeds: Sequence[int]) -> list[Variant]:
    """The rows in their order: source, reconstruction, edits from the latent, and from repaired latents by seed.

    Args:
      steps: T.
      counts: K of the edits.
      seeds: of the forward noise; the plain latent (K = 0) has none.
    """
    rows = [Variant(SOURCE, "source"), Variant(RECONSTRUCTION, "reconstruction", 0)]
    for count in counts:
        if count == 0:
            rows.append(Variant(LATENT, "edit from\nlatent", 0))
            continue
        rows += [
            Variant(
                f"edit-K{count}-seed{seed}",
                f"edit, repaired\n{100 * count / steps:g} % (seed {seed})",
                count,
                seed,
            )
            for seed in seeds
        ]
    return rows


def rows_without_inversion(seeds: Sequence[int]) -> list[Variant]:
    """The rows of an editor that needs no inversion: the source, and an edit of every seed of its noise."""
    edits = [Variant(f"edit-seed{seed}", f"edit\n(seed {seed})", seed=seed) for seed in seeds]
    return [Variant(SOURCE, "source"), *edits]


def picture_requests(
    context: PictureContext,
    steps: int,
    rows: Sequence[Variant],
    guidance_scale: float,
    editor: ChosenEditor | None = None,
) -> dict[str, Request]:
    """The artifact of every row, by its name; T = `steps`, `guidance_scale` is w of the edits alone.

    An editor without an inversion takes the seed of a row for its own noise.

    Raises:
      UsageError: as `Context.images`, `Context.inversion` and `edit_of`.
    """
    latent = context.card.domain == "latent"
    asked = {}
    for row in rows:
        own = context if row.seed is None else context.with_seed(row.seed)
        images = own.images(steps)
        if row.name == SOURCE:
            asked[row.name] = context.request(images, images.always_stored(latent=latent))
            continue
        if row.forward_steps is None:
            assert editor is not None, "an edit without an inversion is an editor's"
            seeded = editor.altered(seed=row.seed)
            edit = edit_of(
                own, images, guidance_scale=guidance_scale, editor=seeded, num_inference_steps=steps
            )
            asked[row.name] = context.request(edit, edit.always_stored(latent=latent))
            continue
        inversion = own.inversion(images, row.forward_steps, num_inference_steps=steps)
        if row.name == RECONSTRUCTION:
            back = own.reconstruction(inversion)
            asked[row.name] = (
                context.request(Decoded(source=back), ("decoded",))
                if latent
                else context.request(back, ("reconstruction",))
            )
        else:
            edit = edit_of(own, inversion, guidance_scale=guidance_scale, editor=editor)
            asked[row.name] = context.request(edit, edit.always_stored(latent=latent))
    return asked
