"""A reduction, and a query, of more data than memory, under a limit the process sets itself."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are enforced on Linux")

# After its imports the process may have a quarter of the store more than it has.
SCRIPT = """
import json, resource, sys
import dask, numpy as np
import xarray, zarr
from taba_core.stats import Moments, PatchCorrelation, estimates, query, reduce
from taba_core.stats.reduce import from_arrays

path, limit, way = sys.argv[1], int(sys.argv[2]), sys.argv[3]

def status(entry):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(entry))

def run(data, n):
    if way == "query":
        dims = ("sample", "channel", "y", "x")
        x = xarray.DataArray(data, dims=dims, coords={"sample": np.arange(len(data))})[:n]
        found = query.patch_correlation(x, num_replicates=50).compute(scheduler="sync")
        return float(found.mean_top)
    found = reduce(from_arrays({"x": data}), n, {"x": PatchCorrelation("x"), "m": Moments("x")},
                   scheduler="sync", workers=1, samples_per_read=512)
    return float(estimates(found["x"])["mean_top"].value)

import dask.array
array = zarr.open_array(path, mode="r")
data = dask.array.from_zarr(path) if way == "query" else array
run(data, 2048)  # loads what the first use loads, and the buffers of matrix products (32 MB a thread)
allowed = status("VmData") + limit
resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
if way == "whole":
    np.asarray(array[:])
value = run(data, array.shape[0])
print(json.dumps({"bytes": array.nbytes, "value": value, "peak": status("VmHWM")}))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """24,576 samples of 1x32x32 in float32, 96 MiB, 512 samples a chunk."""
    import zarr

    path = tmp_path_factory.mktemp("large") / "x"
    shape = (24576, 1, 32, 32)
    array = zarr.create_array(
        str(path), shape=shape, chunks=(512, 1, 32, 32), dtype="float32", compressors=None
    )
    pool = np.random.Generator(np.random.PCG64(0)).standard_normal(1 << 20, dtype=np.float32)
    for start in range(0, 24576, 512):
        array[start : start + 512] = pool[start : start + 512 * 1024].reshape(512, 1, 32, 32)
    return path


def limited(store, way, limit):
    command = [sys.executable, "-c", SCRIPT, str(store), str(limit), way]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


LIMIT = 24 * 2**20  # a quarter of the 96 MiB


@pytest.mark.parametrize("way", ["reduce", "query"])
def test_four_times_more_data_than_memory_is_reduced_within_it(store, way):
    done = limited(store, way, LIMIT)
    assert done.returncode == 0, done.stderr[-600:]
    found = json.loads(done.stdout)
    assert found["bytes"] == 4 * LIMIT
    assert 0 < found["value"] < 1


def test_the_limit_is_a_limit(store):
    done = limited(store, "whole", LIMIT)
    assert done.returncode != 0 and "MemoryError" in done.stderr
