"""A contact sheet: what protection does to one image of each class, beforehand or afterwards."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unlearnable_kernels.data.formats.folder import output_names
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.source import Sample, Source, load_image, open_source
from unlearnable_kernels.errors import ImageError, UserError
from unlearnable_kernels.files import replacing, resolved
from unlearnable_kernels.progress import no_progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods import METHODS, make_method
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.protect.pipeline.plan import (
    Options,
    check_options,
    listing_digest,
    make_task,
    make_writer,
)

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
    secret: Secret,
    *,
    method: str = "classwise-conv",
    resize: int | None = None,
    dataset_name: str | None = None,
    classes: int = 10,
    on_error: str = "raise",
    **method_settings: Any,
) -> Path:
    """Write a PNG with a row for each of the first ``classes`` classes: clean, difference, protected.

    The image is the first of its class, filtered as ``protect_dataset`` would with the same arguments
    (``method_options`` are those of ``ClasswiseConv``), and written nowhere else. A method that optimises all
    images together has nothing to show beforehand: see ``write_comparison``. The difference is protected
    minus clean, amplified alike in all rows, grey being none. Raises UserError for bad arguments, a source
    without images, and an ``out_png`` that lies within ``src`` or is there and no PNG file.
    """
    chosen = make_method(method, method_settings)
    if not chosen.per_image:
        raise UserError(f"{method} optimises all images together: protect them, and preview with --protected")
    options = Options(chosen, resize=resize, dataset_name=dataset_name)
    check_options(options)
    _check_arguments(classes, out_png, {"source": src})
    source = open_source(Path(src), "train", on_error)
    rows = _first_images(source, classes, resize, on_error)
    task = make_task(source, secret, options, make_writer(options, source), rows[0][1])
    parameters = chosen.parameters(task)
    assignment = dict(zip(task.names, chosen.assignment(task, parameters), strict=True))
    triples = []
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), on_error == "skip", _ignore, no_progress)
        perturbation = chosen.perturbation(task, parameters, list(assignment.values()), workspace)
        for sample, clean in rows:
            protected = np.empty_like(clean)[None]
            perturbation.apply(clean[None], [assignment[sample.name]], protected)
            triples.append((source.classes[sample.label], clean, protected[0]))
    return _write_sheet(triples, f"{task.name}: {chosen.heading(parameters)}", out_png)


def write_comparison(src: Path, dst: Path, out_png: Path, *, classes: int = 10) -> Path:
    """Write the same sheet from ``dst``, which ``protect_dataset`` made from ``src`` by whatever method.

    The images are the first of each class that are protected. Raises UserError where ``dst`` has no manifest
    or was made from other files than those in ``src``, for an image that cannot be read, and as
    ``write_preview``.
    """
    _check_arguments(classes, out_png, {"source": src, "protected data set": dst})
    manifest = read_manifest(Path(dst))
    parameters, method = manifest["parameters"], manifest["method"]
    if method not in METHODS:
        raise UserError(f"{dst}: method {method!r} is none of {', '.join(METHODS)}")
    try:
        heading = f"{manifest['dataset_name']}: {METHODS[method].heading(parameters)}"
        pairs = _protected_pairs(Path(src), Path(dst), manifest, classes)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{dst}: its manifest is damaged: {error}") from None
    if not pairs:
        raise UserError(f"{dst}: not one image of the first {classes} classes is protected")
    return _write_sheet([(manifest["classes"][y], *pair) for y, pair in pairs], heading, out_png)


def _protected_pairs(
    src: Path, dst: Path, manifest: dict[str, Any], classes: int
) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(label, (clean, protected)) of the first protected image of each of the first classes that have one."""
    parameters = manifest["parameters"]
    # What was skipped then is not looked at now.
    source = open_source(src, "train", "skip" if manifest["skipped"] else "raise")
    if manifest["source_listing_sha256"] != listing_digest(source, with_times=False):
        raise UserError(f"{dst} was not made from the files that are in {src} now")
    as_array = parameters["format"] == "npz"
    outputs = [s.name for s in source.samples] if as_array else output_names(source, parameters["format"])
    entries = next(iter(manifest["files"].values()))["samples"] if as_array else manifest["files"]
    result = open_source(dst, "train")
    written = {sample.name: sample for sample in result.samples}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for sample, output in zip(source.samples, outputs, strict=True):
        if sample.label >= classes or sample.label in found or not entries.get(output, {}).get("protected"):
            continue
        name = output if as_array else output.removeprefix(f"{source.prefix}/")
        if name not in written:
            raise UserError(f"{dst}: {output} is missing")
        clean = load_image(source, sample, parameters["resize"])
        found[sample.label] = clean, load_image(result, written[name], None)
    return sorted(found.items())


def _check_arguments(classes: int, out_png: Path, folders: dict[str, Path]) -> None:
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"classes must be from 1 to {MAX_CLASSES}, not {classes}")
    for what, folder in folders.items():
        if resolved(Path(folder)) in resolved(Path(out_png)).parents:
            raise UserError(f"{out_png} must lie outside the {what} {folder}")
    _check_replaceable(Path(out_png))


def _write_sheet(triples: list[tuple[str, np.ndarray, np.ndarray]], heading: str, out_png: Path) -> Path:
    stream = io.BytesIO()
    contact_sheet(triples, heading).save(stream, "png")
    with replacing(Path(out_png)) as temporary:
        temporary.write_bytes(stream.getvalue())
    return Path(out_png)


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
) -> list[tuple[Sample, np.ndarray]]:
    """The first usable sample, with its image, of each of the first classes that have one."""
    found: dict[int, tuple[Sample, np.ndarray]] = {}
    for sample in source.samples:
        if sample.label in found or sample.label >= classes:
            continue
        try:
            found[sample.label] = sample, load_image(source, sample, resize)
        except ImageError:
            if on_error != "skip":
                raise
    if not found:
        raise UserError(f"{source.name}: there are no images to show")
    return [found[label] for label in sorted(found)]


def _ignore(message: str) -> None:
    pass
