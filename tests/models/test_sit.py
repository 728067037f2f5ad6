"""SiT: the published file's names, a network computed from its formulas, and the publisher's Euler loop."""

from __future__ import annotations

import math
import re

import pytest
import torch
from tiny_sit import (
    CHANNELS,
    CLASSES,
    DEPTH,
    HEADS,
    NETWORK,
    PATCH,
    SIDE,
    WIDTH,
    published_shapes,
    random_state,
    save_tiny_sit,
)
from torch.nn import functional
from torch.testing import assert_close

from taba_core.diffusion import Guided, generate, invert
from taba_core.diffusion.ends import Held
from taba_core.diffusion.level import Level
from taba_core.errors import UsageError, WorkError
from taba_core.models.base import load_model, model_spec
from taba_core.models.catalog import load_card
from taba_core.models.class_counts import class_names
from taba_core.models.grids import timestep_grid
from taba_core.models.sit_files import sit_size
from taba_core.models.sit_network import SiTNetwork
from taba_core.models.weights import status, stored_at, why_unusable

TOLERANCE = 1e-5
STEPS = 8


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    return save_tiny_sit(tmp_path_factory.mktemp("sit") / "tiny-sit")


@pytest.fixture(scope="module")
def model(card):
    return load_model(str(card))


def states(count=3, seed=0):
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def published(state, x, t, labels):
    """x_0 - eps of the first C output channels, from the tensors of the file and the formulas of the paper."""

    def linear(name, value):
        return functional.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(value):
        centred = value - value.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    cut = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, C, h, w, p, p)
    tokens = torch.einsum("bchwij,dcij->bhwd", cut, state["x_embedder.proj.weight"]).flatten(1, 2)
    tokens = tokens + state["x_embedder.proj.bias"] + state["pos_embed"]
    angles = t[:, None] * torch.tensor([10000 ** (-i / 128) for i in range(128)])[None]
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    c = linear("t_embedder.mlp.2", functional.silu(linear("t_embedder.mlp.0", waves)))
    c = functional.silu(c + state["y_embedder.embedding_table.weight"][labels])
    for i in range(DEPTH):
        m = linear(f"blocks.{i}.adaLN_modulation.1", c).reshape(len(x), 6, 1, WIDTH).unbind(1)
        h = norm(tokens) * (1 + m[1]) + m[0]
        q, k, v = linear(f"blocks.{i}.attn.qkv", h).split(WIDTH, dim=-1)
        heads = [value.unflatten(-1, (HEADS, -1)).transpose(1, 2) for value in (q, k, v)]
        seen = (heads[0] @ heads[1].mT / math.sqrt(WIDTH / HEADS)).softmax(-1) @ heads[2]
        tokens = tokens + m[2] * linear(f"blocks.{i}.attn.proj", seen.transpose(1, 2).flatten(2))
        h = norm(tokens) * (1 + m[4]) + m[3]
        h = linear(f"blocks.{i}.mlp.fc1", h)
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        tokens = tokens + m[5] * linear(f"blocks.{i}.mlp.fc2", h)
    shift, scale = linear("final_layer.adaLN_modulation.1", c)[:, None].split(WIDTH, dim=-1)
    out = linear("final_layer.linear", norm(tokens) * (1 + scale) + shift)
    side = SIDE // PATCH
    image = torch.einsum("bhwijc->bchiwj", out.reshape(len(x), side, side, PATCH, PATCH, -1))
    return image.reshape(len(x), -1, SIDE, SIDE)[:, :CHANNELS]


def test_the_names_and_their_order_are_the_published_ones(card):
    with torch.device("meta"):
        network = SiTNetwork(sit_size(load_card(str(card))))
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == published_shapes()
    assert list(network.state_dict()) == list(published_shapes())
    with torch.device("meta"):
        full = SiTNetwork(sit_size(load_card("sit-xl")))
    assert sum(p.numel() for p in full.parameters()) == load_card("sit-xl").num_parameters == 675_129_632


