"""Pictures are decoded to what a viewer shows: upright, 8 bits of 16, transparent parts on white."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.decoding import ORIENTATION
from crossmodal_bench.data.images import ImageFiles

RAMP = np.tile(np.linspace(0, 65535, 64), (48, 1)).astype(np.uint16)


def decoded(path: Path) -> NDArray[np.uint8]:
    picture = ImageFiles([path])[0]
    assert picture.mode == "RGB"
    return np.asarray(picture)


def quarters() -> NDArray[np.uint8]:
    """(48, 64, 3) whose four quarters differ, so that every turn shows."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, :32] = (200, 0, 0)
    picture[:24, 32:] = (0, 200, 0)
    picture[24:, :32] = (0, 0, 200)
    return picture


def write_png(path: Path, pixels: NDArray[np.uint16], colour_type: int) -> None:
    """A PNG of 16 bits a channel, which Pillow reads in every colour type and writes in grey alone."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_picture_stands_as_its_camera_held_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(quarters()).save(path, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    assert upright.size == ((48, 64) if orientation > 4 else (64, 48))
    assert np.array_equal(decoded(path), np.asarray(upright))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(quarters()).save(path, exif=exif)
    assert np.array_equal(decoded(path), quarters())


def test_broken_exif_data_do_not_cost_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(quarters()).save(path, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff nothing")
    assert np.array_equal(decoded(path), quarters())


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_of_grey_are_a_ramp_and_no_threshold(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(RAMP).save(path)
    read = decoded(path)
    assert len(np.unique(read)) == 64 and read.mean() == pytest.approx(127.5, abs=1)
    assert np.array_equal(read, np.repeat(RAMP[:, :, None] >> 8, 3, axis=2))


@pytest.mark.parametrize(
    "colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["grey", "rgb", "grey alpha", "rgb alpha"]
)
def test_16_bits_of_every_kind_of_png_are_read_alike(tmp_path: Path, colour_type: int, channels: int) -> None:
    path = tmp_path / "deep.png"
    pixels = np.repeat(RAMP[:, :, None], channels, axis=2)
    if channels in (2, 4):
        pixels[:, :, -1] = 65535
    write_png(path, pixels, colour_type)
    assert abs(decoded(path)[..., 0].astype(int) - (RAMP >> 8)).max() <= 1


def test_what_is_transparent_is_white_and_not_what_lies_behind(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:4] = (200, 0, 0, 255)
    picture[4:6] = (0, 0, 0, 128)
    Image.fromarray(picture).save(tmp_path / "a.png")
    read = decoded(tmp_path / "a.png")
    assert read[0, 0].tolist() == [200, 0, 0] and read[7, 7].tolist() == [255, 255, 255]
    assert read[5, 5].tolist() == pytest.approx([127, 127, 127], abs=1)


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_colour_of_a_palette_may_be_transparent(tmp_path: Path, suffix: str) -> None:
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / f"a.{suffix}", transparency=0)
    assert decoded(tmp_path / f"a.{suffix}").tolist() == [
        [[255, 255, 255], [10, 20, 30]],
        [[10, 20, 30], [255, 255, 255]],
    ]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_tiff_is_read(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(quarters()).save(path, compression=compression)
    # JPEG is the only one of these that loses something.
    assert abs(decoded(path).astype(int) - quarters()).max() <= (40 if compression == "jpeg" else 0)


def test_of_several_pages_it_is_the_first(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 4, 3), value, np.uint8)) for value in (10, 200)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.all(decoded(tmp_path / "a.tif") == 10)


@pytest.mark.parametrize("kind, dtype", [("floating-point", np.float32), ("32-bit", np.int32)])
def test_values_without_a_range_are_refused(tmp_path: Path, kind: str, dtype: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype)).save(tmp_path / "a.tif")
    with pytest.raises(BadInput, match=rf"a\.tif cannot be read .*{kind} values .* 8 or 16 bits"):
        decoded(tmp_path / "a.tif")
