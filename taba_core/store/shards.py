"""One array of a group, and the only function that writes values into it: a whole shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taba_core.artifacts.layout import Layout
from taba_core.artifacts.variable import Variable
from taba_core.errors import StoreError, UsageError, WorkError
from taba_core.store.encoding import shard_pieces
from taba_core.store.ledger import FileRecord
from taba_core.store.place import Place, parse_json

META = "zarr.json"
SAMPLES_ASKED = "samples_asked"  # attribute of an array of which only the first samples are stored


@dataclass(frozen=True)
class ShardedArray:
    """An array of shards at `place` (the array's own directory)."""

    place: Place
    variable: Variable
    layout: Layout
    samples_asked: int | None = None  # of the first samples only; None = all

    @classmethod
    def open(cls, place: Place, variable: Variable) -> ShardedArray:
        """Read shapes from the array's metadata.

        Raises:
          StoreError: no such array, or metadata that is not of a sharded array.
        """
        try:
            meta = parse_json((place / META).read_bytes(), place / META)
            chunk = meta["codecs"][0]["configuration"]["chunk_shape"]
            shard = meta["chunk_grid"]["configuration"]["chunk_shape"]
            shapes = Layout(tuple(meta["shape"]), tuple(chunk), tuple(shard), str(meta["data_type"]))
            asked = meta.get("attributes", {}).get(SAMPLES_ASKED)
        except FileNotFoundError:
            raise StoreError(
                f"no variable '{place.name}' in {place.parent}: nothing that was run so far asked for it. "
                "Run the study that needs it: it is added."
            ) from None
        except (KeyError, IndexError, TypeError):
            raise StoreError(
                f"{place}/zarr.json describes no sharded array; taba did not write it."
            ) from None
        return cls(place, variable, shapes, asked)

    @property
    def num_asked(self) -> int:
        """Shards that were asked so far: all, or the first ones."""
        total = self.layout.num_shards
        return (
            total
            if self.samples_asked is None
            else min(-(-self.samples_asked // self.layout.shard[0]), total)
        )

    def file(self, shard: int) -> Place:
        """A shard's file."""
        return self.place / ".".join(["c", str(shard), *["0"] * (len(self.layout.shape) - 1)])

    def sizes(self) -> list[tuple[int, int]]:
        """(shard, bytes) of every shard file that exists, by shard."""
        numbered = ((self._number(name), size) for name, size in self.place.sizes().items())
        return sorted((shard, size) for shard, size in numbered if shard is not None)

    def _number(self, name: str) -> int | None:
        """The shard a file of that name holds; None if it is none of this array's."""
        number = name.split(".")[1] if name.count(".") else ""
        shard = int(number) if number.isascii() and number.isdigit() else -1
        held = 0 <= shard < self.layout.num_shards and self.file(shard).name == name
        return shard if held else None

    def create(self) -> None:
        """Write the array's metadata. Driver only: concurrent creation is not safe."""
        held: dict[str, Any] = {}
        self._metadata(held)
        (self.place / META).write_atomic(held[META].to_bytes())

    def ask(self, samples: int | None) -> None:
        """Note in the metadata that this many first samples are asked now (None = all); never fewer. Driver only."""
        if self.samples_asked is None or (samples is not None and samples <= self.samples_asked):
            return
        all_of_them = samples is None or samples >= self.layout.shape[0]
        replace(self, samples_asked=None if all_of_them else samples).create()

    def grow(self, num_samples: int) -> None:
        """Give the array room for more samples, of which none is asked yet. Driver only."""
        if self.layout.shape[0] < num_samples:
            layout = replace(self.layout, shape=(num_samples, *self.layout.shape[1:]))
            asked = self.layout.shape[0] if self.samples_asked is None else self.samples_asked
            replace(self, layout=layout, samples_asked=asked).create()

    def put(self, shard: int, block: NDArray[Any]) -> FileRecord:
        """Write one whole shard that passed `check`, put in place atomically.

        Raises:
          WorkError: the storage refused, or holds another number of bytes than it was given.
        """
        file = self.file(shard)
        found = file.write_atomic(shard_pieces(block, self.layout, self.variable))
        if found.bytes != self.layout.shard_bytes:
            raise StoreError(f"{file} was made of {found.bytes} bytes, not {self.layout.shard_bytes}.")
        return FileRecord(file=file.name, bytes=found.bytes, crc=found.crc)

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
                f"samples {start} to {stop - 1} of {self.place} are damaged: {error} "
                "Run `taba verify --deep --forget` on the store, then the same command again: it computes them anew."
            ) from error

    def check(self, shard: int, block: NDArray[Any]) -> None:
        """Refuse a block that is not one whole shard of real values.

        Writing part of a shard means read, change, write: two writers silently lose each other's rows. So a
        block holds all samples and all steps of one shard.

        Raises:
          UsageError: no such shard; another shape or type. WorkError: values that are not finite or mean "not
          written".
        """
        where = f"shard {shard} of '{self.variable.name}' in {self.place.parent}"
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
            if _all_finite(block):
                return
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
        size = file.size()
        if size != self.layout.shard_bytes:
            if size is None and shard >= self.num_asked:
                raise StoreError(
                    f"{file} is missing: only the first {self.samples_asked} samples of '{self.variable.name}' were "
                    "asked for so far. Run a study of more samples (of whole paths: --set trajectories=all): they are "
                    "added."
                )
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

    def _metadata(self, held: dict[str, Any]) -> None:
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec
        from zarr.storage import MemoryStore

        zarr.create_array(
            MemoryStore(store_dict=held),
            shape=self.layout.shape,
            chunks=self.layout.chunk,
            shards=self.layout.shard,
            dtype=self.layout.dtype,
            fill_value=float("nan") if self.variable.fill == "NaN" else self.variable.fill,
            serializer=BytesCodec(endian="little"),
            filters=(),
            compressors=(Crc32cCodec(),),
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=self.variable.dims,
            attributes=self.variable.attrs()
            | ({} if self.samples_asked is None else {SAMPLES_ASKED: self.samples_asked}),
        )

    def _opened(self) -> Any:
        import zarr

        return zarr.open_array(self.place.zarr_store(), mode="r", zarr_format=3)


def _all_finite(block: NDArray[Any]) -> bool:
    """One pass without a mask: a sum is finite only if every term is. (An overflow is looked at again.)"""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(block.sum()))
