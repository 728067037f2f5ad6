"""The three small ADM networks give the numbers recorded with OpenAI's own code: one evaluation, and whole runs
of sampling, inversion, forward replacement and swapped predictions through our loops and the cards' conventions.

tests/data/adm*.pt, adm*.npz: random weights in OpenAI's names, float32. The tolerances are far below what any
planted mistake of the conversion gives (smallest: 8e-3, GroupNorm eps). The recorded code takes 1 - alpha_bar of
the level it moves to from a float32 table, ours from float64; where that shows, both are tested.
"""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from adm_cases import DATA, TINY, tiny_card, tiny_weights
from numpy.testing import assert_allclose, assert_array_equal

from taba_core.diffusion import (
    DDIMInversion,
    OraclePrediction,
    TimestepGrid,
    apply_x0_rule,
    forward_diffuse,
    generate,
    invert,
)
from taba_core.diffusion.ends import Ends
from taba_core.diffusion.level import Level
from taba_core.models.adm import load
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named
from workflows.bench.paired import torch_threads

TOLERANCE = {"raw": 2e-5, "sampling": 5e-5, "inversion": 3e-4, "latent": 1e-4, "eps": 1e-3}
RUNS = [(name, T) for name in TINY for T in (10, 20)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small gain nothing from threads, and lose much where others use the machine."""
    with torch_threads(1):
        yield


@functools.cache
def network(name, profile="exact"):
    return load(tiny_card(name), tiny_weights(name), device="cpu", profile=profile_named(profile))


class Float32Targets(TimestepGrid):
    """The grid with alpha_bar of every move's target rounded to float32, as the recorded code rounds it."""

    def downward(self):
        return [_rounded(move) for move in super().downward()]

    def upward(self, *args, **options):
        return [_rounded(move) for move in super().upward(*args, **options)]


def _rounded(move):
    return replace(move, stop=Level.vp(float(np.float32(move.stop.alpha_bar))))


class Run:
    """One recorded process and our own, computed once for all tests."""

    def __init__(self, name, T, *, as_recorded=False):
        self.arrays, self.T = np.load(DATA / f"{name}.npz"), T
        self.card, self.model = tiny_card(name), network(name)
        grid = self.grid = timestep_grid(self.card, T)
        if as_recorded:
            self.grid = Float32Targets(grid.schedule, grid.timesteps, grid.source_timesteps, grid.level_zero)
        self.down, self.up = [], []
        self.sample = self.generate(self.recorded("noise"), on_step=self.down.append)
        self.latent = self.invert(on_step=self.up.append)

    def __getitem__(self, key):
        return self.arrays[key if key in self.arrays else f"T{self.T}_{key}"]

    def recorded(self, key):
        return torch.from_numpy(self[key])

    def generate(self, noise, **options):
        rule = self.card.reference.sampling_x0_rule
        return generate(self.model, noise, self.grid, x0_rule=rule, **options)

    def invert(self, **options):
        chosen = self.card.reference
        return invert(
            self.model,
            self.recorded("sample"),
            self.grid,
            network_time=chosen.network_time,
            levels=chosen.levels,
            x0_rule=chosen.inversion_x0_rule,
            forward_level=chosen.forward_level,
            **options,
        )

    def x_0(self, record, transition):
        """The clipped prediction of the clean image in one step."""
        eps = self.model.eps(record.x_from, transition.network_time, {})
        return apply_x0_rule(Ends(record.x_from, transition.start, eps), "clip-rederive").x_0


cached_run = functools.cache(Run)


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-T{run[1]}")
def run(request):
    """Our own run, float64 levels."""
    return cached_run(*request.param)


@pytest.fixture(params=RUNS, ids=lambda run: f"{run[0]}-T{run[1]}")
def rounded_run(request):
    """The same with the recorded code's rounding."""
    return cached_run(*request.param, as_recorded=True)


def close(actual, expected, tolerance):
    assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("profile", ["exact", "reference"])
def test_one_evaluation_at_fractional_times(name, profile):
    golden, model = np.load(DATA / f"{name}.npz"), network(name, profile)
    for row, t in enumerate(golden["raw_t"]):  # 12.5 and 742.5 for the rescaled models
        x = torch.from_numpy(golden["raw_x"][row : row + 1])
        close(model.eps(x, float(t), {}), golden["raw_out"][row : row + 1, :3], TOLERANCE["raw"])


@pytest.mark.parametrize("name", TINY)
def test_raw_output_with_its_variance_channels(name):
    golden = np.load(DATA / f"{name}.npz")
    x, t = torch.from_numpy(golden["raw_x"]), torch.from_numpy(golden["raw_t"])
    raw = network(name).output(x, t, {})
    close(raw.detach(), golden["raw_out"], TOLERANCE["raw"])


def test_levels_and_network_times(run):
    assert_array_equal(run.grid.timesteps, run["timestep_map"])
    assert_allclose(run.grid.upper_alpha_bar, run["alphas_cumprod"], rtol=0, atol=1e-12)
    upward = run.grid.upward(network_time="source", levels="shifted")
    assert_allclose([move.network_time for move in run.grid.downward()], run["model_t"], rtol=1e-6)
    assert_allclose([move.network_time for move in upward], run["inv_model_t"], rtol=1e-6)


def test_sampling_visits_the_recorded_states(run):
    close(run.sample, run["sample"], TOLERANCE["sampling"])
    close(
        torch.stack([run.down[i].x_to for i in run["stored_steps"]]), run["sample_x"], TOLERANCE["sampling"]
    )
    assert float(run.sample.abs().max()) <= 1


def test_inversion_visits_the_recorded_states(run):
    close(run.latent, run["latent"], TOLERANCE["inversion"])
    close(torch.stack([run.up[i].x_to for i in run["stored_steps"]]), run["inv_x"], TOLERANCE["inversion"])
    # alpha_bar beyond the last level is 0: the latent is the last prediction itself
    assert torch.equal(run.latent, run.up[-1].eps_t)


@pytest.mark.parametrize("name", TINY)
def test_predictions_of_every_step(name):
    run = cached_run(name, 10)
    close(torch.stack([record.eps_t for record in run.up]), run["inv_eps"], TOLERANCE["eps"])
    close(torch.stack([record.eps_t for record in run.down[:-1]]), run["sample_eps"][:-1], TOLERANCE["eps"])
    # Index 0: eps is re-derived by a division by sqrt(1 - alpha_bar_0), 3e-3 for the cosine schedule. 1e-5 has
    # relative error 3e-3 when it is 1 - float32(alpha_bar), its root half of that: on |eps| < 4.4, 6.6e-3.
    close(run.down[-1].eps_t, run["sample_eps"][-1], 7e-3)
    rounded = cached_run(name, 10, as_recorded=True)
    close(torch.stack([record.eps_t for record in rounded.down]), run["sample_eps"], TOLERANCE["eps"])


@pytest.mark.parametrize("name", TINY)
def test_clean_images_predicted_on_the_way(name):
    run = cached_run(name, 10)
    upward = run.grid.upward(network_time="source", levels="shifted")
    for records, moves, direction in ((run.down, run.grid.downward(), "sample"), (run.up, upward, "inv")):
        tolerance = TOLERANCE["sampling" if direction == "sample" else "inversion"]
        for index, recorded in zip(run["x0_steps"], run[f"{direction}_x0"], strict=True):
            # what one evaluation may differ by is divided by sqrt(alpha_bar), 0.016 at adm256's noisiest level
            own = TOLERANCE["raw"] / moves[index].start.alpha_bar ** 0.5
            close(run.x_0(records[index], moves[index]), recorded, max(tolerance, own))


def test_reconstruction_from_the_recorded_latent(run):
    close(run.generate(run.recorded("latent")), run["recon"], TOLERANCE["sampling"])


@pytest.mark.parametrize("K", [1, 2])
def test_forward_replacement(run, K):
    noise, records = run.recorded("fwd_noise"), []
    level = run.grid.replacement_level(K, "matched", "shifted")
    close(forward_diffuse(run.recorded("sample"), noise, level), run[f"fwd{K}_xK"], 1e-6)
    # noised to the very level that the next step takes its state to have
    assert level == run.grid.upward(K, network_time="source", levels="shifted")[0].start
    latent = run.invert(forward_steps=K, forward_noise=noise, on_step=records.append)
    close(latent, run[f"fwd{K}_latent"], TOLERANCE["latent"])
    assert [record.step for record in records] == list(range(K + 1, run.T + 1))
    if run.T == 10:  # recorded for the short process only
        close(run.generate(run.recorded(f"fwd{K}_latent")), run[f"fwd{K}_recon"], TOLERANCE["latent"])


@pytest.mark.parametrize("name", TINY)
def test_two_swapped_predictions(name):
    run = cached_run(name, 10)
    method, eps = OraclePrediction(DDIMInversion(), num_swapped=2), run.recorded("sample_eps")
    latent = run.invert(method=method, reference={1: eps[-1], 2: eps[-2]})
    close(latent, run["swap2_latent"], TOLERANCE["latent"])


def test_two_predictions_swapped_for_our_own(rounded_run):
    method = OraclePrediction(DDIMInversion(), num_swapped=2)
    reference = {record.step: record.eps_t for record in rounded_run.down[-2:]}
    latent = rounded_run.invert(method=method, reference=reference)
    close(latent, rounded_run["swap2_latent"], TOLERANCE["latent"])


def test_rows_of_a_batch_do_not_meet():
    model, x = network("adm32"), torch.from_numpy(np.load(DATA / "adm32.npz")["raw_x"])
    both = model.eps(x, 100.0, {})
    assert_allclose(model.eps(x.flip(0), 100.0, {}).flip(0), both, rtol=0, atol=1e-5)
    assert_allclose(model.eps(x[1:], 100.0, {}), both[1:], rtol=0, atol=1e-5)


def test_half_torso_of_the_reference_profile_is_close_and_not_equal():
    # measured: float16 convolutions differ by 4e-3 at most, 5e-4 on average
    model = load(
        tiny_card("adm256", precision="fp16-torso"),
        tiny_weights("adm256"),
        device="cpu",
        profile=profile_named("reference"),
    )
    x = torch.from_numpy(np.load(DATA / "adm256.npz")["raw_x"])
    difference = (model.eps(x, 500.0, {}) - network("adm256").eps(x, 500.0, {})).abs()
    assert 1e-5 < difference.mean() < 2e-3 and difference.max() < 2e-2
