"""Time the decoders and PNG encoders that `protect` could use, on real JPEGs, in one thread.

    python benchmarks/bench_codecs.py DIR_OF_JPEGS [--images 2000] [--rounds 9] [--out FILE.json]

Every candidate runs once a round over the same images, in an order drawn afresh; the table gives medians of
processor time over the rounds. A decoder counts as exact when each of its images equals Pillow's, an encoder
when Pillow reads back what went in. The encoders get what `protect` writes: images under a 3x3 filter
as in the first method (k 3, p_b 0.3). Candidates that are not installed are left out, and named.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import io
import json
import platform
import random
import statistics
import struct
import time
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unlearnable_kernels.data.images import decoding as images
from unlearnable_kernels.data.images.headers import PNG_SIGNATURE
from unlearnable_kernels.data.images.png import average_filtered

Codec = Callable[[Any], Any]
OURS = "unlearnable_kernels"


def pillow_decode(data: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def decoders(format: str) -> dict[str, Codec]:
    found: dict[str, Codec] = {"Pillow": pillow_decode, OURS: lambda data: images.decode(data, "x")}
    if cv2 := load("cv2"):
        rgb = cv2.IMREAD_COLOR_RGB
        found["OpenCV, RGB"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), rgb)
        found["OpenCV, BGR swapped"] = lambda data: cv2.cvtColor(
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        )
    if io_ := load("torchvision.io"):

        def torchvision(data: bytes) -> np.ndarray:
            stored = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            return io_.decode_image(stored, io_.ImageReadMode.RGB).permute(1, 2, 0).numpy()

        found["torchvision.io"] = torchvision
    imagecodecs = load("imagecodecs")
    if imagecodecs and format == "png":
        found["imagecodecs png"] = imagecodecs.png_decode
        found["imagecodecs spng"] = imagecodecs.spng_decode
    if imagecodecs and format == "jpeg":
        found["imagecodecs"] = lambda data: imagecodecs.jpeg8_decode(data, outcolorspace="RGB")
    if format == "jpeg":
        found |= turbojpeg_decoders()
    return found


def turbojpeg_decoders() -> dict[str, Codec]:
    found: dict[str, Codec] = {}
    if simplejpeg := load("simplejpeg"):
        found["simplejpeg, strict"] = simplejpeg.decode_jpeg
    if turbojpeg := load("turbojpeg"):
        try:
            turbo = turbojpeg.TurboJPEG()
        except (OSError, RuntimeError) as error:
            print(f"left out: PyTurboJPEG ({str(error).splitlines()[0]})")
        else:
            found["PyTurboJPEG"] = lambda data: turbo.decode(data, pixel_format=turbojpeg.TJPF_RGB)
    return found


def encoders() -> dict[str, Codec]:
    def pillow(image: np.ndarray, level: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "png", compress_level=level)
        return stream.getvalue()

    found: dict[str, Codec] = {f"Pillow, level {n}": lambda x, n=n: pillow(x, n) for n in (0, 1, 3, 6)}
    found[OURS] = lambda x: images.encode(x, "png")
    if cv2 := load("cv2"):
        strategies = {
            "filtered": cv2.IMWRITE_PNG_STRATEGY_FILTERED,
            "huffman": cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY,
            "rle": cv2.IMWRITE_PNG_STRATEGY_RLE,
        }

        def opencv(image: np.ndarray, *options: int) -> bytes:
            swapped = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
            return cv2.imencode(".png", swapped, options)[1].tobytes()

        for level, name in [
            (0, "rle"),
            (1, "rle"),
            (1, "huffman"),
            (1, "filtered"),
            (3, "rle"),
            (6, "filtered"),
        ]:
            options = (cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_STRATEGY, strategies[name])
            found[f"OpenCV, level {level} {name}"] = lambda x, options=options: opencv(x, *options)
    if io_ := load("torchvision.io"):

        def torchvision(image: np.ndarray, level: int) -> bytes:
            planes = torch.from_numpy(image).permute(2, 0, 1)
            return io_.encode_png(planes, level).numpy().tobytes()

        found |= {f"torchvision.io, level {n}": lambda x, n=n: torchvision(x, n) for n in (0, 1, 3, 6)}
    if imagecodecs := load("imagecodecs"):
        for n in (0, 1, 3, 6):
            found[f"imagecodecs png, level {n}"] = lambda x, n=n: imagecodecs.png_encode(x, level=n)
            found[f"imagecodecs spng, level {n}"] = lambda x, n=n: imagecodecs.spng_encode(x, level=n)
        filtered = imagecodecs.PNG.FILTER.SUB
        found["imagecodecs png, level 1 sub rle"] = lambda x: imagecodecs.png_encode(
            x, level=1, strategy=imagecodecs.PNG.STRATEGY.RLE, filter=filtered
        )
    found["own writer, stored"] = lambda x: write_png(x, lambda rows: zlib.compress(rows, 0))
    found["own writer, zlib 1"] = lambda x: write_png(x, lambda rows: zlib.compress(rows, 1))
    for name, strategy in (("huffman", zlib.Z_HUFFMAN_ONLY), ("rle", zlib.Z_RLE)):
        found[f"own writer, zlib {name}"] = lambda x, s=strategy: write_png(x, lambda rows: deflate(rows, s))
    if libdeflate := load("deflate"):
        for n in (1, 3, 6):
            found[f"own writer, libdeflate {n}"] = lambda x, n=n: write_png(
                x, lambda rows: libdeflate.zlib_compress(rows, n)
            )
    if isal := load("isal.isal_zlib"):
        for n in (0, 1):
            found[f"own writer, isal {n}"] = lambda x, n=n: write_png(x, lambda rows: isal.compress(rows, n))
    return found


def deflate(rows: bytes, strategy: int) -> bytes:
    stream = zlib.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
    return stream.compress(rows) + stream.flush()


def write_png(image: np.ndarray, compress: Callable[[bytes], bytes]) -> bytes:
    """As the package's writer, with another deflate."""
    height, width, _ = image.shape
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + bytes(compress(average_filtered(image)))
    parts = (
        PNG_SIGNATURE + struct.pack(">I", 13),
        header,
        struct.pack(">II", zlib.crc32(header), len(body) - 4),
        body,
        struct.pack(">I", zlib.crc32(body)),
        b"\x00\x00\x00\x00IEND\xaeB`\x82",
    )
    return b"".join(parts)


