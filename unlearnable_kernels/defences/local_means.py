"""Means around each pixel at the scales of local contrast, for defences that undo or imitate that."""

from torch import Tensor
from torch.nn import functional

from unlearnable_kernels.data.local_contrast import reaches_of


def around(planes: Tensor, scale: int) -> Tensor:
    """Means over the squares around each pixel, as far as they lie in the image.

    Args:
        planes: float32 [n, C, H, W].
        scale: Which of ``SCALES``.
    """
    reach = reaches_of(*planes.shape[2:])[scale]
    side = 2 * reach + 1
    columns = functional.avg_pool2d(planes, (side, 1), 1, (reach, 0), count_include_pad=False)
    return functional.avg_pool2d(columns, (1, side), 1, (0, reach), count_include_pad=False)
