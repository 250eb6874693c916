"""Defences: from text and JSON and back, and each hook's place in training, seen by toys of each kind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import config_for, data, one_thread, stop_after, tensors_of, untimed_metrics
from torch import Tensor, nn
from torch.nn import functional

from unlearnable_kernels.cli import app
from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.defences import DEFENCES, Batch, Defence, make_defence
from unlearnable_kernels.defences.adversarial import AtL2, AtLinf
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import TrainConfig, evaluate, fresh_network, train
from unlearnable_kernels.training.engine import Engine, Recipe
from unlearnable_kernels.training.processes import Processes
from unlearnable_kernels.training.reproducible import derived_seed
from unlearnable_kernels.training.run_folder import CONFIG, RECORD

__all__ = ["data", "one_thread"]  # fixtures
CPU = torch.device("cpu")
CALLS: list[tuple[str, str]] = []
SHAPES: dict[str, Any] = {}


@dataclass(frozen=True)
class Watching(Defence):
    """Notes every call, and changes nothing."""

    tag: str = "a"
    strength: float = 0.5
    often: bool = False
    most: int | None = None

    def _note(self, hook: str, *values: Tensor) -> None:
        CALLS.append((self.tag, hook))
        SHAPES[hook] = [(each.dtype, tuple(each.shape)) for each in values]

    def setup(self, model: nn.Module, network: str) -> None:
        assert network == "tiny"
        self._note("setup")

    def begin_epoch(self, model: nn.Module, epoch: int) -> None:
        assert model.training
        assert epoch in (0, 1, 2, 3)
        self._note("begin_epoch")

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self._note("prepare", images, labels, torch.rand(1, generator=generator))
        return images, labels

    def augment(self, batch: Batch) -> Batch:
        self._note("augment", batch.images, batch.labels)
        return batch

    def adversary(self, model: nn.Module, batch: Batch) -> Batch:
        self._note("adversary", batch.images, batch.labels)
        return batch

    def loss(self, logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        self._note("loss", logits, labels, loss)
        return loss

    def regularise(self, model: nn.Module) -> Tensor | None:
        self._note("regularise")
        return None

    def at_test(self, images: Tensor) -> Tensor:
        self._note("at_test", images)
        return images


@dataclass(frozen=True)
class Brightening(Defence):
    """Draws a brightness for every image, and tests on dark images, which need no drawing."""

    spread: float = 0.2

    def augment(self, batch: Batch) -> Batch:
        factor = batch.draw(lambda count, generator: torch.rand(count, 1, 1, 1, generator=generator))
        return replace(batch, images=batch.images * (1 - self.spread * factor))

    def at_test(self, images: Tensor) -> Tensor:
        return images // 2


@dataclass(frozen=True)
class OneHot(Defence):
    """Labels as weights of classes, as mixing defences give them."""

    def augment(self, batch: Batch) -> Batch:
        return replace(batch, labels=functional.one_hot(batch.labels, 2).float())


@dataclass(frozen=True)
class Fewer(Defence):
    """Trains on the dark half of the set, of which only the last layer is learnt."""

    def setup(self, model: nn.Module, network: str) -> None:
        model.requires_grad_(False)
        model.get_submodule("fc").requires_grad_(True)

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return images[::2] // 2, labels[::2]


@dataclass(frozen=True)
class Pulling(Defence):
    """Adds ``slope`` to the gradient of the last layer's bias, and a half of it again to the loss of each."""

    slope: float = 1.0

    def regularise(self, model: nn.Module) -> Tensor | None:
        return self.slope * model.get_parameter("fc.bias").sum()

    def loss(self, logits: Tensor, labels: Tensor, loss: Tensor) -> Tensor:
        return loss + self.slope / 2 * logits.sum()


