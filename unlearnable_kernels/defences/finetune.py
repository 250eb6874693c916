"""Fine-tuning: training begins with weights that were trained on ImageNet."""

from dataclasses import dataclass

from torch import nn

from unlearnable_kernels.defences import DEFENCES
from unlearnable_kernels.defences.defence import Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks.pretrained import load_pretrained


@DEFENCES.register(
    "finetune-all", "fine-tunes all layers of an ImageNet network", "Sadasivan et al., CVPR 2023"
)
@dataclass(frozen=True)
class FinetuneAll(Defence):
    """All layers but the classifier, which is new, begin with ImageNet weights; all are trained.

    Attributes:
        weights: "cache" for those in the usual cache of torchvision or timm, or a file.

    Raises:
        UserError: ``weights`` is empty.
    """

    weights: str = "cache"

    def __post_init__(self) -> None:
        if not self.weights:
            raise UserError("weights must be cache or a file, not ''")

    def setup(self, model: nn.Module, network: str) -> None:
        """Load the weights.

        Raises:
            UserError: They cannot be found, or are not those of the network.
        """
        load_pretrained(model, network, self.weights)


@DEFENCES.register(
    "finetune-last", "trains a new last layer of an ImageNet network", "Sadasivan et al., CVPR 2023"
)
@dataclass(frozen=True)
class FinetuneLast(FinetuneAll):
    """Only the new classifier is trained; all else stays as it was on ImageNet, batch-norm statistics too.

    Where a network for small images has other shapes than the weights, such as in its stem, these tensors
    are trained, too.
    """

    def setup(self, model: nn.Module, network: str) -> None:
        """Load the weights, and freeze what was loaded.

        Raises:
            UserError: As for ``FinetuneAll``.
        """
        fresh = load_pretrained(model, network, self.weights)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in fresh)

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        """Batch norm uses ImageNet's statistics, in training too."""
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.eval()
