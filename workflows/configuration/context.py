"""One model under one set of settings: where card, conventions and settings meet to become artifact specs.

Studies ask the context for artifacts; two studies that ask for the same thing get the same spec, and one key.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from taba_core.artifacts.base import Artifact
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.request import Request
from taba_core.conventions import UNGUIDED, Conventions, ForwardLevel
from taba_core.errors import UsageError
from taba_core.images.collection import ImageCollection
from taba_core.images.metadata import METADATA
from taba_core.model_spec import ModelSpec, PromptSpec
from taba_core.models.base import card_with_options, model_spec, planned_spec
from taba_core.models.cards import Card
from taba_core.models.grids import timestep_grid
from taba_core.models.prompt_shapes import prompt_embedding_shape
from taba_core.models.prompts import load_prompts
from workflows.configuration.conventions import chosen_conventions
from workflows.configuration.forward_rules import compared_rules
from workflows.configuration.given_images import image_list, open_given
from workflows.configuration.guidance import Guidance
from workflows.configuration.method import ChosenMethod
from workflows.configuration.options import Declared, options_of
from workflows.configuration.prompt_list import prompt_source, prompt_spec
from workflows.configuration.settings import Settings

if TYPE_CHECKING:
    from taba_core.diffusion.grid import TimestepGrid

ConditionKind = Literal["none", "class", "prompt"]
_NEEDED: dict[str, ConditionKind] = {"none": "none", "class": "class", "text": "prompt"}


@dataclass(frozen=True)
class Context:
    """A model's card, the inversion method, and the user's settings.

    `model`: a card's name, or a path; `weights`: in place of those fetched; `store`: where a study trains networks.
    """

    model: str
    method: str
    settings: Settings
    weights: str | None = None
    store: str = ""

    @cached_property
    def card(self) -> Card:
        """The model's card. Raises UsageError for an unknown model."""
        return card_with_options(self.model, self.settings.model_options)

    def options(self, declared: type[Declared]) -> Declared:
        """The options that a study declares, with what the user gave. Raises UsageError: as `options_of`."""
        return options_of(declared, self.settings.study_options)

    @property
    def name(self) -> str:
        """The model's name in stores and tables: the card's."""
        return self.card.name

    @property
    def title(self) -> str:
        """What tables call a row: the card's title, and the folder of real images where some are given."""
        return self.card.title + (f" on {self.given_images.folder.name}" if self.given_images else "")

    @cached_property
    def model_spec(self) -> ModelSpec:
        """The model as it enters every key. A model whose weights are elsewhere is planned without them."""
        return planned_spec(self.model, self.settings.model_options, self.weights)

    def check_runnable(self) -> None:
        """Refuse (UsageError) what can be planned here but not run: weights or prompts that are elsewhere."""
        model_spec(self.model, self.settings.model_options, self.weights)
        if self.conditioning == "prompt" and self.given_images is None:
            load_prompts(self._prompt_source)

    @property
    def conditioning(self) -> ConditionKind:
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
        return prompt_source(self.settings.prompts or self.card.defaults.prompts)

    @cached_property
    def prompts(self) -> PromptSpec | None:
        """The prompt list; None where images have no prompts, or bring captions of their own."""
        if self.conditioning != "prompt" or self.given_images is not None:
            return None
        return prompt_spec(self._prompt_source)

    @property
    def decoded_shape(self) -> tuple[int, int, int] | None:
        """(3, height, width) of decoded images; None for pixel models."""
        size = self.card.image_size
        return (3, size, size) if self.card.domain == "latent" else None

    @cached_property
    def conventions(self) -> Conventions:
        """The preset, with the fields the user set laid over it."""
        return chosen_conventions(self.card, self.settings)

    @cached_property
    def guidance(self) -> Guidance:
        """Classifier-free guidance in both directions. Raises UsageError for images or a model that cannot have it."""
        guidance = Guidance(self.settings.guidance_scale, self.settings.inversion_guidance_scale)
        if not guidance.off:
            guidance.check(self.card, self.conditioning)
        return guidance

    def num_steps(self, paper_steps: int) -> int:
        """T: the user's, else the card's (models that run everywhere), else the paper's for the study."""
        own = self.card.defaults.num_inference_steps if self.card.runs_anywhere else paper_steps
        return self.settings.num_inference_steps or own

    @cached_property
    def chosen(self) -> ChosenMethod:
        """The inversion method with the user's options."""
        return ChosenMethod(self.method, self.settings.method_options)

    @property
    def cond_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one sample's conditioning, as far as methods carry anything of their size."""
        if self.conditioning == "prompt":
            return {"prompt_embeds": prompt_embedding_shape(self.card, self.model_spec.location)}
        return {"class_id": ()} if self.conditioning == "class" else {}

    @property
    def forward_rules(self) -> tuple[ForwardLevel, ...]:
        """The readings of "replace K steps" that sweeps compare; both, or of a network its own."""
        chosen = self.settings.forward_rules or ("both" if self.card.runs_anywhere else "own")
        return compared_rules(self.conventions, both=chosen == "both")

    @property
    def num_samples(self) -> int:
        """n: the user's, else the card's; of real images no more than there are."""
        if self.given_images is not None:
            count = len(self.given_images.files)
            return min(self.settings.num_samples or count, count)
        return self.settings.num_samples or self.card.defaults.num_samples

    def grid(self, num_inference_steps: int) -> TimestepGrid:
        """The model's timestep grid. Raises UsageError for a T the model's schedule cannot have."""
        return timestep_grid(self.card, num_inference_steps)

    @property
    def batch_size(self) -> int:
        """Samples the network sees at once: the user's, else the card's, but no more than are asked for."""
        s = self.settings
        if "batch_size" in s.model_fields_set and s.batch_size is not None:
            return s.batch_size
        preferred = s.batch_size or self.card.defaults.batch_size
        return min(preferred, s.samples_per_shard or self.num_samples, self.num_samples)

    def request(self, artifact: Artifact, variables: tuple[str, ...], first: int | None = None) -> Request:
        """Variables of all samples of this context, or of the `first` so many."""
        samples = self.num_samples if first is None else min(first, self.num_samples)
        return Request(artifact, variables, samples)

    @cached_property
    def given_images(self) -> ImageCollection | None:
        """The real images that the user gives; None where images are generated."""
        return None if self.settings.images is None else open_given(self.settings.images)

    def images(self, num_inference_steps: int) -> Generation | ImageList:
        """The images a study starts from: those the user gives, else generated ones.

        Raises:
          UsageError: images the model cannot work on, or that lack the condition that its network reads.
        """
        if (given := self.given_images) is None:
            return self.generation(num_inference_steps)
        self.grid(num_inference_steps)
        if "prompts" in self.settings.model_fields_set:
            raise UsageError(
                f"prompts={self.settings.prompts}: real images have the captions of {METADATA} in their folder. Leave "
                "prompts out, or leave images out."
            )
        return image_list(given, self.card, self.model_spec, self.conditioning, self.batch_size)

    def generation(self, num_inference_steps: int) -> Generation:
        """Generated images.

        Raises:
          UsageError: real images were given, and what asks for these needs the path they were sampled on.
        """
        s = self.settings
        if s.images is not None:
            raise UsageError(
                f"images={s.images}: this study needs the noise or the path that images were sampled from, and real "
                "images have neither. Studies that run on real images: correlation, regions, fix."
            )
        self.grid(num_inference_steps)
        if s.draws == "reference" and self.conditioning == "class" and self.card.runs_anywhere:
            raise UsageError(
                f"draws=reference draws ImageNet's classes; {self.card.title} has others. Use counter."
            )
        draws = "counter" if self.conditioning == "none" else s.draws
        return Generation(
            model=self.model_spec,
            batch_size=self.batch_size,
            num_inference_steps=num_inference_steps,
            seed=s.seed,
            conditioning=self.conditioning,
            class_seed=10 if self.conditioning == "none" else s.class_seed,
            prompts=self.prompts,
            draws=draws,
            drawn_samples=self.num_samples if draws == "reference" else None,
            noises_per_condition=1 if self.conditioning == "none" else s.noises_per_condition,
            x0_rule=self.conventions.sampling_x0_rule,
            guidance_scale=self.guidance.sampling,
        )

    def inversion(
        self,
        source: Generation | ImageList | Crops,
        forward_steps: int = 0,
        forward_level: ForwardLevel | None = None,
        num_inference_steps: int | None = None,
        chosen: ChosenMethod | None = None,
    ) -> Inversion:
        """Inversion of images, its first `forward_steps` steps replaced.

        Args:
          num_inference_steps: the inversion's own T; None = that of the images.
          chosen: the method; None = the user's.

        Raises:
          UsageError: steps cannot be replaced in that method, it needs a condition the images have not, or it
            guides by itself and a guidance of the inversion is asked.
        """
        rules = self.conventions
        if self.settings.round_trip != "none" and self.card.domain == "pixel":
            raise UsageError(
                f"round_trip={self.settings.round_trip}: {self.card.title} has no decoder; use none."
            )
        if rules.levels == "shifted":
            # Shifted levels treat the state as the level it was noised to: the two rules are one.
            forward_level = "matched"
        steps = num_inference_steps or source.num_steps
        chosen = chosen or self.chosen
        chosen.check_wraps(forward_steps)
        chosen.check_condition(source.conditioning, self.card)
        chosen.check_guidance(self.guidance)
        chosen.check_held(rules)
        return Inversion(
            source=source,
            num_inference_steps=steps,
            **chosen.spec_fields(self.grid(steps), forward_steps, self.card.sample_shape, self.cond_shapes),
            **rules.model_dump(include={"network_time", "levels", "first_time", "held"}),
            x0_rule=rules.inversion_x0_rule,
            forward_steps=forward_steps,
            forward_level=forward_level or rules.forward_level,
            forward_seed=self.settings.forward_seed,
            round_trip=self.settings.round_trip,
            guidance_scale=self.guidance.inversion,
        )

    def reconstruction(self, source: Inversion) -> Reconstruction:
        """The latent sampled back to an image, as images are sampled; a method may guide its own sampler."""
        method = ChosenMethod(source.method, source.method_options).method
        return Reconstruction(
            source=source,
            x0_rule=self.conventions.sampling_x0_rule,
            guidance_scale=UNGUIDED if method.own_guidance else self.guidance.sampling,
        )

    def regions(self, source: Generation | ImageList) -> PlainRegions:
        """Plain masks of the images."""
        threshold, value_range = self.settings.plain_threshold, self.settings.plain_range
        return PlainRegions(source=source, threshold=threshold, value_range=value_range)
