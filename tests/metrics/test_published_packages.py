"""The same numbers as the packages that the field publishes with, called directly on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from taba_core.models.torchvision_import import repair_torchvision
from taba_core.stats import density_coverage, kernel_distance, precision_recall
from taba_core.stats.frechet import frechet_distance, frechet_of_rows

repair_torchvision()  # the packages import torchvision by themselves


@pytest.fixture(scope="module")
def sets():
    """Real and generated features, (400, 12), correlated and of unlike means."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, 12)) / 3
    return rng.normal(size=(400, 12)) @ mixing, 0.2 + 1.1 * rng.normal(size=(400, 12)) @ mixing


def moments(rows):
    return rows.mean(0), np.cov(rows, rowvar=False)


def test_the_frechet_distance_is_clean_fids_and_torch_fidelitys(sets):
    from cleanfid.fid import fid_from_feats
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    found = frechet_of_rows(*sets)
    assert found == pytest.approx(frechet_distance(*moments(sets[0]), *moments(sets[1])), rel=1e-12)
    assert found == pytest.approx(fid_from_feats(*sets), rel=1e-6)
    theirs = [fid_features_to_statistics(torch.from_numpy(rows)) for rows in sets]
    fidelity = fid_statistics_to_metric(*theirs, verbose=False)
    assert found == pytest.approx(next(iter(fidelity.values())), rel=1e-6)


def test_the_kernel_distance_over_all_pairs_is_both_packages_on_one_subset_of_everything(sets):
    from cleanfid.fid import kernel_distance as clean
    from torch_fidelity.metric_kid import kid_features_to_metric

    found = float(kernel_distance(*sets).value)
    assert found == pytest.approx(clean(*sets, num_subsets=1, max_subset_size=len(sets[0])), rel=1e-9)
    fidelity = kid_features_to_metric(
        *map(torch.from_numpy, sets), kid_subsets=1, kid_subset_size=len(sets[0]), verbose=False
    )
    assert found == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-9)


def test_precision_and_recall_are_torch_fidelitys(sets):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, generated = map(torch.from_numpy, sets)
    for k in (3, 5):
        theirs = prc_features_to_metric(
            generated, real, prc_neighborhood=k, prc_batch_size=100, verbose=False
        )
        ours = precision_recall(*sets, k=k)
        assert 0 < theirs["precision"] < 1 and 0 < theirs["recall"] < 1
        for name in ("precision", "recall"):
            assert float(ours[name].value) == pytest.approx(
                theirs[name], abs=1e-6
            )  # theirs averages in float32


def test_density_and_coverage_are_prdcs(sets):
    from prdc import compute_prdc

    theirs = compute_prdc(*sets, nearest_k=5)
    for name, ours in density_coverage(*sets, k=5).items():
        assert float(ours.value) == pytest.approx(theirs[name], rel=1e-12)
