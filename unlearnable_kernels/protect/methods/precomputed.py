"""The perturbation of methods that compute all images beforehand: each is looked up in an array."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unlearnable_kernels.errors import UserError


@dataclass(frozen=True)
class PrecomputedImages:
    """Replaces each image by the row of an array that it is assigned.

    Attributes:
        file: A .npy file of uint8 [P, H, W, 3].
        missing: Rows that were not computed, since their image could not be read.
        outcome: Fields of the manifest.
    """

    file: Path
    missing: frozenset[int]
    outcome: dict[str, Any]
    _rows: list[np.ndarray] = field(default_factory=list, repr=False)

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        if not self._rows:
            self._rows.append(np.load(self.file, mmap_mode="r"))
        for image, assigned, place in zip(images, assignment, out, strict=True):
            if assigned in self.missing:
                raise UserError(
                    f"an image that could not be read is readable now; delete {self.file.parent.parent} "
                    "to start over"
                )
            place[...] = image if assigned < 0 else self._rows[0][assigned]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_rows": []}
