"""Cards say what the paper's models are, and can be read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from taba_core.errors import UsageError
from taba_core.models.cards import Card
from taba_core.models.catalog import list_cards, load_card
from taba_core.models.grids import noise_schedule, timestep_grid

CARDS = {card.name: card for card in list_cards()}


def test_the_zoo_is_complete_and_the_embedded_models_come_first():
    assert list(CARDS) == [
        "photo-mixture", "gaussian", "photo-adm", "photo-ldm", "photo-dit", "photo-flow", "photo-if", "photo-tiny",
        "adm-32", "adm-64", "adm-256", "ldm", "dit", "if", "sdxl", "sd", "sit-xl",
        "sd3-medium", "sd35-medium", "sd35-large", "flux-dev", "flux-schnell",
    ]  # fmt: skip
    assert [name for name, card in CARDS.items() if card.embedded] == ["photo-mixture", "gaussian"]
    # What runs anywhere comes first, and asks for no downloaded caption either.
    assert [name for name, card in CARDS.items() if card.runs_anywhere] == list(CARDS)[:8]
    assert all(c.defaults.prompts != "recap-coco" for c in list_cards()[:8] if c.conditional == "text")


@pytest.mark.parametrize(
    ("name", "values", "milliseconds"),  # values of one state; ms per image-evaluation of Appendix D
    [
        ("adm-32", 3072, 0.211),
        ("adm-64", 12288, 0.727),
        ("adm-256", 196608, 14.08),
        ("ldm", 12288, 2.13),
        ("dit", 4096, 0.813),
        ("if", 12288, 9.52),
        ("sdxl", 65536, 142.9),
    ],
)
def test_state_size_and_cost_are_the_papers(name, values, milliseconds):
    channels, height, width = CARDS[name].sample_shape
    assert channels * height * width == values
    assert 1e3 * CARDS[name].cost.image_seconds == pytest.approx(milliseconds, rel=2e-3)


@pytest.mark.parametrize("name", list(CARDS))
def test_every_card_has_a_grid_of_its_default_steps(name):
    card = load_card(name)
    grid = timestep_grid(card, card.defaults.num_inference_steps)
    assert grid.num_inference_steps == card.defaults.num_inference_steps


def test_network_times_of_adm_are_rescaled_to_a_thousand():
    # 4000 training steps, stride 80 for T = 50, times 1000/4000: 0, 20, ..., 980 (guided-diffusion).
    assert list(timestep_grid(CARDS["adm-64"], 50).network_times) == list(range(0, 1000, 20))


def test_sdxl_starts_above_level_zero_with_an_offset_of_one():
    grid = timestep_grid(CARDS["sdxl"], 50)
    assert list(grid.timesteps[:2]) == [1, 21]
    assert grid.alpha_bar[0] == pytest.approx(0.99915)  # 1 - beta_start


def test_reference_conventions_differ_as_the_reference_codes_do():
    adm, dit, deepfloyd, sdxl = (CARDS[n].reference for n in ("adm-32", "dit", "if", "sdxl"))
    assert (adm.network_time, adm.levels, adm.inversion_x0_rule) == ("source", "shifted", "clip-rederive")
    assert (dit.network_time, dit.levels, dit.forward_level) == ("target", "exact", "matched")
    assert (deepfloyd.sampling_x0_rule, deepfloyd.inversion_x0_rule) == ("dynamic", "clip")
    assert sdxl.forward_level == "exact"


def test_adm_256_is_linear_and_not_rescaled():
    schedule = noise_schedule(CARDS["adm-256"])
    assert (len(schedule.alpha_bar), schedule.timestep_scale) == (1000, 1.0)


def test_files_of_the_hub_leave_out_what_is_there_twice():
    """The patterns of Stable Diffusion 3.5 and FLUX.1 against the names in their repositories."""
    from fnmatch import fnmatch

    wanted = {
        "sd35-large": [
            "model_index.json", "scheduler/scheduler_config.json", "tokenizer_3/spiece.model", "vae/config.json",
            "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
            "transformer/diffusion_pytorch_model.safetensors.index.json", "text_encoder/model.safetensors",
            "text_encoder_2/model.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
            "text_encoder_3/model.safetensors.index.json", "vae/diffusion_pytorch_model.safetensors",
        ],
        "flux-dev": [
            "transformer/diffusion_pytorch_model-00003-of-00003.safetensors", "text_encoder/model.safetensors",
            "text_encoder_2/model-00001-of-00002.safetensors", "tokenizer_2/tokenizer.json", "tokenizer/merges.txt",
            "text_encoder_2/model.safetensors.index.json", "vae/diffusion_pytorch_model.safetensors",
        ],
    }  # fmt: skip
    twice = [
        "sd3.5_large.safetensors", "flux1-dev.safetensors", "ae.safetensors", "text_encoders/t5xxl_fp16.safetensors",
        "text_encoder/model.fp16.safetensors", "text_encoder_3/model.fp16-00001-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.fp16.json", "transformer/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors", "README.md",
    ]  # fmt: skip
    for name, needed in wanted.items():
        patterns = CARDS[name].weights.files
        assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in needed), name
        assert not [file for file in twice if any(fnmatch(file, pattern) for pattern in patterns)], name
    # One file alone, as Stable Diffusion 3.5 Medium has it.
    single = "transformer/diffusion_pytorch_model.safetensors"
    assert any(fnmatch(single, pattern) for pattern in CARDS["sd35-medium"].weights.files)


def test_flows_of_text_have_their_publishers_facts_and_estimated_costs():
    facts = {
        name: (c.scaling_factor, c.shift_factor, c.max_tokens, c.schedule.shift, c.grid.style)
        for name, c in CARDS.items()
        if c.family in ("sd3", "flux")
    }
    sd3, flux = (1.5305, 0.0609, 256, 3.0, "sd3-default"), (0.3611, 0.1159)
    assert facts["sd3-medium"] == facts["sd35-medium"] == facts["sd35-large"] == sd3
    assert facts["flux-dev"] == (*flux, 512, pytest.approx(3.158193, abs=5e-7), "shifted")
    assert facts["flux-schnell"] == (*flux, 256, 1.0, "shifted")
    # The worked numbers of both grids: s_1 to s_3 of 28 steps.
    for name, expected in (
        ("sd35-large", (0.008929, 0.110906, 0.199827)),
        ("flux-dev", (0.104721, 0.195455, 0.274828)),
    ):
        levels = timestep_grid(CARDS[name], 28).levels[1:4]
        assert [level.sigma for level in levels] == pytest.approx(expected, abs=1e-6)
    assert {CARDS[name].distilled_guidance for name in facts} == {None, 1.0}
    assert all(CARDS[name].cost.measured_on == "estimate, GH200" for name in facts)
    assert CARDS["flux-dev"].weights.licence == "FLUX.1 [dev] Non-Commercial License"
    # What came with them is written only where it says something, so that older fingerprints stand.
    later = {"shift_factor", "max_tokens", "distilled_guidance"}
    assert {name for name, c in CARDS.items() if later & c.model_dump().keys()} == set(facts)


def test_an_unknown_model_is_answered_with_the_nearest_names():
    with pytest.raises(
        UsageError, match=r"unknown model 'adm64': did you mean adm-64 .*Known models: adm-256"
    ):
        load_card("adm64")


def test_a_card_whose_parts_disagree_is_refused():
    fields = CARDS["adm-32"].model_dump()
    with pytest.raises(ValueError, match="a pixel model's sample_shape is its image size"):
        Card(**fields | {"image_size": 64})
    with pytest.raises(ValueError, match=r"embedded and weights\.source must agree"):
        Card(**fields | {"embedded": True})
    with pytest.raises(ValueError, match="a cosine schedule takes max_beta"):
        Card(**fields | {"schedule": {"kind": "cosine", "N": 10, "beta_start": 1e-4, "beta_end": 0.02}})


def test_cards_and_specs_need_no_torch():
    code = (
        "import sys; from taba_core.models.catalog import list_cards; list_cards();"
        "from taba_core.models.base import model_spec; model_spec('gaussian');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
