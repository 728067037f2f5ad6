"""Predictions are checked one by one, or together at the end of a block, with the same complaints and no waiting."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from taba_core.diffusion import generate
from taba_core.diffusion.finite import check_finite, checked_together
from taba_core.diffusion.guidance import Guided
from taba_core.errors import UsageError, WorkError
from taba_core.models.architectures import architecture_card, random_condition, random_network
from taba_core.models.grids import timestep_grid
from taba_core.models.profile import profile_named
from taba_core.models.unet import class_labels

NAN = torch.tensor([1.0, float("nan")])


class Waits(TorchDispatchMode):
    """Counts what makes the processor wait for a device: a tensor's value that is asked for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def sampled(name, steps, scale=1.0):
    """The image of a toy network and how often the processor waited for it."""
    network = random_network(name, device="cpu", profile=profile_named("exact"), tiny=True)
    card = architecture_card(name, tiny=True)
    noise = torch.randn(2, *card.sample_shape, generator=torch.Generator().manual_seed(0))
    cond = random_condition(name, 2, "cpu", tiny=True)
    null = {key: value[:1] for key, value in cond.items()}
    denoiser = network if scale == 1 else Guided(network, scale, null)
    with torch.no_grad(), Waits() as waits:
        image = generate(denoiser, noise, timestep_grid(card, steps), cond)
    return image, waits.count


@pytest.mark.parametrize(("name", "scale"), [("adm-32", 1.0), ("dit", 1.0), ("dit", 2.0)])
def test_together_no_step_waits_for_the_device_and_the_image_is_the_same(name, scale):
    alone, waited = sampled(name, 4, scale)
    assert waited >= 4  # the counter counts
    with checked_together():
        counts = {steps: sampled(name, steps, scale)[1] for steps in (2, 4)}
        image, _ = sampled(name, 4, scale)
    assert counts == {2: 0, 4: 0}
    assert image.numpy().tobytes() == alone.numpy().tobytes()


def test_the_first_complaint_is_the_one_that_is_made():
    def asked():
        check_finite(torch.ones(3), "fine")
        check_finite(NAN, "first")
        check_finite(NAN, "second")
        done.append(1)

    done = []
    with pytest.raises(WorkError, match=r"^first$"):
        asked()
    assert done == []
    with pytest.raises(WorkError, match=r"^first$"), checked_together():
        asked()
    assert done == [1]


@pytest.mark.parametrize("together", [False, True])
def test_a_state_that_is_not_finite_is_to_blame_for_its_prediction(together):
    def asked(state):
        if not together:
            return check_finite(NAN, "the network", state, "the state")
        with checked_together():
            return check_finite(NAN, "the network", state, "the state")

    with pytest.raises(WorkError, match=r"^the state$"):
        asked(NAN)
    with pytest.raises(WorkError, match=r"^the network$"):
        asked(torch.ones(2))


def test_what_follows_from_a_bad_prediction_does_not_hide_it():
    with pytest.raises(WorkError, match=r"^the network$"), checked_together():
        check_finite(NAN, "the network")
        raise WorkError("the shard is not finite")
    with pytest.raises(WorkError, match=r"^the disk is full$"), checked_together():
        check_finite(torch.ones(1), "the network")
        raise WorkError("the disk is full")
    check_finite(torch.full((2,), 3e38), "two finite numbers whose sum is not")
    with checked_together():
        check_finite(torch.full((2,), 3e38), "two finite numbers whose sum is not")


def test_class_ids_are_looked_at_again_once_they_change():
    ids = torch.tensor([0, 3])
    with Waits() as waits:
        for _ in range(3):
            assert class_labels({"class_id": ids}, 4) is ids
    once = waits.count
    with Waits() as waits:
        class_labels({"class_id": torch.tensor([0, 3])}, 4)
    assert once == waits.count > 0
    with pytest.raises(UsageError, match="has classes 0 to 2"):
        class_labels({"class_id": ids}, 3)
    ids += 1
    with pytest.raises(UsageError, match="spans 1 to 4"):
        class_labels({"class_id": ids}, 4)


def test_all_steps_of_a_batch_have_the_same_null_condition():
    network = random_network("dit", device="cpu", profile=profile_named("exact"), tiny=True)
    guided = Guided(network, 2.0, {"class_id": torch.tensor([7])})
    rows = [guided._null({"class_id": torch.zeros(count)}, count)["class_id"] for count in (2, 2, 3, 2)]
    assert [row.tolist() for row in rows] == [[7] * 2, [7] * 2, [7] * 3, [7] * 2]
    assert rows[0] is rows[1]  # ids that have been looked at
