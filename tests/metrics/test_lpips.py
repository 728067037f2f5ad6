"""LPIPS: what is missing is named; with the package, AlexNet of random weights has the distance's laws."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from taba_core.errors import UsageError
from taba_core.metrics import lpips_package, measure
from taba_core.metrics.distances.lpips import ALEXNET
from taba_core.metrics.image_distance import distance_named
from taba_core.models.torchvision_import import import_torchvision
from taba_core.models.weights import file_sha256

LPIPS = distance_named("lpips")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def installed(monkeypatch, *names):
    monkeypatch.setattr(measure, "find_spec", lambda name: object() if name in names else None)


def test_a_missing_package_is_named_with_the_command_that_installs_it(home, monkeypatch):
    installed(monkeypatch)
    assert LPIPS.why_not() == ("lpips and torchvision are not installed; pip install -e '.[metrics]'.")
    installed(monkeypatch, "torchvision")
    assert LPIPS.why_not() == "lpips is not installed; pip install -e '.[metrics]'."


def test_a_missing_file_is_named_with_its_place_and_address(home, monkeypatch):
    installed(monkeypatch, "lpips", "torchvision")
    place = home / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert LPIPS.why_not() == (
        f"AlexNet's weights are not here ({place}); run `taba fetch metrics` on a machine with internet, or download "
        "them from "
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth to that file."
    )
    with pytest.raises(UsageError, match=r"^LPIPS: AlexNet's weights are not here"):
        LPIPS.check()


def test_another_file_of_that_name_is_no_alexnet(home, monkeypatch):
    installed(monkeypatch, "lpips", "torchvision")
    place = ALEXNET.path()
    place.parent.mkdir(parents=True)
    place.write_bytes(b"")
    # SHA-256 of nothing is e3b0c442...
    assert LPIPS.why_not() == (
        f"{place} is not torchvision's AlexNet (sha256 e3b0c442..., not 7be5be79...); delete it and run "
        "`taba fetch metrics`, or download it again from https://download.pytorch.org/models/alexnet-owt-7be5be79.pth."
    )


def test_the_file_lies_where_torch_looks_for_it(monkeypatch, tmp_path):
    for variables in ({"TORCH_HOME": str(tmp_path)}, {"XDG_CACHE_HOME": str(tmp_path / "c")}, {}):
        for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert str(ALEXNET.path().parent) == torch.hub.get_dir() + "/checkpoints"


def test_asking_whether_it_can_be_imports_nothing_heavy():
    code = (
        "import sys\nfrom taba_core.metrics.image_distance import distances\ndistances()['lpips'].why_not()\n"
        "print([m for m in ('torch', 'torchvision', 'lpips') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_images_without_a_distance_are_refused_by_their_shape():
    assert LPIPS.unsuited((3, 31, 31)) == ""
    for shape, text in (((3, 30, 64), "3x30x64"), ((4, 64, 64), "4x64x64")):
        assert LPIPS.unsuited(shape) == (
            f"it takes RGB images with sides of at least 31, and this model's are {text}."
        )
    message = (
        "LPIPS of images (2, 3, 16, 16) and (2, 3, 16, 16): give both in one shape (n, 3, H, W) with sides of at "
        "least 31."
    )
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        LPIPS.of(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16))


# ---------------------------------------------------------------- with the package, on random weights


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A TORCH_HOME with an AlexNet of random weights, and what `lpips` itself makes of it."""
    torchvision = _torchvision()
    lpips = pytest.importorskip("lpips")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("home")))
        torch.manual_seed(1)
        file = ALEXNET.path()
        file.parent.mkdir(parents=True)
        torch.save(torchvision.models.alexnet().state_dict(), file)
        patch.setattr(type(LPIPS), "files", (replace(ALEXNET, sha256=file_sha256(file)[:8]),))
        yield lpips.LPIPS(net="alex", version="0.1", verbose=False)


def _torchvision():
    try:
        return import_torchvision()
    except ImportError:
        return pytest.skip("torchvision is not installed")


def pictures(count=3, size=31):
    return 2 * torch.rand(2, count, 3, size, size, generator=torch.Generator().manual_seed(2)) - 1


def test_it_is_the_distance_of_the_package(alexnet):
    a, b = pictures()
    with torch.no_grad():
        theirs = alexnet(a, b).reshape(-1)
    found = LPIPS.of(a, b)
    assert found.dtype == torch.float32 and found.shape == (3,)
    np.testing.assert_allclose(found, theirs, rtol=1e-5)
    assert (found > 1e-3).all()


def test_an_image_is_at_no_distance_from_itself_and_both_ways_are_as_far(alexnet):
    a, b = pictures()
    assert LPIPS.of(a, a).tolist() == [0, 0, 0]
    assert torch.equal(LPIPS.of(a, b), LPIPS.of(b, a))


def test_a_batch_equals_its_items_and_values_off_the_screen_are_clipped(alexnet):
    a, b = pictures()
    whole = LPIPS.of(a, b)
    assert whole.tolist() == [float(LPIPS.of(a[i : i + 1], b[i : i + 1])[0]) for i in range(3)]
    assert torch.equal(LPIPS.of(a, 3 * b), LPIPS.of(a, (3 * b).clamp(-1, 1)))


def test_no_draw_of_others_changes(alexnet):
    a, b = pictures(1)
    lpips_package._network.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    LPIPS.of(a, b)
    assert torch.equal(torch.rand(2), expected)
