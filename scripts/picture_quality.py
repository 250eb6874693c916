"""What protections do to pictures, and how near `restore` brings their originals.

python scripts/picture_quality.py OUT.json [--keys 2]

Every intensity of spectral and of class-wise convolution, on CIFAR-10 and on the ImageNet sample at 224
pixels and at its own size: PSNR, SSIM, CIEDE2000 and ST-LPIPS of 48 pictures of each, as `unlearnable check`
takes them; of large ones ST-LPIPS sees fewer, and fewer are restored, since either takes seconds. Keys are
those of `unlearnable reproduce`, which everybody knows. OUT.json is in the form that results/ holds. Needs
`pip install -e '.[quality]'`.
"""

import argparse
import functools
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from perceptual import looks

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.quality import central, psnr
from unlearnable_kernels.data.source import Source, load_image, open_source
from unlearnable_kernels.environment import machine, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import write_json
from unlearnable_kernels.progress import no_progress, progress
from unlearnable_kernels.protect.check import SAMPLE
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.class_spectra import ALL_PARTS
from unlearnable_kernels.protect.methods.filters import NORMAL
from unlearnable_kernels.protect.methods.method import METHODS, Workspace
from unlearnable_kernels.protect.methods.spectral import INTENSITIES
from unlearnable_kernels.protect.pipeline.plan import Options, make_plan
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import protect_dataset

SETS = {
    "cifar10": ("subset:cifar10,images=5", None),
    "imagenet-sample, 224 px": ("imagenet-sample", 224),
    "imagenet-sample, own size": ("imagenet-sample", None),
}
SHOWN = dict(zip(SETS, (SAMPLE, 4, 0), strict=True))  # to the network: it takes a second for one at 224 px
RESTORED = {
    "cifar10": ("subset:cifar10,images=4", None),
    "imagenet-sample, 224 px": ("subset:imagenet-sample,classes=5", 224),
}
CONVOLUTION = [
    f"classwise-conv:intensity={name}{centred}"
    for name in (NORMAL, "strong")  # mild filters are normal ones, centred
    for centred in ("", ",centred=true")
]
FROM_JPEG = [
    (name, f"classwise-conv:intensity=normal{centred}")
    for name in RESTORED
    for centred in ("", ",centred=true")
]
FIRST = "spectral:parts=cells+colour+tone,cell=3,colours=rgb,cells=0.55,colour=0.55,tone=0.055"
METHODS_SHOWN = [
    *(f"spectral:intensity={name}" for name in INTENSITIES),
    *(f"spectral:parts={part}" for part in ALL_PARTS),
    FIRST,  # the default of the first sets
    "classwise-conv:padding=zeros",
    *CONVOLUTION,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keys", type=int, default=2)
    options = parser.parse_args()
    keys = [Key(hashlib.sha256(f"unlearnable reproduce {n}".encode()).digest()) for n in range(options.keys)]
    cases = [(name, n, method) for name in SETS for n in range(len(keys)) for method in METHODS_SHOWN]
    found: list[dict[str, Any]] = []
    with progress() as report:
        for done, (name, number, method) in enumerate(cases):
            report("protections", done, len(cases))
            place, resize = SETS[name]
            seen = looks(protected_on_trial(place, resize, method, keys[number], SAMPLE), SHOWN[name])
            found.append({"dataset": name, "method": method, "key": number} | seen)
    restored = [restoring(name, method, keys[0]) for name in RESTORED for method in CONVOLUTION]
    restored += [restoring(name, method, keys[0], "jpeg") for name, method in FROM_JPEG]
    what = f"What spectral and class-wise convolution do to pictures, {len(keys)} keys"
    record = {"what": what, "machine": machine(), "versions": versions()}
    write_json(options.out, record | {"pictures": found, "restored": restored})


def protected_on_trial(
    place: str, resize: int | None, method: str, key: Key, most: int, dataset_name: str | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(original, protected) of pictures at even distances, of large ones the middle; nothing is saved."""
    source = open_images(place)
    chosen = METHODS.create(method)
    how = Options(chosen, format="png", resize=resize, dataset_name=dataset_name)
    plan = make_plan(source, key, how, "raise")
    quiet = Workspace(Path(), True, lambda _: None, no_progress)
    marks = chosen.perturbation(plan.task, plan.parameters, list(plan.assignment), quiet)
    pairs = []
    for index in range(min(most, len(source.samples))):
        row = len(source.samples) * index // min(most, len(source.samples))
        before = load_image(source, source.samples[row], resize)
        after = np.empty_like(before)
        marks.apply(before[None], [plan.assignment[row]], after[None])
        pairs.append((central(before), central(after)))
    return pairs


@functools.cache
def open_images(place: str) -> Source:
    return open_source(Path(place), "train")


def restoring(name: str, method: str, key: Key, format: str = "png") -> dict[str, Any]:
    """Mean PSNR of protected and of restored pictures, and of these with each one's brightness set right.

    Also how many stay under 30 dB, and how many are further from their originals than before.
    """
    place, resize = RESTORED[name]
    source = Path(place)
    with tempfile.TemporaryDirectory() as folder:
        protected, back = Path(folder, "protected"), Path(folder, "back")
        chosen = METHODS.create(method)
        how = {"method": chosen, "resize": resize, "dataset_name": "sample", "format": format}
        protect_dataset(source, protected, secret=key, **how)
        restore_dataset(protected, back, secret=key)
        before, changed, after = (
            load_arrays(path, image_size=size).images.numpy()
            for path, size in ((source, resize), (protected, None), (back, None))
        )
    bright = [brightened(found, wanted) for found, wanted in zip(after, before, strict=True)]
    each = {
        what: [psnr(wanted, image) for wanted, image in zip(before, images, strict=True)]
        for what, images in (("protected", changed), ("restored", after), ("brightened", bright))
    }
    figures = {what: float(np.mean(values)) for what, values in each.items()} | {
        "under_30_db": sum(value < 30 for value in each["restored"]),
        "worse": sum(now < then for then, now in zip(each["protected"], each["restored"], strict=True)),
    }
    stored = {} if format == "png" else {"stored_as": format}
    return {"dataset": name, "method": method, "key": 0, "pictures": len(before)} | stored | figures


def brightened(image: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The image times the number that brings it nearest, not rounded."""
    x, y = image.astype(np.float64), wanted.astype(np.float64)
    result: np.ndarray = np.clip(x * ((x * y).sum() / max(1.0, (x * x).sum())), 0, 255)
    return result


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"picture_quality: {error}")
