import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.layout import Extent, layout
from taba_core.artifacts.regions import PlainRegions
from taba_core.model_spec import ModelSpec
from taba_core.store import Store
from taba_core.store.encoding import shard_pieces
from taba_core.store.files import write_pieces


def generation(steps):
    return Generation(model=ModelSpec(name="m"), batch_size=1, num_inference_steps=steps, seed=0)


def by_zarr(path, layout, variable, block):
    """The oracle: zarr-python writes the array, and its first shard file is read back."""
    array = zarr.create_array(
        str(path),
        shape=block.shape,
        chunks=layout.chunk,
        shards=layout.shard,
        dtype=layout.dtype,
        fill_value=float("nan") if variable.fill == "NaN" else variable.fill,
        serializer=BytesCodec(endian="little"),
        filters=(),
        compressors=(Crc32cCodec(),),
        chunk_key_encoding={"name": "default", "separator": "."},
        config={"write_empty_chunks": True},
    )
    array[...] = block
    return (path / ".".join(["c", *["0"] * block.ndim])).read_bytes()


@pytest.mark.parametrize("name", ["noise", "x_t", "class_id", "decoded", "prompt"])
@pytest.mark.parametrize("samples", [5, 3], ids=["whole", "short last shard"])
def test_a_shard_is_byte_for_byte_what_zarr_python_writes(tmp_path, name, samples):
    shapes = layout(generation(7), name, Extent(10, 5), (3, 4, 4), decoded_shape=(3, 8, 8))
    variable = generation(7).variable(name)
    shape = (samples, *shapes.shape[1:])
    block = np.random.default_rng(0).integers(0, 100, shape).astype(shapes.dtype)
    ours = b"".join(bytes(piece) for piece in shard_pieces(block, shapes, variable))
    assert ours == by_zarr(tmp_path / name, shapes, variable, block)
    assert len(ours) == shapes.shard_bytes


def test_chunks_larger_than_a_piece_and_views_that_are_not_contiguous_give_the_same_bytes(tmp_path):
    # A chunk is 40 * 3 * 40 * 40 * 4 = 768,000 bytes, more than one piece of 524,288.
    shapes = layout(generation(3), "x_t", Extent(40, 40), (3, 40, 40))
    variable = generation(3).variable("x_t")
    block = np.random.default_rng(0).standard_normal((3, 40, 3, 40, 40), dtype="f4").swapaxes(0, 1)
    ours = b"".join(bytes(piece) for piece in shard_pieces(block, shapes, variable))
    assert ours == by_zarr(tmp_path / "x_t", shapes, variable, block)


def test_the_metadata_says_how_it_was_written(tmp_path):
    group = Store.open(tmp_path / "s", "a").ensure(
        PlainRegions(source=generation(2)), ["region"], Extent(4, 4), (3, 4, 4)
    )
    mask = np.arange(64, dtype="uint8").reshape(4, 4, 4) % 2
    group.write_shard(0, {"region": mask})
    np.testing.assert_array_equal(zarr.open_array(str(group.path / "region"))[...], mask)


def test_a_write_reports_the_bytes_and_the_checksum_of_the_whole_file(tmp_path):
    size, crc = write_pieces(tmp_path / "file", iter([b"abc", np.arange(4, dtype="u1"), b""]))
    data = Path(tmp_path / "file").read_bytes()
    assert data == b"abc\x00\x01\x02\x03" and (size, crc) == (7, zlib.crc32(data))