@dataclass(frozen=True)
class Levelling(Defence):
    """Tests on images of which the training set's mean is taken away."""

    _found: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def prepare(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self._found["mean"] = images.float().mean((0, 1, 2))
        return images, labels

    def at_test(self, images: Tensor) -> Tensor:
        return (images - self._found["mean"]).clamp(0, 255).to(torch.uint8)

    def state(self) -> dict[str, Tensor]:
        return self._found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._found["mean"] = state["mean"]


TOYS = {
    "levelling": Levelling,
    "watching": Watching,
    "brightening": Brightening,
    "one-hot": OneHot,
    "fewer": Fewer,
}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered as a researcher's own would be, for one test."""
    _ = list(DEFENCES)  # ours first
    monkeypatch.setattr(DEFENCES, "_entries", dict(DEFENCES._entries))
    for name, toy in TOYS.items():
        DEFENCES.register(name, f"a toy: {name}")(toy)
    CALLS.clear()


def test_the_registry_says_what_they_are() -> None:
    ours = {entry.name: entry for entry in DEFENCES.entries() if entry.name not in TOYS}
    assert (ours["at-l2"].item, ours["at-linf"].item) == (AtL2, AtLinf)
    assert all("Madry" in ours[name].paper for name in ("at-l2", "at-linf"))
    assert all(entry.description for entry in ours.values())


def test_from_text_to_json_and_back() -> None:
    found = DEFENCES.create("watching:strength=1/4,often=true,most=3,tag=x")
    assert found == Watching("x", 0.25, True, 3)
    assert found.settings() == {"name": "watching", "tag": "x", "strength": 0.25, "often": True, "most": 3}
    assert make_defence(json.loads(json.dumps(found.settings()))) == found
    assert found.describe() == "tag x, strength 0.25, often True, most 3"
    assert DEFENCES.create("watching:most=none") == Watching()
    assert make_defence({"name": "watching", "strength": 1}).settings()["strength"] == 1
    assert (OneHot().describe(), OneHot().settings()) == ("", {"name": "one-hot"})
    assert DEFENCES.create("at-l2:steps=7").describe() == "against l2 0.5, 7 steps"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("trades", "unknown defence 'trades': choose one of at-l2, at-linf, autoaugment, band-whiten"),
        ("at-linf:norm=l2", "'norm' is not a setting of defence at-linf: choose from eps, steps, step_size$"),
        ("at-linf:_attacks=1", "'_attacks' is not a setting of defence at-linf"),
        ("at-linf:eps", "defence at-linf: give eps a value"),
        ("at-linf:eps=1/2,eps=1", "defence at-linf: eps is given twice, as 0.5 and as 1"),
        ("at-linf:steps=2.5", "steps must be a whole number, not '2.5'"),
        ("at-linf:step_size=0", "defence at-linf: step_size must be a finite number above 0, not 0.0"),
        ("one-hot:eps=1", "'eps' is not a setting of defence one-hot: it has none"),
    ],
)
def test_what_does_not_fit_is_named(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        DEFENCES.create(text)


def test_an_instance_must_be_of_a_registered_class() -> None:
    """Another one could not be made again from config.json, and a subclass would pass for its base."""

    class Own(AtLinf):
        pass

    assert config_with(AtLinf(steps=3)) == [AtLinf(steps=3)]
    for defence, name in ((Own(), "Own"), (Pulling(), "Pulling")):
        with pytest.raises(UserError, match=f"^{name} is not a registered defence: use DEFENCES.register"):
            config_with(defence)


def config_with(*defences: Defence) -> list[Defence]:
    return TrainConfig("x", defences=defences).make_defences()


def test_every_hook_has_its_place_and_order(data: Path, tmp_path: Path) -> None:
    config = config_for(data, epochs=1, batch_size=24, defences=["watching:tag=a", "watching:tag=b"])
    train(config, tmp_path / "run")
    step = [(tag, hook) for hook in ("augment", "adversary", "loss", "regularise") for tag in "ab"]
    once = [[(tag, hook) for tag in "ab"] for hook in ("prepare", "setup", "at_test")]
    begin = [(tag, "begin_epoch") for tag in "ab"]
    assert [*once[0], *once[1], *once[2], *begin, *step, *step] == CALLS
    images, labels = (torch.float32, (24, 3, 16, 16)), (torch.int64, (24,))
    assert SHAPES["prepare"] == [
        (torch.uint8, (48, 16, 16, 3)),
        (torch.int64, (48,)),
        (torch.float32, (1,)),
    ]
    assert SHAPES["augment"] == SHAPES["adversary"] == [images, labels]
    assert SHAPES["loss"] == [(torch.float32, (24, 2)), labels, (torch.float32, ())]
    assert SHAPES["at_test"] == [(torch.uint8, (20, 16, 16, 3))]


def test_each_gets_what_the_one_before_it_returned(data: Path, tmp_path: Path) -> None:
    train(
        config_for(data, epochs=1, batch_size=24, defences=["fewer", "one-hot", "watching"]), tmp_path / "run"
    )
    images, labels = (torch.float32, (24, 3, 16, 16)), (torch.float32, (24, 2))
    assert SHAPES["prepare"][:2] == [(torch.uint8, (24, 16, 16, 3)), (torch.int64, (24,))]
    assert SHAPES["augment"] == SHAPES["adversary"] == [images, labels]
    assert SHAPES["loss"][:2] == [(torch.float32, (24, 2)), labels]
    assert CALLS.count(("a", "augment")) == 1


def test_who_changes_nothing_leaves_no_trace(data: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=1), tmp_path / "plain")
    train(config_for(data, epochs=1, defences=["watching"]), tmp_path / "watched")
    assert untimed_metrics(tmp_path / "watched") == untimed_metrics(tmp_path / "plain")


