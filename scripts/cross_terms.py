"""Class-wise convolution and spectral one after the other, under the defences that undo one of them.

python scripts/cross_terms.py OUT [--first classwise-conv:intensity=mild --then spectral:cells=0.5,… --key 0]

Pictures, network and training are those of the recipe `hardening`, and so is the key, which everybody knows;
the first protection's pictures are what the second one takes. Finished parts are not repeated; OUT/runs.json
is in the form that results/ holds. The data come from the folder that UNLEARNABLE_DATA names.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from record_runs import collect_runs

from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.data.quality import picture_quality
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.progress import Progress, progress
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.papers import hardening, worst_defence
from unlearnable_kernels.training import TrainConfig, train

FIRST = "classwise-conv:intensity=mild"
THEN = "spectral:cells=0.5,colour=0.5,tone=0.05,contrast=0.5"
DEFENCES = ("plain", "rsk-ff", "jpeg", "gray-cells-histeq")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", default=FIRST)
    parser.add_argument("--then", default=THEN)
    parser.add_argument("--key", type=int, default=0, help="and seed of the trainings")
    options = parser.parse_args()
    source = resolve(worst_defence.DATASET)
    with progress() as report:
        both = protected_twice(source, options, report)
        runs = []
        for name in DEFENCES:
            runs.append(options.out / f"{name}-{options.key}")
            config = TrainConfig(
                str(both),
                test=source,
                network="resnet8",
                seed=options.key,
                defences=worst_defence.DEFENCES[name],
                **hardening.TRAINING,
            )
            train(config, runs[-1], report)
    quality = picture_quality(source, both)
    what = (
        f"CIFAR-10, 1,000 images a class, {options.first} and then {options.then}: "
        f"{quality['psnr']:.1f} dB, SSIM {quality['ssim']:.2f}"
    )
    collect_runs(runs, what, options.out / "runs.json")
    for run in json.loads((options.out / "runs.json").read_text())["runs"]:
        print(f"{run['name']}: {100 * run['accuracy']['last'][0]:.1f}")


def protected_twice(source: str, options: argparse.Namespace, report: Progress) -> Path:
    """The folder of what the second protection makes of the first one's pictures."""
    key = Key(hashlib.sha256(f"unlearnable reproduce {options.key}".encode()).digest())
    before = source
    for name, method in (("first", options.first), ("both", options.then)):
        folder = options.out / f"{name}-{options.key}"
        if not folder.exists():
            protect_dataset(
                Path(before), folder, secret=key, method=METHODS.create(method), format="png", progress=report
            )
        before = str(folder)
    return folder


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"cross_terms: {error}")
