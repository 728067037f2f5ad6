"""Where a model's weights lie on this machine, what they are (a fingerprint), and what is missing.

Weights live in $TABA_CACHE/weights, where `taba fetch` puts them, or in this package (the networks of the box); loading
never touches the network. No torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from taba_core.cache import cache_folder, read_json_table, write_json_table
from taba_core.errors import UsageError, WorkError
from taba_core.models.model_files import check_model_files

if TYPE_CHECKING:
    from taba_core.models.cards import Card

# Files of a weights directory that can change what a network computes.
CONTENT_SUFFIXES = {".safetensors", ".bin", ".pt", ".json", ".txt", ".model"}
# Fields of a card that can change what a network computes; what is printed or planned with is left out.
_NUMERIC_FIELDS = {
    "family", "domain", "sample_shape", "schedule", "timestep_scale", "grid", "prediction", "scaling_factor",
    "precision", "network", "shift_factor", "max_tokens", "distilled_guidance",
}  # fmt: skip
_READ_BYTES = 1 << 22
BOX = Path(__file__).parent / "box"  # weights that are installed with taba


def weights_folder() -> Path:
    """Where fetched weights are kept: $TABA_CACHE/weights (see `cache_folder`)."""
    return cache_folder() / "weights"


def stored_at(card: Card) -> Path:
    """Where the weights of a card lie once they are fetched, or where the user's card says they are.

    Raises:
      UsageError: a network that is trained: its weights lie where its training puts them.
    """
    weights = card.weights
    if weights.source == "trained":
        raise UsageError(f"weights of {card.title} have no place of their own: {_not_trained(card)}.")
    if weights.source == "package":
        return BOX / weights.location
    if weights.source == "path":
        return Path(weights.location)
    if weights.source == "hub":
        revision = "" if weights.revision == "main" else f"@{weights.revision}"
        return weights_folder() / (weights.location.replace("/", "--") + revision.replace("/", "--"))
    if weights.autoencoder:
        return weights_folder() / card.name
    # The whole path of the URL: files of two models may have one name.
    return weights_folder() / urlsplit(weights.location).path.strip("/").replace("/", "--")


def _not_trained(card: Card) -> str:
    """What to do about weights that nobody has trained, a phrase."""
    return f"not trained yet: taba run training --model {card.name}"


def found_nowhere(card: Card) -> str:
    """What to do about weights that are not fetched and not where they should be, a phrase."""
    if card.weights.source == "trained":
        return f"`taba run training --model {card.name}` makes them"
    if card.weights.source == "package":
        return "they come with taba: install it again"
    return f"its card says {card.weights.location}; correct the card"


def locate(card: Card) -> Path | None:
    """The card's weights on this machine, a file or a directory; None if they are not here."""
    if card.embedded or card.weights.source == "trained":
        return None
    path = stored_at(card)
    # A link that leads nowhere is not missing weights but damaged ones, and is named.
    return path if path.exists() or path.is_symlink() else None


def status(card: Card) -> str:
    """One phrase for listings: "none needed", "present", "damaged" and why, or "missing" and the command."""
    if card.embedded:
        return "none needed"
    if card.weights.source == "trained":
        return _not_trained(card)
    if (found := locate(card)) is not None:
        here = "in the package" if card.weights.source == "package" else "present"
        return f"damaged: {why}" if (why := why_unusable(card, found)) else here
    if not card.weights.fetched:
        return f"missing: {stored_at(card)}"
    size = f" {card.weights.bytes / 1e9:.1f} GB," if card.weights.bytes else ""
    gate = f", {card.weights.licence or 'licence'} to accept" if card.weights.gated else ""
    return f"missing:{size} taba fetch {card.name}{gate}"


def why_unusable(card: Card, source: Path) -> str:
    """Why weights that are here cannot be loaded, as far as their headers tell; "" if nothing is wrong with them."""
    try:
        check_model_files(card, source)
    except UsageError as error:
        return str(error)
    return ""


def require_weights(card: Card, given: str | Path | None = None) -> Path:
    """The weights to use: those given, else those fetched; their headers are looked at, nothing is loaded.

    Raises:
      UsageError: there are none (the message says how to get them), or a file is not what it should be.
    """
    if given is not None:
        path = Path(given).expanduser().absolute()
        if not (path.exists() or path.is_symlink()):
            raise UsageError(
                f"weights='{given}': no such file or directory. Give a file of {card.title}'s weights."
            )
        check_model_files(card, path)
        return path.resolve()
    found = locate(card)
    if found is None:
        how = (
            f"`taba fetch {card.name}` on a machine with internet, or --weights PATH"
            if card.weights.fetched
            else f"{found_nowhere(card)}, or give --weights PATH"
        )
        if card.weights.gated:
            how = f"accept the licence at {card.weights.licence_page}, then {how}"
        where = "not trained yet" if card.weights.source == "trained" else stored_at(card)
        raise UsageError(f"weights of {card.title} are not here ({where}): {how}.")
    if why := why_unusable(card, found):
        again = f" To fetch it again: delete {found}, then `taba fetch {card.name}`."
        raise UsageError(why + again * card.weights.fetched)
    return found


def network_fingerprint(card: Card, source: Path) -> str:
    """What a network is: 24 hex digits over the card's numerical fields and the weights' content."""
    numbers = card.model_dump(mode="json", include=_NUMERIC_FIELDS)
    text = json.dumps(numbers, sort_keys=True, separators=(",", ":")) + "/" + content_hash(source)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def content_hash(source: Path) -> str:
    """SHA-256 of a file, or of all files of a directory that hold weights or configuration, names included.

    Remembered by path, size and time of change in the cache folder, so a large file is read once.

    Raises:
      UsageError: nothing there, or a directory without such a file. WorkError: a file cannot be read.
    """
    if source.is_file():
        return _Remembered().sha256(source)
    files = sorted(
        path
        for path in source.rglob("*")
        if path.suffix in CONTENT_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    )
    if not files:
        raise UsageError(f"{source}: no weights here; give a file or a directory in the hub's layout.")
    known = _Remembered()
    listed = "".join(f"{path.relative_to(source).as_posix()} {known.sha256(path)}\n" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of one file, 64 hex digits. Raises WorkError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        raise WorkError(f"cannot read {path}: {error.strerror}.") from error
    return digest.hexdigest()


class _Remembered:
    """Hashes of files seen before, by path, size and time of change."""

    def __init__(self) -> None:
        self.path = cache_folder() / "fingerprints.json"
        self.entries = read_json_table(self.path)

    def sha256(self, file: Path) -> str:
        stat = file.stat()
        # Time of change as well as of modification: a copy can keep the latter.
        key, stamp = str(file.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        held = self.entries.get(key)
        if isinstance(held, list) and held[:-1] == stamp:
            return str(held[-1])
        digest = file_sha256(file)
        self.entries = read_json_table(self.path) | {key: [*stamp, digest]}
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            write_json_table(self.path, self.entries)
        return digest
