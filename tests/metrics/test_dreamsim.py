"""DreamSim: on random weights in files of the published layout it is the package's; its laws; what is missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from taba_core.errors import WorkError
from taba_core.metrics import dreamsim_network, vision_transformer
from taba_core.metrics.distances.dreamsim import DINO, ENSEMBLE, DreamSim
from taba_core.metrics.image_distance import distance_named
from taba_core.metrics.preparation import IMAGENET, OPENAI, Squash
from taba_core.metrics.vision_transformer import VIT_B16, Sizes
from taba_core.models.torchvision_import import repair_torchvision

DREAMSIM = distance_named("dreamsim")
# Twelve blocks and twelve heads as the published networks have, because the package counts on them; narrow.
TINY = Sizes(width=24, depth=12, heads=12)
PROJECTED = 16
RANK, ALPHA = 4, 8
LORA = "base_model.model.extractor_list.{}.model.blocks.{}.attn.qkv.lora_{}.weight"


def write_weights(cache, *, suffix="safetensors", **config):
    """Random networks in files of the published layout: what the release holds, and DINO's own file."""
    from safetensors.torch import save_file

    torch.manual_seed(7)
    folder = ENSEMBLE.path()
    (folder / "ensemble_lora").mkdir(parents=True, exist_ok=True)
    states = []
    for branch in dreamsim_network.BRANCHES:
        state = {
            name: torch.randn(value.shape) * (0.5 if value.ndim > 1 else 0.2)
            for name, value in branch.network().state_dict().items()
        }
        states.append(state | ({"proj": torch.randn(TINY.width, PROJECTED)} if branch.projects else {}))
    DINO.path().parent.mkdir(parents=True, exist_ok=True)
    torch.save(states[0], DINO.path())
    for state, name in zip(states[1:], ENSEMBLE.files[:2], strict=True):
        torch.save({"state_dict": state}, folder / name)
    lora = {
        LORA.format(index, block, side): torch.randn(shape) * 0.3
        for index in range(3)
        for block in range(TINY.depth)
        for side, shape in (("A", (RANK, TINY.width)), ("B", (3 * TINY.width, RANK)))
    }
    target = folder / "ensemble_lora" / f"adapter_model.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(lora, target)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.3, "bias": "none"}
    settings |= {"target_modules": ["qkv"], "inference_mode": True} | config
    (folder / "ensemble_lora" / "adapter_config.json").write_text(json.dumps(settings))
    return states, lora


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(dreamsim_network, "SIZES", TINY)
    monkeypatch.setattr(dreamsim_network, "PROJECTED", PROJECTED)
    return tmp_path


def images(count=3, height=40, width=52, seed=0):
    """Images of 4 x 4 plain areas of random colours: unlike, also after their resizing."""
    given = np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return F.interpolate(torch.from_numpy(given).float() / 127.5 - 1, (height, width))


# ---------------------------------------------------------------- the package, on the same files


def the_package(monkeypatch):
    """The package `dreamsim`, importable beside any torchvision; skips where it is not installed."""
    try:
        repair_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    return pytest.importorskip("dreamsim.model", reason="dreamsim is not installed", exc_type=ImportError)


