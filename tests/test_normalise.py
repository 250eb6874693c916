"""Normalisation inside a network: what the network is given, and what stays as it was."""

import copy

import pytest
import torch
from torch import nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network, penultimate_features
from unlearnable_kernels.networks.normalise import STATISTICS, normalised, read_statistics


@pytest.mark.parametrize(
    ("statistics", "mean", "std"),
    [
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
        ("0.5,0.25,0/1,0.5,2", [0.5, 0.25, 0.0], [1.0, 0.5, 2.0]),
    ],
)
def test_the_network_sees_normalised_images(statistics: str, mean: list[float], std: list[float]) -> None:
    images = torch.rand(2, 3, 5, 4).to(memory_format=torch.channels_last)
    seen = normalised(nn.Identity(), statistics)(images)
    for channel in range(3):
        torch.testing.assert_close(seen[:, channel], (images[:, channel] - mean[channel]) / std[channel])
    assert seen.is_contiguous(memory_format=torch.channels_last)


def test_state_features_and_copies_stay_those_of_the_network() -> None:
    model = create_network("resnet8", 2, 8).eval()
    state, images = list(model.state_dict()), torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(values)[:, None, None] for values in STATISTICS["cifar10"])
    logits, features = (f((images - mean) / std) for f in (model, lambda x: penultimate_features(model, x)))
    assert normalised(model, "cifar10") is model
    assert list(model.state_dict()) == state
    torch.testing.assert_close(model(images), logits)
    torch.testing.assert_close(penultimate_features(model, images), features)
    torch.testing.assert_close(copy.deepcopy(model).double()(images.double()).float(), logits)


def test_images_are_normalised_once() -> None:
    model = normalised(nn.Identity(), "imagenet")
    with pytest.raises(UserError, match="normalise must be left out: the Identity does it already"):
        normalised(model, "cifar10")


@pytest.mark.parametrize(
    "text", ["mnist", "", "0.5", "0.5,0.5/1,1", "0.5,0.5,0.5/1,1,0", "0.5,0.5,nan/1,1,1", "1,1,1/1,1,1/1,1,1"]
)
def test_other_statistics_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"normalise must be imagenet, cifar10 or means and standard devia"):
        read_statistics(text)
