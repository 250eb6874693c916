"""VGG-16 with batch norm; its convolutions are torchvision's, its classifiers those of CIFAR papers."""

from torch import Tensor, nn

from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.networks import NETWORKS

WIDTH = 512


@NETWORKS.register(
    "vgg16", "VGG-16 with batch norm and one linear layer, from 32 px on", "Simonyan & Zisserman, ICLR 2015"
)
def vgg16(num_classes: int, image_size: int) -> nn.Module:
    """VGG-16 with batch norm, a global average pool and one linear layer."""
    model = Vgg16(nn.Linear(WIDTH, num_classes))
    for module in model.features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


@NETWORKS.register(
    "vgg16-cuda2023",
    "VGG-16 as vgg16, but with dropout and three linear layers",
    "Sadasivan et al., CVPR 2023",
)
def vgg16_cuda2023(num_classes: int, image_size: int) -> nn.Module:
    """VGG-16 with three linear layers, with PyTorch's default initial weights."""
    hidden: list[nn.Module] = []
    for _ in range(2):
        hidden += [nn.Dropout(), nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)]
    return Vgg16(nn.Sequential(*hidden, nn.Linear(WIDTH, num_classes)))


class Vgg16(nn.Module):
    """Thirteen convolutions with five max-pools, global average pool, classifier."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        vgg = extra_module("torchvision.models.vgg")
        self.features: nn.Module = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).mean(dim=(2, 3)))
        return logits
