"""Networks: names, output shapes, stems, parameter counts, steps that learn, checkpoints."""

import ast
from pathlib import Path

import pytest
import torch
from small_runs import config_for, data, one_thread
from torch import nn
from torch.nn import functional

import unlearnable_kernels.networks
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import (
    NETWORKS,
    classifier,
    create_network,
    find_network,
    penultimate_features,
)
from unlearnable_kernels.networks.resnet import basic_block
from unlearnable_kernels.networks.wide_resnet import PreActivationBlock
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import evaluate, train
from unlearnable_kernels.training.checkpoint import load_checkpoint, save_checkpoint

__all__ = ["data", "one_thread"]  # fixtures
SIZES = (32, 64, 224)
# Per size: the parameters at 10 classes, and the side of what the last convolution gives. The counts are
# those of the papers' tables (11.17, 14.73, 6.956, 2.24 and 46.16 million, and 15.25 and 6.964 of the first
# paper's own); an ImageNet stem of 7x7 has 7,680 weights more than one of 3x3; a patch of 8 px has 48
# weights more for each of 192 or 384 widths than two of 4, and positions are counted, too.
EXPECTED = {
    "resnet8": ((308_650,) * 3, (8, 16, 56)),
    "resnet18": ((11_173_962, 11_173_962, 11_181_642), (4, 8, 7)),
    "resnet18-cuda2023": ((11_173_962, 11_173_962, 11_181_642), (4, 8, 7)),
    "vgg16": ((14_728_266,) * 3, (2, 4, 14)),
    "vgg16-cuda2023": ((15_253_578,) * 3, (2, 4, 14)),
    "densenet121": ((6_956_426, 6_956_426, 6_964_106), (4, 8, 7)),
    "densenet121-cuda2023": ((6_964_106,) * 3, (1, 2, 7)),
    "wrn34_10": ((46_160_474,) * 3, (8, 16, 14)),
    "wrn34_10-cuda2023": ((46_162_714,) * 3, (8, 16, 14)),
    "deit_tiny": ((5_362_762, 5_390_410, 5_526_346), (8, 8, 14)),
    "deit_small": ((21_342_346, 21_397_642, 21_669_514), (8, 8, 14)),
    "efficientnet_v2_s": ((20_190_298,) * 3, (2, 4, 7)),
    "mobilenet_v2": ((2_236_682,) * 3, (4, 8, 7)),
}
WIDTHS = {"resnet8": 128, "resnet18": 512, "vgg16-cuda2023": 512, "densenet121": 1024, "deit_tiny": 192}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", EXPECTED)
def test_logits_parameters_and_resolution(name: str, size: int) -> None:
    # A pass through these takes seconds of a core, and shapes need none; for the others "meta" is slower.
    device = "meta" if name.startswith(("wrn", "vgg")) and size > 32 else "cpu"
    with torch.device(device), torch.no_grad():
        model = find_network(name)(10, size).eval()
        sides = []
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.register_forward_hook(lambda _, inputs, output: sides.append(output.shape[-1]))
        logits = model(torch.zeros(1, 3, size, size))
    parameters, last_side = (values[SIZES.index(size)] for values in EXPECTED[name])
    assert logits.shape == (1, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sides[-1] == last_side
    assert classifier(model).out_features == 10


def test_all_names_are_tested() -> None:
    names = {name for name in NETWORKS if NETWORKS[name].__module__.startswith("unlearnable_kernels.")}
    assert names == set(EXPECTED)


@pytest.mark.parametrize(("size", "parameters"), [(64, 11_173_962), (65, 11_181_642)])
def test_the_stem_for_small_images_ends_at_64_pixels(size: int, parameters: int) -> None:
    assert sum(p.numel() for p in create_network("resnet18", 10, size).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "stem", "last"), [("resnet18", 0.0589, 0.0208), ("resnet18-cuda2023", 0.1111, 0.0085)]
)
def test_initial_weights_are_torchvisions_or_those_of_the_released_program(
    name: str, stem: float, last: float
) -> None:
    """√(2 / fan-out), and √(1 / (3 · fan-in)); the stem's 1,728 weights show theirs to 2 %."""
    torch.manual_seed(0)
    model = find_network(name)(10, 32)
    spreads = {key: tensor.std().item() for key, tensor in model.state_dict().items() if "conv" in key}
    assert spreads["conv1.weight"] == pytest.approx(stem, rel=0.06)
    assert spreads["layer4.1.conv2.weight"] == pytest.approx(last, rel=0.01)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_step_lowers_the_loss_and_a_checkpoint_comes_back(name: str, tmp_path: Path) -> None:
    side = 16 if name.startswith("wrn") else 32  # a quarter of its 30 GFLOP an image
    # Where batch norm is left with one pixel of each image, two images tell it nothing but a sign.
    count = 8 if name == "densenet121-cuda2023" else 2
    torch.manual_seed(0)
    model = find_network(name)(2, 32)
    images, labels = torch.rand(count, 3, side, side), torch.arange(count) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def loss() -> torch.Tensor:
        torch.manual_seed(1)  # so that the same units are dropped each time
        return functional.cross_entropy(model(images), labels)

    before = loss()
    before.backward()
    optimizer.step()
    with torch.no_grad():
        assert loss() < before
    save_checkpoint(tmp_path / "checkpoint", 2, model, optimizer)
    with torch.device("meta"):
        other = find_network(name)(2, 32)
    other.to_empty(device="cpu")
    assert load_checkpoint(tmp_path / "checkpoint", other) == 2
    saved, loaded = model.state_dict(), other.state_dict()
    assert list(loaded) == list(saved)
    assert [key for key in saved if not torch.equal(saved[key], loaded[key])] == []


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_logits_are_linear_in_the_penultimate_features(name: str, width: int) -> None:
    model = create_network(name, 7, 32).eval()
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    features = penultimate_features(model, images)
    assert features.shape == (2, width)
    torch.testing.assert_close(classifier(model)(features), model(images))
    assert torch.autograd.grad(features, images, torch.randn(2, width))[0].any()
    assert len(classifier(model)._forward_pre_hooks) == 0


