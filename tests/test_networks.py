"""Networks: registration by name, output shapes, stems, and parameter counts."""

import pytest
import torch

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import NETWORKS, create_network, penultimate_features


@pytest.mark.parametrize("name", ["resnet8", "resnet18"])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_logits_have_one_column_per_class(name: str, size: int) -> None:
    logits = create_network(name, 7, size)(torch.rand(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "width"), [("resnet8", 128), ("resnet18", 512)])
def test_logits_are_linear_in_the_penultimate_features(name: str, width: int) -> None:
    model = create_network(name, 7, 32).eval()
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    features = penultimate_features(model, images)
    assert features.shape == (2, width)
    torch.testing.assert_close(model.get_submodule("fc")(features), model(images))
    assert torch.autograd.grad(features.sum(), images)[0].any()
    assert len(list(model.get_submodule("fc")._forward_pre_hooks)) == 0


# ResNet-18 for CIFAR-10 is known to have 11,173,962 parameters; with the ordinary stem and 10 classes
# 7,680 more (7x7 instead of 3x3 taps, 3 to 64 channels).
@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("resnet18", 32, 11_173_962),
        ("resnet18", 64, 11_173_962),
        ("resnet18", 65, 11_181_642),
        ("resnet8", 32, 308_650),
    ],
)
def test_parameter_counts(name: str, size: int, parameters: int) -> None:
    assert sum(p.numel() for p in create_network(name, 10, size).parameters()) == parameters


def test_small_images_keep_their_size_through_the_stem() -> None:
    model = create_network("resnet18", 10, 64)
    sizes = []
    model.get_submodule("layer1").register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[-1])
    )
    model(torch.rand(1, 3, 64, 64))
    large = create_network("resnet18", 10, 224)
    large.get_submodule("layer1").register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[-1])
    )
    large(torch.rand(1, 3, 224, 224))
    assert sizes == [64, 56]


def test_resnet8_has_eight_layers_of_weights() -> None:
    model = create_network("resnet8", 10, 32)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.out_channels for m in convolutions] == [32, 32, 32, 64, 64, 128, 128]
    assert [m.stride[0] for m in convolutions] == [1, 1, 1, 2, 1, 2, 1]


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create_network("resnet8", 3, 32).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'vgg'.*resnet18, resnet8"):
        create_network("vgg", 10, 32)
    assert {"resnet18", "resnet8"} <= set(NETWORKS)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'resnet8' already"):
        NETWORKS.register("resnet8", "another")(torch.nn.Identity)
