"""From an opened picture to what a viewer shows of it: upright, 8 bits per channel, RGB.

Pillow's ``convert("RGB")`` alone leaves a photograph sideways that its camera has marked as rotated, clips
16-bit channels at 255, and reveals colours hidden by full transparency.
"""

from __future__ import annotations

import warnings
from typing import NoReturn

import numpy as np
from PIL import Image

VERSION = "upright, high byte of 16 bits, on white"
"""Part of the fingerprint of every set of pictures: other decoding rules give another fingerprint."""
ORIENTATION = 0x0112
"""The EXIF tag that says how to rotate a picture."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Values of that tag; 1 is upright, and any other value counts as upright."""


def as_shown(image: Image.Image) -> Image.Image:
    """The picture in RGB as a viewer shows it; the first of several frames or pages.

    Rotated according to its EXIF data; with 16 bits per channel, the upper 8, as Pillow itself takes them for
    16-bit RGB; transparent parts on white. Colour profiles are ignored, as is usual in this field.

    Raises:
        ValueError: values whose range the file does not define (floating point, 32 bits).
        Exception: whatever else Pillow raises for a damaged file.
    """
    image.load()
    # After load(), which rotates a TIFF by itself and removes the tag.
    orientation = _orientation(image)
    picture = _rgb(image)
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of the picture; 1, upright, if it is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return int(image.getexif().get(ORIENTATION, 1))
    # Viewers show a picture even if its EXIF data are broken, which can raise anything.
    except Exception:
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray(_upper_byte(image)).convert("RGB")
    if image.mode in ("I", "F"):
        _refuse_range(image)
    if "A" in image.getbands() or "transparency" in image.info:
        picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return image.convert("RGB")


def _upper_byte(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    values = np.asarray(image).astype(np.int64)
    return (np.clip(values, 0, 65535) >> 8).astype(np.uint8)


def _refuse_range(image: Image.Image) -> NoReturn:
    kind = "floating-point" if image.mode == "F" else "32-bit"
    raise ValueError(f"{kind} values have no defined black and white: save it with 8 or 16 bits")