def test_a_defence_sees_float32_under_bf16(data: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=1, amp="bf16", defences=["watching"]), tmp_path / "run")
    assert SHAPES["augment"][0][0] == SHAPES["adversary"][0][0] == torch.float32


def test_a_random_defence_resumes_as_if_never_interrupted(data: Path, tmp_path: Path) -> None:
    config = config_for(data, epochs=2, defences=["brightening:spread=0.9"])
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed", stop_after(1, tmp_path / "resumed"))
    train(config, tmp_path / "resumed")
    assert untimed_metrics(tmp_path / "resumed") == untimed_metrics(tmp_path / "whole")
    train(config_for(data, epochs=2), tmp_path / "plain")
    assert (
        untimed_metrics(tmp_path / "plain")[0]["train_loss"]
        != untimed_metrics(tmp_path / "whole")[0]["train_loss"]
    )


def test_the_draws_do_not_depend_on_the_number_of_processes() -> None:
    images = torch.ones(7, 3, 2, 2)

    def part_of(rank: int, size: int) -> Tensor:
        part = Processes(rank, size, CPU).part(7)
        generator = torch.Generator().manual_seed(3)
        batch = Batch(images[part], torch.zeros(7, dtype=torch.int64)[part], 7, part, generator, "fp32", 1)
        return Brightening().augment(batch).images

    whole = part_of(0, 1)
    assert whole.flatten(1)[:, 0].unique().numel() == 7
    assert torch.equal(torch.cat([part_of(rank, 3) for rank in range(3)]), whole)


