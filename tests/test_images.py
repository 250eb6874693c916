"""Decoding single images: Pillow's pixels exactly, and a decided outcome for every odd file."""

import contextlib
import os
import random
import struct
from pathlib import Path

import numpy as np
import PIL
import pillow_heif
import pytest
from PIL import Image
from sample_images import SHAPES, by_pillow, photo, png, png_chunk, saved

from unlearnable_kernels.data.images import MAX_PIXELS, decode, encode
from unlearnable_kernels.data.images import decoding as images
from unlearnable_kernels.errors import ImageError

# Pillow warns of damage that these tests cause.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning"
)


MODES = {
    "jpeg": ["L", "RGB", "CMYK", "YCbCr"],
    "png": ["1", "L", "P", "RGB", "LA", "RGBA"],
    "webp": ["L", "P", "RGB", "RGBA"],
    "bmp": ["1", "L", "P", "RGB"],
    "gif": ["1", "L", "P"],
    "tiff": ["1", "L", "P", "RGB", "LA", "RGBA", "CMYK", "YCbCr"],
    "ppm": ["1", "L", "RGB"],
    "avif": ["RGB"],
    "heif": ["L", "RGB"],
}
pillow_heif.register_heif_opener()


def refusal(data: bytes) -> str | None:
    try:
        decode(data, "x")
    except ImageError as error:
        return str(error)
    return None


def refused(data: bytes, match: str) -> None:
    with pytest.raises(ImageError, match=match) as error:
        decode(data, "cats/felix.jpg")
    message = str(error.value)
    assert message.startswith("cats/felix.jpg: ")
    assert "\n" not in message


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_have_pillows_pixels(shape, subsampling, progressive):
    for quality, restart in ((30, 2), (95, 0)):
        data = saved(
            photo(*shape),
            "jpeg",
            quality=quality,
            subsampling=subsampling,
            progressive=progressive,
            restart_marker_blocks=restart,
        )
        pixels = decode(data, "x.jpg")
        np.testing.assert_array_equal(pixels, by_pillow(data))
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("format", "mode"), [(f, mode) for f, modes in MODES.items() for mode in modes])
def test_every_format_and_mode_has_pillows_pixels(shape, format, mode):
    data = saved(Image.fromarray(photo(*shape)).convert(mode), format)
    if (format, mode) == ("tiff", "YCbCr") and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFF that it writes")
    pixels = decode(data, "x")
    np.testing.assert_array_equal(pixels, by_pillow(data))
    assert pixels.shape == (*shape, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


def test_jpegs_with_rgb_components_and_adobe_markers():
    data = saved(photo(33, 47), "jpeg", keep_rgb=True)
    np.testing.assert_array_equal(decode(data, "x"), by_pillow(data))
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    for transform in (b"\0", b"\1"):
        marked = data[:2] + adobe + transform + data[2:]
        np.testing.assert_array_equal(decode(marked, "x"), by_pillow(marked))


def test_plain_files_do_not_need_pillow(monkeypatch):
    """The point of reading headers by hand: these must stay on the fast way."""
    image = photo(32, 32)
    files = [
        saved(image, "jpeg"),
        saved(image, "jpeg", progressive=True),
        saved(image, "png"),
        encode(image, "png"),
    ]
    files.append(saved(Image.fromarray(image).convert("L"), "jpeg"))
    monkeypatch.setattr(images, "_decode_with_pillow", None)
    for data in files:
        decode(data, "x")


@pytest.mark.parametrize(
    "chunk", [b"gAMA" + struct.pack(">I", 100000), b"sRGB\0", b"pHYs" + bytes(9), b"bKGD" + bytes(6)]
)
def test_png_chunks_that_leave_pixels_alone(chunk, monkeypatch):
    rows = bytes([0, 10, 20, 30, 0, 40, 50, 60])
    data = png((1, 2, 8, 2, 0, 0, 0), rows, png_chunk(chunk[:4], chunk[4:]))
    np.testing.assert_array_equal(by_pillow(data), [[[10, 20, 30]], [[40, 50, 60]]])
    monkeypatch.setattr(images, "_decode_with_pillow", None)
    np.testing.assert_array_equal(decode(data, "x"), [[[10, 20, 30]], [[40, 50, 60]]])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_exif_orientation_is_applied(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = photo(9, 5)
    # What a viewer shows: the stored picture turned as EXIF 2.32, table 6, says.
    shown = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: image.transpose(1, 0, 2)[:, ::-1],
        7: image.transpose(1, 0, 2)[::-1, ::-1],
        8: image.transpose(1, 0, 2)[::-1],
    }[orientation]
    options = {"jpeg": {"quality": 100, "subsampling": "4:4:4"}, "webp": {"lossless": True}}.get(format, {})
    pixels = decode(saved(image, format, exif=exif, **options), "x")
    assert pixels.shape == shown.shape
    assert np.abs(pixels.astype(int) - shown).max() <= (12 if format == "jpeg" else 0)
    assert pixels.flags.c_contiguous


TEXT_FOR_ORIENTATION = b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 4, b"abc\0", 0)