@functools.cache
def load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        print(f"left out: {module} ({error})")
        return None


def protected(images: list[np.ndarray]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    kernel = rng.uniform(0, 0.3, (3, 3)).astype(np.float32)
    kernel[tuple(rng.integers(3, size=2))] = 1
    weight = torch.from_numpy(kernel).expand(3, 1, 3, 3)
    out = []
    for image in images:
        x = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        x = torch.nn.functional.conv2d(x, weight, padding=1, groups=3)
        x = (255 * x / x.max().clamp(min=1e-12)).to(torch.uint8)
        out.append(np.ascontiguousarray(x[0].permute(1, 2, 0).numpy()))
    return out


def interleave(candidates: dict[str, Codec], inputs: list[Any], rounds: int) -> dict[str, float]:
    """Median seconds of processor time, which other work on the machine disturbs less, over the inputs."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            codec = candidates[name]
            start = time.process_time()
            for item in inputs:
                codec(item)
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare(files: list[bytes], rounds: int) -> list[dict[str, Any]]:
    originals = [pillow_decode(data) for data in files]
    targets = protected(originals)
    written = [images.encode(target, "png") for target in targets]
    rows = measure("decode JPEG", decoders("jpeg"), files, originals, rounds)
    rows += measure("encode PNG", encoders(), targets, targets, rounds)
    rows += measure("decode PNG", decoders("png"), written, targets, rounds)
    return rows


def measure(
    step: str, candidates: dict[str, Codec], inputs: list[Any], pictures: list[np.ndarray], rounds: int
) -> list[dict[str, Any]]:
    rows = []
    seconds = interleave(candidates, inputs, rounds)
    for name, codec in candidates.items():
        results = [codec(item) for item in inputs]
        size = None
        if isinstance(results[0], bytes):
            size = statistics.fmean(map(len, results))
            results = [pillow_decode(data) for data in results]
        exact = all(np.array_equal(a, b) for a, b in zip(results, pictures, strict=True))
        row = {"step": step, "codec": name, "microseconds": 1e6 * seconds[name] / len(inputs), "exact": exact}
        rows.append(row | {"images_per_second": len(inputs) / seconds[name], "bytes": size})
    return rows


def versions() -> dict[str, str]:
    names = ("pillow", "opencv-python-headless", "torchvision", "simplejpeg", "imagecodecs", "PyTurboJPEG")
    found = {"python": platform.python_version()}
    for name in (*names, "deflate", "isal"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if cv2 := load("cv2"):
        cv2.setNumThreads(1)
    paths = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    random.seed(0)
    paths = random.sample(paths, min(args.images, len(paths)))
    if not paths:
        parser.error(f"{args.folder} holds no .jpg or .jpeg file")
    rows = compare([path.read_bytes() for path in paths], args.rounds)
    print(f"{'step':14}{'codec':36}{'us/image':>10}{'images/s':>10}{'bytes':>9}  exact")
    for row in sorted(rows, key=lambda row: (row["step"], row["microseconds"])):
        size = f"{row['bytes']:9.0f}" if row["bytes"] else " " * 9
        print(
            f"{row['step']:14}{row['codec']:36}{row['microseconds']:10.1f}{row['images_per_second']:10.0f}{size}"
            f"  {'yes' if row['exact'] else 'NO'}"
        )
    if args.out:
        report = {"images": len(paths), "rounds": args.rounds, "versions": versions(), "rows": rows}
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
