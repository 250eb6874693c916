"""Print the classes of a part of an ImageNet tree, one a line: so many of its training folders, by a seed."""

import argparse
import random
from pathlib import Path


def choose(tree: Path, count: int, seed: int) -> list[str]:
    """``count`` of the class folders of ``tree``/train, or of ``tree``, sorted.

    Raises:
        SystemExit: There are fewer.
    """
    folder = tree / "train" if (tree / "train").is_dir() else tree
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if not 1 <= count <= len(classes):
        raise SystemExit(f"{folder} has {len(classes)} classes: --count must be from 1 to that, not {count}")
    return sorted(random.Random(seed).sample(classes, count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path, help="with train/, or with the class folders themselves")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not given.tree.is_dir():
        raise SystemExit(f"{given.tree}: no such folder")
    print("\n".join(choose(given.tree, given.count, given.seed)))
