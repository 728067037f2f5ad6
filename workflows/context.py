"""One model under one set of settings: where card, conventions and settings meet to become artifact specs.

Studies ask the context for artifacts; two studies that ask for the same thing get the same spec, hence the same
content key, and the plan computes it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taba_core.conventions import EXACT, Conventions, ForwardLevel
from taba_core.errors import UsageError
from taba_core.models.base import card_with_options, model_spec, planned_spec
from taba_core.models.cards import Card
from taba_core.models.grids import timestep_grid
from taba_core.models.prompt_files import repeated
from taba_core.models.prompt_shapes import prompt_embedding_shape
from taba_core.models.prompts import BUILTIN, RECAP_COCO, load_prompts, recap_coco_path
from taba_core.spec import (
    Generation,
    Inversion,
    ModelSpec,
    PlainRegions,
    PromptSpec,
    Reconstruction,
    StepErrors,
    StepPredictions,
)
from workflows.chosen_method import ChosenMethod
from workflows.settings import Settings

if TYPE_CHECKING:
    from taba_core.diffusion.grid import TimestepGrid

Conditioning = Literal["none", "class", "prompt"]
SweepField = Literal["forward_steps", "long_forward_steps"]
_NEEDED: dict[str, Conditioning] = {"none": "none", "class": "class", "text": "prompt"}
_OVERRIDES = ("network_time", "levels", "sampling_x0_rule", "inversion_x0_rule", "forward_level")


@dataclass(frozen=True)
class Context:
    """A model's card, the inversion method, and the user's settings.

    `model` is a card's name or the path of a user's card or diffusers directory; `weights` a path in place of
    the fetched weights.
    """

    model: str
    method: str
    settings: Settings
    weights: str | None = None

    @cached_property
    def card(self) -> Card:
        """The model's card. Raises UsageError for an unknown model."""
        return card_with_options(self.model, self.settings.model_options)

    @property
    def name(self) -> str:
        """The model's name in stores and tables: the card's."""
        return self.card.name

    @cached_property
    def model_spec(self) -> ModelSpec:
        """The model as it enters every key. A model whose weights are elsewhere is planned without them."""
        return planned_spec(self.model, self.settings.model_options, self.weights)

    def check_runnable(self) -> None:
        """Refuse (UsageError) what can be planned here but not run: weights or prompts that are elsewhere."""
        model_spec(self.model, self.settings.model_options, self.weights)
        if self.conditioning == "prompt":
            load_prompts(self._prompt_source)

    @property
    def conditioning(self) -> Conditioning:
        """What images are conditioned on: the user's choice, else what a network needs.

        Raises:
          UsageError: a condition the model cannot read, or none where its network needs one.
        """
        needed, asked = _NEEDED[self.card.conditional], self.settings.conditioning
        if asked is None:
            return "none" if self.card.embedded else needed
        if asked != needed and not (asked == "none" and self.card.embedded):
            reads = {"none": "has no condition", "class": "reads classes", "prompt": "reads prompts"}[needed]
            raise UsageError(f"conditioning={asked}: {self.card.title} {reads}; use conditioning={needed}.")
        return asked

    @property
    def _prompt_source(self) -> str:
        source = self.settings.prompts
        # Workers start in other directories than the driver.
        return source if source in (BUILTIN, RECAP_COCO) else str(Path(source).expanduser().resolve())

    @cached_property
    def prompts(self) -> PromptSpec | None:
        """The prompt list as it enters every key; without a fingerprint where the paper's is planned only."""
        if self.conditioning != "prompt":
            return None
        source = self._prompt_source
        if source == RECAP_COCO and not recap_coco_path().exists():
            return PromptSpec(fingerprint="", location=source)
        return PromptSpec(fingerprint=load_prompts(source).fingerprint, location=source)

    @property
    def prompt_note(self) -> str:
        """What to know of the prompts of a user's own file, a sentence; "" if there is nothing to know."""
        if self.prompts is None or self.prompts.location in (BUILTIN, RECAP_COCO):
            return ""
        note = repeated(load_prompts(self.prompts.location).prompts)
        return f"{note}; such a prompt is drawn that much more often." if note else ""

    @property
    def decoded_shape(self) -> tuple[int, int, int] | None:
        """(3, height, width) of decoded images; None for pixel models."""
        size = self.card.image_size
        return (3, size, size) if self.card.domain == "latent" else None

    @cached_property
    def conventions(self) -> Conventions:
        """The preset, with the fields the user set laid over it."""
        preset = self.card.reference if self.settings.conventions == "reference" else EXACT
        chosen = {name: getattr(self.settings, name) for name in _OVERRIDES}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        try:
            return Conventions.model_validate(preset.model_dump() | chosen)
        except ValueError as error:
            raise UsageError(str(error).split("Value error, ")[-1].split(" [type=")[0]) from None

    def num_steps(self, paper_steps: int) -> int:
        """T: the user's, else the card's (models that run everywhere), else the paper's for the study."""
        own = self.card.defaults.num_inference_steps if self.card.embedded else paper_steps
        return self.settings.num_inference_steps or own

    @cached_property
    def chosen(self) -> ChosenMethod:
        """The inversion method with the user's options."""
        return ChosenMethod(self.method, self.settings.method_options)

    @property
    def method_key(self) -> list[Any]:
        """The method as it enters a result's key: name, all options, and the hash of a user's own file."""
        own = [self.chosen.module.fingerprint] if self.chosen.module.fingerprint else []
        return [self.method, self.chosen.options, *own]

    @property
    def cond_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one sample's conditioning, as far as methods carry anything of their size."""
        if self.conditioning == "prompt":
            return {"prompt_embeds": prompt_embedding_shape(self.card, self.model_spec.location)}
        return {"class_id": ()} if self.conditioning == "class" else {}

    @property
    def forward_rules(self) -> tuple[ForwardLevel, ...]:
        """The readings of "replace K steps" that differ under these conventions; one where levels are shifted."""
        return ("matched",) if self.conventions.levels == "shifted" else ("exact", "matched")

    @property
    def num_samples(self) -> int:
        """n: the user's, else the card's."""
        return self.settings.num_samples or self.card.defaults.num_samples

    def grid(self, num_inference_steps: int) -> TimestepGrid:
        """The model's timestep grid. Raises UsageError for a T the model's schedule cannot have."""
        return timestep_grid(self.card, num_inference_steps)

    def generation(self, num_inference_steps: int) -> Generation:
        """The images everything starts from."""
        s = self.settings
        self.grid(num_inference_steps)
        if s.draws == "reference" and self.conditioning == "class" and self.card.embedded:
            raise UsageError(
                f"draws=reference draws ImageNet's classes; {self.card.title} has others. Use counter."
            )
        return Generation(
            model=self.model_spec,
            num_samples=self.num_samples,
            samples_per_shard=min(
                s.samples_per_shard or self.card.defaults.samples_per_shard, self.num_samples
            ),
            num_inference_steps=num_inference_steps,
            seed=s.seed,
            conditioning=self.conditioning,
            class_seed=10 if self.conditioning == "none" else s.class_seed,
            prompts=self.prompts,
            draws="counter" if self.conditioning == "none" else s.draws,
            noises_per_condition=1 if self.conditioning == "none" else s.noises_per_condition,
            x0_rule=self.conventions.sampling_x0_rule,
        )

    def inversion(
        self,
        source: Generation,
        forward_steps: int = 0,
        forward_level: ForwardLevel | None = None,
        num_inference_steps: int | None = None,
        chosen: ChosenMethod | None = None,
    ) -> Inversion:
        """Inversion of the generated images, its first `forward_steps` steps replaced.

        Args:
          num_inference_steps: the inversion's own T; None = that of the images.
          chosen: the method; None = the user's.

        Raises:
          UsageError: steps cannot be replaced in that method, or it needs a condition the images have not.
        """
        rules = self.conventions
        if self.settings.round_trip != "none" and self.card.domain == "pixel":
            raise UsageError(
                f"round_trip={self.settings.round_trip}: {self.card.title} has no decoder; use none."
            )
        if rules.levels == "shifted":
            # Shifted levels treat the state as the level it was noised to: the two rules are one.
            forward_level = "matched"
        steps = num_inference_steps or source.num_inference_steps
        chosen = chosen or self.chosen
        chosen.check_wraps(forward_steps)
        chosen.check_condition(source.conditioning, self.card.title)
        return Inversion(
            source=source,
            num_inference_steps=steps,
            **chosen.spec_fields(self.grid(steps), forward_steps, self.card.sample_shape, self.cond_shapes),
            network_time=rules.network_time,
            levels=rules.levels,
            x0_rule=rules.inversion_x0_rule,
            forward_steps=forward_steps,
            forward_level=forward_level or rules.forward_level,
            forward_seed=self.settings.forward_seed,
            round_trip=self.settings.round_trip,
        )

    def reconstruction(self, source: Inversion) -> Reconstruction:
        """The latent sampled back to an image."""
        return Reconstruction(source=source)

    def step_predictions(self, source: Generation) -> StepPredictions:
        """Inversion predictions from the cached states of the sampling path."""
        return StepPredictions(
            source=source,
            network_time=self.conventions.network_time,
            levels=self.conventions.levels,
            x0_rule=self.conventions.inversion_x0_rule,
        )

    def step_errors(self, source: Generation) -> StepErrors:
        """Rows of the errors of `step_predictions` over `regions`."""
        return StepErrors(
            source=self.regions(source),
            network_time=self.conventions.network_time,
            levels=self.conventions.levels,
            x0_rule=self.conventions.inversion_x0_rule,
        )

    def regions(self, source: Generation) -> PlainRegions:
        """Plain masks of the generated images."""
        s = self.settings
        return PlainRegions(source=source, threshold=s.plain_threshold, value_range=s.plain_range)

    def sweep(self, num_inference_steps: int, field: SweepField = "forward_steps") -> tuple[int, ...]:
        """K of the fix, ascending and without repeats, from the setting `field`.

        Raises:
          UsageError: a fraction that is no whole step at this T, or a K outside 1..T-1.
        """
        grid = self.grid(num_inference_steps)
        chosen = field in self.settings.model_fields_set
        steps = sorted(set(self._whole_steps(grid, field, keep_all=chosen)))
        if steps[0] < 1 or steps[-1] >= num_inference_steps:
            bad = steps[0] if steps[0] < 1 else steps[-1]
            raise UsageError(
                f"{field}: K={bad} of T={num_inference_steps}; the sweep needs 1 <= K < T "
                f"(K=0, plain inversion, is always in the table)."
            )
        return tuple(steps)

    def _whole_steps(self, grid: TimestepGrid, field: SweepField, *, keep_all: bool) -> list[int]:
        """K of the sweep; of the default sweep only what is a whole step at this T, and K = 1 if nothing is."""
        found = []
        for text in getattr(self.settings, field):
            try:
                found.append(grid.steps_of(text))
            except UsageError as error:
                if keep_all:
                    raise UsageError(f"--set {field}, entry {text}: {error}") from None
        return found or [1]

    def inversion_sweep(self) -> tuple[int, ...]:
        """T of the inversions of fixed images, ascending; of the default list what the model's schedule has.

        Raises:
          UsageError: a T that does not divide the training timesteps; its levels would end below the others'.
        """
        chosen = "inversion_steps" in self.settings.model_fields_set
        found = []
        for steps in sorted(set(self.settings.inversion_steps)):
            try:
                self.check_divides("inversion_steps", steps)
                found.append(steps)
            except UsageError:
                if chosen:
                    raise
        return tuple(found)

    def check_divides(self, field: str, num_inference_steps: int) -> None:
        """Refuse (UsageError) a T that the schedule cannot have, or that does not divide its training timesteps."""
        try:
            grid = self.grid(num_inference_steps)
        except UsageError as error:
            raise UsageError(f"{field}: {error}") from None
        N = grid.schedule.num_train_timesteps
        if N % num_inference_steps:
            divisors = [t for t in range(1, N + 1) if N % t == 0 and self._has_grid(t)]
            near = [
                *[t for t in divisors if t < num_inference_steps][-1:],
                *[t for t in divisors if t > num_inference_steps][:1],
            ]
            raise UsageError(
                f"{field}: T={num_inference_steps} does not divide the {N} training timesteps of {self.card.title}, "
                f"so its last level would be another than that of the other T; use {' or '.join(map(str, near))}."
            )

    def _has_grid(self, num_inference_steps: int) -> bool:
        try:
            self.grid(num_inference_steps)
        except UsageError:
            return False
        return True

    def with_preferred(self, embedded: Mapping[str, Any], network_samples: int) -> Context:
        """This context at the settings a costly study prefers, where the user chose none.

        Args:
          embedded: settings by name for models that run everywhere. All samples in one shard are cheapest there at
            many levels: the exact denoiser prepares every level once a shard.
          network_samples: most images of a network, unless its card has fewer.
        """
        preferred: Mapping[str, Any] = {"num_samples": min(network_samples, self.card.defaults.num_samples)}
        if self.card.embedded:
            preferred = embedded
        return Context(self.model, self.method, self.settings.with_defaults(preferred), self.weights)

    def patch_features(self) -> int:
        """p, positions of a correlation patch over all channels.

        Raises:
          UsageError: patch_size does not divide the state, or a patch has fewer than top_k pairs.
        """
        size, (channels, height, width) = self.settings.patch_size, self.card.sample_shape
        if height % size or width % size:
            raise UsageError(
                f"patch_size={size} does not divide states of {height}x{width}; use a divisor of both."
            )
        features = channels * size**2
        pairs = features * (features - 1) // 2
        if self.settings.top_k > pairs:
            raise UsageError(
                f"top_k={self.settings.top_k}: a patch of {features} positions has {pairs} pairs; use fewer."
            )
        return features

    def convention_line(self) -> str:
        """The conventions as one line printed under every table."""
        c = self.conventions
        profile = "" if self.card.embedded else f", profile={self.model_spec.options['profile']}"
        return (
            f"network_time={c.network_time}, levels={c.levels}, sampling_x0_rule={c.sampling_x0_rule}, "
            f"inversion_x0_rule={c.inversion_x0_rule}, forward_level={c.forward_level}{profile}"
        )
