"""Multipart uploads on S3 that were begun and never completed: invisible as objects, kept and billed until aborted."""

from __future__ import annotations

from typing import Any

_SEPARATOR = "?uploadId="


def unfinished(filesystem: Any, url: str) -> dict[str, int]:
    """Uploads directly below a prefix, by `key?uploadId=id` relative to it, with the bytes of their parts.

    Storage other than S3 has none.
    """
    if not hasattr(filesystem, "call_s3"):
        return {}
    bucket, prefix = _split(filesystem, url)
    found: dict[str, int] = {}
    position: dict[str, str] = {}
    while True:
        page = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **position)
        for upload in page.get("Uploads", ()):
            key, identity = upload["Key"], upload["UploadId"]
            if "/" in key.removeprefix(prefix):
                continue  # of a prefix further down
            parts = filesystem.call_s3("list_parts", Bucket=bucket, Key=key, UploadId=identity)
            size = sum(part["Size"] for part in parts.get("Parts", ()))
            found[f"{key.removeprefix(prefix)}{_SEPARATOR}{identity}"] = size
        if not page.get("IsTruncated"):
            return found
        position = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort(filesystem: Any, url: str, name: str) -> None:
    """Abort one of `unfinished`."""
    bucket, prefix = _split(filesystem, url)
    key, _, identity = name.rpartition(_SEPARATOR)
    filesystem.call_s3("abort_multipart_upload", Bucket=bucket, Key=prefix + key, UploadId=identity)


def _split(filesystem: Any, url: str) -> tuple[str, str]:
    bucket, _, prefix = filesystem._strip_protocol(url).partition("/")
    return bucket, f"{prefix.rstrip('/')}/" if prefix else ""
