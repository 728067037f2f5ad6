"""Vision transformers and Inception as extractors: what is missing is named; on random weights in files of the real
format rows are those of the packages called directly, on pictures that the packages' own preprocessing has prepared."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from taba_core.errors import UsageError, WorkError
from taba_core.metrics import inception
from taba_core.metrics.extractor import extractor_named
from taba_core.metrics.extractors import clip, dino, dinov2_registers
from taba_core.metrics.image_distance import distance_named
from taba_core.metrics.preparation import IMAGENET, OPENAI, Preparation
from taba_core.models.torchvision_import import repair_torchvision
from taba_core.stats.similarity import structural_similarity

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny_text_checkpoints as tiny

repair_torchvision()  # clean-fid imports torchvision by itself
from cleanfid.fid import get_batch_features  # noqa: E402
from cleanfid.inception_torchscript import InceptionV3W  # noqa: E402
from cleanfid.resize import build_resizer  # noqa: E402

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TABA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def pictures(count=3, height=40, width=40, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
    )


def as_the_package_prepares(images, shorter, scale):
    """What transformers' own Pillow preprocessing makes of pictures, told what the network was trained on."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": shorter},
        crop_size={"height": 224, "width": 224},
        image_mean=scale[0],
        image_std=scale[1],
        resample=Image.Resampling.BICUBIC,
    )
    given = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
    return processor(given, return_tensors="pt")["pixel_values"]


