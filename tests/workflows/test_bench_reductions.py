"""Benchmarks of reductions on several nodes and of units that keep whole paths, at sizes that take seconds."""

import pytest

from workflows.bench import reduction, whole_paths


@pytest.mark.cluster
@pytest.mark.slow
def test_one_and_two_nodes_of_ray_give_the_bits_of_the_driver(tmp_path):
    found = reduction.measure(size=0.03, nodes=(1, 2), directory=str(tmp_path))
    assert found.figures["equal"] == 1 and found.notes == ("all sides gave the same bits",)
    assert [row.side.split(",")[0] for row in found.rows] == ["driver", "1 node", "2 nodes"]
    # The driver merges states of some megabytes each, and never holds the 30 MB of images.
    assert all(found.figures[f"{side}/seconds"] > 0 for side in ("driver", "1 node", "2 nodes"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["gaussian", "photo-adm"])
def test_units_with_whole_paths_are_timed_against_as_many_evaluations(tmp_path, model):
    found = whole_paths.measure(repeats=2, models=[model], batch_size=2, num_steps=3, directory=str(tmp_path))
    (ratio,) = (value for name, value in found.figures.items() if name.endswith("/ratio"))
    (held,) = (value for name, value in found.figures.items() if name.endswith("/bytes"))
    states = 4 * 2 * 3 * 3 * 32 * 32
    assert ratio > 0 and held > 3 * states  # x_t, eps_t and eps_hat of two samples at three steps
    assert "2 samples, T=3, 6 evaluations" in found.rows[0].n
    assert not list(tmp_path.iterdir())
