"""Files of a repository of the hub, at one commit, in place only when all are here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from taba_core.errors import WorkError
from taba_core.models.cards import WeightsCard

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt"}


def snapshot(weights: WeightsCard, target: Path, commit: str = "", endpoint: str | None = None) -> str:
    """The needed files of a hub repository, moved into place when all are here.

    Args:
      commit: what is fetched; "" is the newest commit of the revision.

    Returns:
      The commit.

    Raises:
      WorkError: the hub refuses, cannot be reached, or has no weights there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    repository, partial = weights.location, target.with_name(target.name + ".partial")
    revision = commit or weights.revision
    api = HfApi(endpoint=endpoint)
    try:
        commit = str(api.model_info(repository, revision=revision).sha)
        api.snapshot_download(
            repository,
            revision=commit,
            local_dir=partial,
            allow_patterns=list(weights.files) or None,
        )
    except OfflineModeIsEnabled:
        raise WorkError(
            f"{repository}: HF_HUB_OFFLINE is set; unset it on a machine with internet."
        ) from None
    except GatedRepoError:
        raise WorkError(_access(weights, "a gated repository")) from None
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        if code in (401, 403):
            raise WorkError(_access(weights, f"HTTP {code}")) from None
        raise WorkError(
            f"{repository}@{revision}: the hub answered HTTP {code}; check location and revision of the card, or "
            "try again later. What has come is kept and continued."
        ) from None
    except Exception as error:  # the client's transport errors have no common base
        raise WorkError(
            f"{repository}: the hub cannot be reached ({str(error).splitlines()[0] if str(error) else error!r}). "
            "Run `taba fetch` on a machine with internet that shares $TABA_CACHE with this one; what has come "
            "is kept and continued."
        ) from error
    if not any(path.suffix in _WEIGHT_SUFFIXES for path in partial.rglob("*")):
        raise WorkError(f"{repository}@{commit}: no weights among {', '.join(weights.files) or 'its files'}.")
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    os.replace(partial, target)
    return commit


def _access(weights: WeightsCard, why: str) -> str:
    page = weights.licence_page or f"https://huggingface.co/{weights.location}"
    return (
        f"{weights.location}: access refused ({why}); accept the licence at {page} and set HF_TOKEN to your "
        "access token, then fetch again."
    )
