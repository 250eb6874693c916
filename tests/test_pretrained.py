"""Pretrained weights: which tensors fit, from files and from the libraries' caches, without a download."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from small_runs import one_thread
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.networks import create_network, find_network
from unlearnable_kernels.networks.pretrained import PUBLISHED, load_pretrained
from unlearnable_kernels.training.checkpoint import save_checkpoint

__all__ = ["one_thread"]  # a fixture
THREE_LAYERS = [f"classifier.{number}.{kind}" for number in (1, 4, 6) for kind in ("weight", "bias")]
# What ImageNet's weights lack or have in another shape, for 10 classes of 32x32 images.
FRESH = {
    "resnet18": ["conv1.weight", "fc.weight", "fc.bias"],
    "resnet18-cuda2023": ["conv1.weight", "fc.weight", "fc.bias"],
    "vgg16": ["classifier.weight", "classifier.bias"],
    "vgg16-cuda2023": THREE_LAYERS,
    "densenet121": ["features.conv0.weight", "classifier.weight", "classifier.bias"],
    "densenet121-cuda2023": ["classifier.weight", "classifier.bias"],
    "deit_tiny": ["pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"],
    "deit_small": ["pos_embed", "patch_embed.proj.weight", "head.weight", "head.bias"],
    "efficientnet_v2_s": ["classifier.1.weight", "classifier.1.bias"],
    "mobilenet_v2": ["classifier.1.weight", "classifier.1.bias"],
}


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """A random number for each tensor of a library's network, which makes small files."""
    library, own_name = PUBLISHED[name].split(":")
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in create(own_name).state_dict().items()}
    return {key: torch.rand(()).expand(shape) for key, shape in shapes.items()}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """ResNet-8's own, for 5 classes."""
    path = tmp_path / "weights.pth"
    torch.save(create_network("resnet8", 5, 8).state_dict(), path)
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_but_the_classifier_and_what_small_images_change(name: str, tmp_path: Path) -> None:
    stored = imagenet_weights(name)
    torch.save(stored, tmp_path / "weights.pth")
    model = find_network(name)(10, 32)
    before = {key: model.state_dict()[key].clone() for key in FRESH[name]}
    assert load_pretrained(model, name, str(tmp_path / "weights.pth")) == FRESH[name]
    after = model.state_dict()
    for key, tensor in after.items():
        expected = before[key] if key in before else stored[key].to(tensor.dtype)
        assert torch.equal(tensor, expected), key


def test_the_classifier_is_fresh_even_where_it_fits(weights: Path) -> None:
    model = create_network("resnet8", 5, 8)
    before = model.get_parameter("fc.weight").clone()
    assert load_pretrained(model, "resnet8", str(weights)) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.get_parameter("fc.weight"), before)


def check_loaded(path: Path, original: nn.Module) -> None:
    model = create_network("resnet8", 2, 8)
    assert load_pretrained(model, "resnet8", str(path)) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.get_parameter("stem.0.weight"), original.get_parameter("stem.0.weight"))


@pytest.mark.parametrize("part", ["state_dict", "model", ""])
@pytest.mark.parametrize("prefix", ["module.", "model.", ""])
def test_what_surrounds_the_weights_in_a_file(part: str, prefix: str, tmp_path: Path) -> None:
    original = create_network("resnet8", 5, 8)
    stored: dict[str, Any] = {prefix + key: value for key, value in original.state_dict().items()}
    torch.save({part: stored, "epoch": 3} if part else stored, tmp_path / "weights.pth")
    check_loaded(tmp_path / "weights.pth", original)


def test_safetensors_and_checkpoints_of_runs(tmp_path: Path) -> None:
    original = create_network("resnet8", 5, 8)
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    check_loaded(tmp_path / "weights.safetensors", original)
    optimizer = torch.optim.SGD(original.parameters(), momentum=0.9)
    original(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path / "checkpoint.safetensors", 1, original, optimizer)
    check_loaded(tmp_path / "checkpoint.safetensors", original)


def test_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = imagenet_weights("resnet18")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(stored, tmp_path / "checkpoints" / url.rpartition("/")[2])
    for name in ("resnet18", "torchvision:resnet18"):
        model = find_network("resnet18")(10, 224)
        assert load_pretrained(model, name, "cache") == ["fc.weight", "fc.bias"]
        assert torch.equal(model.get_parameter("conv1.weight"), stored["conv1.weight"])


def test_timms_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    for folder in ("refs", "snapshots/0"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("0")
    original = timm.create_model("test_resnet")
    save_file(original.state_dict(), repository / "snapshots" / "0" / "model.safetensors")
    model = create_network("timm:test_resnet", 10, 64)
    assert load_pretrained(model, "timm:test_resnet", "cache") == ["fc.weight", "fc.bias"]
    assert torch.equal(model.get_parameter("conv1.0.weight"), original.get_parameter("conv1.0.weight"))


def refuse(name: str, source: str, network: str = "resnet8") -> str:
    """The one line that refuses ``source``, which changes nothing."""
    model = find_network(network)(2, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_pretrained(model, name, source)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cache_that_cannot_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route\nto the host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    line = "the weights of torchvision:mobilenet_v2 cannot be loaded (URLError: <urlopen error no route"
    assert refuse("mobilenet_v2", "cache").startswith(line)
    assert refuse("timm:test_resnet", "cache").startswith(
        "the weights of timm:test_resnet cannot be loaded ("
    )


def test_weights_that_nobody_has_published() -> None:
    line = "there are no ImageNet weights of resnet8: give a file of weights instead of cache"
    assert refuse("resnet8", "cache") == line
    line = refuse("timm:test_vit4.none", "cache")
    assert line.startswith("unknown network timm:test_vit4.none: did you mean")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"noise{suffix}"
        path.write_bytes(bytes(range(256)))
        assert refuse("resnet8", str(path)).startswith(f"{path} cannot be read as a network's weights (")
    path = tmp_path / "program.pth"
    torch.save({"model": nn.Identity()}, path)
    assert refuse("resnet8", str(path)) == (
        f"{path} cannot be read as a network's weights (it is damaged, or holds more than tensors)"
    )
    torch.save([torch.zeros(2)], path)
    assert refuse("resnet8", str(path)) == f"{path} must hold tensors by name, not a list"
    for odd in (
        torch.eye(2).to_sparse(),
        torch.zeros(2, device="meta"),
        torch.zeros(2, dtype=torch.complex64),
    ):
        torch.save({"fc.bias": odd}, path)
        line = f"{path} cannot be a network's weights: fc.bias must be a dense tensor of real numbers"
        assert refuse("resnet8", str(path)) == line
    line = "weights must be 'cache' or a .safetensors or .pth file, not 'imagenet'"
    assert refuse("resnet8", "imagenet") == line


def test_weights_of_another_network(weights: Path) -> None:
    line = f"{weights}: only 0 of 122 tensors fit the network resnet18"
    assert refuse("resnet18", str(weights), "resnet18") == line
