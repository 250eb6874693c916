"""The first method: every image is filtered with the filter of its class (docs/maths.md)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import PADDINGS, classwise_conv
from unlearnable_kernels.protect.keys import Secret, Seed
from unlearnable_kernels.protect.methods.deconvolution import Deconvolution
from unlearnable_kernels.protect.methods.filters import (
    INTENSITIES,
    IRP,
    KINDS,
    LARGE,
    MILD,
    NORMAL,
    SQUARE,
    check_filter_parameters,
    class_filters,
    default_parameters,
)
from unlearnable_kernels.protect.methods.method import METHODS, Method, Perturbation, Task, Workspace
from unlearnable_kernels.protect.methods.restoration import MAX_KERNEL_SIZE, restored
from unlearnable_kernels.protect.methods.selection import choose_protected


@dataclass(frozen=True)
class ClassFilters:
    """Filters each image with the filter of the class that it is assigned.

    Attributes:
        filters: float32 [K, k, k].
        padding: What lies beyond the border, one of ``PADDINGS``.
        outcome: Nothing.
    """

    filters: np.ndarray
    padding: str
    outcome: dict[str, Any] = field(default_factory=dict)

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        classwise_conv(
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.tensor(assignment),
            torch.from_numpy(self.filters),
            self.padding,
            out=torch.from_numpy(out).permute(0, 3, 1, 2),
        )


@METHODS.register(
    "classwise-conv",
    "filters every image with the private filter of its class",
    "Sadasivan et al., CVPR 2023",
)
@dataclass(frozen=True)
class ClasswiseConv(Method):
    """Class-wise convolution, CUDA (Sadasivan et al., CVPR 2023), docs/maths.md.

    Attributes:
        kernel_size: Side of the filters, odd; by default that of ``intensity``.
        strength: p_b of the filters; likewise.
        padding: What lies beyond the border, by default reflect with a key and zeros with a seed.
        filters: Their kind, one of ``filters.KINDS``.
        intensity: "mild", "normal" (the published setting) or "strong": kernel size and strength by the size
            of the pictures, ``filters.INTENSITIES``; and whether filters are centred.
        centred: Whether the 1 of every filter is in its middle, so that pictures are not displaced; by
            default where ``intensity`` is "mild".
    """

    kernel_size: int | None = None
    strength: float | None = None
    padding: str | None = None
    filters: str = SQUARE
    intensity: str = NORMAL
    centred: bool | None = None

    def check(self) -> None:
        if self.padding is not None and self.padding not in PADDINGS:
            raise UserError(f"padding must be one of {', '.join(PADDINGS)}, not {self.padding!r}")
        if self.filters not in KINDS:
            raise UserError(f"filters must be one of {', '.join(KINDS)}, not {self.filters!r}")
        default_parameters("", 1, self.intensity)

    def with_defaults(self, secret: Secret, name: str, classes: int, side: int) -> "ClasswiseConv":
        """The same with a value for every setting.

        Args:
            secret: Key or seed.
            name: Name of the dataset.
            classes: How many it has.
            side: Shorter side of its first image, after any resize.

        Raises:
            UserError: A setting of the filters is out of range.
        """
        if self.filters == IRP:
            kernel_size, strength = INTENSITIES[LARGE][self.intensity]
        else:
            kernel_size, strength = default_parameters(name, side, self.intensity)
        kernel_size = kernel_size if self.kernel_size is None else self.kernel_size
        strength = strength if self.strength is None else self.strength
        check_filter_parameters(classes, kernel_size, strength)
        if self.filters == IRP and kernel_size > MAX_KERNEL_SIZE:
            raise UserError(
                f"kernel size must be at most {MAX_KERNEL_SIZE} with irp filters, not {kernel_size}"
            )
        # Zeros darken the border, by which protected images can be told (EPD); the released bytes have it.
        padding = self.padding or ("zeros" if isinstance(secret, Seed) else "reflect")
        centred = self.intensity == MILD if self.centred is None else self.centred
        return replace(
            self, kernel_size=int(kernel_size), strength=float(strength), padding=padding, centred=centred
        )

    def parameters(self, task: Task) -> dict[str, Any]:
        side = min(task.image.shape[:2])
        own = self.with_defaults(task.secret, task.name, len(task.source.classes), side)
        # Left out where it is the first kind, so that the manifests of older sets stay as they are.
        kind: dict[str, Any] = {} if self.filters == SQUARE else {"filters": self.filters}
        kind |= {"centred": True} if own.centred else {}
        return {
            "kernel_size": own.kernel_size,
            "strength": own.strength,
            **kind,
            "fraction": float(task.fraction),
            "padding": own.padding,
            "rescale": "max",
            "resize": task.resize,
            "filter_acts": "on the stored image" if task.resize is None else "after the resize",
            "format": task.format,
            "quality": None,
            **task.format_settings,
        }

    def assignment(self, task: Task, parameters: dict[str, Any]) -> list[int]:
        labels = task.labels
        chosen = choose_protected(
            task.secret,
            task.name,
            task.names,
            labels,
            task.fraction,
            num_classes=len(task.source.classes),
            kernel_size=parameters["kernel_size"],
            strength=parameters["strength"],
        )
        assignment: list[int] = np.where(chosen, labels, -1).tolist()
        return assignment

    def perturbation(
        self, task: Task, parameters: dict[str, Any], assignment: list[int], workspace: Workspace
    ) -> Perturbation:
        filters = class_filters(
            task.secret,
            task.name,
            task.classes,
            parameters["kernel_size"],
            parameters["strength"],
            self.filters,
            parameters.get("centred", False),
        )
        if self.filters == IRP:
            filters = restored(filters, task, assignment, workspace)
        return ClassFilters(filters.numpy(), parameters["padding"])

    @classmethod
    def inverse(
        cls, parameters: dict[str, Any], secret: Secret, name: str, classes: int | Sequence[str]
    ) -> Perturbation:
        kind = parameters.get("filters", SQUARE)
        if kind == IRP:
            raise UserError("irp filters were fitted to the originals and not kept: they cannot be undone")
        k, strength = parameters["kernel_size"], parameters["strength"]
        centred = parameters.get("centred", False)
        filters = class_filters(secret, name, classes, k, strength, kind, centred)
        return Deconvolution(filters.numpy(), parameters["padding"])

    @classmethod
    def growable(cls, parameters: dict[str, Any]) -> bool:
        return bool(parameters.get("filters", SQUARE) != IRP)  # those are fitted to all pictures

    @classmethod
    def heading(cls, parameters: dict[str, Any]) -> str:
        kind = "centred " if "centred" in parameters else ""
        kind += parameters.get("filters", "")
        kind = f"{kind.strip()} filters, " if kind else ""
        return (
            f"{cls.name}, {kind}k {parameters['kernel_size']}, strength {parameters['strength']:g}, "
            f"padding {parameters['padding']}"
        )