def test_xmp_orientation_is_applied():
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    image = photo(9, 5)
    plain = by_pillow(saved(image, "jpeg"))
    np.testing.assert_array_equal(decode(saved(image, "jpeg", xmp=xmp), "x"), plain[::-1, ::-1])


@pytest.mark.parametrize("block", [b"II*\0\xff\xff\xff\xff", b"no TIFF at all", b"", TEXT_FOR_ORIENTATION])
def test_damaged_exif_is_ignored(block):
    image = photo(9, 5)
    data = saved(image, "jpeg")
    broken = b"Exif\0\0" + block
    marked = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(broken)) + broken + data[2:]
    np.testing.assert_array_equal(decode(marked, "x"), by_pillow(data))


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_a_file_cut_anywhere_is_refused(format):
    data = saved(photo(24, 24), format)
    whole = by_pillow(data)
    step = max(1, len(data) // 150)
    for length in [*range(0, len(data) - 12, step), *range(max(0, len(data) - 12), len(data))]:
        if not refusal(data[:length]):
            # Only what follows the pixels may be missing.
            assert format in ("gif", "tiff")
            np.testing.assert_array_equal(decode(data[:length], "x"), whole)


def test_a_jpeg_or_png_without_its_end_is_refused():
    refused(saved(photo(24, 24), "jpeg")[:-2], "truncated JPEG")
    refused(saved(photo(24, 24), "png")[:-12], "truncated PNG")
    refused(saved(photo(24, 24), "jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")[:-200], "truncated JPEG")
    refused(saved(Image.fromarray(photo(24, 24)).convert("CMYK"), "jpeg")[:-200], "truncated JPEG")


def test_damage_that_pillow_overlooks_is_refused():
    """Bytes changed between the markers: where the decoder notices it is refused, and mostly it notices."""
    data = saved(photo(64, 64), "jpeg", quality=90)
    start = data.index(b"\xff\xda") + 14
    rng = random.Random(0)
    noticed = 0
    for _ in range(60):
        damaged = bytearray(data)
        at = rng.randrange(start, len(data) - 40)
        damaged[at : at + 30] = bytes(b % 255 for b in rng.randbytes(30))
        with contextlib.suppress(OSError):
            by_pillow(bytes(damaged))
            noticed += "corrupt JPEG" in (refusal(bytes(damaged)) or "")
    assert noticed > 30


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm"])
def test_whatever_pillow_refuses_is_refused(format):
    data = saved(photo(24, 24), format)
    rng = random.Random(1)
    for _ in range(150):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            expected = by_pillow(bytes(damaged))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            with pytest.raises(ImageError):
                decode(bytes(damaged), "x")
        else:
            with contextlib.suppress(ImageError):
                np.testing.assert_array_equal(decode(bytes(damaged), "x"), expected)


def test_png_with_a_wrong_checksum_is_refused():
    data = bytearray(saved(photo(8, 8), "png"))
    data[data.index(b"IDAT") + 9] ^= 4
    refused(bytes(data), "corrupt PNG: the checksum of its 'IDAT' chunk is wrong")


def test_png_with_rows_missing_is_refused():
    refused(png((4, 4, 8, 2, 0, 0, 0), bytes(13 * 3)), "its rows cannot be read to the end")
    refused(png((8, 4, 1, 0, 0, 0, 0), bytes(2 * 3)), "its rows cannot be read to the end")


def test_png_of_one_line():
    wide = png((2**20 + 1, 1, 8, 0, 0, 0, 0), bytes(2**20 + 2))
    assert decode(wide, "x").shape == (1, 2**20 + 1, 3)


def test_16_bit_images_are_refused():
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    refused(saved(deep, "png"), "16 bits a channel")
    refused(png((2, 2, 16, 2, 0, 0, 0), bytes(2 * 13)), "16 bits a channel")
    refused(png((2, 2, 16, 6, 0, 0, 0), bytes(2 * 17)), "16 bits a channel")
    refused(saved(deep, "tiff"), "more than 8 bits")
    refused(saved(deep.astype(np.float32), "tiff"), "more than 8 bits")
    refused(saved(deep, "ppm"), "more than 8 bits")
    refused(b"P6 2 2 65535\n" + bytes(24), "more than 8 bits")
    refused(rgb_tiff_of_16_bits(), "more than 8 bits")


def rgb_tiff_of_16_bits() -> bytes:
    """One uncompressed pixel; Pillow reads such files as 8-bit RGB, and does not write them."""
    tags = [(256, 1), (257, 1), (259, 1), (262, 2), (277, 3), (278, 1), (279, 6)]
    bits_at = 8 + 2 + 12 * 9 + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries.append(struct.pack("<HHII", 258, 3, 3, bits_at))
    entries.append(struct.pack("<HHII", 273, 4, 1, bits_at + 6))
    entries.sort(key=lambda entry: struct.unpack("<H", entry[:2]))
    directory = struct.pack("<H", 9) + b"".join(entries) + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<HHH", 16, 16, 16) + bytes(6)
    assert by_pillow(data).shape == (1, 1, 3)
    return data


def test_12_bit_jpeg_is_refused():
    data = bytearray(saved(photo(8, 8), "jpeg"))
    data[data.index(b"\xff\xc0") + 4] = 12
    refused(bytes(data), "12 bits a channel")


@pytest.mark.parametrize("format", ["gif", "webp", "png", "tiff"])
def test_animated_images_are_refused(format):
    frames = [Image.fromarray(photo(8, 8, seed)) for seed in range(3)]
    refused(saved(frames[0], format, save_all=True, append_images=frames[1:]), "3 frames")


def test_still_images_in_animation_formats_are_read():
    for format, options in (("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tiff", {})):
        data = saved(photo(8, 8), format, save_all=True, **options)
        assert decode(data, "x").shape == (8, 8, 3)


def test_the_first_picture_of_an_mpo_is_the_photograph(monkeypatch):
    pictures = [Image.fromarray(photo(16, 16, seed)) for seed in range(2)]
    data = saved(pictures[0], "mpo", save_all=True, append_images=pictures[1:])
    np.testing.assert_array_equal(decode(data, "x"), by_pillow(saved(pictures[0], "jpeg")))

    def cannot(*_: object, **__: object) -> None:
        raise ValueError("Unsupported subsampling")

    monkeypatch.setattr("simplejpeg.decode_jpeg", cannot)
    np.testing.assert_array_equal(decode(data, "x"), by_pillow(saved(pictures[0], "jpeg")))


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_alpha_is_dropped_where_opaque_and_refused_where_not(format):
    image = photo(8, 8)
    rgba = np.dstack([image, np.full((8, 8), 255, np.uint8)])
    options = {"lossless": True} if format == "webp" else {}
    np.testing.assert_array_equal(decode(saved(rgba, format, **options), "x"), image)
    rgba[3, 4, 3] = 254
    refused(saved(rgba, format, exact=True, **options), "transparent")


def test_palettes_with_and_without_transparency():
    palette = Image.fromarray(photo(8, 8)).quantize(8)
    for format in ("png", "gif"):
        data = saved(palette, format)
        np.testing.assert_array_equal(decode(data, "x"), np.array(palette.convert("RGB")))
        refused(saved(palette, format, transparency=palette.getpixel((0, 0))), "transparent")
    unused = Image.fromarray(np.array([[1, 2], [2, 1]], np.uint8), "P")
    unused.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(decode(saved(unused, "png", transparency=0), "x")[0, 0], [10, 20, 30])


def test_a_transparent_colour_of_rgb_and_grey():
    rows = bytes([0, 10, 20, 30, 40, 50, 60])
    refused(png((2, 1, 8, 2, 0, 0, 0), rows, png_chunk(b"tRNS", bytes([0, 10, 0, 20, 0, 30]))), "transparent")
    absent = png((2, 1, 8, 2, 0, 0, 0), rows, png_chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3])))
    np.testing.assert_array_equal(decode(absent, "x"), [[[10, 20, 30], [40, 50, 60]]])
    grey = png((2, 1, 8, 0, 0, 0, 0), bytes([0, 10, 20]), png_chunk(b"tRNS", bytes([0, 10])))
    refused(grey, "transparent")