def random_weights(monkeypatch, module, network, width):
    """A network with every parameter random, saved as transformers does, where the extractor looks for it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    small = replace(module.WEIGHTS, width=(module.WEIGHTS.width[0], width))
    network.save_pretrained(small.path())
    monkeypatch.setattr(module, "WEIGHTS", small)
    return network.eval()


# ---------------------------------------------------------------- preparation


@pytest.mark.parametrize(("height", "width"), [(32, 32), (61, 97), (97, 61), (300, 280)])
@pytest.mark.parametrize(("shorter", "scale"), [(256, IMAGENET), (224, OPENAI)])
def test_pictures_are_prepared_as_the_package_prepares_them(height, width, shorter, scale):
    given = pictures(2, height, width)
    found = Preparation(shorter, 224, scale)(given)
    assert found.dtype == torch.float32 and found.shape == (2, 3, 224, 224)
    torch.testing.assert_close(found, as_the_package_prepares(given, shorter, scale), rtol=0, atol=1e-6)


def test_the_square_of_a_picture_of_97x61_has_these_bytes():
    rows, columns = np.mgrid[:61, :97]
    picture = np.stack([rows * 4, columns * 2, (rows * columns) % 256], axis=-1).astype(np.uint8)
    square = Preparation(224, 224, OPENAI)._square(picture)
    expected = Image.fromarray(picture).resize((356, 224), Image.Resampling.BICUBIC).crop((66, 0, 290, 224))
    assert hashlib.sha256(square.tobytes()).hexdigest() == hashlib.sha256(expected.tobytes()).hexdigest()


# ---------------------------------------------------------------- vision transformers


def test_dino_of_its_true_size_is_the_packages(monkeypatch):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, layer_norm_eps=1e-12)
    network = random_weights(monkeypatch, dino, ViTModel(config, add_pooling_layer=False), 384)
    assert sum(p.numel() for p in network.parameters()) == 21_665_664  # 21.67 million
    given = pictures(2)
    with torch.no_grad():
        expected = network(pixel_values=as_the_package_prepares(given, 256, IMAGENET)).last_hidden_state[:, 0]
    rows = extractor_named("dino-vits16").rows(given)
    assert rows.shape == (2, 384) and rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rows[0], rows[1], rtol=1e-3)


def test_dinov2_reads_the_class_token_before_the_registers_at_224_pixels(monkeypatch):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    sizes = {key: SMALL[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    config = Dinov2WithRegistersConfig(image_size=518, patch_size=14, num_register_tokens=4, **sizes)
    network = random_weights(monkeypatch, dinov2_registers, Dinov2WithRegistersModel(config), 32)
    given = pictures(2, 60, 48)
    with torch.no_grad():
        states = network(pixel_values=as_the_package_prepares(given, 256, IMAGENET)).last_hidden_state
    assert states.shape[1] == 1 + 4 + 16 * 16
    rows = extractor_named("dinov2-reg-vitb14").rows(given)
    torch.testing.assert_close(rows, states[:, 0], rtol=1e-5, atol=1e-5)


@pytest.fixture
def small_clip(monkeypatch):
    from transformers import CLIPConfig, CLIPModel

    size = len(tiny.clip_vocabulary())
    config = CLIPConfig(
        text_config={**SMALL, "vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1},
        vision_config={**SMALL, "image_size": 224, "patch_size": 32},
        projection_dim=16,
    )
    network = random_weights(monkeypatch, clip, CLIPModel(config), 16)
    tiny.save_clip_tokenizer(clip.WEIGHTS.path() / "tokenizer", pad_token="<|endoftext|>")
    for file in (clip.WEIGHTS.path() / "tokenizer").iterdir():
        file.rename(clip.WEIGHTS.path() / file.name)
    return network


def test_clip_and_its_texts_are_the_packages(small_clip):
    from transformers import CLIPTokenizer

    given, captions = pictures(2), ["the cat", "a boat on the sea " * 40]
    tokens = CLIPTokenizer.from_pretrained(clip.WEIGHTS.path())(
        ["A photo depicts the cat", "A photo depicts " + captions[1]],
        padding=True, truncation=True, max_length=77, return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        images = small_clip.get_image_features(
            pixel_values=as_the_package_prepares(given, 224, OPENAI)
        ).pooler_output
        texts = small_clip.get_text_features(**tokens).pooler_output
        # The package's own scores of pairs are cosines times the exponential of its temperature.
        together = small_clip(pixel_values=as_the_package_prepares(given, 224, OPENAI), **tokens)
    extractor = extractor_named("clip-vit-b-32")
    rows, text_rows = extractor.rows(given), extractor.text_rows(captions, template="A photo depicts")
    torch.testing.assert_close(rows, images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(text_rows, texts, rtol=1e-5, atol=1e-5)
    expected = together.logits_per_image.diagonal() / small_clip.logit_scale.exp()
    torch.testing.assert_close(clip.clip_t(rows, text_rows), expected, rtol=1e-4, atol=1e-5)
    # Without the template it is another caption.
    assert not torch.allclose(extractor.text_rows(captions[:1]), text_rows[:1], rtol=1e-3)


def test_clip_score_by_hand():
    # Cosines 0.6 and -1: 2.5 x 0.6 = 1.5, and a negative one counts as 0.
    images, texts = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
    torch.testing.assert_close(clip.clip_t(images, texts), torch.tensor([0.6, -1.0]))
    torch.testing.assert_close(clip.clip_score(images, texts), torch.tensor([1.5, 0.0]))


def test_the_true_configurations_have_the_stated_numbers_of_parameters():
    from transformers import CLIPConfig, CLIPModel, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    with torch.device("meta"):
        of_clip = CLIPModel(CLIPConfig())  # its defaults are those of ViT-B/32
        of_dino = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(image_size=518, patch_size=14))
    count = [sum(p.numel() for p in network.parameters()) for network in (of_clip, of_dino)]
    assert count == [151_277_313, 86_583_552]
    for folder, parameters in ((clip.WEIGHTS, count[0]), (dinov2_registers.WEIGHTS, count[1])):
        assert folder.bytes == pytest.approx(4 * parameters, rel=0.01)
    assert CLIPConfig().projection_dim == 512 and Dinov2WithRegistersConfig().hidden_size == 768


# ---------------------------------------------------------------- Inception


class Trunk(torch.nn.Module):
    """What the file's `layers` are to us: prepared images to features."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2048, 7, stride=32)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


class File(torch.nn.Module):
    """The interface of the published file: images in 0..255 of any size, resized inside."""

    def __init__(self):
        super().__init__()
        self.layers = Trunk()

    def forward(self, img, return_features: bool = False):
        x = torch.nn.functional.interpolate(
            img.float(), size=[299, 299], mode="bilinear", align_corners=False
        )
        return self.layers((x - 128.0) / 128.0)


@pytest.fixture
def small_inception():
    torch.manual_seed(0)
    network = File().eval()
    inception.WEIGHTS.path().parent.mkdir(parents=True)
    torch.jit.script(network).save(str(inception.WEIGHTS.path()))
    return network


def test_inception_is_asked_as_clean_fid_asks_it(small_inception):
    given = pictures(2, 36, 50)
    resized = []
    for picture in given.numpy():
        channels = [
            np.asarray(Image.fromarray(plane.astype(np.float32), mode="F").resize((299, 299), Image.BICUBIC))
            for plane in picture
        ]
        resized.append(np.stack(channels).clip(0, 255))
    with torch.no_grad():
        clean = small_inception.layers((torch.from_numpy(np.stack(resized)) - 128) / 128)
        inside = small_inception(given, return_features=True)
    for name, expected in (("inception-clean", clean), ("inception-legacy-tensorflow", inside)):
        rows = extractor_named(name).rows(given)
        assert rows.shape == (2, 2048)
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(clean, inside, rtol=1e-3)


