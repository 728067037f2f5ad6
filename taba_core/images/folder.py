"""Which files of a folder are its images: chosen by suffix, sorted by name, and everything else named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taba_core.errors import UsageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp")
_NAMED = 5  # names of skipped entries in one line


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, sorted by name, and the names of all other entries, sorted."""

    folder: Path
    images: tuple[Path, ...]
    skipped: tuple[str, ...]

    def skipped_line(self) -> str:
        """One sentence that counts and names what is not read; "" where everything is."""
        if not self.skipped:
            return ""
        count = len(self.skipped)
        names = ", ".join(self.skipped[:_NAMED]) + (f" and {count - _NAMED} more" if count > _NAMED else "")
        entries = "1 entry is" if count == 1 else f"{count} entries are"
        return f"{self.folder}: {entries} skipped, being no visible file with an image suffix: {names}."


def list_images(folder: str | Path, *, what: str = "images") -> ImageFolder:
    """The image files directly in a folder, by their suffix whatever its case; nothing is decoded.

    Skipped and named: hidden files (macOS puts a `._a.png` beside an `a.png`), sub-folders, and files of any other
    suffix. A file with an image suffix that holds no image is not skipped: `decode_image` refuses it.

    Args:
      what: how messages call the setting that names the folder.
    Raises:
      UsageError: there is no such folder, it cannot be listed, or it holds no image.
    """
    folder = Path(folder)
    accepted = ", ".join(IMAGE_SUFFIXES)
    if not folder.is_dir():
        raise UsageError(f"{what}='{folder}': no such folder. Give a folder of images ({accepted}).")
    try:
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise UsageError(f"{what}='{folder}': the folder cannot be read ({error.strerror}).") from None
    images = tuple(path for path in entries if _is_image(path))
    skipped = tuple(path.name + "/" * path.is_dir() for path in entries if not _is_image(path))
    if not images:
        held = f"; it holds {len(skipped)} other entries" if skipped else ""
        raise UsageError(
            f"{what}='{folder}': the folder holds no image{held}. Accepted suffixes: {accepted}."
        )
    return ImageFolder(folder, images, skipped)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
