"""CIFAR-10 half protected: the clean half alone, with each method's protected half, and all of it protected.

python scripts/cifar10_mixed.py OUT [--per-class 400 --network resnet8 --steps 6 …]

Both methods protect the same half, chosen by one key, which is made in OUT. Finished parts are not repeated;
OUT/runs.json is in the form that results/ holds. The data come from the folder that UNLEARNABLE_DATA names.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from record_runs import collect_runs

from unlearnable_kernels.data.arrays import first_of_each_class
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.keys import create_key_file, read_key_file
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import TrainConfig, train


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-class", type=int, default=5000, help="training images of each class")
    parser.add_argument("--test-per-class", type=int, default=1000)
    parser.add_argument("--method", default="bayes-error", help="or beo-aaai2026")
    parser.add_argument("--steps", type=int, default=10, help="outer steps of that method")
    parser.add_argument("--network", default="resnet18", help="of the method and of training")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--schedule", default="step")
    parser.add_argument("--amp", choices=["bf16"])
    parser.add_argument("--crop-padding", type=int, default=4)
    parser.add_argument("--no-flip", dest="flip", action="store_false")
    return parser.parse_args()


def subset(cifar10: Path, out: Path, per_class: int) -> Path:
    """The first images of each class as a tree of their own, copied once."""
    if not out.is_dir():
        source = open_source(cifar10, "train")
        copying = out.with_suffix(".partial")
        shutil.rmtree(copying, ignore_errors=True)
        for sample in first_of_each_class(source, per_class):
            (copying / sample.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.root / source.prefix / sample.name, copying / sample.name)
        copying.rename(out)
    return out


def protect(clean: Path, out: Path, key: Path, **options: Any) -> Path:
    with progress() as report:
        protect_dataset(
            clean,
            out,
            secret=read_key_file(key),
            progress=report,
            **options,
        )
    return out


def main() -> None:
    options = vars(parse())
    out, per_class, method, steps = (options.pop(k) for k in ("out", "per_class", "method", "steps"))
    options["test_limit_per_class"] = options.pop("test_per_class")
    out.mkdir(parents=True, exist_ok=True)
    key, test = out / "key", find("cifar10")
    if not key.exists():
        create_key_file(key)
    clean = subset(test, out / "clean", per_class)
    beo = protect(
        clean, out / "beo", key, method=method, fraction=0.5, steps=steps, network=options["network"]
    )
    cuda = protect(clean, out / "cuda", key, fraction=0.5, padding="zeros")
    whole = protect(clean, out / "cuda-all", key, padding="zeros")
    half = {"clean": str(clean), "protected_fraction": 0.5}
    jobs: dict[str, dict[str, Any]] = {
        "all clean": {"train": str(clean)},
        "clean half alone": {"train": str(cuda), **half, "only_clean": True},
        f"clean half + {method} half": {"train": str(beo)},
        "clean half + classwise-conv half": {"train": str(cuda)},
        "all classwise-conv": {"train": str(whole)},
    }
    runs = []
    before, *_, after = [step["estimate"] for step in read_manifest(beo)["estimate"]["all"]]
    what = (
        f"CIFAR-10, {per_class} images a class, half protected: {method} with {steps} outer steps "
        f"(held-out estimate {before:.3f} before, {after:.3f} after) and "
        f"classwise_conv; {options['network']}, {options['epochs']} epochs"
    )
    for name, own in jobs.items():
        folder = out / "runs" / name
        with progress() as report:
            record = train(TrainConfig(test=str(test), **own, **options), folder, report)
        print(f"{name}: test accuracy {record['final']['test_accuracy']:.2%}", flush=True)
        runs.append(folder)
        collect_runs(runs, what, out / "runs.json")


if __name__ == "__main__":
    main()
