"""One array of a group on disk, and the only function that writes values into it: a whole shard."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.schema import Layout, Variable
from taba_core.store.files import crc32_of_file, read_json, write_atomic
from taba_core.store.ledger import FileRecord

# Other pipelines may write in place: a kill then leaves a torn shard and an unreadable array.
_SAFE_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"


@dataclass(frozen=True)
class ShardedArray:
    """An array of shards at `path` (the array's own directory)."""

    path: Path
    variable: Variable
    layout: Layout

    @classmethod
    def open(cls, path: Path, variable: Variable) -> ShardedArray:
        """Read shapes from the array's metadata.

        Raises:
          StoreError: no such array, or metadata that is not of a sharded array.
        """
        try:
            meta = read_json(path / "zarr.json")
            chunk = meta["codecs"][0]["configuration"]["chunk_shape"]
            shard = meta["chunk_grid"]["configuration"]["chunk_shape"]
            shapes = Layout(tuple(meta["shape"]), tuple(chunk), tuple(shard), str(meta["data_type"]))
        except FileNotFoundError:
            raise StoreError(
                f"no variable '{path.name}' in {path.parent}: nothing that was run so far asked for it. "
                "Run the study that needs it: it is added."
            ) from None
        except (KeyError, IndexError, TypeError):
            raise StoreError(f"{path}/zarr.json describes no sharded array; taba did not write it.") from None
        return cls(path, variable, shapes)

    def file(self, shard: int) -> Path:
        """Path of a shard's file."""
        return self.path / ".".join(["c", str(shard), *["0"] * (len(self.layout.shape) - 1)])

    def sizes(self) -> dict[int, int]:
        """Size in bytes of every shard file that exists, by shard."""
        numbers = {self.file(shard).name: shard for shard in range(self.layout.num_shards)}
        with os.scandir(self.path) as entries:
            return {numbers[e.name]: e.stat().st_size for e in entries if e.name in numbers}

    def create(self) -> None:
        """Write the array's metadata. Driver only: concurrent creation is not safe."""
        self._zarr_array(str(self.path), self.layout.shape)

    def put(self, shard: int, block: NDArray[Any]) -> FileRecord:
        """Write one whole shard that passed `check`: encoded in memory, then put in place atomically.

        Raises:
          WorkError: the file system refused, or holds another number of bytes than it was given.
        """
        data = self._encode(block)
        expected = self.layout.shard_bytes
        if len(data) != expected:
            raise StoreError(f"{self.path}: a shard was encoded to {len(data)} bytes, not {expected}.")
        file = self.file(shard)
        write_atomic(file, data)
        if file.stat().st_size != expected:
            raise WorkError(f"{file} has {file.stat().st_size} bytes on disk, not {expected}; run again.")
        return FileRecord(file=file.name, bytes=expected, crc=zlib.crc32(data))

    def read(self, start: int, stop: int, steps: Sequence[int] | None = None) -> NDArray[Any]:
        """Samples [start, stop), all steps or those of the given labels 1..T, in the given order.

        Raises:
          UsageError: samples or steps outside the array. StoreError: a shard is missing or damaged.
        """
        self._check_range(start, stop)
        for shard in range(start // self.layout.shard[0], -(-stop // self.layout.shard[0])):
            self._check_present(shard)
        array = self._opened()
        try:
            if steps is None or not self.variable.per_step:
                return np.asarray(array[start:stop])
            return np.asarray(array.oindex[slice(start, stop), self._rows(steps)])
        except ValueError as error:  # zarr's checksum and index errors
            raise StoreError(
                f"samples {start} to {stop - 1} of {self.path} are damaged: {error} "
                "Run `taba verify --deep` on the store, then the same command again: it computes them anew."
            ) from error

    def crc_of_file(self, shard: int) -> int:
        """CRC-32 of a shard's file as it is on disk."""
        return crc32_of_file(self.file(shard))

    def check(self, shard: int, block: NDArray[Any]) -> None:
        """Refuse a block that is not one whole shard of real values.

        Writing part of a shard means read, change, write: two writers silently lose each other's rows. So a
        block holds all samples and all steps of one shard.

        Raises:
          UsageError: no such shard; another shape or type. WorkError: values that are not finite or mean "not
          written".
        """
        where = f"shard {shard} of '{self.variable.name}' in {self.path.parent}"
        if not 0 <= shard < self.layout.num_shards:
            raise UsageError(f"{where}: shards are 0 to {self.layout.num_shards - 1}.")
        start, stop = self.layout.samples(shard)
        shape = (stop - start, *self.layout.shape[1:])
        if block.shape != shape:
            raise UsageError(f"{where}: shape {block.shape}, but a whole shard is {shape}; write it whole.")
        if block.dtype != np.dtype(self.layout.dtype):
            raise UsageError(
                f"{where}: type {block.dtype}, but the store holds {self.layout.dtype}; convert it."
            )
        if self.variable.fill == "NaN":
            bad, what = ~np.isfinite(block), "not finite"
        elif np.dtype(self.layout.dtype).kind == "i" or "flag_values" in self.variable.notes:
            bad, what = block == self.variable.fill, f"{self.variable.fill}, which means not written"
        else:
            return
        if bad.any():
            first = start + int(np.argwhere(bad)[0][0])
            raise WorkError(
                f"{where}: {int(bad.sum())} of {block.size} values are {what} (first: sample {first}). "
                "Nothing was written; the computation that made them is at fault."
            )

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start < stop <= self.layout.shape[0]:
            raise UsageError(
                f"samples {start} to {stop} of '{self.variable.name}': "
                f"they must be an increasing range within 0 to {self.layout.shape[0]}."
            )

    def _check_present(self, shard: int) -> None:
        file = self.file(shard)
        size = file.stat().st_size if file.exists() else None
        if size != self.layout.shard_bytes:
            found = "is missing" if size is None else f"has {size} bytes, not {self.layout.shard_bytes}"
            raise StoreError(f"{file} {found}. Run the same command again: it computes what is not complete.")

    def _rows(self, steps: Sequence[int]) -> slice | NDArray[np.intp]:
        rows = np.asarray(steps, dtype=np.intp) - 1
        total = self.layout.shape[1]
        if rows.ndim != 1 or rows.size == 0 or rows.min() < 0 or rows.max() >= total:
            raise UsageError(f"steps {list(steps)} of '{self.variable.name}': steps are 1 to {total}.")
        if np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size)):
            return slice(int(rows[0]), int(rows[-1]) + 1)
        return rows

    def _encode(self, block: NDArray[Any]) -> memoryview:
        from zarr.storage import MemoryStore

        held: dict[str, Any] = {}
        array = self._zarr_array(MemoryStore(store_dict=held), block.shape)
        array[...] = block
        return memoryview(held[self.file(0).name].as_buffer_like())

    def _zarr_array(self, store: Any, shape: tuple[int, ...]) -> Any:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        with zarr.config.set({"codec_pipeline.path": _SAFE_PIPELINE}):
            return zarr.create_array(
                store,
                shape=shape,
                chunks=self.layout.chunk,
                shards=self.layout.shard,
                dtype=self.layout.dtype,
                fill_value=float("nan") if self.variable.fill == "NaN" else self.variable.fill,
                serializer=BytesCodec(endian="little"),
                filters=(),
                compressors=(Crc32cCodec(),),
                chunk_key_encoding={"name": "default", "separator": "."},
                dimension_names=self.variable.dims,
                attributes=self.variable.attrs(),
                # Chunks equal to the fill value must be stored too, else a constant shard looks missing. The
                # setting works at creation only; `open_array` ignores it.
                config={"write_empty_chunks": True},
            )

    def _opened(self) -> Any:
        import zarr

        return zarr.open_array(str(self.path), mode="r", zarr_format=3)
