"""UEraser: strong augmentation, of which the network may be given the copy that it knows least."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Batch, Defence
from unlearnable_kernels.defences.image_operations import OPERATIONS, SIGNED, operate
from unlearnable_kernels.defences.plasma import plasma, plasma_size
from unlearnable_kernels.defences.probing import probing
from unlearnable_kernels.device import autocast
from unlearnable_kernels.errors import UserError

MODES = ("lite", "max")
ROUGHNESS = (0.3, 0.7)  # of plasma
INTENSITY = (0.5, 1.0)  # of its brightness

_OPERATIONS = OPERATIONS[:-1]  # TrivialAugment does not invert
_BINS = 31  # of each magnitude


@DEFENCES.register(
    "ueraser", "augments strongly, and may choose the copy with the largest loss", "Qin et al., 2023"
)
@dataclass(frozen=True)
class Ueraser(Defence):
    """Plasma brightness, plasma contrast and channel shuffle (each with probability 1/2), TrivialAugment.

    Attributes:
        mode: "lite" augments every image once; "max" makes several copies in the first epochs, of which the
            network, in training mode, is given the one with the largest loss.
        copies: Of every image in mode max.
        epochs: How many epochs mode max lasts, before it is lite; None means all.

    Raises:
        UserError: A value is out of range.
    """

    mode: str = "lite"
    copies: int = 5
    epochs: int | None = 50

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(f"mode must be {' or '.join(MODES)}, not {self.mode!r}")
        if not 2 <= self.copies <= 100:
            raise UserError(f"copies must be at least 2 and at most 100, not {self.copies}")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"epochs must be at least 1, or none for all, not {self.epochs}")

    def _chooses(self, batch: Batch) -> bool:
        return self.mode == "max" and (self.epochs is None or batch.epoch < self.epochs)

    def augment(self, batch: Batch) -> Batch:
        """The batch augmented once, unless ``adversary`` is to choose."""
        return batch if self._chooses(batch) else replace(batch, images=erased(batch))

    def adversary(self, model: nn.Module, batch: Batch) -> Batch:
        """The batch of those copies that have the largest loss, while mode max lasts."""
        if not self._chooses(batch):
            return batch
        worst, images = batch.images.new_full((len(batch.images),), -torch.inf), batch.images
        with probing(model), torch.no_grad():
            for _ in range(self.copies):
                copy = erased(batch)
                with autocast(copy.device, batch.precision):
                    logits: Tensor = model(copy)
                loss = functional.cross_entropy(logits.float(), batch.labels, reduction="none")
                images = torch.where((loss > worst)[:, None, None, None], copy, images)
                worst = torch.maximum(loss, worst)
        return replace(batch, images=images)

    def describe(self) -> str:
        """Such as "max of 5 copies, 50 epochs"."""
        if self.mode == "lite":
            return self.mode
        return f"max of {self.copies} copies, {'all' if self.epochs is None else self.epochs} epochs"


def erased(batch: Batch) -> Tensor:
    """The images after one draw of the augmentation, float32 [B, C, H, W] in [0, 1]."""
    images = brightened(batch.images, _clouds(batch), _uniform(batch, *INTENSITY), _coin(batch))
    images = contrasted(images, _clouds(batch), _coin(batch))
    order = torch.where(_coin(batch)[:, :, 0, 0], _orders(batch), torch.arange(3, device=images.device))
    last = images.permute(0, 2, 3, 1)  # the channels, as they are in memory
    images = last.gather(3, order[:, None, None].expand_as(last)).permute(0, 3, 1, 2)
    return operate(images, *_trivial(batch))


def brightened(images: Tensor, clouds: Tensor, intensity: Tensor, happens: Tensor) -> Tensor:
    """Images, where it happens, with ``intensity`` times a field in [−1, 1] added; all [B, …, …, …]."""
    return torch.where(happens, (images + intensity * (2 * clouds - 1)).clamp(0, 1), images)


def contrasted(images: Tensor, clouds: Tensor, happens: Tensor) -> Tensor:
    """Images, where it happens, whose distance from 0.5 is multiplied by a field in [0, 4]."""
    return torch.where(happens, ((images - 0.5) * (4 * clouds) + 0.5).clamp(0, 1), images)


def _uniform(batch: Batch, low: float, high: float) -> Tensor:
    """[B, 1, 1, 1], from U(low, high)."""
    shape, device = (1, 1, 1), batch.images.device
    drawn = batch.draw(lambda count, generator: torch.rand(count, *shape, generator=generator, device=device))
    return low + (high - low) * drawn


def _coin(batch: Batch) -> Tensor:
    """Bool [B, 1, 1, 1], true with probability 1/2."""
    return _uniform(batch, 0, 1) < 0.5


def _clouds(batch: Batch) -> Tensor:
    """A field of its own for every channel, float32 [B, C, H, W] in [0, 1]."""
    _, channels, height, width = batch.images.shape
    size, device = plasma_size(height, width), batch.images.device

    def noise(count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, channels, size, size, generator=generator, device=device)

    fields = plasma(2 * batch.draw(noise) - 1, _uniform(batch, *ROUGHNESS))[:, :, :height, :width]
    return fields.contiguous(memory_format=torch.channels_last)


def _orders(batch: Batch) -> Tensor:
    """A random order of the channels for every image, int64 [B, C]."""
    channels, device = batch.images.shape[1], batch.images.device
    drawn = batch.draw(
        lambda count, generator: torch.rand(count, channels, generator=generator, device=device)
    )
    return drawn.argsort(1)


def _trivial(batch: Batch) -> tuple[Tensor, Tensor]:
    """TrivialAugment's operation (int64) and magnitude (float32) for every image, each [B]."""
    device = batch.images.device
    tables = _magnitudes().to(device)
    operations = batch.draw(
        lambda count, generator: torch.randint(len(tables), (count,), generator=generator, device=device)
    )
    # The first half of the columns is positive, the second negative where an operation has a sign.
    columns = batch.draw(
        lambda count, generator: torch.randint(2 * _BINS, (count,), generator=generator, device=device)
    )
    return operations, tables[operations, columns]


def _magnitudes() -> Tensor:
    """Those of TrivialAugment's wide space, once and with the sign changed where there is one; [14, 62]."""
    steps = torch.arange(_BINS) / (_BINS - 1)
    space = {
        **dict.fromkeys(("ShearX", "ShearY", "Brightness", "Color", "Contrast", "Sharpness"), steps * 0.99),
        **dict.fromkeys(("TranslateX", "TranslateY"), steps * 32),
        "Rotate": steps * 135,
        "Posterize": 8 - (steps * 6).round(),
        "Solarize": 255 - steps * 255,
    }
    rows = [space.get(name, torch.zeros(_BINS)) for name in _OPERATIONS]
    signs = [-1 if name in SIGNED else 1 for name in _OPERATIONS]
    return torch.stack([torch.cat([row, sign * row]) for row, sign in zip(rows, signs, strict=True)])
