import numpy as np
import pytest

from taba_core.artifacts.base import kinds
from taba_core.artifacts.class_posterior import ClassPosterior
from taba_core.artifacts.crops import Crops
from taba_core.artifacts.decoded import Decoded
from taba_core.artifacts.distances import Distances
from taba_core.artifacts.edit import Edit
from taba_core.artifacts.features import Features
from taba_core.artifacts.generation import Generation
from taba_core.artifacts.images import ImageList
from taba_core.artifacts.interpolation import Interpolation
from taba_core.artifacts.inversion import Inversion
from taba_core.artifacts.layout import Extent, bytes_of, layout, num_files
from taba_core.artifacts.path_distances import PathDistances
from taba_core.artifacts.reconstruction import Reconstruction
from taba_core.artifacts.regions import PlainRegions
from taba_core.artifacts.self_interpolation import SelfInterpolation
from taba_core.artifacts.step_errors import StepErrors
from taba_core.artifacts.step_predictions import StepPredictions
from taba_core.errors import UsageError
from taba_core.model_spec import ModelSpec

EXTENT = Extent(10, 4)
SHAPE = (3, 4, 4)


def generation(batch_size=4, steps=5):
    return Generation(model=ModelSpec(name="m"), batch_size=batch_size, num_inference_steps=steps, seed=0)


def test_a_shard_holds_all_steps_of_a_block_and_a_chunk_one_step():
    found = layout(generation(), "x_t", EXTENT, SHAPE)
    assert found.shape == (10, 5, 3, 4, 4)
    assert found.shard == (4, 5, 3, 4, 4)
    assert found.chunk == (4, 1, 3, 4, 4)
    assert [found.samples(i) for i in range(found.num_shards)] == [(0, 4), (4, 8), (8, 10)]


def test_bytes_of_a_shard_by_hand():
    # payload 4 * 5 * 48 * 4 = 3840; five chunks: 5 * (4 checksum + 16 index) = 100; checksum of the index 4
    assert layout(generation(), "x_t", EXTENT, SHAPE).shard_bytes == 3840 + 100 + 4
    # one chunk: 4 * 48 * 4 = 768; 20; 4
    assert layout(generation(), "noise", EXTENT, SHAPE).shard_bytes == 792
    # uint8, no channels: 4 * 16 = 64; 20; 4
    assert layout(PlainRegions(source=generation()), "region", EXTENT, SHAPE).shard_bytes == 88


def test_bytes_and_files_of_an_artifact_by_hand():
    # three shards of each: 3 * (3944 + 792)
    assert bytes_of(generation(), ["x_t", "noise"], EXTENT, SHAPE) == 14208
    assert num_files(["x_t", "noise"], EXTENT) == 6


def test_a_paper_sized_run_is_as_large_as_planned():
    # DiT, 10,000 x 100 steps of 4x32x32 float32 = 16.384 GB, in 157 shards of 64
    extent = Extent.covering(10_000, 64)
    assert extent == Extent(157 * 64, 64) and extent.num_shards == 157
    total = bytes_of(generation(64, 100), ["x_t"], extent, (4, 32, 32))
    assert total == pytest.approx(157 * 64 * 100 * 4096 * 4, rel=1e-3)


def test_shards_are_whole_and_only_images_that_end_cut_the_last_one():
    assert Extent.covering(10, 4) == Extent(12, 4)
    assert Extent.covering(10, 4, limit=10) == Extent(10, 4)
    assert [Extent(10, 4).ids(shard) for shard in range(3)] == [(0, 4), (4, 8), (8, 10)]
    assert [Extent(12, 4).shards_for(n) for n in (1, 4, 5, 12, 99)] == [1, 1, 2, 3, 3]
    assert layout(generation(), "noise", Extent(3, 64), SHAPE).shard == (3, 3, 4, 4)


def test_neither_the_number_of_samples_nor_the_size_of_a_shard_is_in_a_key_and_the_batch_is():
    assert not {"num_samples", "samples_per_shard"} & {*Generation.model_fields}
    assert generation(4).key != generation(8).key


def test_every_kind_has_variables_and_all_floats_read_as_nan_when_unwritten():
    source = generation()
    inversion = Inversion(source=source, num_inference_steps=7)
    artifacts = [source, inversion, Reconstruction(source=inversion), StepPredictions(source=source)]
    regions = PlainRegions(source=source)
    artifacts += [regions, StepErrors(source=regions), PathDistances(source=inversion)]
    artifacts.append(SelfInterpolation(source=inversion))
    back = Reconstruction(source=inversion)
    artifacts.append(Distances(source=back, reference=source, metric="lpips", fingerprint="w"))
    artifacts.append(Features(source=back, extractor="e", fingerprint="w", num_features=7))
    artifacts.append(Crops(model=ModelSpec(name="m"), batch_size=4, seed=0, photos="p"))
    artifacts.append(ImageList(model=ModelSpec(name="m"), batch_size=4, fingerprint="f", num_images=10))
    edit = Edit(source=source.altered(conditioning="class"))
    artifacts += [edit, Decoded(source=edit), ClassPosterior(source=edit, num_classes=10)]
    artifacts.append(Interpolation(first=source, second=source.altered(seed=1), weight=0.5))
    assert {artifact.kind for artifact in artifacts} == set(kinds())
    for artifact in artifacts:
        for variable in artifact.variables().values():
            assert (variable.fill == "NaN") == (np.dtype(variable.dtype).kind == "f")
    assert inversion.num_steps == 7


