"""A contact sheet: what protection would do to one image of each class, before anything is protected."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from unlearnable_kernels.data.sources import Source, open_source
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.filters import FiltersFrom, class_filters
from unlearnable_kernels.protect.plan import Options, check_options, data_set_name, resolve
from unlearnable_kernels.protect.render import load_image
from unlearnable_kernels.protect.staging import resolved
from unlearnable_kernels.record import replacing

# Common small sizes, 32, 64 and 96, fit in a whole number of times.
CELL = 192
GAP = 8
TITLE = 24
MAX_CLASSES = 200
_FULL_SCALE = 112.0
_PNG = b"\x89PNG\r\n\x1a\n"


def write_preview(
    src: Path,
    out_png: Path,
    filters_from: FiltersFrom,
    *,
    method: str = "classwise-conv",
    kernel_size: int | None = None,
    strength: float | None = None,
    padding: str | None = None,
    resize: int | None = None,
    dataset_name: str | None = None,
    classes: int = 10,
    on_error: str = "raise",
) -> Path:
    """Write a PNG with a row for each of the first ``classes`` classes: clean, difference, protected.

    The image is the first of its class, filtered as ``protect_dataset`` would with the same arguments, and
    written nowhere else. The difference is protected minus clean, amplified alike in all rows, grey being
    none. Raises UserError for bad arguments, a source without images, and an ``out_png`` that lies within
    ``src`` or is there and no PNG file.
    """
    options = Options(
        method, kernel_size, strength, padding=padding, resize=resize, dataset_name=dataset_name
    )
    check_options(options)
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"classes must be from 1 to {MAX_CLASSES}, not {classes}")
    src, out_png = Path(src), Path(out_png)
    if resolved(src) in resolved(out_png).parents:
        raise UserError(f"{out_png} must lie outside the source {src}")
    _check_replaceable(out_png)
    source = open_source(src, "train", on_error)
    rows = _first_images(source, classes, resize, on_error)
    name = data_set_name(source, options)
    parameters = resolve(source, filters_from, options, name, min(rows[0][1].shape[:2]))
    k, strength = parameters["kernel_size"], parameters["strength"]
    filters = class_filters(filters_from, name, len(source.classes), k, strength)
    triples = [
        (source.classes[label], clean, protect_one(clean, label, filters, parameters["padding"]))
        for label, clean in rows
    ]
    heading = f"{name}: {method}, k {k}, strength {strength:g}, padding {parameters['padding']}"
    sheet = contact_sheet(triples, heading)
    stream = io.BytesIO()
    sheet.save(stream, "png")
    with replacing(out_png) as temporary:
        temporary.write_bytes(stream.getvalue())
    return out_png


def _check_replaceable(path: Path) -> None:
    """Only an older picture is overwritten: one slip, and a key would be lost."""
    if not path.exists():
        return
    try:
        is_png = path.is_file() and path.open("rb").read(len(_PNG)) == _PNG
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not is_png:
        raise UserError(f"{path} exists and is no PNG file; choose another name")


def protect_one(image: np.ndarray, label: int, filters: torch.Tensor, padding: str) -> np.ndarray:
    """One protected image, uint8 [H, W, 3] like ``image``."""
    batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    result: np.ndarray = (
        classwise_conv(batch, torch.tensor([label]), filters, padding)[0].permute(1, 2, 0).numpy()
    )
    return result


def contact_sheet(triples: list[tuple[str, np.ndarray, np.ndarray]], heading: str) -> Image.Image:
    """Rows of clean | difference | protected for (class name, clean, protected), uint8 [H, W, 3] each."""
    differences = [after.astype(np.int16) - before for _, before, after in triples]
    gain = amplification(differences)
    width, height = 4 * GAP + 3 * CELL, 2 * TITLE + len(triples) * (CELL + TITLE) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((GAP, 5), heading, "black", font)
    times = f" x{gain}" if gain > 1 else ""
    for column, text in enumerate(("clean", f"difference{times}", "protected")):
        draw.text((GAP + column * (CELL + GAP), TITLE), text, "gray", font)
    for row, ((name, before, after), difference) in enumerate(zip(triples, differences, strict=True)):
        top = 2 * TITLE + row * (CELL + TITLE)
        draw.text((GAP, top), name, "black", font)
        shown = np.clip(128 + gain * difference.astype(np.int32), 0, 255).astype(np.uint8)
        for column, image in enumerate((before, shown, after)):
            cell = _fitted(image)
            left = GAP + column * (CELL + GAP) + (CELL - cell.width) // 2
            sheet.paste(cell, (left, top + TITLE + (CELL - cell.height) // 2 - 4))
    return sheet


def amplification(differences: list[np.ndarray]) -> int:
    """The whole factor, 1 to 16, that brings all but the largest twentieth of differences within range."""
    peak = max(float(np.percentile(np.abs(difference), 95)) for difference in differences)
    return int(np.clip(_FULL_SCALE / max(peak, 1.0), 1, 16))


def _fitted(image: np.ndarray) -> Image.Image:
    """Enlarged by a whole factor with its pixels left square, or reduced smoothly."""
    height, width, _ = image.shape
    longer = max(height, width)
    picture = Image.fromarray(image)
    if longer <= CELL:
        factor = CELL // longer
        return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    size = (max(1, width * CELL // longer), max(1, height * CELL // longer))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _first_images(
    source: Source, classes: int, resize: int | None, on_error: str
) -> list[tuple[int, np.ndarray]]:
    """(label, image) of the first usable sample of each of the first classes that have one."""
    found: dict[int, np.ndarray] = {}
    for sample in source.samples:
        if sample.label in found or sample.label >= classes:
            continue
        try:
            found[sample.label] = load_image(source, sample, resize)
        except ImageError:
            if on_error != "skip":
                raise
    if not found:
        raise UserError(f"{source.name}: there are no images to show")
    return sorted(found.items())
