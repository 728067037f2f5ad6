"""Images from files as a viewer shows them, and which files of a folder are images."""

from taba_core.images.decode import decode_image
from taba_core.images.folder import ImageFolder, list_images

__all__ = ["ImageFolder", "decode_image", "list_images"]