def package_network(monkeypatch, model):
    """What the package makes of the files: its own code with its transformers as narrow as the files' are."""
    from functools import partial

    from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer

    def narrow(patch_size=16, **options):
        return VisionTransformer(
            patch_size=patch_size, embed_dim=TINY.width, depth=TINY.depth, num_heads=TINY.heads, mlp_ratio=4,
            qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **options,
        )  # fmt: skip

    def hub(repository, name):
        assert (repository, name) == ("facebookresearch/dino:main", "dino_vitb16")
        network = narrow()
        network.load_state_dict(torch.load(DINO.path()))
        return network

    for module in (load_clip_as_dino, load_open_clip_as_dino):
        monkeypatch.setattr(module, "vit_base", narrow)
    monkeypatch.setattr(torch.hub, "load", hub)
    monkeypatch.setattr(torch.hub, "set_dir", lambda folder: None)
    # DINO's other file, whose head the package loads and, for the ensemble, never uses.
    head = {f"module.head.mlp.{i}.{part}": torch.zeros(2) for i in (0, 2, 4) for part in ("weight", "bias")}
    head["module.head.last_layer.weight"] = torch.zeros(2)
    torch.save({"student": head}, ENSEMBLE.path() / "dino_vitb16_pretrain.pth")
    return model.dreamsim(pretrained=True, device="cpu", cache_dir=str(ENSEMBLE.path()))


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_it_is_the_distance_of_the_package(cache, monkeypatch, suffix):
    model = the_package(monkeypatch)
    write_weights(cache, suffix=suffix)
    network, prepare = package_network(monkeypatch, model)
    a, b = images(), images(seed=1)
    as_files = [
        [Image.fromarray(((x.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()) for x in of]
        for of in (a, b)
    ]
    with torch.no_grad():
        expected = torch.cat(
            [network(prepare(x), prepare(y)).reshape(1) for x, y in zip(*as_files, strict=True)]
        )
        rows = torch.cat([network.embed(prepare(x)) for x in as_files[0]])
    found = DREAMSIM.of(a, b)
    assert found.dtype == torch.float32 and found.shape == (3,) and (found > 1e-3).all()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(DREAMSIM.rows(a), rows, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- without the package


def attention_unmerged(x, state, block, lora, index):
    """A block's attention by its formula, with the low-rank change as a second path beside W."""
    name = f"blocks.{block}.attn"
    qkv = F.linear(x, state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
    down, up = (lora[LORA.format(index, block, side)] for side in "AB")
    qkv = qkv + ALPHA / RANK * F.linear(F.linear(x, down), up)
    q, k, v = qkv.view(*x.shape[:2], 3, TINY.heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-1, -2) / np.sqrt(TINY.width / TINY.heads)).softmax(-1)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    return F.linear(mixed, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"])


def branch_by_formula(pictures, index, state, lora):
    """A branch's row of pictures in [0, 1], as the paper of each network writes it."""
    scale, eps = (IMAGENET, 1e-6) if index == 0 else (OPENAI, 1e-5)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in scale)

    def norm(x, name):
        return F.layer_norm(x, (TINY.width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    kernel = state["patch_embed.proj.weight"].flatten(1)
    # Patches of 16 x 16 as rows of channels, rows, columns: what a convolution of that stride reads.
    patches = F.unfold((pictures - mean) / std, 16, stride=16).transpose(1, 2)
    x = patches @ kernel.T + state["patch_embed.proj.bias"]
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1) + state["pos_embed"]
    x = norm(x, "pos_drop") if index else x
    for block in range(TINY.depth):
        x = x + attention_unmerged(norm(x, f"blocks.{block}.norm1"), state, block, lora, index)
        inner = linear(norm(x, f"blocks.{block}.norm2"), f"blocks.{block}.mlp.fc1")
        inner = inner * torch.sigmoid(1.702 * inner) if index == 1 else F.gelu(inner)
        x = x + linear(inner, f"blocks.{block}.mlp.fc2")
    return norm(x, "norm")[:, 0] @ state["proj"] if index else x[:, 0]


def test_merged_changes_are_the_networks_with_the_changes_beside_them(cache):
    states, lora = write_weights(cache)
    given = images(2)
    pictures = Squash(224)(((given + 1) * 127.5).round().byte())
    rows = torch.cat(
        [branch_by_formula(pictures, index, state, lora) for index, state in enumerate(states)], 1
    )
    rows = rows - rows.mean(1, keepdim=True)
    expected = 1 - F.cosine_similarity(rows[:1], rows[1:])
    assert rows.shape == (2, TINY.width + 2 * PROJECTED)
    np.testing.assert_allclose(DREAMSIM.of(given[:1], given[1:]), expected, rtol=0, atol=1e-5)
    unit = rows / rows.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(DREAMSIM.rows(given), unit, rtol=0, atol=1e-5)


def test_a_batch_equals_its_items_and_both_ways_are_as_far(cache):
    write_weights(cache)
    a, b = images(), images(seed=1)
    whole = DREAMSIM.of(a, b)
    assert whole.tolist() == [float(DREAMSIM.of(a[i : i + 1], b[i : i + 1])[0]) for i in range(3)]
    assert torch.equal(whole, DREAMSIM.of(b, a)) and DREAMSIM.of(a, a).tolist() == [0, 0, 0]
    assert torch.equal(DREAMSIM.of(a, 3 * b), DREAMSIM.of(a, (3 * b).clamp(-1, 1)))


def test_an_image_is_squashed_to_a_square_by_the_bicubic_filter():
    given = ((images(1, 61, 97) + 1) * 127.5).round().byte()
    expected = Image.fromarray(given[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(
        (Squash(224)(given)[0] * 255).round(), np.moveaxis(np.asarray(expected), 2, 0)
    )


def test_full_names_and_shapes_are_those_of_the_published_networks():
    # ViT-B/16 of 224 pixels: 85,798,656 numbers; CLIP's first norm has 2 x 768 more.
    count = {}
    for branch in dreamsim_network.BRANCHES:
        state = branch.network().state_dict()
        count[branch] = sum(value.numel() for value in state.values())
        assert state["blocks.11.attn.qkv.weight"].shape == (2304, 768)
        assert state["patch_embed.proj.weight"].shape == (768, 3, 16, 16)
        assert state["pos_embed"].shape == (1, 197, 768) and state["cls_token"].shape == (1, 1, 768)
        assert ("pos_drop.weight" in state) is branch.projects
    assert list(count.values()) == [85_798_656, 85_800_192, 85_800_192]
    kept = 4 * (2 * (85_800_192 + 768 * 512) + 3 * 12 * 16 * 4 * 768)
    assert ENSEMBLE.bytes == pytest.approx(kept, rel=0.01)


def test_the_names_are_the_package_s(monkeypatch):
    the_package(monkeypatch)
    from dreamsim.feature_extraction.vision_transformer import vit_base

    theirs = {name: tuple(value.shape) for name, value in vit_base().state_dict().items()}
    with torch.device("meta"):
        ours = vision_transformer.VisionTransformer(VIT_B16, eps=1e-6).state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == theirs and list(ours) == list(theirs)


# ---------------------------------------------------------------- what is missing or wrong


def test_missing_files_are_named_with_the_command_that_fetches_them(cache):
    folder = cache / "cache" / "weights" / "dreamsim-ensemble"
    assert "DINO ViT-B/16's weights are not here" in DREAMSIM.why_not()
    write_weights(cache)
    assert DREAMSIM.why_not() is None and DREAMSIM.fingerprint().count("-") == 2
    for name in (*ENSEMBLE.files, ENSEMBLE.one_of[0]):
        held = (folder / name).read_bytes()
        (folder / name).unlink()
        lacked = name if name in ENSEMBLE.files else " or ".join(ENSEMBLE.one_of)
        said = f"{folder} lacks {lacked}; delete it and run `taba fetch metrics`."
        assert DREAMSIM.why_not() == said and ENSEMBLE.identity() == ""
        (folder / name).write_bytes(held)
    folder.rename(folder.with_name("elsewhere"))
    assert DREAMSIM.why_not() == (
        f"DreamSim's weights are not here ({folder}, about 700 MB, licence MIT); run `taba fetch metrics` on a machine "
        f"with internet, or unpack {ENSEMBLE.url} there."
    )


def test_another_content_than_was_fetched_first_is_refused_and_is_another_key(cache):
    write_weights(cache)
    first = ENSEMBLE.identity()
    lock = ENSEMBLE.path().parent / "lock.json"
    lock.write_text(json.dumps({"dreamsim-ensemble": {"sha256": first}}))
    assert DREAMSIM.why_not() is None
    before = DREAMSIM.fingerprint()
    write_weights(cache, lora_alpha=16)
    assert "is not what was fetched first" in DREAMSIM.why_not() and DREAMSIM.fingerprint() != before


def changed(file, change):
    held = torch.load(file)
    change(held)
    torch.save(held, file)


def damage(name):
    """One file of another kind, and what is said of it."""
    dino, clip, changes = (
        DINO.path(),
        ENSEMBLE.path() / ENSEMBLE.files[0],
        ENSEMBLE.path() / ENSEMBLE.one_of[1],
    )
    if name == "cut":
        dino.write_bytes(dino.read_bytes()[:-100])
        return dino, "is not DreamSim's"
    if name == "narrower":
        changed(clip, lambda held: held["state_dict"].update(proj=torch.zeros(TINY.width, 3)))
        return clip, r"proj has shape \(24, 3\), and it should be \(24, 16\)"
    if name == "other":
        changed(clip, lambda held: held.pop("state_dict"))
        return clip, "it has no state_dict"
    if name == "lacks":
        changed(changes, lambda held: held.pop(LORA.format(2, 11, "B")))
        return changes, r"it lacks .*extractor_list\.2\.model\.blocks\.11\.attn\.qkv\.lora_B"
    if name == "more":
        changed(changes, lambda held: held.update({"base_model.model.head.lora_A.weight": torch.zeros(2)}))
        return changes, r"it has base_model\.model\.head\.lora_A\.weight, which no qkv layer has"
    changed(changes, lambda held: held.update({LORA.format(0, 0, "A"): torch.zeros(RANK, 5)}))
    return changes, r"A and B of .*extractor_list\.0.* do not make \(72, 24\)"


@pytest.mark.parametrize("name", ["cut", "narrower", "other", "lacks", "more", "shapes"])
def test_a_file_of_another_network_is_named_and_no_number_is_made(cache, name):
    write_weights(cache, suffix="bin")
    file, said = damage(name)
    with pytest.raises(WorkError, match=said) as refused:
        DREAMSIM.of(images(1), images(1, seed=1))
    assert str(refused.value).startswith(f"{file} is not DreamSim's (")
    assert str(refused.value).endswith("; delete it and run `taba fetch metrics`.")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_rslora": True}, "use_rslora is True, a change of weights that is not known here"),
        ({"rank_pattern": {"qkv": 2}}, "rank_pattern is {'qkv': 2}"),
        ({"r": 0}, "ZeroDivisionError"),
        ({"r": None}, "TypeError"),
    ],
)
def test_low_rank_changes_of_another_form_are_refused(cache, config, said):
    write_weights(cache, **config)
    with pytest.raises(WorkError, match=said.replace("{", r"\{")):
        DREAMSIM.of(images(1), images(1, seed=1))


def test_the_product_never_imports_the_package(cache):
    write_weights(cache)
    before = set(sys.modules)
    DREAMSIM.of(images(1), images(1, seed=1))
    assert not {name.split(".")[0] for name in set(sys.modules) - before} & {
        "dreamsim",
        "peft",
        "timm",
        "open_clip",
    }
    assert DreamSim.packages == () and replace(DINO, sha256="").identity()
