"""Mixtures that are trained on the clean share first, and on the protected share alone at the end."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config_for, one_thread, stop_after, tensors_of, untimed_metrics, write_tree

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.augment import to_float
from unlearnable_kernels.data.mixture import mix
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.training import Engine, TrainConfig, train
from unlearnable_kernels.training.run_folder import CONFIG, read_run

__all__ = ["one_thread"]  # a fixture
FRACTION = 0.25


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_tree(root / "clean", ["cat", "dog"], 8, seed=0)
    protect_dataset(
        root / "clean", root / "protected", secret=Key(bytes(32)), method="random-noise", workers=0
    )
    return root


def sequential(sets: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "test": str(sets / "clean"),
        "clean": str(sets / "clean"),
        "protected_fraction": FRACTION,
        "protected_epochs": 1,
        "epochs": 3,
        "crop_padding": 0,
        "flip": False,
    }
    return config_for(sets / "protected", **settings | changes)


def pictures(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_clean_share_comes_first_and_the_protected_share_alone_at_the_end(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: dict[int, set[bytes]] = {}
    batch = Engine._batch

    def noting(self: Engine, index: torch.Tensor, epoch: int, generator: torch.Generator) -> Any:
        made = batch(self, index, epoch, generator)
        shown.setdefault(epoch, set()).update(pictures(made.images.contiguous()))
        return made

    monkeypatch.setattr(Engine, "_batch", noting)
    told: list[tuple[int, int]] = []
    train(sequential(sets), tmp_path / "run", lambda what, done, total: told.append((done, total)))
    protected, clean = load_arrays(sets / "protected"), load_arrays(sets / "clean")
    alone = mix(protected, clean, FRACTION, only_clean=True)
    mixed = mix(protected, clean, FRACTION, only_clean=False)
    rest = to_float(mixed.images[[name not in alone.names for name in mixed.names]]).contiguous()
    first = pictures(to_float(alone.images).contiguous())
    assert (len(first), len(rest)) == (12, 4)
    assert shown == {0: first, 1: first, 2: pictures(rest)}
    assert [line["train_protected"] for line in untimed_metrics(tmp_path / "run")] == [0.0, 0.0, 1.0]
    assert told[-1] == (28, 28)


@pytest.mark.parametrize("epochs", [1, 2])
def test_interrupted_it_goes_on_as_if_it_had_not_been(sets: Path, tmp_path: Path, epochs: int) -> None:
    config = sequential(sets)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", stop_after(epochs, tmp_path / "run"))
    for run in ("run", "whole"):
        train(config, tmp_path / run)
    assert untimed_metrics(tmp_path / "run") == untimed_metrics(tmp_path / "whole")
    whole, resumed = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert read_run(tmp_path / "run")[0] == config


def test_a_joint_run_is_recorded_as_it_always_was(sets: Path, tmp_path: Path) -> None:
    """Folders of earlier versions, whose configuration lacks the field, are gone on with."""
    train(sequential(sets, protected_epochs=None, epochs=2), tmp_path / "run")
    assert "protected_epochs" not in json.loads((tmp_path / "run" / CONFIG).read_text())
    assert "train_protected" not in untimed_metrics(tmp_path / "run")[0]
    assert read_run(tmp_path / "run")[0].protected_epochs is None
    with pytest.raises(UserError, match="holds a run with protected_epochs None, not 1"):
        train(sequential(sets, epochs=2), tmp_path / "run")


def test_what_is_no_sequence_is_refused(sets: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"protected_epochs": 3}, "protected_epochs must be at least 1, and fewer than the 3 epochs, not 3"),
        ({"protected_epochs": 0}, "protected_epochs must be at least 1"),
        ({"protected_fraction": 1.0}, "protected_epochs needs a mixture: clean, protected_fraction below 1"),
        ({"only_clean": True}, "protected_epochs needs a mixture"),
        ({"clean": None, "protected_fraction": None}, "protected_epochs needs a mixture"),
    ):
        with pytest.raises(UserError, match=message):
            sequential(sets, **changes)
    with pytest.raises(UserError, match=r"protected_fraction is 0\.01: one of the two shares is empty"):
        train(sequential(sets, protected_fraction=0.01), tmp_path / "run")
