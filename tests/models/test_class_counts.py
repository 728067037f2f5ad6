"""How many classes a model has is known without loading it, and is what the loaded model says."""

from __future__ import annotations

import pytest
from tiny_checkpoints import tiny_class_unet, tiny_dit, tiny_unet

from taba_core.errors import UsageError
from taba_core.models.base import load_model, model_spec, planned_spec
from taba_core.models.catalog import load_card
from taba_core.models.class_counts import num_classes


def counted(model):
    return num_classes(load_card(str(model)), model_spec(str(model)))


def test_the_count_is_that_of_the_loaded_model(tmp_path):
    labels = {str(i): f"thing {i}" for i in range(4)}
    models = {
        tiny_class_unet(tmp_path / "unet"): 5,
        tiny_class_unet(tmp_path / "named", 5, labels): 4,  # the fifth is the null class
        tiny_dit(tmp_path / "own-dit"): 10,
    }
    for model, expected in models.items():
        assert counted(model) == expected == len(load_model(str(model)).class_names)


def test_embedded_and_published_models_and_those_without():
    assert counted("photo-mixture") == 10
    assert num_classes(load_card("dit"), planned_spec("dit", {}, None)) == 1000


def test_a_network_that_does_not_state_it_is_refused(tmp_path):
    model = tiny_unet(tmp_path / "unet")
    with pytest.raises(UsageError, match="its network does not state how many classes it has"):
        counted(model)