def test_tested_images_are_as_the_defence_has_them(data: Path, tmp_path: Path) -> None:
    """While training and afterwards; the record names the images as they are stored."""
    run = tmp_path / "run"
    train(config_for(data, epochs=1, defences=["brightening"]), run)
    line = evaluate(run, data)
    assert line["loss"] == untimed_metrics(run)[-1]["test_loss"]
    model = fresh_network("tiny", 2, 16, 0, CPU)
    model.load_state_dict(
        {n.removeprefix("model."): t for n, t in tensors_of(run).items() if n.startswith("model.")}
    )
    stored = load_arrays(data, "test")
    with torch.no_grad():
        logits = model.eval()((stored.images // 2).permute(0, 3, 1, 2) / 255)
    expected = functional.cross_entropy(logits, stored.labels)
    assert line["loss"] == pytest.approx(float(expected), rel=1e-4)
    assert line["sha256"] == stored.digest()


def test_what_was_found_in_the_training_set_is_kept_for_tests(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_for(data, epochs=1, defences=["watching", "levelling"]), run)
    assert evaluate(run, data)["loss"] == untimed_metrics(run)[-1]["test_loss"]
    mean = tensors_of(run)["defences.1.mean"]
    torch.testing.assert_close(mean, load_arrays(data, "train").images.float().mean((0, 1, 2)))


def test_mixed_labels_are_weights_of_classes(data: Path, tmp_path: Path) -> None:
    """With all weight on one class the run is the plain one, but for the order of sums."""
    train(config_for(data, epochs=1), tmp_path / "plain")
    train(config_for(data, epochs=1, defences=["one-hot"]), tmp_path / "mixed")
    [plain], [mixed] = untimed_metrics(tmp_path / "plain"), untimed_metrics(tmp_path / "mixed")
    assert mixed == pytest.approx(plain, rel=1e-3)


def test_a_set_can_be_prepared_and_layers_frozen(data: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    config = config_for(data, epochs=1, defences=["fewer"])
    record = train(config, tmp_path / "run", lambda *event: told.append(event))
    assert told[-1] == ("training", 24, 24)
    assert record["train"]["images"] == 48
    assert record["train"]["sha256"] == load_arrays(data, "train").digest()
    fresh = fresh_network("tiny", 2, 16, derived_seed(0, "weights"), CPU)
    after = tensors_of(tmp_path / "run")
    same = {name for name, value in fresh.named_parameters() if torch.equal(after[f"model.{name}"], value)}
    assert {name for name, _ in fresh.named_parameters()} - same == {"fc.weight", "fc.bias"}


def test_terms_are_added_to_the_mean_loss() -> None:
    """After one step of rate 1, the last layer's bias has moved by the extra slopes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (10, 16, 16, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(10) % 2
    recipe = Recipe(lambda epoch, step, steps: 1.0, batch_size=10, momentum=0.0, weight_decay=0.0)
    moved, losses = [], []
    for defences in ((), (Pulling(0.5),), (Pulling(0.5), Pulling(0.25))):
        model = fresh_network("tiny", 2, 16, 0, CPU)
        engine = Engine(model, images, labels, recipe, Processes(0, 1, CPU), defences)
        result = engine.train_epoch(0, torch.Generator().manual_seed(1), lambda count: None)
        moved.append(model.get_parameter("fc.bias").detach())
        losses.append(result.loss)
    # The regulariser adds its slope once, the loss half of it for every image, of which the mean is taken.
    torch.testing.assert_close(moved[0] - moved[1], torch.full((2,), 0.75))
    torch.testing.assert_close(moved[0] - moved[2], torch.full((2,), 1.125))
    assert len(set(losses)) == 3


def test_the_command_takes_several_and_a_run_goes_on_with_these_alone(data: Path, tmp_path: Path) -> None:
    line = ["train", "--train", data, "--out", tmp_path / "run", "--network", "resnet8", "--epochs", 1]
    line += ["--batch-size", 24, "--set", "crop_padding=1"]

    def command(*defences: str) -> None:
        options = [option for each in defences for option in ("--defence", each)]
        app([str(each) for each in [*line, *options]], standalone_mode=False)

    command("brightening:spread=0.5", "at-linf:eps=8/255,steps=1")
    config = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert config["defences"] == [
        {"name": "brightening", "spread": 0.5},
        {"name": "at-linf", "eps": 8 / 255, "steps": 1, "step_size": None},
    ]
    record = json.loads((tmp_path / "run" / RECORD).read_text())
    assert record["defences"] == config["defences"]
    command("brightening:spread=0.5", "at-linf:eps=8/255,steps=1")
    for others in ((), ("brightening:spread=0.4", "at-linf:eps=8/255,steps=1"), ("at-linf", "brightening")):
        with pytest.raises(UserError, match=r"holds a run with defences \[\{'name': 'brightening', 'spread'"):
            command(*others)
    write_report([tmp_path / "run"], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "brightening, spread 0.5; at-linf, against linf 8/255, 1 step<" in page


def test_a_run_whose_defence_is_gone_is_named(data: Path, tmp_path: Path) -> None:
    train(config_for(data, epochs=1, defences=["brightening"]), tmp_path / "run")
    del DEFENCES._entries["brightening"]
    with pytest.raises(UserError, match="used defence brightening of the plug-in test_defences: give"):
        evaluate(tmp_path / "run", data)
