"""From an opened picture to what a viewer shows of it: upright, 8 bits a channel, RGB.

Pillow's ``convert("RGB")`` alone leaves a photograph on its side that its camera has marked as turned, cuts a
channel of 16 bits at 255, and shows colours that lie behind full transparency.
"""

from __future__ import annotations

import warnings
from typing import NoReturn

import numpy as np
from PIL import Image

VERSION = "upright, high byte of 16 bits, on white"
"""Part of the fingerprint of every set of pictures: what was decoded by other rules has another."""
ORIENTATION = 0x0112
"""The tag of EXIF that says how a picture has to be turned."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Values of that tag; 1 is upright, and what is none of these counts as that."""


def as_shown(image: Image.Image) -> Image.Image:
    """The picture in RGB as a viewer shows it; of several frames or pages the first.

    Turned as its EXIF data say; of 16 bits a channel the upper 8, as Pillow itself takes them of 16-bit RGB;
    transparent parts on white. Colour profiles are not applied, as nowhere in this field.

    Raises:
        ValueError: values whose range nothing in the file gives (floating point, 32 bits).
        Exception: whatever else Pillow raises of a damaged file.
    """
    image.load()
    # Behind load(), which turns a TIFF by itself and takes the tag away.
    orientation = _orientation(image)
    picture = _rgb(image)
    return picture.transpose(TURNS[orientation]) if orientation in TURNS else picture


def _orientation(image: Image.Image) -> int:
    """How EXIF data say that the picture is to be turned; 1, upright, where they are damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return int(image.getexif().get(ORIENTATION, 1))
    # A viewer shows a picture whose EXIF data are broken, and they can break in any way.
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
    raise ValueError(f"{kind} values have no black and white of their own: save it with 8 or 16 bits")