def test_a_prediction_is_the_published_network_at_one_minus_s_with_the_sign_turned(model):
    state, x, labels = random_state(), states(), torch.tensor([0, 3, CLASSES])
    for s in (0.05, 0.5, 1.0):
        ends = model.predict(x, Level.flow(s, s), {"class_id": labels})
        velocity = -published(state, x, torch.full((3,), 1 - s), labels)
        scale = float(velocity.abs().max())
        assert_close(ends.eps - ends.x_0, velocity, rtol=0, atol=TOLERANCE * scale)
        assert scale > 0.1
    # The sign: states between an image and noise move from the noise to the image.
    assert model.held is Held.VELOCITY


def test_sampling_is_the_publishers_euler_loop_from_noise_at_0_to_an_image_at_1(card, model):
    state, noise, labels = random_state(), states(seed=4), torch.tensor([1, 5, 9])
    x, dt = noise, 1 / STEPS
    for step in range(STEPS):
        x = x + dt * published(state, x, torch.full((3,), step * dt), labels)
    grid = timestep_grid(load_card(str(card)), STEPS)
    made = generate(model, noise, grid, {"class_id": labels})
    assert_close(made, x, rtol=0, atol=TOLERANCE * float(x.abs().max()))
    latent = invert(model, made, grid, cond={"class_id": labels}, network_time="source", first_time="zero")
    y = made
    for step in range(STEPS):
        y = y - dt * published(state, y, torch.full((3,), 1 - step * dt), labels)
    assert_close(latent, y, rtol=0, atol=TOLERANCE * float(y.abs().max()))


def test_the_network_is_given_the_same_times_up_and_down(card, monkeypatch):
    model, given = load_model(str(card)), []
    inner = model.output

    def output(x, t, cond):
        given.append(float(t[0]))
        return inner(x, t, cond)

    object.__setattr__(model, "output", output)
    grid, cond = timestep_grid(load_card(str(card)), STEPS), {"class_id": torch.tensor([1])}
    made = generate(model, states(1), grid, cond)
    down, given[:] = list(given), []
    invert(model, made, grid, cond=cond)
    assert given == down[::-1] == [pytest.approx(s / STEPS, abs=1e-7) for s in range(1, STEPS + 1)]


def test_a_batch_is_its_samples_and_guidance_has_a_null_class(model):
    x, labels, level = states(), torch.tensor([2, 4, 6]), Level.flow(0.4, 0.4)
    whole = model.predict(x, level, {"class_id": labels}).eps
    singles = [model.predict(x[i : i + 1], level, {"class_id": labels[i : i + 1]}).eps for i in range(3)]
    assert_close(whole, torch.cat(singles), rtol=0, atol=1e-5)
    guided = Guided(model, 4.0).predict(x, level, {"class_id": labels}).eps
    null = model.predict(x, level, {"class_id": torch.full((3,), CLASSES)}).eps
    assert_close(guided, null + 4 * (whole - null), rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match=r"spans 11 to 11"):
        model.predict(x, level, {"class_id": torch.full((3,), CLASSES + 1)})


def test_images_are_encoded_and_decoded_by_the_autoencoder_beside_it(model):
    image = torch.rand(1, 3, 2 * SIDE, 2 * SIDE) * 2 - 1
    latent = model.codec.encode(image)
    assert latent.shape == (1, CHANNELS, SIDE, SIDE) and model.codec.decode(latent).shape == image.shape
    assert model.codec.factor == 2 and len(model.class_names) == CLASSES


def test_a_checkpoint_of_training_gives_its_moving_average(tmp_path, model):
    ema = random_state()
    other = {name: value + 1 for name, value in ema.items()}
    card = save_tiny_sit(tmp_path / "run", {"model": other, "ema": ema, "opt": {"step": 3}})
    cond, level = {"class_id": torch.tensor([1, 2, 3])}, Level.flow(0.3, 0.3)
    assert torch.equal(
        load_model(str(card)).predict(states(), level, cond).eps, model.predict(states(), level, cond).eps
    )


