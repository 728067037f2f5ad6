"""The benchmarks of triangles and mapping compare ways to the same answer."""

from workflows.bench import mapping, triangle


def test_the_screened_product_finds_the_indices_of_the_definition():
    figures = mapping.measure(repeats=1, num_samples=60, sample_shape=(1, 8, 8)).figures
    assert figures["different_ids"] == figures["different_ids_float32"] == 0
    assert 0 < figures["hits"] < 1  # a mapping that is always or never right would hide a wrong index


def test_all_searches_find_one_triangle():
    figures = triangle.measure(repeats=1, num_samples=500, calls=2).figures
    assert figures["same"] == 1
    assert figures["ratio"] > figures["ratio_indexed"] > 1