def test_rows_of_a_statistic_are_one_chunk_and_have_the_levels_of_the_images():
    # The inversion has seven steps, the path that is walked again has five, and the image as level 0.
    path = PathDistances(source=Inversion(source=generation(), num_inference_steps=7))
    found = layout(path, "a", EXTENT, SHAPE)
    assert found.shape == (10, 6) and found.chunk == found.shard == (4, 6) and found.dtype == "float64"
    assert path.num_evaluations() == 5
    errors = StepErrors(source=PlainRegions(source=generation()))
    found = layout(errors, "error", EXTENT, SHAPE)
    assert found.shape == (10, 5, 2) and found.chunk == found.shard == (4, 5, 2)
    # 4 * 5 * 2 * 8 = 320; one chunk 20; the index 4
    assert found.shard_bytes == 344 and errors.num_evaluations() == 10


def test_what_a_method_carries_has_variables_of_its_own_and_changes_no_key():
    plain = Inversion(source=generation(), num_inference_steps=7, method="m")
    path = {"step": 7, "channel": 3, "y": 4, "x": 4}
    carried = {"path": path, "weights": {"weights_0": 2}}
    inversion = plain.model_copy(update={"carried": carried})
    assert inversion.key == plain.key
    assert {*inversion.variables()} - {*plain.variables()} == {"path", "weights"}
    found = layout(inversion, "path", EXTENT, SHAPE)
    assert found.shape == (10, 7, 3, 4, 4) and found.chunk == (4, 1, 3, 4, 4)
    assert layout(inversion, "weights", EXTENT, SHAPE).shape == (10, 2)
    with pytest.raises(UsageError, match="unknown inversion variable 'path'"):
        plain.variable("path")


def test_costs_of_an_inversion_are_its_methods_and_of_an_arc_one_image_a_point():
    inversion = Inversion(source=generation(), num_inference_steps=7, forward_steps=2)
    assert inversion.num_evaluations() == 5 and Reconstruction(source=inversion).num_evaluations() == 7
    dear = inversion.model_copy(update={"expected_evaluations": (20, 40), "sampling_evaluations": 14})
    assert dear.key == inversion.key
    assert dear.num_evaluations() == 40 and Reconstruction(source=dear).num_evaluations() == 14
    arc = SelfInterpolation(source=inversion, num_weights=3)
    # The images have five steps.
    assert arc.num_evaluations() == 15 and layout(arc, "distance", EXTENT, SHAPE).shape == (10, 3)


def test_a_noise_that_is_drawn_is_in_the_key_and_one_that_is_not_is_not():
    def inversion(**fields):
        return Inversion(source=generation(), num_inference_steps=7, **fields)

    assert inversion(forward_seed=1).key == inversion(forward_seed=2).key
    assert inversion(forward_seed=1, draws_noise=True).key != inversion(forward_seed=2, draws_noise=True).key
    levels = [inversion(forward_level=level, draws_noise=True).key for level in ("exact", "matched")]
    assert levels[0] == levels[1]


def test_bytes_and_files_of_the_first_shards_by_hand():
    # one shard of x_t and three of noise: 3944 + 3 * 792
    assert bytes_of(generation(), ["x_t", "noise"], EXTENT, SHAPE, None, {"x_t": 1}) == 6320
    assert num_files(["x_t", "noise"], EXTENT, {"x_t": 1}) == 4


def test_decoded_images_have_their_own_shape():
    found = layout(generation(), "decoded", EXTENT, (4, 8, 8), decoded_shape=(3, 64, 64))
    assert found.shape == (10, 3, 64, 64) and found.dtype == "uint8"
    with pytest.raises(UsageError, match=r"decoded_shape=\(\): three positive sizes"):
        layout(generation(), "decoded", EXTENT, (4, 8, 8))


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown generation variable 'noize': did you mean noise"):
        generation().variable("noize")


def test_both_level_rules_are_one_artifact_at_source_times_and_two_at_target_times():
    def keys(**fields):
        inversions = (
            Inversion(source=generation(), num_inference_steps=5, forward_level=level, **fields)
            for level in ("exact", "matched")
        )
        return len({inversion.key for inversion in inversions})

    assert keys(forward_steps=2, network_time="source") == 1
    assert keys(forward_steps=2) == keys(forward_steps=5, network_time="source") == 2
    assert keys(forward_steps=2, network_time="source", levels="shifted") == 2