def bombs() -> dict[str, bytes]:
    side = 60_000
    jpeg = bytearray(saved(photo(8, 8), "jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    bitmap = bytearray(saved(photo(8, 8), "bmp"))
    bitmap[18:26] = struct.pack("<ii", side, side)
    return {
        "jpeg": bytes(jpeg),
        "png": png((side, side, 8, 2, 0, 0, 0), bytes(1000)),
        "bmp": bytes(bitmap),
        "ppm": b"P6 %d %d 255\n" % (side, side),
        "gif": b"GIF89a" + struct.pack("<HH", side, side) + saved(photo(8, 8), "gif")[10:],
        "barely": png((1, MAX_PIXELS + 1, 8, 0, 0, 0, 0), bytes(1000)),
    }


@pytest.mark.parametrize("kind", bombs())
def test_decompression_bombs_are_refused_unread(kind, monkeypatch):
    for decoder in ("cv2.imdecode", "simplejpeg.decode_jpeg", "PIL.ImageFile.ImageFile.load"):
        monkeypatch.setattr(decoder, None)
    refused(bombs()[kind], "pixels")


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"GIF", b"hello, world" * 99, b"%!PS-Adobe-3.0\n", b"\xff\xd8\xff", bytes(9999)]
)
def test_what_is_no_image_is_refused(data):
    refused(data, "not an image|truncated|corrupt")


