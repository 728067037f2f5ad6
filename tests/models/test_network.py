"""A network is a Denoiser in epsilon, whatever it predicts and in whatever precision it computes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from taba_core.diffusion import generate, invert
from taba_core.diffusion.denoiser import Denoiser
from taba_core.errors import UsageError, WorkError
from taba_core.models.catalog import load_card
from taba_core.models.grids import timestep_grid
from taba_core.models.network import Network
from taba_core.models.profile import profile_named

CARD = load_card("ldm").model_copy(update={"sample_shape": (3, 4, 4)})
X_0 = torch.linspace(-1, 1, 2 * 48, dtype=torch.float64).reshape(2, 3, 4, 4)
EPS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def network(predict, profile="exact", **fields):
    return Network.of_card(CARD.model_copy(update=fields), predict, profile=profile_named(profile))


def noised(alpha_bar):
    return math.sqrt(alpha_bar) * X_0 + math.sqrt(1 - alpha_bar) * EPS


@pytest.mark.parametrize("t", [0, 1, 500, 999])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_the_epsilon_of_a_known_state_is_recovered_from_every_prediction(prediction, t):
    alpha_bar = float(network(None).schedule.alpha_bar[t])
    signal, spread = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    raw = {"epsilon": EPS, "v": signal * EPS - spread * X_0, "sample": X_0}[prediction]
    model = network(lambda x, t, cond: raw, prediction=prediction)
    eps = model.eps(noised(alpha_bar), t, {})
    torch.testing.assert_close(eps, EPS, rtol=0, atol=1e-10 / spread)


def test_rescaled_times_find_their_own_level():
    # ADM-64: 4000 training steps seen as 0..999.75, so network time 250.25 is training step 1001.
    card = load_card("adm-64").model_copy(update={"prediction": "v", "sample_shape": (3, 4, 4)})
    model = Network.of_card(card, lambda x, t, cond: torch.zeros_like(x))
    x = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    expected = math.sqrt(1 - model.schedule.alpha_bar[1001])  # v = 0: eps = sqrt(1 - a) x
    assert float(model.eps(x, 250.25, {})[0, 0, 0, 0]) == pytest.approx(expected, rel=1e-12)


def test_learned_variance_is_dropped():
    model = network(lambda x, t, cond: torch.cat([x, torch.full_like(x, 9.0)], dim=1))
    torch.testing.assert_close(model.eps(X_0, 10, {}), X_0.float().double())


@pytest.mark.parametrize(
    ("profile", "precision", "inside"),
    [("exact", "fp16", torch.float32), ("reference", "fp16", torch.float16)],
)
@pytest.mark.parametrize("outside", [torch.float32, torch.float64])
def test_the_state_keeps_its_precision_and_the_network_has_its_own(profile, precision, inside, outside):
    seen = {}

    def predict(x, t, cond):
        seen.update(x=x.dtype, t=t.dtype, embeds=cond["prompt_embeds"].dtype, ids=cond["class_id"].dtype)
        return x

    model = network(predict, profile, precision=precision)
    cond = {"prompt_embeds": torch.zeros(2, 7, 5), "class_id": torch.tensor([1, 2])}
    eps = model.eps(X_0.to(outside), 3, cond)
    assert eps.dtype == outside and eps.is_contiguous()
    assert seen == {"x": inside, "t": torch.float32, "embeds": inside, "ids": torch.int64}


def test_the_time_is_one_float_a_state():
    times = []
    network(lambda x, t, cond: times.append(t) or x).eps(X_0, 42, {})
    np.testing.assert_array_equal(times[0].numpy(), [42.0, 42.0])


def test_half_precision_does_not_leak_into_sampling_or_inversion():
    # At T = 1000 steps of IF, 1 / sqrt(abar) reaches 2e4: a half state would overflow.
    card = load_card("if").model_copy(update={"sample_shape": (3, 4, 4)})
    model = Network.of_card(card, lambda x, t, cond: x, profile=profile_named("reference"))
    grid = timestep_grid(card, 10)
    x_0 = generate(model, EPS.float(), grid, x0_rule="dynamic")
    latent = invert(model, x_0, grid, x0_rule="clip")
    assert x_0.dtype == latent.dtype == torch.float32 and torch.isfinite(latent).all()


def test_a_network_is_a_denoiser_with_its_cards_numbers():
    model = network(lambda x, t, cond: x)
    assert isinstance(model, Denoiser)
    assert (model.name, model.sample_shape, model.value_range) == ("ldm", (3, 4, 4), (-3.0, 3.0))
    assert model.codec is None and model.text is None and model.class_names == ()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_name_the_model_and_the_time(bad):
    model = network(lambda x, t, cond: x * bad, "fast")
    with pytest.raises(
        WorkError, match=r"ldm: the network returned NaN or infinity at t=17 \(profile fast\)"
    ):
        model.eps(X_0, 17, {})


def test_conditioning_of_another_batch_is_refused():
    with pytest.raises(UsageError, match=r"ldm: cond\['class_id'\] has 3 rows for 2 states"):
        network(lambda x, t, cond: x).eps(X_0, 1, {"class_id": torch.zeros(3, dtype=torch.int64)})
