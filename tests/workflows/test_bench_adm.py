"""The ADM benchmark compares two ways to the same images and latents."""

import pytest

from taba_core.errors import UsageError
from workflows.bench import adm_loop


def test_our_loop_and_the_plain_one_agree_and_every_option_is_measured():
    found = adm_loop.measure(repeats=1, models=("adm-32",), batch_size=1, num_inference_steps=4, full_size=())
    # Float32 betas of the scheduler and the division by 3e-3 at index 0: latents agree to 1e-3, not to 1e-6.
    assert found.figures["adm-32/image_difference"] < 1e-3
    assert found.figures["adm-32/latent_difference"] < 5e-3
    assert found.figures["adm-32/ratio"] > 0
    assert found.figures["adm-32-small/channels last (exact)/difference"] < 1e-4
    # bf16 has 8 bits: it must differ, or it was not on
    assert 1e-4 < found.figures["adm-32-small/bf16, channels last (fast)/difference"] < 0.3
    assert len(found.rows) == 2 + 3 * 2 and len(found.notes) == 1


def test_every_network_of_the_family_has_its_small_version():
    for name in ("adm-64", "adm-256"):
        found = adm_loop.measure(repeats=1, models=(name,), batch_size=1, num_inference_steps=2, full_size=())
        assert found.figures[f"{name}/image_difference"] < 1e-3


@pytest.mark.follows(" steps like guided-diffusion's; use a divisor.")
def test_steps_at_which_the_two_libraries_have_other_timesteps_are_refused():
    # 4000 / 3: guided-diffusion's stride is 1334, that of diffusers 1333
    with pytest.raises(UsageError, match="no grid of 3 of 4000 steps like guided-diffusion's; use a divisor"):
        adm_loop.measure(repeats=1, models=("adm-32",), batch_size=1, num_inference_steps=3)
    found = adm_loop.measure(repeats=1, models=("adm-32",), batch_size=1, num_inference_steps=2, full_size=())
    assert found.figures["adm-32/image_difference"] < 1e-3
