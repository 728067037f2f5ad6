"""The store: one Zarr v3 group per artifact, written in whole, atomic, checksummed shards."""

from __future__ import annotations

from taba_core.store.group import ArtifactGroup
from taba_core.store.integrity import Defect
from taba_core.store.ledger import FileRecord, Receipt
from taba_core.store.missing import MissingShards
from taba_core.store.root import Store

__all__ = ["ArtifactGroup", "Defect", "FileRecord", "MissingShards", "Receipt", "Store"]