def test_without_a_linear_layer_there_are_no_features() -> None:
    with pytest.raises(UserError, match="Conv2d has no linear layer"):
        classifier(nn.Conv2d(3, 4, 1))


def test_resnet8_has_eight_layers_of_weights() -> None:
    model = create_network("resnet8", 10, 32)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.out_channels for m in convolutions] == [32, 32, 32, 64, 64, 128, 128]
    assert [m.stride[0] for m in convolutions] == [1, 1, 1, 2, 1, 2, 1]


def test_wide_resnets_differ_in_where_they_are_activated() -> None:
    inputs = torch.randn(2, 4, 8, 8)
    before, after = PreActivationBlock(4, 4, 1).eval(), basic_block(4, 4, 1).eval()
    for block in (before, after):
        nn.init.zeros_(block.get_submodule("conv2").weight)
    assert torch.equal(before(inputs), inputs)
    assert torch.equal(after(inputs), inputs.relu())


def test_a_shortcut_that_changes_the_shape_sees_activated_inputs() -> None:
    block = PreActivationBlock(4, 6, 2).eval()
    inputs = torch.randn(2, 4, 8, 8)
    active = inputs.div(1 + block.bn1.eps).relu()  # to the 5e-6 that the square root makes of eps
    inner = functional.conv2d(active, block.conv1.weight, stride=2, padding=1).relu()
    expected = functional.conv2d(inner, block.conv2.weight, padding=1)
    expected += functional.conv2d(active, block.get_submodule("shortcut").weight, stride=2)
    torch.testing.assert_close(block(inputs), expected, rtol=0, atol=1e-4)


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in create_network("resnet8", 3, 32).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_names_are_listed_without_the_libraries() -> None:
    """Importing torchvision and timm takes seconds, so no module does at its top."""
    modules = list(Path(unlearnable_kernels.networks.__file__).parent.glob("*.py"))
    assert len(modules) > 8
    for path in modules:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"torchvision", "timm"}, path


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'vgg'.*resnet18, resnet18-cuda2023, resnet8"):
        create_network("vgg", 10, 32)
    assert {"resnet18", "resnet8"} <= set(NETWORKS)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'resnet8' already"):
        NETWORKS.register("resnet8", "another")(torch.nn.Identity)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("vgg16", 16, r"network vgg16 cannot take 16x16 images \(RuntimeError: Given input size"),
        ("deit_tiny", 30, "deit_tiny needs images of a multiple of 4 pixels, not 30"),
        ("torchvision:alexnet", 32, r"network torchvision:alexnet cannot take 32x32 images \(RuntimeError"),
        (
            "torchvision:maxvit_t",
            32,
            r"cannot take 32x32 images \(ValueError: Input size \(8, 8\) of block 0",
        ),
        ("timm:test_resnett", 32, "unknown network timm:test_resnett: did you mean test_resnet or"),
        ("timm:test_resnet.of_mine", 32, r"unknown network timm:test_resnet\.of_mine: did you mean test_res"),
        ("torchvision:zzz", 32, "unknown network torchvision:zzz: see torchvision's list of models"),
        (
            "keras:resnet50",
            32,
            "unknown network keras:resnet50: before the colon must be timm or torchvision",
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create_network(name, 2, size)
    assert "\n" not in str(caught.value)


def test_logits_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlearnable_kernels.networks, "find_network", lambda name: lambda *_: nn.Flatten())
    with pytest.raises(UserError, match=r"own must return logits \(1, 2\) for one image, not \(1, 48\)"):
        create_network("own", 2, 4)


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit.r160_in1k", "torchvision:googlenet"])
def test_networks_of_libraries_give_logits(name: str) -> None:
    model = create_network(name, 3, 64)
    assert model.training
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "positions"),
    [("torchvision:vit_b_16", "encoder.pos_embedding"), ("timm:deit_tiny_patch16_224", "pos_embed")],
)
def test_vision_transformers_of_libraries_are_told_the_size(name: str, positions: str) -> None:
    with torch.device("meta"):
        model = find_network(name)(3, 32)
    assert model.get_parameter(positions).shape[:2] == (1, 1 + (32 // 16) ** 2)


def test_a_network_of_a_library_goes_the_whole_way(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_for(data, network="timm:test_resnet", epochs=1), run)
    assert 0 <= evaluate(run, data)["accuracy"] <= 1
    write_report([run], tmp_path / "report.html")
    assert "timm:test_resnet" in (tmp_path / "report.html").read_text()