def test_the_first_bytes_decide_and_not_the_name():
    image = photo(8, 8)
    np.testing.assert_array_equal(decode(saved(image, "png"), "misnamed.jpg"), image)


@pytest.mark.parametrize("folder", ["cifar10/test", "tiny-imagenet-200/val"])
def test_real_images_have_pillows_pixels(folder):
    root = os.environ.get("UNLEARNABLE_DATA")
    if not root:
        pytest.skip("UNLEARNABLE_DATA is not set: no real images to decode")
    paths = sorted(p for p in Path(root, folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    assert paths
    for path in random.Random(0).sample(paths, 300):
        data = path.read_bytes()
        pixels = decode(data, path.name)
        np.testing.assert_array_equal(pixels, by_pillow(data))
        np.testing.assert_array_equal(decode(encode(pixels, "png"), path.name), pixels)


@pytest.mark.parametrize("format", ["avif", "heif"])
def test_more_bits_than_pillow_tells_are_refused(format):
    data = saved(Image.fromarray(photo(16, 16)), format)
    box = b"pixi\0\0\0\0\x03\x08\x08\x08"
    assert box in data
    refused(data.replace(box, box[:-1] + b"\x0a"), "more than 8 bits a channel")


def test_a_sideways_avif_is_turned():
    image = Image.fromarray(photo(16, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(image, "avif", exif=exif), "x").shape == (24, 16, 3)
