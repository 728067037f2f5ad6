"""The photo mixture is exact, deterministic and restricted by class, and its samples have plain areas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.linalg import cho_factor, cho_solve

from taba_core import rng
from taba_core.diffusion.denoiser import Denoiser
from taba_core.diffusion.grid import TimestepGrid
from taba_core.diffusion.inversion import inversion_method_named, invert
from taba_core.diffusion.sampling import generate
from taba_core.errors import UsageError
from taba_core.models.base import load_model
from taba_core.models.basis import OPPONENT, analyse, cosine_matrix, low_frequencies
from taba_core.models.mixture_fit import Mixture
from taba_core.models.photo_mixture import MAX_LEVELS, PhotoMixture

TIMESTEPS = (0, 20, 100, 500, 980)  # sqrt(1 - alpha_bar): .01, .08, .32, .96, 1.00


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_model("photo-mixture")


@pytest.fixture(scope="module")
def three(model):
    """Three components of the real fit, of two classes: small enough for dense matrices."""
    chosen = [0, 1, 40]
    parts = {
        f.name: getattr(model.mixture, f.name)[chosen]
        for f in dataclasses.fields(Mixture)
        if f.name not in ("class_names", "component_class")
    }
    names = (model.class_names[0], model.class_names[6])
    return PhotoMixture(Mixture(class_names=names, component_class=np.array([0, 0, 1]), **parts))


def states(model, t, n=8, first=0):
    """x_t = sqrt(a) x_0 + sqrt(1-a) e of real crops."""
    a = float(model.schedule.alpha_bar[t])
    ids = range(first, first + n)
    e = rng.normal(ids, model.sample_shape, seed=5, stream="test")
    return torch.from_numpy(
        (math.sqrt(a) * model.real_crops(ids, 3) + math.sqrt(1 - a) * e).astype(np.float32)
    )


def draws(model, n):
    """Exact draws of x_0 from the mixture, and their components."""
    mixture, low = model.mixture, low_frequencies(32)
    weight = np.cumsum(np.exp(mixture.log_weight))
    k = np.searchsorted(weight / weight[-1], rng.uniform(range(n), (), seed=1, stream="k"))
    z = rng.normal(range(n), (3072,), seed=2, stream="z").astype(np.float64)
    g = rng.normal(range(n), (mixture.factors.shape[2],), seed=3, stream="g")
    c = mixture.mean[k] + np.sqrt(mixture.remainder[k]) * z
    c[:, low] += np.einsum("nlr,nr->nl", mixture.factors[k], g)
    cosines = cosine_matrix(32)
    return np.einsum("oc,nohw->nchw", OPPONENT, cosines.T @ c.reshape(n, 3, 32, 32) @ cosines), k


def dense_eps(model, x_t, t, class_id=-1):
    """sqrt(1-a) sum_k r_k C_k^-1 (x - sqrt(a) m_k) with whole covariance matrices, float64."""
    a = float(model.schedule.alpha_bar[t])
    mixture, low = model.mixture, low_frequencies(32)
    x = analyse(x_t.numpy())
    solves, logs = [], []
    for k in range(len(mixture.mean)):
        covariance = np.diag(a * mixture.remainder[k].astype(np.float64) + (1 - a))
        factors = mixture.factors[k].astype(np.float64)
        covariance[np.ix_(low, low)] += a * factors @ factors.T
        cholesky = cho_factor(covariance, lower=True, overwrite_a=True)
        centred = x - math.sqrt(a) * mixture.mean[k].astype(np.float64)
        solves.append(cho_solve(cholesky, centred.T).T)
        log_det = 2 * np.log(np.diag(cholesky[0])).sum()
        log = mixture.log_weight[k] - 0.5 * log_det - 0.5 * (centred * solves[-1]).sum(1)
        logs.append(log if class_id in (-1, mixture.component_class[k]) else np.full_like(log, -np.inf))
    share = np.exp(np.array(logs) - np.max(logs, axis=0))
    share /= share.sum(0)
    c = math.sqrt(1 - a) * np.einsum("kn,knd->nd", share, np.array(solves)).reshape(-1, 3, 32, 32)
    cosines = cosine_matrix(32)
    return torch.from_numpy(np.einsum("oc,nohw->nchw", OPPONENT, cosines.T @ c @ cosines))


def test_the_basis_is_orthonormal_and_keeps_half_the_luminance_band():
    basis = np.kron(OPPONENT, np.kron(cosine_matrix(4), cosine_matrix(4)))
    np.testing.assert_allclose(basis @ basis.T, np.eye(48), atol=1e-14)
    image = rng.normal([0], (3, 4, 4), seed=0, stream="x")
    np.testing.assert_allclose(analyse(image)[0], basis @ image.ravel(), rtol=1e-12)
    assert len(low_frequencies(32)) == 16 * 16 + 2 * 8 * 8


@pytest.mark.parametrize("t", [0, 20, 500])
def test_eps_is_exact_against_whole_covariance_matrices_in_float64(three, t):
    # Stated tolerance of the float32 evaluation: 2e-4 noise standard deviations, worst value of 6 images.
    x = states(three, t, n=6)
    expected = dense_eps(three, x, t)
    assert (three.eps(x, t, {}).double() - expected).abs().max() < 2e-4
    assert expected.std() > 0.1


def test_a_class_is_exact_too(three):
    x = states(three, 500, n=2)
    expected = dense_eps(three, x, 500, class_id=1)
    eps = three.eps(x, 500, {"class_id": torch.tensor([1, 1])})
    assert (eps.double() - expected).abs().max() < 2e-4
    assert (three.eps(x, 500, {}) - eps).abs().max() > 1e-2


@pytest.mark.parametrize("t", TIMESTEPS)
def test_all_components_at_once_equal_one_after_the_other(model, t):
    x = states(model, t)
    torch.testing.assert_close(model.eps(x, t, {}), model.eps_loop(x, t, {}), rtol=0, atol=5e-4)


def test_eps_is_the_score_of_the_mixtures_own_density(model):
    # Tweedie: eps = -sigma grad log p(x); the gradient of the log density by autograd.
    x = states(model, 100, n=2).requires_grad_()
    level = model._level(100)
    c = model._analyse(x)
    p = model._project(level, c)
    (gradient,) = torch.autograd.grad(model._log_density(level, c, p).logsumexp(1).sum(), x)
    assert gradient.abs().max() > 1
    torch.testing.assert_close(model.eps(x.detach(), 100, {}), -level.sigma * gradient, rtol=0, atol=1e-3)


def test_the_jacobian_of_eps_is_symmetric(model):
    # eps is -sigma times a gradient, so its Jacobian is a Hessian: u . J v = v . J u.
    x = states(model, 500, n=1).requires_grad_()
    u, v = (torch.from_numpy(rng.normal([i], model.sample_shape, seed=9, stream="uv")) for i in (0, 1))
    ju, jv = (torch.autograd.grad((model.eps(x, 500, {}) * w).sum(), x)[0] for w in (u, v))
    assert float((ju * v).sum()) == pytest.approx(float((jv * u).sum()), rel=1e-3, abs=1e-3)
    assert float((ju * u).sum()) > 100  # nearly the identity times 1 / sigma, 3072 values


def test_class_restricts_the_components_and_minus_one_is_any(model):
    x = states(model, 500, n=3)
    free = model.eps(x, 500, {})
    mixed = model.eps(x, 500, {"class_id": torch.tensor([-1, 2, 2])})
    torch.testing.assert_close(mixed[:1], free[:1], rtol=0, atol=1e-5)
    assert (mixed[1:] - free[1:]).abs().amax((1, 2, 3)).min() > 1e-2
    only = model.eps_loop(x, 500, {"class_id": torch.tensor([2, 2, 2])})
    torch.testing.assert_close(mixed[1:], only[1:], rtol=0, atol=5e-4)


@pytest.mark.parametrize("t", TIMESTEPS)
def test_a_row_does_not_depend_on_its_batch_beyond_rounding(model, t):
    x = states(model, t, n=16)
    whole = model.eps(x, t, {})
    parts = torch.cat([model.eps(part, t, {}) for part in x.split([1, 3, 12])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=5e-4)


def test_the_same_batch_gives_the_same_bits_from_another_instance(model):
    x = states(model, 20)
    first = model.eps(x, 20, {})
    assert torch.equal(model.eps(x, 20, {}), first)
    assert torch.equal(PhotoMixture(model.mixture).eps(x, 20, {}), first)


def test_prepared_levels_are_bounded_and_dropping_one_changes_nothing(three):
    x = states(three, 0, n=2)
    first = three.eps(x, 0, {})
    for t in range(1, MAX_LEVELS + 2):
        three.eps(x, t, {})
    assert len(three._levels) == MAX_LEVELS and 0 not in three._levels
    assert torch.equal(three.eps(x, 0, {}), first)


def test_it_is_a_denoiser_of_ten_named_photographs(model):
    assert isinstance(model, Denoiser)
    assert len(model.class_names) == 10 and "astronaut" in model.class_names
    assert len(model.mixture.mean) == 60


def test_float64_states_come_back_as_float64(model):
    x = states(model, 100, n=1)
    eps = model.eps(x.double(), 100, {})
    assert eps.dtype == torch.float64 and torch.equal(eps.float(), model.eps(x, 100, {}))


def test_real_crops_belong_to_seed_and_id(model):
    crops = model.real_crops([4, 9, 2], seed=7)
    assert crops.shape == (3, 3, 32, 32) and crops.min() >= -1 and crops.max() <= 1
    np.testing.assert_array_equal(crops[1:2], model.real_crops([9], seed=7))
    assert not np.array_equal(crops[:1], model.real_crops([4], seed=8))


def test_wrong_shapes_times_and_classes_are_refused(model):
    x = torch.zeros(2, 3, 32, 32)
    with pytest.raises(
        UsageError, match=r"x_t has shape \(2, 3, 16, 16\); the photo mixture reads \(B, 3, 32, 32\)"
    ):
        model.eps(x[:, :, :16, :16], 0, {})
    with pytest.raises(UsageError, match=r"t=1000 is no training timestep .* 0 to 999"):
        model.eps(x, 1000, {})
    with pytest.raises(UsageError, match=r"t=0\.5 is no training timestep"):
        model.eps(x, 0.5, {})
    with pytest.raises(
        UsageError, match=r"class_id from 0 to 10: .* classes 0 to 9 \(astronaut, .*-1 is any"
    ):
        model.eps(x, 0, {"class_id": torch.tensor([0, 10])})
    with pytest.raises(UsageError, match=r"class_id has shape \(1,\); it needs one class a row: \(2,\)"):
        model.eps(x, 0, {"class_id": torch.tensor([0])})


def plain_fraction(images):
    down, right = np.zeros_like(images), np.zeros_like(images)
    down[:, :, :-1] = abs(np.diff(images, axis=2))
    right[:, :, :, :-1] = abs(np.diff(images, axis=3))
    return ((down + right) / 2 < 0.025).all(1)


def test_samples_have_plain_areas_and_inversion_loses_their_variance(model):
    """The paper's effect (Sec. 3.2): DDIM latents of plain areas have far too little variance."""
    n, grid = 48, TimestepGrid.build(model.schedule, 50)
    noise = torch.from_numpy(rng.normal(range(n), model.sample_shape, seed=420, stream="noise"))
    x_0 = generate(model, noise, grid)
    plain = plain_fraction(x_0.numpy())
    assert plain.mean() > 0.10
    latent = invert(model, x_0, grid, inversion_method_named("ddim")).numpy()
    mask = np.broadcast_to(plain[:, None], latent.shape)
    assert latent[mask].std() < 0.35 < 0.42 < latent[~mask].std() < 0.7
    assert 0.9 < noise.numpy()[mask].std() < 1.1


def test_draws_of_the_mixture_are_recognised_as_their_component(model):
    x_0, k = draws(model, 64)
    level = model._level(0)
    c = model._analyse(torch.from_numpy(x_0.astype(np.float32)))
    share = model._responsibilities(model._log_density(level, c, model._project(level, c)), {})
    assert (share.argmax(1).numpy() == k).mean() > 0.9
