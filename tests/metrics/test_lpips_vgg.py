"""LPIPS by VGG16: with the package, a trunk of random weights has the package's distances and the distance's laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from taba_core.errors import WorkError
from taba_core.metrics import measure
from taba_core.metrics.distances.lpips_vgg import VGG16
from taba_core.metrics.image_distance import distance_named
from taba_core.models.torchvision_import import import_torchvision
from taba_core.models.weights import file_sha256

LPIPS = distance_named("lpips-vgg")


def test_a_missing_file_is_named_with_its_place_and_address(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "find_spec", lambda name: object())
    assert LPIPS.why_not() == (
        f"VGG16's weights are not here ({tmp_path}/hub/checkpoints/vgg16-397923af.pth); run `taba fetch metrics` on a "
        "machine with internet, or download them from https://download.pytorch.org/models/vgg16-397923af.pth to that "
        "file."
    )
    assert "least 16" in LPIPS.unsuited((3, 15, 64)) and LPIPS.unsuited((3, 16, 16)) == ""


def written(state):
    """The trunk's file with these weights, taken for torchvision's."""
    file = VGG16.path()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return (replace(VGG16, sha256=file_sha256(file)[:8]),)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The package's own network with a random trunk, whose weights lie where torch keeps VGG16's."""
    try:
        import_torchvision()
    except ImportError:
        pytest.skip("torchvision is not installed")
    lpips = pytest.importorskip("lpips")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("home")))
        torch.manual_seed(1)
        network = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False).eval()
        # Layers of torchvision's `features` under the number that they have there, in five stages.
        state = {
            f"features.{name.split('.', 1)[1]}": value
            for name, value in network.net.state_dict().items()
            if name.startswith("slice")
        }
        assert {f"features.{index}.weight" for index in (0, 2, 5, 28)} < state.keys() and len(state) == 26
        patch.setattr(type(LPIPS), "files", written(state | {"classifier.0.weight": torch.zeros(1)}))
        yield network


def pictures(count=3, size=32):
    return 2 * torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(2)) - 1


def test_it_is_the_distance_of_the_package(network):
    a, b = pictures()
    with torch.no_grad():
        theirs = network(a, b).reshape(-1)
    found = LPIPS.of(a, b)
    assert found.dtype == torch.float32 and found.shape == (3,) and (found > 1e-4).all()
    np.testing.assert_allclose(found, theirs, rtol=1e-5)
    # On the smallest images as well.
    a, b = pictures(2, 16)
    with torch.no_grad():
        np.testing.assert_allclose(LPIPS.of(a, b), network(a, b).reshape(-1), rtol=1e-5)


def test_a_batch_equals_its_items_and_an_image_is_at_no_distance_from_itself(network):
    a, b = pictures()
    assert LPIPS.of(a, b).tolist() == [float(LPIPS.of(a[i : i + 1], b[i : i + 1])[0]) for i in range(3)]
    assert LPIPS.of(a, a).tolist() == [0, 0, 0] and torch.equal(LPIPS.of(a, b), LPIPS.of(b, a))


def test_a_file_of_another_network_is_named(network, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(type(LPIPS), "files", written({"features.0.weight": torch.zeros(2)}))
    a, b = pictures(1)
    with pytest.raises(
        WorkError, match=r"vgg16-397923af\.pth has no layers of the network .*`taba fetch metrics`"
    ):
        LPIPS.of(a, b)
