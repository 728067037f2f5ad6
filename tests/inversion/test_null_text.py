"""Guidance, null-text and negative-prompt inversion, on a tiny text-conditional network through autograd."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from analytic_denoisers import normal, waves
from torch.testing import assert_close

sys.path.append(str(Path(__file__).parents[1] / "models"))
from tiny_text_checkpoints import save_tiny_sd, save_tiny_sdxl, tiny_card

from taba_core.diffusion import CountedDenoiser, generate, invert
from taba_core.diffusion.guidance import Guided, guided
from taba_core.diffusion.inversion import invert_with_report, reconstruct
from taba_core.diffusion.inversion.method import Between
from taba_core.diffusion.inversion.methods.newton import GuidedNewton
from taba_core.diffusion.inversion.methods.null_text import NegativePrompt, NullText, PromptTuning
from taba_core.errors import UsageError
from taba_core.models.families import load_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named

PROMPTS = ["a red boat", "the white horse"]
CARD = tiny_card("sd")
GRID = timestep_grid(CARD, 4)
IMAGES = normal((2, 4, 8, 8), 5, torch.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = save_tiny_sd(tmp_path_factory.mktemp("tiny") / "sd")
    return load_network(CARD, directory, device="cpu", profile=profile_named("exact"))


@pytest.fixture(scope="module")
def cond(model):
    return model.text.encode(PROMPTS)


class TestGuidance:
    def test_the_formula_by_hand(self):
        # 1 + 7.5 (3 - 1) = 16
        one, three = torch.tensor([1.0]), torch.tensor([3.0])
        assert guided(three, one, 7.5).item() == 16.0
        assert guided(three, one, 1.0).item() == 3.0

    def test_a_guided_network_costs_two_evaluations_and_any_method_inverts_it(self, model, cond):
        counted = CountedDenoiser(model)
        strong = Guided(counted, 3.0, model.text.encode([""]))
        report = invert_with_report(strong, IMAGES, GRID, "ddim", cond)
        assert report.evaluations.tolist() == [8, 8]
        assert counted.num_evaluations == 16
        eps_c = model.eps(IMAGES, 1.0, cond)
        eps_u = model.eps(IMAGES, 1.0, model.text.encode(["", ""]))
        assert_close(strong.eps(IMAGES, 1.0, cond), eps_u + 3 * (eps_c - eps_u), rtol=0, atol=1e-5)

    def test_classes_are_guided_by_their_null_class(self):
        class Classes:
            schedule, sample_shape, value_range = waves().schedule, (3, 4, 4), (-1.0, 1.0)

            def eps(self, x_t, t, cond):
                return x_t * cond["class_id"].view(-1, 1, 1, 1)

        null = {"class_id": torch.tensor([-1])}
        eps = Guided(Classes(), 2.0, null).eps(
            torch.ones(2, 3, 4, 4), 0.0, {"class_id": torch.tensor([1, 4])}
        )
        # -1 + 2 (1 + 1) = 3 and -1 + 2 (4 + 1) = 9
        assert eps[:, 0, 0, 0].tolist() == [3.0, 9.0]

    def test_impossible_guidance_is_refused(self, model, cond):
        with pytest.raises(
            UsageError, match="and this model has no condition; use a conditional model that has one"
        ):
            Guided(waves(), 7.5)
        with pytest.raises(UsageError) as error:
            Guided(model, 7.5).eps(IMAGES, 1.0, {})
        assert str(error.value) == (
            "guidance_scale=7.5 without a condition: there is nothing to guide towards; give cond, or use the model "
            "itself."
        )
        with pytest.raises(UsageError, match=r"null condition has rows \{'prompt_embeds': 2\}; give each"):
            Guided(model, 7.5, cond)
        with pytest.raises(UsageError, match="guidance_scale=-1: it cannot be negative"):
            Guided(model, -1)


class TestNullText:
    def test_the_latent_is_that_of_ddim_bit_for_bit(self, model, cond):
        report = invert_with_report(model, IMAGES, GRID, NullText(num_inner_steps=1), cond)
        assert torch.equal(report.latent, invert(model, IMAGES, GRID, "ddim", cond))
        assert report.carried["null_embeds"].shape == (2, 4, 77, 16)
        assert not report.carried["null_embeds"].requires_grad

    def test_guided_reconstruction_comes_closer_with_the_null_embeddings(self, model, cond):
        # Random weights take no heed of the prompt: a large scale makes guidance matter.
        method = NullText(guidance_scale=50.0, num_inner_steps=10, learning_rate=0.05)
        report = invert_with_report(model, IMAGES, GRID, method, cond)
        image = reconstruct(model, report.latent, GRID, method, cond, carried=report.carried)
        empty = model.text.encode([""])["prompt_embeds"].expand(2, 4, 77, 16)
        assert (report.carried["null_embeds"] - empty).abs().max() > 1e-3
        plain = reconstruct(model, report.latent, GRID, method, cond, carried={"null_embeds": empty})
        assert_close(plain, generate(Guided(model, 50.0), report.latent, GRID, cond), rtol=0, atol=1e-4)
        assert (image - IMAGES).square().mean() < 0.8 * (plain - IMAGES).square().mean()

    def test_evaluations_are_within_the_bounds(self, model, cond):
        method = NullText(num_inner_steps=3, tolerance=0.0, tolerance_growth=0.0)
        report = invert_with_report(model, IMAGES, GRID, method, cond)
        # 4 upwards; then in each of 4 steps the prompt once, 3 updates, and the guided step: 4 + 4 (1 + 3 + 1)
        assert method.evaluations(GRID) == Between(16, 24)
        assert report.evaluations.tolist() == [24, 24]
        lazy = NullText(num_inner_steps=3, tolerance=1e9)
        assert invert_with_report(model, IMAGES, GRID, lazy, cond).evaluations.tolist() == [16, 16]
        assert method.sampling_evaluations(GRID) == 8

    def test_a_guidance_scale_of_one_is_refused(self):
        from taba_core.diffusion import inversion_method_named

        for name in ("null-text", "prompt-tuning", "negative-prompt"):
            with pytest.raises(UsageError, match=f"'{name}', option guidance_scale=1: .* greater than 1"):
                inversion_method_named(name, guidance_scale=1)

    @pytest.mark.parametrize("method", [NullText(), PromptTuning(), NegativePrompt()])
    def test_a_model_without_text_is_refused(self, method, model):
        expected = "works on a text condition; use a text-conditional model"
        with pytest.raises(UsageError, match=expected):
            invert(waves(), normal((2, 3, 4, 4), 0), GRID, method, {"class_id": torch.tensor([0, 1])})

    def test_sdxl_keeps_its_pooled_embedding(self, tmp_path):
        card = tiny_card("sdxl", precision="fp32")
        model = load_network(
            card, save_tiny_sdxl(tmp_path / "sdxl"), device="cpu", profile=profile_named("exact")
        )
        grid, cond = timestep_grid(card, 2), model.text.encode(PROMPTS)
        method = NullText(num_inner_steps=1, tolerance=0.0)
        report = invert_with_report(model, IMAGES, grid, method, cond)
        image = reconstruct(model, report.latent, grid, method, cond, carried=report.carried)
        assert image.shape == IMAGES.shape and torch.isfinite(image).all()


class TestPromptTuning:
    METHOD = PromptTuning(guidance_scale=50.0, num_inner_steps=10, learning_rate=0.05)

    @pytest.fixture(scope="class")
    def report(self, model, cond):
        return invert_with_report(model, IMAGES, GRID, self.METHOD, cond)

    def test_guided_reconstruction_comes_closer_with_the_fitted_embeddings(self, model, cond, report):
        assert torch.equal(report.latent, invert(model, IMAGES, GRID, "ddim", cond))
        fitted = report.carried["prompt_embeds"]
        own = cond["prompt_embeds"].unsqueeze(1).expand_as(fitted)
        assert fitted.shape == (2, 4, 77, 16) and (fitted - own).abs().max() > 1e-3
        image = reconstruct(model, report.latent, GRID, self.METHOD, cond, carried=report.carried)
        # With the prompt's own embedding in every step it is plain guided sampling.
        plain = reconstruct(model, report.latent, GRID, self.METHOD, cond, carried={"prompt_embeds": own})
        assert_close(plain, generate(Guided(model, 50.0), report.latent, GRID, cond), rtol=0, atol=1e-4)
        assert (image - IMAGES).square().mean() < 0.8 * (plain - IMAGES).square().mean()

    def test_an_edit_stands_between_the_target_and_the_image(self, model, cond, report):
        target = model.text.encode(PROMPTS[::-1])

        def edit(kept, target=target):
            method = replace(self.METHOD, kept=kept)
            given = dict(carried=report.carried, source_cond=cond)
            return reconstruct(model, report.latent, GRID, method, target, **given)

        whole = reconstruct(model, report.latent, GRID, self.METHOD, cond, carried=report.carried)
        assert torch.equal(edit(1.0), whole) and torch.equal(edit(0.0, cond), whole)
        free = generate(Guided(model, 50.0), report.latent, GRID, target)
        assert_close(edit(0.0), free, rtol=0, atol=1e-4)
        assert all((edit(0.5) - end).abs().max() > 1e-3 for end in (whole, free))

    def test_evaluations_are_within_the_bounds(self, model, cond):
        method = PromptTuning(num_inner_steps=3, tolerance=0.0, tolerance_growth=0.0)
        # 4 upwards; then in each of 4 steps the null prompt once, 3 updates, and the guided step: 4 + 4 (1 + 3 + 1)
        assert invert_with_report(model, IMAGES, GRID, method, cond).evaluations.tolist() == [24, 24]
        assert method.evaluations(GRID) == Between(16, 24) and method.sampling_evaluations(GRID) == 8


class TestNegativePrompt:
    def test_guidance_cancels_for_the_prompt_itself(self, model, cond):
        report = invert_with_report(model, IMAGES, GRID, "negative-prompt", cond)
        assert torch.equal(report.latent, invert(model, IMAGES, GRID, "ddim", cond))
        counted = CountedDenoiser(model)
        image = reconstruct(counted, report.latent, GRID, "negative-prompt", cond)
        assert torch.equal(image, generate(model, report.latent, GRID, cond))
        assert counted.num_evaluations == 2 * NegativePrompt().sampling_evaluations(GRID) == 16

    def test_an_edit_is_guided_away_from_the_prompt_of_the_inversion(self, model, cond):
        target, scale = model.text.encode(PROMPTS[::-1]), 3.0
        x = latent = invert(model, IMAGES, GRID, "ddim", cond)
        for move in GRID.downward():  # eps_source + w (eps_target - eps_source), by hand
            time = move.asked.time
            away, towards = model.eps(x, time, cond), model.eps(x, time, target)
            eps = away + scale * (towards - away)
            x_0 = (x - move.start.sigma * eps) / move.start.alpha
            x = move.stop.alpha * x_0 + move.stop.sigma * eps
        method = NegativePrompt(guidance_scale=scale)
        edit = reconstruct(model, latent, GRID, method, target, source_cond=cond)
        torch.testing.assert_close(edit, x, rtol=1e-4, atol=1e-4)
        assert (edit - reconstruct(model, latent, GRID, method, target)).abs().max() > 1e-3


class TestNetworksAndGraphs:
    def test_a_network_builds_a_graph_only_where_it_is_asked_for(self, model, cond):
        assert not model.eps(IMAGES, 1.0, cond).requires_grad
        x = IMAGES.clone().requires_grad_()
        eps = model.eps(x, 1.0, cond)
        (gradient,) = torch.autograd.grad(eps.square().sum(), x)
        direction, step = normal(IMAGES.shape, 3, torch.float32), 1e-2
        with torch.no_grad():
            ends = [model.eps(x + s * direction, 1.0, cond).double().square().sum() for s in (step, -step)]
        slope = (gradient.double() * direction).sum()
        assert ((ends[0] - ends[1]) / (2 * step)).item() == pytest.approx(slope.item(), rel=2e-3)
        assert torch.equal(eps.detach(), model.eps(IMAGES, 1.0, cond))

    def test_newton_runs_through_the_network(self, model, cond):
        method = GuidedNewton(num_iterations=2, gradient="network")
        report = invert_with_report(model, IMAGES, GRID, method, cond)
        assert torch.isfinite(report.latent).all()
        assert not report.latent.requires_grad
        assert report.evaluations.tolist() == [8, 8]


@pytest.mark.parametrize("name", ["null-text", "prompt-tuning", "negative-prompt"])
def test_a_method_that_guides_by_itself_is_not_given_a_guided_model(name, model, cond):
    told = (
        f"'{name}' guides its own sampler .option guidance_scale., and the model is under guidance of scale 3"
    )
    with pytest.raises(UsageError, match=told):
        invert(Guided(model, 3.0), IMAGES, GRID, name, cond)
    with pytest.raises(UsageError, match=told):
        reconstruct(Guided(model, 3.0), IMAGES, GRID, name, cond)