def test_resizing_is_clean_fids_to_the_bit():
    resizer = build_resizer("clean")
    for size in (32, 512):
        given = pictures(1, size, size)
        expected = resizer(given[0].permute(1, 2, 0).numpy()).clip(0, 255)
        np.testing.assert_array_equal(inception.resized_clean(given)[0].permute(1, 2, 0), expected)


def test_inception_is_clean_fids_own_wrapper_around_the_same_file(small_inception):
    given = pictures(2, 36, 50)
    folder = str(inception.WEIGHTS.path().parent)
    resized = [build_resizer("clean")(one.permute(1, 2, 0).numpy()).clip(0, 255) for one in given]
    clean = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)
    for name, images, inside in (
        ("inception-clean", clean, False),
        ("inception-legacy-tensorflow", given, True),
    ):
        network = InceptionV3W(folder, download=False, resize_inside=inside)
        theirs = get_batch_features(images, network, "cpu")
        np.testing.assert_allclose(extractor_named(name).rows(given), theirs, rtol=1e-5, atol=1e-6)


def test_a_file_that_is_no_such_network_is_named(cache):
    inception.WEIGHTS.path().parent.mkdir(parents=True)
    torch.jit.script(Trunk()).save(str(inception.WEIGHTS.path()))
    with pytest.raises(WorkError, match=r"is not Inception-v3 as TorchScript .*run `taba fetch metrics`"):
        extractor_named("inception-clean").rows(pictures(1))


# ---------------------------------------------------------------- what is missing


def test_missing_weights_are_named_with_the_command_that_fetches_them_and_no_number_is_made(cache):
    place = cache / "cache" / "weights" / "openai--clip-vit-base-patch32"
    of = extractor_named("clip-vit-b-32")
    assert of.why_not() == (
        f"CLIP ViT-B/32's weights are not here ({place}, about 606 MB of openai/clip-vit-base-patch32, licence MIT); "
        "run `taba fetch metrics` on a machine with internet."
    )
    for name in ("clip-vit-b-32", "dino-vits16", "dinov2-reg-vitb14", "inception-clean"):
        with pytest.raises(WorkError, match="are not here"):
            extractor_named(name).rows(pictures(1))
        with pytest.raises(UsageError, match="are not here"):
            extractor_named(name).check()


def test_another_network_in_the_folder_and_a_changed_one_are_refused(monkeypatch):
    from transformers import ViTConfig, ViTModel

    of = extractor_named("dino-vits16")
    network = random_weights(monkeypatch, dino, ViTModel(ViTConfig(**SMALL), add_pooling_layer=False), 32)
    monkeypatch.setattr(dino.Dino, "files", (dino.WEIGHTS,))
    before = of.fingerprint()
    assert of.why_not() is None and before.startswith("1-") and len(before) == 66
    monkeypatch.setattr(dino.Dino, "files", (replace(dino.WEIGHTS, width=("hidden_size", 384)),))
    assert "holds a network vit of width 32 and not DINO ViT-S/16 (vit, 384)" in of.why_not()
    monkeypatch.setattr(dino.Dino, "files", (dino.WEIGHTS,))
    lock = dino.WEIGHTS.path().parent / "lock.json"
    lock.write_text(json.dumps({dino.WEIGHTS.path().name: {"sha256": before[2:]}}))
    assert of.why_not() is None
    with torch.no_grad():
        next(network.parameters()).add_(1)
    network.save_pretrained(dino.WEIGHTS.path())
    assert of.fingerprint() != before and "is not what was fetched first" in of.why_not()


# ---------------------------------------------------------------- SSIM


def test_ssim_as_a_distance_is_one_less_the_statistics_similarity():
    a, b = (pictures(4, 20, 31, seed).float() / 127.5 - 1 for seed in (1, 2))
    b = 0.5 * a + 0.5 * b
    expected = 1 - structural_similarity(a.numpy(), b.numpy(), 2.0)
    np.testing.assert_allclose(distance_named("ssim").of(a, b), expected, rtol=1e-5)
    # A constant shift of constant pictures, by hand: contrast terms are 1, luminance (2 x 0 x .5 + C1) / (.25 + C1).
    flat = distance_named("ssim").of(torch.zeros(1, 3, 9, 9), torch.full((1, 3, 9, 9), 0.5))
    assert float(flat) == pytest.approx(1 - 4e-4 / (0.25 + 4e-4), rel=1e-5)
