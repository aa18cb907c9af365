"""Whether bytes are a picture with something in it, for tests of figures."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def is_picture(png: bytes | None) -> bool:
    assert png is not None
    picture = Image.open(io.BytesIO(png))
    picture.load()
    return picture.format == "PNG" and bool(np.asarray(picture.convert("L")).std() > 5)
