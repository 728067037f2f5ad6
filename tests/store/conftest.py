import numpy as np
import pytest

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.layout import Extent
from taba_core.model_spec import ModelSpec
from taba_core.store import Store

SHAPE = (3, 4, 4)
EXTENT = Extent(10, 4)  # ten samples in shards of four: 4 + 4 + 2, so the last shard is short
STEPS = 5


@pytest.fixture
def generation():
    """A generation of the smallest kind, in batches of four."""
    return Generation(
        model=ModelSpec(name="gaussian"),
        batch_size=4,
        num_inference_steps=STEPS,
        seed=0,
    )


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store", mode="a")


@pytest.fixture
def coords():
    return {"timestep": np.arange(STEPS) * 10, "alpha_bar": np.linspace(0.9, 0.1, STEPS)}


@pytest.fixture
def group(store, generation, coords):
    return store.ensure(generation, ["noise", "x_t", "class_id"], EXTENT, SHAPE, coords)


@pytest.fixture
def blocks():
    """The arrays of a shard: every value names its sample, so a misplaced row shows."""

    def make(group, shard):
        start, stop = group.shard_range(shard)
        ids = np.arange(start, stop)
        noise = np.broadcast_to(ids[:, None, None, None], (stop - start, *SHAPE)).astype("float32")
        levels = np.arange(1, STEPS + 1, dtype="float32")[None, :, None, None, None] / 100
        return {"noise": noise, "x_t": noise[:, None] + levels, "class_id": ids.astype("int32")}

    return make


@pytest.fixture
def filled(group, blocks):
    """The group with all three shards written and recorded."""
    for shard in range(group.num_shards):
        group.record(group.write_shard(shard, blocks(group, shard)))
    return group
