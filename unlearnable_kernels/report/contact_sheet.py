"""A contact sheet: what protection does to one image of each class, beforehand or afterwards."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.images.headers import PNG_SIGNATURE
from unlearnable_kernels.data.manifest import find_manifest, read_manifest, sample_entries
from unlearnable_kernels.data.source import Sample, Source, load_image, open_source
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.files import replacing, require_replaceable, resolved
from unlearnable_kernels.progress import no_progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.method import METHODS, Method, Workspace, make_method
from unlearnable_kernels.protect.pipeline.plan import (
    Options,
    check_options,
    listing_digest,
    make_task,
    make_writer,
)
from unlearnable_kernels.report.differences import amplification, amplified_difference

# Common small sizes, 32, 64 and 96, fit in a whole number of times.
CELL = 192
GAP = 8
TITLE = 24
MAX_CLASSES = 200


def write_preview(
    src: Path,
    out_png: Path,
    secret: Secret,
    *,
    method: str | Method = "classwise-conv",
    resize: int | None = None,
    dataset_name: str | None = None,
    classes: int = 10,
    on_error: str = "raise",
    **method_settings: Any,
) -> Path:
    """Write a PNG with a row for each of the first ``classes`` classes: clean, difference, protected.

    The image is the first of its class, protected as ``protect_dataset`` would with the same arguments, and
    written nowhere else. A method that optimises all images together has nothing to show beforehand: see
    ``write_comparison``. The difference is protected minus clean, amplified alike in all rows; mid-grey
    means no change.

    Args:
        src: The source, in any format that ``open_source`` knows.
        out_png: Where to write the sheet.
        secret: Key or seed of the perturbation.
        method: A name in ``METHODS``, or a method with its settings; one that perturbs images one by one.
        resize: As in ``protect_dataset``.
        dataset_name: As in ``protect_dataset``.
        classes: At most so many rows, from 1 to ``MAX_CLASSES``.
        on_error: "raise", or "skip" to take the next image of a class in place of one that cannot be read.
        **method_settings: Fields of the method's class, as in ``protect_dataset``.

    Returns:
        ``out_png``.

    Raises:
        UserError: Bad arguments, a source without images, or an ``out_png`` that lies within ``src`` or
            exists and is not a PNG file.
    """
    chosen = make_method(method, method_settings)
    if not chosen.per_image:
        raise UserError(
            f"{chosen.name} optimises all images together: protect them, and preview with --protected"
        )
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

    The image is the first of each class that is protected.

    Args:
        src: The source.
        dst: Its protected copy.
        out_png: Where to write the sheet.
        classes: At most so many rows, from 1 to ``MAX_CLASSES``.

    Returns:
        ``out_png``.

    Raises:
        UserError: ``dst`` has no manifest or was made from other files than those in ``src``, an image
            cannot be read, or the arguments are such that ``write_preview`` would raise.
    """
    _check_arguments(classes, out_png, {"source": src, "protected dataset": dst})
    manifest = find_manifest(Path(dst)) or read_manifest(Path(dst))
    parameters, method = manifest["parameters"], manifest["method"]
    for name, registry in ((method, METHODS), (parameters.get("format"), WRITERS)):
        if not isinstance(name, str) or name not in registry:
            known = f"{registry.kind} {name!r} is not one of {', '.join(registry)}"
            raise UserError(f"{dst}: {known}; a plug-in may be missing")
    try:
        heading = f"{manifest['dataset_name']}: {METHODS[method].heading(parameters)}"
        pairs = _protected_pairs(Path(src), Path(dst), manifest, classes)
        triples = [(manifest["classes"][label], *pair) for label, pair in pairs]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{dst}: its manifest is damaged: {error}") from None
    if not pairs:
        raise UserError(f"{dst}: none of the images of the first {classes} classes is protected")
    return _write_sheet(triples, heading, out_png)


def _protected_pairs(
    src: Path, dst: Path, manifest: dict[str, Any], classes: int
) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(label, (clean, protected)) of the first protected image of each of the first classes that have one."""
    # What was skipped then is not looked at now.
    source = open_source(src, "train", "skip" if manifest["skipped"] else "raise")
    if manifest["source_listing_sha256"] != listing_digest(source, with_times=False):
        raise UserError(f"{dst} was not made from the files that are in {src} now")
    entries = sample_entries(manifest)
    outputs = WRITERS.create(manifest["parameters"]["format"]).outputs(source)
    protected = open_source(dst, "train")
    present = {sample.name: sample for sample in protected.samples}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for sample, output in zip(source.samples, outputs, strict=True):
        name = output if output in entries else output.removeprefix(f"{manifest['prefix']}/")
        if sample.label >= classes or sample.label in found or not entries.get(name, {}).get("protected"):
            continue
        if name not in present:
            raise UserError(f"{dst}: {name} is missing")
        clean = load_image(source, sample, manifest["parameters"]["resize"])
        found[sample.label] = clean, load_image(protected, present[name], None)
    return sorted(found.items())


def _check_arguments(classes: int, out_png: Path, folders: dict[str, Path]) -> None:
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"classes must be from 1 to {MAX_CLASSES}, not {classes}")
    for what, folder in folders.items():
        if resolved(Path(folder)) in resolved(Path(out_png)).parents:
            raise UserError(f"{out_png} must lie outside the {what} {folder}")
    require_replaceable(Path(out_png), PNG_SIGNATURE, "a PNG file")


def _write_sheet(triples: list[tuple[str, np.ndarray, np.ndarray]], heading: str, out_png: Path) -> Path:
    stream = io.BytesIO()
    contact_sheet(triples, heading).save(stream, "png")
    with replacing(Path(out_png)) as temporary:
        temporary.write_bytes(stream.getvalue())
    return Path(out_png)


def contact_sheet(triples: list[tuple[str, np.ndarray, np.ndarray]], heading: str) -> Image.Image:
    """Draw rows of clean | difference | protected.

    Args:
        triples: (class name, clean image, protected image) for each row: uint8 [H, W, 3], sizes may differ
            between rows.
        heading: One line above all rows.

    Returns:
        The sheet, RGB.
    """
    factor = amplification((before, after) for _, before, after in triples)
    width, height = 4 * GAP + 3 * CELL, 2 * TITLE + len(triples) * (CELL + TITLE) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((GAP, 5), shown(heading), "black", font)
    difference = f"difference x{factor}" if factor > 1 else "difference"
    for column, text in enumerate(("clean", difference, "protected")):
        draw.text((GAP + column * (CELL + GAP), TITLE), text, "gray", font)
    for row, (name, before, after) in enumerate(triples):
        top = 2 * TITLE + row * (CELL + TITLE)
        draw.text((GAP, top), shown(name), "black", font)
        for column, image in enumerate((before, amplified_difference(before, after, factor), after)):
            cell = _fitted(image)
            left = GAP + column * (CELL + GAP) + (CELL - cell.width) // 2
            sheet.paste(cell, (left, top + TITLE + (CELL - cell.height) // 2 - 4))
    return sheet


def _fitted(image: np.ndarray) -> Image.Image:
    """Fit uint8 [H, W, 3] into a cell: enlarged by a whole factor, pixels left square, or reduced."""
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