def test_without_learned_variance_half_as_many_channels_come_out(tmp_path):
    card = save_tiny_sit(tmp_path / "plain", random_state(learn_sigma=False))
    card.write_text(card.read_text().replace("learn_sigma: true", "learn_sigma: false"))
    cond, level = {"class_id": torch.tensor([1, 2, 3])}, Level.flow(0.3, 0.3)
    velocity = Held.VELOCITY.of(load_model(str(card)).predict(states(), level, cond))
    expected = -published(random_state(learn_sigma=False), states(), torch.full((3,), 0.7), cond["class_id"])
    assert_close(velocity, expected, rtol=0, atol=1e-4)


def test_classes_and_keys_are_known_without_loading(card):
    spec = model_spec(str(card))
    assert class_names(load_card(str(card)), spec) == tuple(map(str, range(CLASSES)))
    assert len(class_names(load_card("sit-xl"), spec)) == 1000 and spec.fingerprint


class TestRefusals:
    def broken(self, tmp_path, **changes):
        state = random_state()
        for name, value in changes.items():
            key = name.replace("__", ".")
            state.pop(key) if value is None else state.update({key: value})
        return save_tiny_sit(tmp_path / "broken", state)

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"pos_embed": None}, UsageError, r"do not fit tiny-sit: missing 'pos_embed'"),
            ({"extra": torch.ones(2)}, UsageError, r"unexpected 'extra'"),
            (
                {"pos_embed": torch.ones(1, 4, WIDTH)},
                UsageError,
                r"'pos_embed' has shape \(1, 4, 32\), expected",
            ),
            (
                {"pos_embed": torch.full((1, 16, WIDTH), math.nan)},
                WorkError,
                r"NaN or infinite values in 'pos_e",
            ),
        ],
    )
    def test_another_networks_file(self, tmp_path, changes, error, message):
        with pytest.raises(error, match=message.replace("tiny-sit", "broken")):
            load_model(str(self.broken(tmp_path, **changes)))

    def test_no_file_or_two(self, tmp_path):
        card = save_tiny_sit(tmp_path / "two")
        folder = tmp_path / "two"
        (folder / "second.pt").write_bytes((folder / "SiT-tiny.pt").read_bytes())
        with pytest.raises(UsageError, match=r"here are several \(SiT-tiny\.pt, second\.pt\)"):
            load_model(str(card))
        (folder / "second.pt").unlink()
        load_model(str(card))
        (folder / "SiT-tiny.pt").unlink()
        with pytest.raises(UsageError, match=r"here is no such file \(none\)"):
            load_model(str(card))

    def test_the_file_alone(self, card):
        folder = card.with_suffix("")
        with pytest.raises(UsageError, match=r"is a file; the weights of Tiny SiT are a folder"):
            load_model(str(card), weights=folder / "SiT-tiny.pt")
        load_model(str(card), weights=folder)

    def test_a_folder_without_its_autoencoder(self, tmp_path):
        card = save_tiny_sit(tmp_path / "bare")
        for path in (tmp_path / "bare" / "vae").iterdir():
            path.unlink()
        (tmp_path / "bare" / "vae").rmdir()
        assert "vae is missing" in why_unusable(load_card(str(card)), tmp_path / "bare")

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            ("num_heads: 5", r"network: patch_size=2 must divide the side 8 of the state, and num_heads=5"),
            (
                "depth: 0",
                r"network\.depth: input should be greater than or equal to 1\. Correct it in the card",
            ),
            ("width: 3", r"unknown network field of mine 'width'"),
        ],
    )
    def test_a_card_that_describes_no_network(self, tmp_path, field, message):
        card = save_tiny_sit(tmp_path / "mine")
        name = field.split(":")[0]
        text = re.sub(rf"\b{name}: \d+", field, card.read_text())
        card.write_text(text if field in text else text.replace("network:\n", f"network:\n  {field}\n"))
        with pytest.raises(UsageError, match=message):
            sit_size(load_card(str(card)))


def test_the_published_network_is_fetched_into_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path))
    card = load_card("sit-xl")
    assert stored_at(card) == tmp_path / "weights" / "sit-xl" and card.weights.fetched
    assert status(card) == "missing: 3.0 GB, taba fetch sit-xl"
    assert NETWORK.keys() == card.network.keys()
