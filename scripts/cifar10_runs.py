"""CIFAR-10, clean and protected by classwise_conv, under plain and adversarial training, as in the paper.

python scripts/cifar10_runs.py OUT [--epochs 100 --network resnet18 …]

The protected set has the released program's bytes (seed 0, zero padding). Every run folder is resumed where
it stopped, and after each one OUT/runs.json is written anew, in the form that results/ holds. Defaults are
the paper's full length; the data come from --data, such as what cifar10_npz.py wrote, or else from the folder
that UNLEARNABLE_DATA names. What is told of a run's speed follows from the metrics in runs.json: the images
trained on in a second, the median over the epochs, and the seconds of all epochs, without tests and saving.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from record_runs import collect_runs

from unlearnable_kernels.data.named import find
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import read_jsonl
from unlearnable_kernels.progress import progress
from unlearnable_kernels.protect.keys import Seed
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import TrainConfig, train
from unlearnable_kernels.training.run_folder import METRICS

PLAIN = "erm"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--defences",
        nargs="+",
        default=[PLAIN, "at-linf", "at-l2"],
        help="runs to make, each with one defence as NAME:key=value,… or with none (erm)",
    )
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--schedule", default="step")
    parser.add_argument("--amp", choices=["bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--limit-per-class", type=int)
    parser.add_argument("--test-limit-per-class", type=int)
    parser.add_argument("--crop-padding", type=int, default=4)
    parser.add_argument("--no-flip", dest="flip", action="store_false")
    return parser.parse_args()


def main() -> None:
    options = vars(parse())
    out, defences = options.pop("out"), options.pop("defences")
    clean, protected = options.pop("data") or find("cifar10"), out / "protected"
    with progress() as report:
        protect_dataset(
            clean,
            protected,
            secret=Seed(0),
            format="npz" if (clean / "train.npz").is_file() else None,
            progress=report,
        )
    finished: list[Path] = []
    for defence in defences:
        for name, images in (("clean", clean), ("protected", protected)):
            finished.append(run(out / f"{name}-{defence.replace('/', '_')}", images, clean, defence, options))
            limit = options["limit_per_class"]
            what = f"CIFAR-10{f', {limit} images a class' if limit else ''}, {options['network']}, "
            what += f"{options['epochs']} epochs, classwise_conv with seed 0"
            collect_runs(finished, what, out / "runs.json")


def run(folder: Path, images: Path, clean: Path, defence: str, options: dict[str, Any]) -> Path:
    defences = () if defence == PLAIN else (defence,)
    config = TrainConfig(train=str(images), test=str(clean), defences=defences, **options)
    with progress() as report:
        record = train(config, folder, report)
    rates = [line["images_per_second"] for line in read_jsonl(folder / METRICS)]
    seconds = sum(record["train"]["images"] / rate for rate in rates)
    print(
        f"{folder.name}: test accuracy {record['final']['test_accuracy']:.2%}, "
        f"{statistics.median(rates):,.0f} images/s, {seconds:,.0f} s for {len(rates)} epochs",
        flush=True,
    )
    return folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"cifar10_runs: {error}")
