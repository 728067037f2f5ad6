"""The self-interpolation curve: from the true noise to a method's latent, and what the sampler makes of the way."""

import numpy as np
import pytest
import torch
from analytic_denoisers import LINEAR, gaussian, normal, waves

from taba_core.diffusion import (
    CountedDenoiser,
    TimestepGrid,
    generate,
    generate_between,
    invert,
    self_interpolation,
)
from taba_core.diffusion.interpolation import between
from taba_core.errors import UsageError
from taba_core.slerp import slerp
from taba_core.theory import GaussianModes

SHAPE = (3, 3, 4, 4)
GRID = TimestepGrid.build(LINEAR, 10)


def test_between_perpendicular_noises_by_hand():
    # a linear model multiplies by F, so D(w) = F mean |slerp - u|. With u = e_1, v = e_2 of 48 entries and w = 1/2
    # slerp = (e_1 + e_2) / sqrt 2 and |slerp - u| sums to (1 - 1/sqrt 2) + 1/sqrt 2 = 1: D = F / 48.
    # At w = 1: |e_2 - e_1| sums to 2: D = F / 24.
    F = float(GaussianModes(np.array(0.01), GRID).sampling_gain())
    u, v = torch.zeros(1, 48, dtype=torch.float64), torch.zeros(1, 48, dtype=torch.float64)
    u[0, 0], v[0, 1] = 1, 1
    u, v = u.view(1, 3, 4, 4), v.view(1, 3, 4, 4)
    D = self_interpolation(gaussian(0.01), u, v, F * u, GRID, [0.0, 0.5, 1.0])
    assert D.tolist() == [[0.0, pytest.approx(F / 48, rel=1e-12), pytest.approx(F / 24, rel=1e-12)]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curve_starts_at_0_and_ends_at_the_reconstruction_error(dtype):
    model, noise = waves(), normal(SHAPE, 1, dtype)
    image = generate(model, noise, GRID)
    latent = invert(model, image, GRID)
    D = self_interpolation(model, noise, latent, image, GRID)
    assert D.shape == (3, 11) and D.dtype == torch.float64
    assert D[:, 0].tolist() == [0, 0, 0]
    again = (generate(model, latent, GRID) - image).abs().double().mean((1, 2, 3))
    torch.testing.assert_close(D[:, -1], again, rtol=1e-6, atol=0)


def test_a_perfect_latent_gives_a_flat_curve_and_an_unrelated_one_does_not():
    model, noise = waves(), normal(SHAPE, 1)
    image = generate(model, noise, GRID)
    assert self_interpolation(model, noise, noise, image, GRID).max() < 1e-14
    D = self_interpolation(model, noise, normal(SHAPE, 2), image, GRID).mean(0)
    assert (D.diff() > 0).all()


def test_an_image_does_not_depend_on_its_batch():
    model, noise, latent = waves(), normal(SHAPE, 1), normal(SHAPE, 2)
    image = normal(SHAPE, 3)
    together = self_interpolation(model, noise, latent, image, GRID, [0.3, 0.7])
    one_by_one = [
        self_interpolation(model, *(x[i : i + 1] for x in (noise, latent, image)), GRID, [0.3, 0.7])
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(one_by_one), rtol=1e-12, atol=0)


def test_a_point_of_the_path_costs_one_generation():
    model = CountedDenoiser(waves())
    images = list(generate_between(model, normal(SHAPE, 1), normal(SHAPE, 2), GRID, [0.0, 0.5, 1.0]))
    assert len(images) == 3 and model.num_evaluations == 3 * 10 * 3
    assert torch.equal(images[0], generate(waves(), normal(SHAPE, 1), GRID))


def test_points_between_keep_type_and_ends_and_the_rows_of_an_image_may_turn_alone():
    u, v = normal(SHAPE, 1), normal(SHAPE, 2)
    for by_row in (False, True):
        middle = between(u, v, 0.25, by_row=by_row)
        np.testing.assert_array_equal(middle, slerp(u.numpy(), v.numpy(), 0.25, by_row=by_row))
    assert not torch.equal(between(u, v, 0.25), between(u, v, 0.25, by_row=True))
    half = between(u.half(), v.half(), 0.5)
    assert half.dtype == torch.float32
    assert torch.equal(between(u.float(), v.float(), 0.0), u.float())
    assert torch.equal(between(u.float(), v.float(), 1.0), v.float())


def test_refusals():
    with pytest.raises(UsageError, match=r"slerp between shapes \(3, 3, 4, 4\) and \(2, 3, 4, 4\)"):
        list(generate_between(waves(), normal(SHAPE, 1), normal((2, 3, 4, 4), 1), GRID))
    with pytest.raises(UsageError, match=r"weight=1\.5 is outside the segment"):
        self_interpolation(waves(), *(normal(SHAPE, i) for i in (1, 2, 3)), GRID, [1.5])
