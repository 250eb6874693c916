"""What ``torchrun`` starts in test_training_distributed.py: runs of the command line whose batches are noted.

Arguments: a folder, to which every process writes the images it took, step by step, and how each command
ended; and a JSON list of command lines.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from unlearnable_kernels.cli import main
from unlearnable_kernels.training import engine

notes, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
crop_flip = engine.crop_flip


def noting(images: Any, offsets: Any, flips: Any, padding: int, index: Any, dtype: Any) -> Any:
    taken = [[*row, i] for row, i in zip(offsets.tolist(), index.tolist(), strict=True)]
    with (notes / os.environ["RANK"]).open("a") as file:
        file.write(json.dumps(taken) + "\n")
    return crop_flip(images, offsets, flips, padding, index, dtype)


engine.crop_flip = noting
exits = []
for command in commands:
    sys.argv = ["unlearnable", *command]
    try:
        main()
    except SystemExit as ended:
        exits.append(ended.code or 0)
(notes / f"{os.environ['RANK']}.exits").write_text(json.dumps(exits))
