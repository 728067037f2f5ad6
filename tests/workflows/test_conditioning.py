"""Which class or prompt a sample gets: its own by counter, or the reference code's sequence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.inversion import Inversion
from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec, PromptSpec
from taba_core.models.imagenet import reference_class_ids
from taba_core.models.prompts import load_prompts
from workflows.compute.conditioning import draw, prompts_from_bytes
from workflows.compute.decoding import round_trip


def generation(**fields):
    common = dict(batch_size=4, num_inference_steps=2, seed=0, class_seed=10)
    return Generation(model=ModelSpec(name="m"), **(common | fields))


def class_ids(ids, num_classes=1000, **fields):
    return draw(generation(conditioning="class", **fields), np.asarray(ids), num_classes)["class_id"]


def test_reference_draws_are_the_reference_codes_sequence(data_dir):
    golden = np.load(data_dir / "seeds.npz")["dit_class_ids_cond10"]  # 1280 draws, before repetition
    ids = class_ids(range(16), drawn_samples=10240, draws="reference", noises_per_condition=8)
    assert ids.tolist() == [golden[0]] * 8 + [golden[1]] * 8


def test_a_sample_gets_its_condition_alone_or_in_any_batch():
    for way in ({"draws": "counter"}, {"draws": "reference", "drawn_samples": 12}):
        whole = class_ids(range(12), noises_per_condition=3, **way)
        assert whole[7] == class_ids([7], noises_per_condition=3, **way)[0]
        assert (whole[0:3] == whole[0]).all() and (whole[3:6] == whole[3]).all()


def test_the_reference_codes_draws_belong_to_a_number_of_samples_and_the_counters_to_none():
    def artifact(**fields):
        return generation(conditioning="class", **fields)

    few, many = (artifact(draws="reference", drawn_samples=n) for n in (8, 12))
    assert few.key != many.key and (few.limit, many.limit, artifact().limit) == (8, 12, None)
    for fields in ({"draws": "reference"}, {"drawn_samples": 8}):
        with pytest.raises(ValueError, match="drawn_samples is given for draws=reference only"):
            artifact(**fields)


def test_a_number_of_samples_that_is_no_multiple_is_completed():
    # 10 samples, 4 a class: three classes are drawn, the third serves two samples
    ids = class_ids(range(10), drawn_samples=10, draws="reference", noises_per_condition=4)
    assert ids.tolist() == reference_class_ids(12, seed=10, noises_per_class=4)[:10].tolist()


def test_reference_draws_need_imagenets_classes():
    with pytest.raises(UsageError, match="draws ImageNet's 1000 class names, m has 10"):
        class_ids([0], num_classes=10, drawn_samples=4, draws="reference")


def test_prompts_follow_the_same_two_ways():
    prompts = load_prompts("builtin")
    spec = PromptSpec(fingerprint=prompts.fingerprint)
    for way in ({"draws": "counter"}, {"draws": "reference", "drawn_samples": 8}):
        artifact = generation(conditioning="prompt", prompts=spec, noises_per_condition=2, **way)
        texts = prompts_from_bytes(draw(artifact, np.arange(8), 0)["prompt"])
        assert texts[0] == texts[1] and texts[6] == texts[7] and len(set(texts)) > 1
    chosen = prompts.reference_selection(4, seed=10, num_noises=2)
    assert texts == chosen


def test_every_field_of_a_spec_is_in_its_key_but_those_that_only_say_where_things_lie():
    plain = generation(conditioning="class")
    inversion = Inversion(source=plain, num_inference_steps=2)
    later_fields = {
        "guidance_scale": 3.0,
        "network": ModelSpec(name="other", fingerprint="1"),
        "first_time": "zero",
        "held": "noise",
        "swapped_step": 1,
    }
    for artifact, names in ((plain, {"guidance_scale"}), (inversion, set(later_fields))):
        fields = set(type(artifact).model_fields) - artifact.outside_key
        # A field that came after the first stores is in it where it does not say what they did.
        assert set(json.loads(artifact.canonical())) == fields - set(artifact.added_later)
        later = artifact.model_copy(update={name: later_fields[name] for name in names})
        assert set(json.loads(later.canonical())) == fields and set(artifact.added_later) == names
    others = {"seed": 1, "class_seed": 11, "batch_size": 2, "noises_per_condition": 2, "x0_rule": "clip"}
    changed = [generation(conditioning="class", **{name: value}).key for name, value in others.items()]
    assert len({plain.key, *changed}) == 6
    assert Inversion(source=plain, num_inference_steps=2, round_trip="mean").key != inversion.key
    moved = inversion.model_copy(update={"method_location": "/elsewhere", "sampling_evaluations": 7})
    assert moved.key == inversion.key


class HalvingCodec:
    """Doubles when decoding, halves when encoding; a posterior draw adds the sample's id."""

    def decode(self, x_0):
        return x_0 * 2

    def encode(self, image, mode, *, sample_ids, seed):
        shift = torch.tensor(sample_ids, dtype=torch.float32)[:, None, None, None] if mode == "sample" else 0
        return image / 2 + shift


class Latent:
    codec = HalvingCodec()


def test_a_round_trip_costs_eight_bits_and_belongs_to_the_sample():
    x_0 = torch.linspace(-0.4, 0.4, 2 * 3 * 4).reshape(2, 3, 2, 2)
    ids = np.array([5, 6])
    assert round_trip(Latent(), x_0, "none", ids, 0) is x_0
    # Half a grey level of the image, 1/255, is half of that in the latent.
    assert (round_trip(Latent(), x_0, "mean", ids, 0) - x_0).abs().max() <= 0.5 / 255 + 1e-6
    moved = round_trip(Latent(), x_0, "sample", ids, 0) - round_trip(Latent(), x_0, "mean", ids, 0)
    assert torch.allclose(moved[0], torch.tensor(5.0)) and torch.allclose(moved[1], torch.tensor(6.0))
