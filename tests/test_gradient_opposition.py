"""Gradient opposition: its gradient, and that the gradients do oppose each other; resuming is Ascent's."""

from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from small_runs import one_thread, write_tree
from test_ascent import CPU, seed_for, target
from torch.nn import functional

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.ascent import Budget
from unlearnable_kernels.protect.methods.gradient_opposition import GradientOpposition, Opposition
from unlearnable_kernels.protect.methods.method import Workspace
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import fresh_network

__all__ = ["one_thread"]  # a fixture
KEY = Key(bytes(range(32)))


def make(folder: Path, eps: float = 8 / 255) -> Opposition:
    workspace = Workspace(folder, False, lambda message: None, lambda what, done, total: None)
    settings = GradientOpposition()
    budget, loop = Budget(eps, "linf"), settings.loop
    return Opposition(8, target(), budget, 1, "tiny", loop, seed_for, workspace)


def test_the_gradient_is_that_of_the_inner_product(tmp_path: Path) -> None:
    """Along a random direction, by differences, of products that are computed here, in double precision."""
    opposition = make(tmp_path)
    moved = opposition.current[opposition.rows].int() + torch.randint(-8, 9, opposition.origin.shape)
    opposition.current[opposition.rows] = moved.clamp(0, 255).to(torch.uint8)
    model = fresh_network("tiny", 3, 12, 0, CPU)
    batch = torch.tensor([3, 0, 11, 6])
    product, cosine, seen = opposition._products(model, batch)
    (slope,) = torch.autograd.grad(product, seen)

    exact = fresh_network("tiny", 3, 12, 0, CPU).double().eval()
    labels = opposition.labels[opposition.rows[batch]]

    def weights_gradient(images: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(exact(images), labels)
        return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(exact.parameters()))])

    now = seen.detach().double()
    clean = weights_gradient((opposition.origin[batch].double() / 255).permute(0, 3, 1, 2))
    current = weights_gradient(now)
    assert float(product.detach()) == pytest.approx(float(clean @ current), rel=1e-4)
    assert float(cosine) == pytest.approx(float(clean @ current / clean.norm() / current.norm()), rel=1e-4)
    direction = torch.randn(now.shape, generator=torch.Generator().manual_seed(0)).double()
    step = 1e-6  # few units cross 0 within it, where the gradient of ReLU jumps
    ahead, behind = (clean @ weights_gradient(now + sign * step * direction) for sign in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=0.01)


def test_measuring_holds_no_more_than_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opposition = make(tmp_path)
    opposition.batch = 1
    products, seen = opposition._products, list[ref[torch.Tensor]]()

    def noted(*call: Any) -> Any:
        assert not any(each() is not None for each in seen)
        found = products(*call)
        seen.append(ref(found[2]))
        return found

    monkeypatch.setattr(opposition, "_products", noted)
    opposition._measured(fresh_network("tiny", 3, 12, 0, CPU))
    assert len(seen) == 20


def test_moving_brings_the_gradients_to_oppose_each_other(tmp_path: Path) -> None:
    opposition = make(tmp_path, eps=64 / 255)  # so small a network, on so much noise, hardly minds 8/255
    opposition._train_all(0)
    model = opposition.models["ascended 0"]
    before, _ = opposition._measured(model)
    opposition._ascend()
    after, _ = opposition._measured(model)
    assert before["cosine"] == pytest.approx(1)
    assert after["product"] < 0.5 * before["product"]
    assert after["cosine"] < 0.6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("data") / "zoo", ["cat", "dog"], 6, seed=0)


class Killed(BaseException):
    """Nothing may catch it, as nothing catches a kill."""


def protect(tree: Path, out: Path, key: Key = KEY, **options: Any) -> dict[str, bytes]:
    settings: dict[str, Any] = {"network": "tiny", "first_epochs": 2, "steps": 2, "inner_steps": 3}
    settings |= {"batch": 4, "fraction": 0.5, "workers": 0} | options
    protect_dataset(tree, out, secret=key, method="gradient-opposition", **settings)
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_it_keeps_the_budget_and_repeats_after_a_kill_too(tree: Path, tmp_path: Path) -> None:
    whole = protect(tree, tmp_path / "whole")
    after, before = (load_arrays(root).images.numpy().astype(int) for root in (tmp_path / "whole", tree))
    largest = np.abs(after - before).max(axis=(1, 2, 3))
    assert ((largest == 8).sum(), (largest == 0).sum()) == (6, 6)
    manifest = read_manifest(tmp_path / "whole")
    assert [line["step"] for line in manifest["estimate"]["all"]] == [0, 1, 2]
    assert manifest["budget_used"]["largest"] == 1
    assert manifest["parameters"]["batch"] == 4

    def progress(what: str, done: int, total: int) -> None:
        assert done <= total
        if what == "ascending" and done > total // 2:
            raise Killed

    with pytest.raises(Killed):
        protect(tree, tmp_path / "out", progress=progress)
    assert protect(tree, tmp_path / "out") == whole
    other = protect(tree, tmp_path / "other", Key(bytes(32)), fraction=1.0)
    whole = protect(tree, tmp_path / "all", fraction=1.0)
    assert sum(other[name] != whole[name] for name in whole if name.endswith("png")) == 12


def test_what_it_cannot_take_is_named(tree: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"batch": 0}, "batch must be 1 or more, not 0"),
        ({"bandwidth": 0.3}, "'bandwidth' is not a setting of method gradient-opposition"),
        ({"rule": "adamw", "norm": "l2"}, "norm must be linf with rule adamw"),
    ):
        with pytest.raises(UserError, match=message):
            protect(tree, tmp_path / "out", **options)
