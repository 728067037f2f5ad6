"""The client of an object storage (obstore): which URLs it takes, its settings, and its errors as one message.

Credentials and endpoints come from the usual variables and files of each storage (AWS_ACCESS_KEY_ID, AWS_PROFILE,
AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ...), never from the URL.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from taba_core.errors import StoreError, TabaError, UsageError, WorkError

_KINDS = ("s3", "gs", "az", "memory")
_SETTINGS = (
    "AWS_PROFILE or AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, ..."
)
# By default the client gives up any request after 30 seconds, which a large shard may need on a slow line.
_CLIENT: Any = {"timeout": "3600s", "read_timeout": "60s", "connect_timeout": "20s"}


def check_url(url: str) -> None:
    """Refuse what cannot be the URL of a store.

    Raises:
      UsageError: credentials or options in it, an unknown kind, no bucket.
    """
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query:
        raise UsageError(
            f"--store {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}: a store's URL holds no "
            "credentials or options; set the storage's usual variables (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)."
        )
    if parts.scheme not in _KINDS:
        raise UsageError(
            f"--store {url}: a store cannot be on {parts.scheme}://. Use a directory, s3://BUCKET/PREFIX, "
            "gs://BUCKET/PREFIX or az://CONTAINER/PREFIX."
        )
    if not parts.netloc:
        raise UsageError(f"--store {url}: the URL names no place; give {parts.scheme}://BUCKET/PREFIX.")


def bucket_of(url: str) -> Any:
    """The obstore client of the bucket of a URL.

    Raises:
      UsageError: packages that are not installed, or settings with which no client can be made.
    """
    parts = urlsplit(url)
    try:
        return _bucket(parts.scheme, parts.netloc)
    except ImportError as error:
        raise UsageError(
            f"--store {url}: {parts.scheme}:// needs packages that are not installed ({error}). "
            "Install them: pip install 'taba[remote]'."
        ) from None
    except UsageError:
        raise
    except Exception as error:  # the errors of the clients share no base class
        raise UsageError(f"--store {url}: {one_line(error)}. See to its settings: {_SETTINGS}") from None


@functools.cache
def _bucket(scheme: str, name: str) -> Any:
    """One client per process and bucket, which also makes `memory://` a storage that lives as long as the process."""
    import obstore.store

    if scheme == "memory":
        return obstore.store.MemoryStore()
    if scheme == "s3":
        return _s3_bucket(name)
    return obstore.store.from_url(f"{scheme}://{name}", client_options=_CLIENT)


def _s3_bucket(name: str) -> Any:
    """A bucket with endpoint, region and credentials as the tools of AWS find them: variables, profiles, roles."""
    import boto3
    import obstore.store

    session = boto3.Session()
    found = session.client("s3", region_name=session.region_name or "us-east-1").meta
    settings: dict[str, Any] = {"endpoint": found.endpoint_url, "region": found.region_name}
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes"):
        settings["skip_signature"] = True
    elif session.get_credentials() is None:
        raise UsageError(
            f"--store s3://{name}: there are no credentials for it. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or AWS_PROFILE; for a public bucket, which can be read only, AWS_SKIP_SIGNATURE=true."
        )
    else:
        settings["credential_provider"] = aws_credentials
    options: Any = _CLIENT | {"allow_http": found.endpoint_url.startswith("http://")}
    return obstore.store.S3Store(name, client_options=options, **settings)


def aws_credentials() -> Any:
    """Credentials of the moment. As a function it is sent to other processes by its name, and no secret with it."""
    return _aws_session()()


@functools.cache
def _aws_session() -> Any:
    from obstore.auth.boto3 import Boto3CredentialProvider

    return Boto3CredentialProvider()


@contextmanager
def explained(doing: str, url: str) -> Iterator[None]:
    """Errors of the storage as one message. Whether an object exists, and has changed, stays the caller's to handle."""
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    try:
        yield
    except (TabaError, AlreadyExistsError, PreconditionError):
        raise
    except Exception as error:  # those of the client are no OSErrors
        missing = isinstance(error, FileNotFoundError)
        if "NoSuchBucket" in str(error) or (missing and doing == "write"):
            raise WorkError(
                f"cannot {doing} {url}: there is no such bucket. Make it, or check --store."
            ) from error
        if missing:
            raise
        kind = WorkError if doing == "write" else StoreError
        raise kind(
            f"cannot {doing} {url}: {type(error).__name__}: {one_line(error)}. Check the address, the "
            "credentials and the endpoint in the environment, then run the same command again: it continues."
        ) from error


def one_line(error: Exception) -> str:
    """First line of an error's text, and what the storage itself said, without the query of a signed address."""
    text = str(error).strip()
    line = (text.splitlines() or ["no reason given"])[0].partition("<?xml")[0].rstrip(": .")
    said = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    return re.sub(r"\?\S*", "", f"{line}: {said[1].strip()}" if said else line).rstrip(".")
