"""What each output format costs: bytes beside those of the source, and processor time for a picture.

python scripts/formats_cost.py SRC OUT.json [--images 250]

SRC is any dataset of files, such as a sample of ImageNet. Every picture is decoded, filtered as
`unlearnable protect` does it at full size and after `--resize 224`, and encoded in every format, one after
the other; decoded again, as training does. The containers are written by `protect` itself.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearnable_kernels.data.images import decode, encode, resize
from unlearnable_kernels.data.source import Source, open_source
from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.classwise_conv import ClasswiseConv
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.run import protect_dataset

FORMATS = {
    "png": {"format": "png"},
    "webp": {"format": "webp"},
    "jpeg": {"format": "jpeg"},
    "jpeg:quality=80": {"format": "jpeg", "quality": 80},
}
CONTAINERS = ("webdataset", "parquet")
KEY = Key(bytes(32))


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and milliseconds of processor time."""
    start = time.process_time()
    result = action()
    return result, 1e3 * (time.process_time() - start)


def measure(source: Source, count: int, size: int | None) -> dict[str, Any]:
    """Means over the first ``count`` pictures, at full size or at ``size``."""
    side = 500 if size is None else size
    method = ClasswiseConv().with_defaults(KEY, "imagenet", len(source.classes), side)
    assert method.kernel_size is not None
    assert method.strength is not None
    filters = class_filters(KEY, "imagenet", source.classes, method.kernel_size, method.strength)
    spent: dict[str, dict[str, float]] = {
        name: {"bytes": 0, "encode_ms": 0, "decode_ms": 0} for name in FORMATS
    }
    samples = source.samples[:count]
    before = {"bytes": 0.0, "decode_ms": 0.0, "resize_ms": 0.0, "filter_ms": 0.0, "array_bytes": 0.0}
    for sample in samples:
        data = source.read(sample)
        assert isinstance(data, bytes)
        image, decoding = timed(lambda data=data, name=sample.name: decode(data, name))
        resizing = 0.0
        if size is not None:
            image, resizing = timed(lambda image=image: resize(image, size))
        batch = torch.from_numpy(np.ascontiguousarray(image))[None].permute(0, 3, 1, 2)
        label = torch.tensor([sample.label])
        changed, filtering = timed(lambda b=batch, y=label: classwise_conv(b, y, filters, "reflect"))
        image = changed[0].permute(1, 2, 0).contiguous().numpy()
        for name, value in zip(before, (len(data), decoding, resizing, filtering, image.nbytes), strict=True):
            before[name] += value / len(samples)
        for name, settings in FORMATS.items():
            encoded, encoding = timed(lambda image=image, s=settings: encode(image, **s))
            _, again = timed(lambda e=encoded, n=sample.name: decode(e, n))
            for figure, value in (("bytes", len(encoded)), ("encode_ms", encoding), ("decode_ms", again)):
                spent[name][figure] += value / len(samples)
    for figures in spent.values():
        figures["of_source"] = figures["bytes"] / before["bytes"]
    return {"source": before, "formats": spent}


def containers(path: Path, size: int) -> dict[str, Any]:
    """Bytes of a whole copy in shards, and processor time of ``protect`` in one process, beside a tree's."""
    found: dict[str, Any] = {}
    for format in ("png", *CONTAINERS) * 2:  # the first round imports
        with tempfile.TemporaryDirectory() as folder:
            dst = Path(folder) / "out"
            _, spent = timed(
                lambda dst=dst, f=format: protect_dataset(
                    path, dst, secret=KEY, format=f, resize=size, workers=0, dataset_name="imagenet"
                )
            )
            files = [file for file in dst.rglob("*") if file.is_file() and file.name != "manifest.json"]
            found[format] = {"bytes": sum(file.stat().st_size for file in files), "protect_ms": spent}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=250)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(arguments.src)
    measure(source, 5, 224)  # imports, and first calls
    record = {
        "what": "formats",
        "images": min(arguments.images, len(source.samples)),
        "formats": {
            "full size": measure(source, arguments.images, None),
            "224": measure(source, arguments.images, 224),
        },
        "containers": containers(arguments.src, 224),
        "machine": machine(),
        "versions": versions(),
    }
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
