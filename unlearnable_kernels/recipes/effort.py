"""How much work jobs are beside each other, roughly: what one bar over all of them goes by."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from unlearnable_kernels.data.source import load_image, open_source
from unlearnable_kernels.progress import Progress, by_share
from unlearnable_kernels.protect.methods.method import Method
from unlearnable_kernels.protect.methods.optimised_images import OptimisedImages
from unlearnable_kernels.training import TrainConfig, fresh_network

_SHARES = 10_000
# In forward passes: a step of training, and one of an attack, which needs no gradient of the weights.
_TRAINING, _ATTACK = 3, 2
_A_PIXEL = 10_000  # operations, of reading, changing and writing it


class Extent(NamedTuple):
    """A training split: how many images each class has, and the longer side of the first image."""

    sizes: tuple[int, ...]
    side: int

    def images(self, most: int | None = None) -> int:
        """How many there are, or are taken where a class gives so many at most."""
        return sum(size if most is None else min(size, most) for size in self.sizes)

    @property
    def classes(self) -> int:
        return len(self.sizes)


@functools.cache
def extent(place: str) -> Extent:
    """That of a data set, as ``open_source`` takes it, whose first image is decoded.

    Raises:
        UserError: It cannot be opened, or the image not be read.
    """
    source = open_source(Path(place), "train")
    image = load_image(source, source.samples[0], None)
    sizes = [0] * len(source.classes)
    for sample in source.samples:
        sizes[sample.label] += 1
    return Extent(tuple(sizes), max(image.shape[:2]))


def training_effort(config: TrainConfig, data: Extent) -> dict[str, int]:
    """The operations of a training, by the name of what it reports."""
    images = data.images(config.limit_per_class)
    share, last = config.protected_fraction or 1.0, config.protected_epochs
    epochs: float = config.epochs
    if last is not None:
        epochs = (epochs - last) * (1 - share) + last * share
    elif config.only_clean:
        epochs *= 1 - share
    attacks = sum(getattr(each, "steps", 0) for each in config.make_defences())
    one = _operations(config.network, data.classes, config.image_size or data.side)
    return {"training": int(epochs * images * (_TRAINING + attacks * _ATTACK) * one)}


def protection_effort(method: Method, size: int | None, data: Extent) -> dict[str, int]:
    """The operations of protecting all images, by the names of what it reports."""
    side = size or data.side
    effort = {"protecting": data.images() * side**2 * _A_PIXEL}
    if isinstance(method, OptimisedImages):
        passes = data.images() * _operations(method.network, data.classes, side)
        epochs = method.loop.epochs_in(method.steps) + method.loop.first_epochs  # the last one measures
        ascents = method.steps * method.loop.inner_steps * method.loop.embeddings
        effort["training embeddings"] = epochs * _TRAINING * passes
        effort["ascending"] = ascents * method.passes_for_ascent * passes
    return effort


@functools.cache
def _operations(network: str, classes: int, side: int) -> int:
    """Those of the one black image that goes through a network when it is made."""
    with FlopCounterMode(display=False) as counter:
        fresh_network(network, classes, side, 0, torch.device("cpu"))
    return max(1, int(counter.get_total_flops()))


def on_one_bar(progress: Progress, efforts: Sequence[Mapping[str, int]]) -> list[Progress]:
    """A ``Progress`` for each of several jobs, which together move one bar, and never back.

    Args:
        progress: That of the bar.
        efforts: How much each job has to do, by the name of what it reports; what has none is not shown.
    """
    done = [dict.fromkeys(effort, 0) for effort in efforts]
    whole = sum(sum(effort.values()) for effort in efforts)
    tell: Callable[[int, int], None] = by_share(progress, _SHARES, "reproducing")

    def of(effort: Mapping[str, int], mine: dict[str, int]) -> Progress:
        def report(what: str, now: int, count: int) -> None:
            if what in effort:
                mine[what] = max(mine[what], effort[what] * now // max(1, count))
                tell(sum(sum(each.values()) for each in done), whole)

        return report

    return [of(effort, mine) for effort, mine in zip(efforts, done, strict=True)]
