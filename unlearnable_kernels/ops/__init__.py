"""``torch.ops.unlearn.*``. ``ALL_OPS`` is the one table that tests and benchmarks walk."""

from unlearnable_kernels.ops import (
    bayes_ascent_step,
    bayes_error,
    classwise_conv,
    classwise_spectrum,
    crop_flip,
    native,
    pgd_step,
)

ALL_OPS = (
    classwise_conv.OPERATOR,
    classwise_spectrum.OPERATOR,
    crop_flip.OPERATOR,
    pgd_step.OPERATOR,
    bayes_error.OPERATOR,
    bayes_ascent_step.OPERATOR,
)

cpu_capability = native.cpu_capability
cuda_backend = native.cuda_backend
