import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taba_core.artifacts.generation import Generation
from taba_core.artifacts.layout import Extent
from taba_core.errors import StoreError, UsageError
from taba_core.model_spec import ModelSpec
from taba_core.store import Store

EXTENT = Extent(10, 4)  # as in conftest.py


def test_everything_is_missing_at_first_and_nothing_at_the_end(group, blocks):
    names = ["noise", "x_t", "class_id"]
    assert {shard: sorted(left) for shard, left in group.missing().items()} == {
        i: sorted(names) for i in range(3)
    }
    for shard in (2, 0, 1):
        group.record(group.write_shard(shard, blocks(group, shard)))
    assert group.missing(names) == {}


def test_a_shard_counts_only_with_its_receipt(group, blocks):
    receipt = group.write_shard(0, blocks(group, 0))
    assert 0 in group.missing(["noise"])
    group.record(receipt)
    assert 0 not in group.missing(["noise"])


def test_a_receipt_counts_only_with_its_file(filled):
    Path(filled.array("noise").file(1)).unlink()
    assert filled.missing() == {1: ("noise",)}


def test_only_the_asked_variables_are_missing(filled, store, generation, coords):
    with_image = store.ensure(generation, ["noise", "image"], EXTENT, (3, 4, 4), coords)
    assert with_image.missing(["noise", "x_t"]) == {}
    assert with_image.missing(["noise", "image"]) == {i: ("image",) for i in range(3)}


def test_a_variable_that_was_never_asked_for_is_missing_everywhere(filled):
    assert filled.missing(["eps_t"]) == {i: ("eps_t",) for i in range(3)}
    with pytest.raises(UsageError, match="unknown generation variable 'epst'"):
        filled.missing(["epst"])


def test_of_an_array_only_the_first_shards_may_be_asked_and_later_more_but_never_fewer(
    filled, store, generation, coords, blocks
):
    def ask(first):
        limit = {} if first is None else {"eps_t": first}
        return store.ensure(generation, ["eps_t"], EXTENT, (3, 4, 4), coords, first_shards=limit)

    block = blocks(filled, 0)["x_t"]
    group = ask(1)
    assert group.missing() == {0: ("eps_t",)} == group.missing(["eps_t"], {"eps_t": 1})
    assert group.missing(["eps_t"]) == {i: ("eps_t",) for i in range(3)}
    group.write_shard(0, {"eps_t": block})
    assert [receipt.shard for receipt in group.adopt()] == [0]
    assert group.missing() == {} and group.verify(deep=True) == []
    with pytest.raises(StoreError, match=r"only the first 4 samples of 'eps_t' were asked"):
        group.read_samples(4, 6, ["eps_t"])
    # What was written beyond what is asked is read and verified all the same.
    group.record(group.write_shard(1, {"eps_t": block}))
    assert group.read_samples(4, 6, ["eps_t"])["eps_t"].shape[0] == 2
    asked = [(ask(first), group.array("eps_t").samples_asked)[1] for first in (2, 1, 3, None, 1)]
    assert asked == [8, 8, None, None, None]  # ten samples in shards of four: three shards are all
    assert group.missing() == {2: ("eps_t",)}


def test_whole_shards_without_receipt_are_adopted_after_reading_them(group, blocks):
    written = group.write_shard(0, blocks(group, 0)).variables
    adopted = {name: record for receipt in group.adopt() for name, record in receipt.variables.items()}
    assert adopted == written
    assert 0 not in group.missing()
    assert group.adopt() == []


@pytest.mark.parametrize("where", [0, 2000, -1], ids=["first chunk", "middle", "index"])
def test_damaged_shards_are_not_adopted(group, blocks, where):
    group.write_shard(0, blocks(group, 0))
    file = Path(group.array("x_t").file(0))
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)
    assert sorted(name for receipt in group.adopt() for name in receipt.variables) == ["class_id", "noise"]
    assert group.missing()[0] == ("x_t",)


def test_a_ledger_line_cut_short_by_a_crash_harms_no_other(group, blocks):
    receipts = [group.write_shard(shard, blocks(group, shard)) for shard in range(3)]
    group.record(receipts[0])
    with Path(group.ledger.place).open("a") as file:
        file.write('{"event": "receipt", "shard": 1, "varia')  # killed here
    assert sorted(group.missing()) == [1, 2]
    group.record(receipts[2])
    assert sorted(group.missing()) == [1]
    group.record(receipts[1])
    assert group.missing() == {}
    assert [receipt.shard for receipt in group.ledger.receipts()] == [0, 2, 1]


def test_a_run_can_be_read_while_it_is_written(group, blocks):
    group.record(group.write_shard(0, blocks(group, 0)))
    noise = group.read_samples(0, 4, ["noise"])["noise"]
    np.testing.assert_array_equal(noise, blocks(group, 0)["noise"])


WRITER = """
import sys, numpy as np
from taba_core.store import Store
group = Store.open(sys.argv[1]).artifacts()[0]
block = np.full((8, 20, 3, 32, 32), float(sys.argv[2]), "float32")
block += np.arange(20, dtype="float32")[:, None, None, None]
group.write_shard(0, {"x_t": block})
print("ready", flush=True)
while True:
    for shard in range(group.num_shards):
        group.write_shard(shard, {"x_t": block})
"""


def test_a_killed_writer_never_leaves_a_torn_shard(tmp_path):
    spec = Generation(model=ModelSpec(name="m"), batch_size=8, num_inference_steps=20, seed=0)
    group = Store.open(tmp_path / "s", "a").ensure(
        spec, ["x_t"], Extent(16, 8), (3, 32, 32)
    )  # shards of 2 MB
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    delays = random.Random(0)
    for attempt in range(5):
        command = [sys.executable, "-c", WRITER, str(group.store), str(attempt)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.1 * delays.random())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        sizes = dict(group.array("x_t").sizes())
        assert sizes and set(sizes.values()) == {group.array("x_t").layout.shard_bytes}
        for shard in sizes:  # each shard is of one writer, whole
            values = group.read_shard(shard, ["x_t"])["x_t"][:, 0]
            assert values.min() == values.max() <= attempt
    group.adopt()
    group.remove_orphans()
    assert {problem.kind for problem in group.verify(deep=True)} <= {"missing"}
    for shard in group.missing():
        group.record(group.write_shard(shard, {"x_t": np.zeros((8, 20, 3, 32, 32), "float32")}))
    assert group.verify(deep=True) == []
