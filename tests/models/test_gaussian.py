"""The Gaussian field is its own closed form, in both bases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taba_core import rng
from taba_core.diffusion.ddim import ddim_step
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError
from taba_core.models.basis import cosine_matrix
from taba_core.models.gaussian import GaussianField, mode_variance
from taba_core.models.options import GaussianOptions


def modes_as_images(basis, size):
    """Two real modes of one channel with their variance: (name, image (S, S), lam)."""
    lam = mode_variance({"basis": basis, "size": size})
    if basis == "fourier":
        n = np.arange(size)
        wave = np.cos(2 * np.pi * (2 * n[:, None] + 3 * n[None, :]) / size)
        return [(np.ones((size, size)), lam[0, 0]), (wave, lam[2, 3])]
    cosines = cosine_matrix(size)
    return [(np.outer(cosines[0], cosines[0]), lam[0, 0]), (np.outer(cosines[2], cosines[3]), lam[2, 3])]


@pytest.mark.parametrize("basis", ["fourier", "dct"])
@pytest.mark.parametrize("t", [0, 20, 500, 999])
def test_a_mode_is_an_eigenvector_with_the_closed_form_gain(basis, t):
    model = GaussianField(GaussianOptions(size=8, basis=basis))
    a = model.schedule.alpha_bar[t]
    for image, lam in modes_as_images(basis, 8):
        x = torch.tensor(image)[None, None].repeat(2, 3, 1, 1)
        gain = np.sqrt(1 - a) / (a * lam + 1 - a)
        torch.testing.assert_close(model.eps(x, t, {}), gain * x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("basis", ["fourier", "dct"])
def test_mean_mode_variance_is_the_variance_of_a_pixel(basis):
    lam = mode_variance({"basis": basis, "variance": 0.01, "beta": 3.0})
    assert lam.shape == (32, 32) and lam.mean() == pytest.approx(0.01)
    assert lam[1, 2] / lam[2, 4] == pytest.approx(2**3)  # twice the frequency, 2^-beta


def test_eps_is_the_regression_of_the_noise_on_the_state():
    # Orthogonality of the posterior mean: E[(e - eps(x_t)) x_t] = 0, per pixel, over 4000 exact draws.
    size, n, t = 4, 4000, 300
    model = GaussianField(GaussianOptions(size=size, basis="dct", variance=1.0, beta=1.0))
    a, cosines = model.schedule.alpha_bar[t], cosine_matrix(size)
    z = rng.normal(range(n), (2, 3, size, size), seed=1, stream="test").astype(np.float64)
    x_0 = cosines.T @ (z[:, 0] * np.sqrt(model.mode_variance)) @ cosines
    x_t = np.sqrt(a) * x_0 + np.sqrt(1 - a) * z[:, 1]
    rest = z[:, 1] - model.eps(torch.tensor(x_t), t, {}).numpy()
    assert abs((rest * x_t).mean()) < 5 / np.sqrt(n * 3 * size * size)
    assert (z[:, 1] * x_t).mean() > 0.3  # the noise itself is not orthogonal to it


def test_float32_and_float64_agree():
    model = GaussianField()
    x = torch.from_numpy(rng.normal(range(2), model.sample_shape, seed=0, stream="x"))
    eps = model.eps(x, 20, {})
    assert eps.dtype == torch.float32
    torch.testing.assert_close(eps.double(), model.eps(x.double(), 20, {}), rtol=1e-4, atol=1e-5)


def test_an_odd_size_works():
    model = GaussianField(GaussianOptions(size=7))
    x = torch.ones(1, 3, 7, 7, dtype=torch.float64)
    a, lam = model.schedule.alpha_bar[100], model.mode_variance[0, 0]
    torch.testing.assert_close(model.eps(x, 100, {}), x * np.sqrt(1 - a) / (a * lam + 1 - a))


def test_one_sampling_step_keeps_the_norm_ratio_of_the_worked_number():
    # lam = 1 everywhere (beta 0): eps = sqrt(1-a) x, so x_0 = x (1 - (1-a)) / sqrt(a) = sqrt(a) x.
    model = GaussianField(GaussianOptions(size=4, variance=1.0, beta=0.0))
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    a = float(model.schedule.alpha_bar[500])
    torch.testing.assert_close(
        ddim_step(x, model.eps(x, 500, {}), Level.vp(a), Level.vp(1.0)), np.sqrt(a) * x
    )


def test_wrong_shapes_and_times_are_refused():
    model = GaussianField(GaussianOptions(size=8))
    with pytest.raises(
        UsageError, match=r"x_t has shape \(1, 3, 9, 8\); the gaussian model reads \(B, 3, 8, 8\)"
    ):
        model.eps(torch.zeros(1, 3, 9, 8), 0, {})
    for t in (1000, -1, 0.5):
        with pytest.raises(UsageError, match=f"t={t:g} is no training timestep; use 0 to 999 times 1"):
            model.eps(torch.zeros(1, 3, 8, 8), t, {})
