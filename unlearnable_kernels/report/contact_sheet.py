"""A contact sheet: what protection does to one image of each class, beforehand or afterwards."""

import io
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unlearnable_kernels.data.formats import WRITERS
from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.images.headers import PNG_SIGNATURE
from unlearnable_kernels.data.manifest import Manifest, find_manifest, read_manifest
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.quality import mean_quality
from unlearnable_kernels.data.remote import is_remote, url_of
from unlearnable_kernels.data.source import SPLIT_FOLDERS, Sample, Source, load_image, open_source
from unlearnable_kernels.errors import ImageError, UserError, shown
from unlearnable_kernels.files import replacing, require_replaceable, resolved
from unlearnable_kernels.progress import no_progress
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.method import METHODS, Method, Task, Workspace, make_method
from unlearnable_kernels.protect.pipeline.plan import (
    Options,
    check_options,
    listing_digest,
    make_task,
    make_writer,
)
from unlearnable_kernels.protect.run import around
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
    method: str | Method | Mapping[str, Method] = "classwise-conv",
    resize: int | None = None,
    dataset_name: str | None = None,
    labels: Path | None = None,
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
            Of several, by what they are called, each has a column of protected images, and there are none of
            differences.
        resize: As in ``protect_dataset``.
        dataset_name: As in ``protect_dataset``.
        labels: As in ``protect_dataset``.
        classes: At most so many rows, from 1 to ``MAX_CLASSES``.
        on_error: "raise", or "skip" to take the next image of a class in place of one that cannot be read.
        **method_settings: Fields of the method's class, as in ``protect_dataset``.

    Returns:
        ``out_png``.

    Raises:
        UserError: Bad arguments, a source without images, or an ``out_png`` that lies within ``src`` or
            exists and is not a PNG file.
    """
    several = method if isinstance(method, Mapping) else {"": make_method(method, method_settings)}
    for chosen in several.values():
        if not chosen.per_image:
            raise UserError(
                f"{chosen.name} optimises all images together: protect them, and preview with --protected"
            )
        check_options(Options(chosen, resize=resize, dataset_name=dataset_name))
    _check_arguments(classes, out_png)
    source = open_training_images(Path(src), labels, on_error)
    _check_outside(out_png, "source", *_originals(src, source))
    rows = _first_images(source, classes, resize, on_error)
    names = [source.classes[sample.label] for sample, _ in rows]
    clean = [image for _, image in rows]
    protected, headings = [], []
    for called, chosen in several.items():
        options = Options(chosen, resize=resize, dataset_name=dataset_name)
        task = make_task(source, secret, options, make_writer(options, source), clean[0])
        images, heading = _protected_now(task, chosen, rows, on_error)
        protected.append(images)
        headings.append(f"{called}: {heading}" if called else heading)
    if len(several) == 1:
        triples = list(zip(names, clean, protected[0], strict=True))
        return _write_sheet(contact_sheet(triples, f"{task.name}: {headings[0]}"), out_png)
    columns = list(zip(headings, protected, strict=True))
    return _write_sheet(comparison_sheet(names, clean, columns, task.name), out_png)


def _protected_now(
    task: Task, method: Method, rows: list[tuple[Sample, np.ndarray]], on_error: str
) -> tuple[list[np.ndarray], str]:
    """The protected images of ``rows``, and what was done to them."""
    parameters = method.parameters(task)
    assignment = dict(zip(task.names, method.assignment(task, parameters), strict=True))
    images = []
    with TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder), on_error == "skip", _ignore, no_progress)
        perturbation = method.perturbation(task, parameters, list(assignment.values()), workspace)
        for sample, clean in rows:
            protected = np.empty_like(clean)[None]
            perturbation.apply(clean[None], [assignment[sample.name]], protected)
            images.append(protected[0])
    return images, method.heading(parameters)


def write_comparison(
    src: Path, dst: Path, out_png: Path, *, labels: Path | None = None, classes: int = 10
) -> Path:
    """Write the same sheet from ``dst``, which ``protect_dataset`` made from ``src`` by whatever method.

    The image is the first of each class that is protected.

    Args:
        src: The source.
        dst: Its protected copy.
        out_png: Where to write the sheet.
        labels: The list of classes that ``protect_dataset`` was given, if it was.
        classes: At most so many rows, from 1 to ``MAX_CLASSES``.

    Returns:
        ``out_png``.

    Raises:
        UserError: ``dst`` has no manifest or was made from other files than those in ``src``, an image
            cannot be read, or the arguments are such that ``write_preview`` would raise.
    """
    _check_arguments(classes, out_png)
    manifest = find_manifest(Path(dst)) or read_manifest(Path(dst))
    _check_outside(out_png, "protected dataset", find(dst), manifest.folder)
    parameters, method = manifest["parameters"], manifest["method"]
    for name, registry in ((method, METHODS), (parameters.get("format"), WRITERS)):
        if not isinstance(name, str) or name not in registry:
            known = f"{registry.kind} {name!r} is not one of {', '.join(registry)}"
            raise UserError(f"{url_of(dst)}: {known}; a plug-in may be missing")
    try:
        heading = f"{manifest['dataset_name']}: {METHODS[method].heading(parameters)}"
        # What was skipped then is not looked at now.
        source = open_training_images(Path(src), labels, "skip" if manifest["skipped"] else "raise")
        _check_outside(out_png, "source", *_originals(src, source))
        pairs = _protected_pairs(source, Path(dst), manifest, classes)
        triples = [(manifest["classes"][label], *pair) for label, pair in pairs]
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise UserError(f"{url_of(dst)}: its manifest is damaged: {error}") from None
    if not pairs:
        raise UserError(f"{url_of(dst)}: none of the images of the first {classes} classes is protected")
    return _write_sheet(contact_sheet(triples, heading), out_png)


def _protected_pairs(
    source: Source, dst: Path, manifest: Manifest, classes: int
) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    """(label, (clean, protected)) of the first protected image of each of the first classes that have one."""
    if manifest["source_listing_sha256"] != listing_digest(source):
        raise UserError(f"{url_of(dst)} was not made from the files that are in {url_of(source.root)} now")
    flags = {name: entry.protected for name, entry in manifest.samples()}
    parameters = manifest["parameters"]
    settings = [name for name in WRITERS.settings(parameters["format"]) if name in parameters]
    writer = WRITERS.make(parameters["format"], {name: parameters[name] for name in settings})
    outputs = writer.outputs(source)
    protected = open_source(dst, "train")
    present = {sample.name: sample for sample in protected.samples}
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for sample, output in zip(source.samples, outputs, strict=True):
        name = output if output in flags else output.removeprefix(f"{manifest['prefix']}/")
        if sample.label >= classes or sample.label in found or not flags.get(name):
            continue
        if name not in present:
            raise UserError(f"{url_of(dst)}: {name} is missing")
        clean = load_image(source, sample, parameters["resize"])
        found[sample.label] = clean, load_image(protected, present[name], None)
    return sorted(found.items())


def _check_arguments(classes: int, out_png: Path) -> None:
    if not 1 <= classes <= MAX_CLASSES:
        raise UserError(f"classes must be from 1 to {MAX_CLASSES}, not {classes}")
    require_replaceable(Path(out_png), PNG_SIGNATURE, "a PNG file")


def _originals(src: Path, source: Source) -> list[Path]:
    """Where pictures lie that are not to be lost: in the source, and in the other splits beside it."""
    places = [find(src), around(src, source)]
    names = [name for folders in SPLIT_FOLDERS.values() for name in folders]
    return places + [source.root.with_name(name) for name in names if source.root.name in names]


def _check_outside(out_png: Path, what: str, *places: Path) -> None:
    """Raise UserError if the sheet would replace one of ``places``, or lie within one."""
    out = resolved(Path(out_png))
    for place in places:
        if not is_remote(place) and resolved(place) in (out, *out.parents):
            raise UserError(f"{shown(str(out_png))} must lie outside the {what} {shown(str(place))}")


def _write_sheet(sheet: Image.Image, out_png: Path) -> Path:
    stream = io.BytesIO()
    sheet.save(stream, "png")
    with replacing(Path(out_png)) as temporary:
        temporary.write_bytes(stream.getvalue())
    return Path(out_png)


def contact_sheet(triples: list[tuple[str, np.ndarray, np.ndarray]], heading: str) -> Image.Image:
    """Draw rows of clean | difference | protected.

    Args:
        triples: (class name, clean image, protected image) for each row: uint8 [H, W, 3], sizes may differ
            between rows.
        heading: Above all rows; where it is long, broken after commas.

    Returns:
        The sheet, RGB.
    """
    factor = amplification((before, after) for _, before, after in triples)
    difference = f"difference x{factor}" if factor > 1 else "difference"
    rows = [
        (name, [before, amplified_difference(before, after, factor), after])
        for name, before, after in triples
    ]
    return _grid(heading, [["clean"], [difference], ["protected"]], rows)


def comparison_sheet(
    names: list[str], clean: list[np.ndarray], columns: list[tuple[str, list[np.ndarray]]], heading: str
) -> Image.Image:
    """Draw rows of clean | protected in one way | protected in another | ….

    Args:
        names: Of the classes, one for each row.
        clean: uint8 [H, W, 3] each.
        columns: (what was done, protected images), with the mean PSNR and SSIM of these images above them.
        heading: Above all rows; where it is long, broken after commas.

    Returns:
        The sheet, RGB.
    """
    titles = [["clean"]]
    for what, images in columns:
        found = mean_quality(zip(clean, images, strict=True))
        looks = [f"{found['psnr']:.1f} dB"] if found["psnr"] is not None else []
        looks += [f"SSIM {found['ssim']:.2f}"] if found["ssim"] is not None else []
        titles.append([*_wrapped(what, CELL), ", ".join(looks)])
    rows = [
        (name, [before, *(images[row] for _, images in columns)])
        for row, (name, before) in enumerate(zip(names, clean, strict=True))
    ]
    return _grid(heading, titles, rows)


def _wrapped(text: str, width: int) -> list[str]:
    """Parts between commas on as few lines as a width in pixels allows."""
    lines: list[str] = []
    for part in text.split(", "):
        longer = f"{lines[-1]}, {part}" if lines else part
        if lines and ImageFont.load_default(13).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def _grid(heading: str, titles: list[list[str]], rows: list[tuple[str, list[np.ndarray]]]) -> Image.Image:
    """Rows of named images below the lines of each column's title."""
    width = GAP + len(titles) * (CELL + GAP)
    headings = _wrapped(shown(heading), width - 2 * GAP)
    below = len(headings) * TITLE
    top = below + max(map(len, titles)) * TITLE
    sheet = Image.new("RGB", (width, top + len(rows) * (CELL + TITLE) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for line, text in enumerate(headings):
        draw.text((GAP, 5 + line * TITLE), text, "black", font)
    for column, title in enumerate(titles):
        for line, text in enumerate(title):
            draw.text((GAP + column * (CELL + GAP), below + line * TITLE), shown(text), "gray", font)
    for row, (name, images) in enumerate(rows):
        above = top + row * (CELL + TITLE)
        draw.text((GAP, above), shown(name), "black", font)
        for column, image in enumerate(images):
            cell = _fitted(image)
            left = GAP + column * (CELL + GAP) + (CELL - cell.width) // 2
            sheet.paste(cell, (left, above + TITLE + (CELL - cell.height) // 2 - 4))
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
