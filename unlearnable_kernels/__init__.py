"""Fused kernels (``torch.ops.unlearn.*``) and pipelines that make image datasets unlearnable."""

from importlib.metadata import version

from unlearnable_kernels.ops.bayes_ascent_step import bayes_ascent_step
from unlearnable_kernels.ops.bayes_error import bayes_error
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.ops.classwise_spectrum import classwise_spectrum
from unlearnable_kernels.ops.crop_flip import crop_flip
from unlearnable_kernels.ops.native import cpu_capability, cuda_backend
from unlearnable_kernels.ops.pgd_step import pgd_step, pgd_step_

__version__ = version("unlearnable_kernels")
__all__ = [
    "bayes_ascent_step",
    "bayes_error",
    "classwise_conv",
    "classwise_spectrum",
    "cpu_capability",
    "crop_flip",
    "cuda_backend",
    "pgd_step",
    "pgd_step_",
]
