"""Prompts are encoded by one unit of a run and kept: the same bits, once, whatever happens to what is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from taba_core.models.base import load_spec, model_spec
from taba_core.models.text import PromptEncoder
from taba_core.store import Store
from taba_core.store.files import PROMPTS_DIRECTORY
from workflows.compute.encoded_prompts import EncodedPrompts

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_flow_checkpoints as tiny_flow
import tiny_text_checkpoints as tiny_text

MAKERS = {
    "if": tiny_text.save_tiny_if,
    "sd": tiny_text.save_tiny_sd,
    "sdxl": tiny_text.save_tiny_sdxl,
    "sd3": tiny_flow.save_tiny_sd3,
    "flux": tiny_flow.save_tiny_flux,
}
PROMPTS = ["a cat on a wall", "two boats", "a cat on a wall"]


class Counting:
    """A text encoder that counts the prompts it is given."""

    def __init__(self, text):
        self.text, self.given, self.rested = text, [], 0

    def encode(self, prompts):
        self.given += prompts
        return self.text.encode(prompts)

    def rest(self):
        self.rested += 1
        self.text.rest()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store", mode="a")


@pytest.fixture(params=MAKERS)
def encoder(request, tmp_path):
    """The spec of a tiny network that reads text, and its text encoder."""
    card = str(MAKERS[request.param](tmp_path / f"tiny-{request.param}"))
    spec = model_spec(card)
    return spec, Counting(load_spec(spec).text)


def test_what_is_kept_has_the_bits_of_the_encoder(encoder, store):
    spec, text = encoder
    direct = text.text.encode(PROMPTS)
    for _ in range(2):
        assert same(EncodedPrompts(store, "cpu").encode(spec, text, PROMPTS), direct)
    assert text.given == ["a cat on a wall", "two boats"]  # equal prompts once, and nothing the second time
    assert text.rested == 1  # where it was not needed


def test_another_model_another_list_and_the_null_condition_are_kept_apart(encoder, store):
    spec, text = encoder
    kept = EncodedPrompts(store, "cpu")
    kept.encode(spec, text, PROMPTS)
    kept.encode(spec.altered(fingerprint="of other weights"), text, PROMPTS)
    kept.encode(spec.altered(options={**spec.options, "profile": "reference"}), text, PROMPTS)
    kept.encode(spec, text, PROMPTS[1:])
    assert len(text.given) == 8
    null = kept.null(spec, text, lambda: {"prompt_embeds": torch.full((1, 2, 3), 0.1)})
    assert same(kept.null(spec, text, lambda: pytest.fail("it is there")), null)


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b[:200] + b"?" + b[201:]])
def test_a_damaged_file_is_made_again(damage, store, tmp_path):
    spec = model_spec(str(tiny_text.save_tiny_sd(tmp_path / "tiny-sd")))
    text = Counting(load_spec(spec).text)
    kept = EncodedPrompts(store, "cpu")
    first = kept.encode(spec, text, PROMPTS)
    (file,) = (store.path / "_ledger" / PROMPTS_DIRECTORY).iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(kept.encode(spec, text, PROMPTS), first)
    assert file.read_bytes() == whole and len(text.given) == 4


def test_half_precision_is_kept_where_it_loses_nothing(store):
    spec = SimpleNamespace(canonical=lambda: "{}", name="none", options={})
    exact, inexact = torch.tensor([[0.5, -2.0]]), torch.tensor([[0.1, 1e-9]])
    text = SimpleNamespace(encode=lambda prompts: {"a": exact, "b": inexact}, rest=lambda: None)
    kept = EncodedPrompts(store, "cpu")
    kept.encode(spec, text, ["x"])
    again = kept.encode(spec, text, ["x"])
    assert same(again, {"a": exact, "b": inexact})
    import numpy as np

    (file,) = (store.path / "_ledger" / PROMPTS_DIRECTORY).iterdir()
    held = np.load(file)
    assert (held["a"].dtype, held["b"].dtype) == (np.float16, np.float32)


class Network:
    """A network that says where it is."""

    def __init__(self):
        self.device, self.moves = torch.device("cuda:1"), []

    def to(self, device):
        self.device = torch.device(device)
        self.moves.append(str(self.device))


class OneNetwork(PromptEncoder):
    """An encoder that says on which device it encodes."""

    def __init__(self):
        self.network = Network()

    def _networks(self):
        return [self.network]

    def _encode_one(self, prompt):
        return {"index": torch.tensor([[float(self.network.device.index)]])}


def test_a_resting_encoder_leaves_its_device_until_it_is_asked():
    text = OneNetwork()
    text.rest()
    text.rest()
    assert text.network.moves == ["cpu"]
    assert text.encode(["a", "b"])["index"].tolist() == [[1.0], [1.0]]
    assert text.network.moves == ["cpu", "cuda:1"]


def test_every_prompt_of_a_batch_is_encoded_once_in_a_run(tmp_path, monkeypatch):
    from taba_core.models import text as texts
    from workflows.__main__ import main

    model, given = tiny_text.save_tiny_if(tmp_path / "tiny-if"), []
    encode = texts.T5TextEncoder._encode_one
    monkeypatch.setattr(
        texts.T5TextEncoder, "_encode_one", lambda self, p: (given.append(p), encode(self, p))[1]
    )
    settings = ["num_samples=6", "samples_per_shard=4", "num_inference_steps=4", "bootstrap_replicates=100",
                "top_k=5", "patch_size=8", "prompts=builtin"]  # fmt: skip
    asked = [part for text in settings for part in ("--set", text)]

    def run(*more):
        with pytest.raises(SystemExit) as stop:
            main(["run", "correlation", "--model", str(model), "--store", str(tmp_path / "store"),
                  "--executor", "local", *asked, *more])  # fmt: skip
        assert not stop.value.code

    run()
    held = Store.open(tmp_path / "store")
    drawn = next(g for g in held.artifacts() if g.artifact.kind == "generation").read_samples(
        0, 6, ("prompt",)
    )
    from workflows.compute.conditioning import prompts_from_bytes

    prompts = [prompt.lower().strip() for prompt in prompts_from_bytes(drawn["prompt"])]
    assert sorted(given) == sorted([*dict.fromkeys(prompts[:4]), *dict.fromkeys(prompts[4:])])
    given.clear()
    run("--set", "forward_steps=2")  # new inversions of the same images
    assert not given
