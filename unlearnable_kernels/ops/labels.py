"""The check of labels that operators share."""

import torch
from torch import Tensor


def check_labels(operator: str, labels: Tensor, lowest: int, classes: int) -> None:
    """Raise RuntimeError unless all labels lie in [lowest, classes); on a GPU without waiting for it."""
    bad = (labels < lowest) | (labels >= classes)
    if labels.is_cuda:
        torch._assert_async(~bad.any(), f"{operator}: labels must lie in [{lowest}, {classes})")
    elif bad.any():
        at = int(bad.nonzero()[0])
        raise RuntimeError(
            f"{operator}: labels[{at}] is {int(labels[at])}, but must lie in [{lowest}, {classes})"
        )
