"""The papers' rows: whether they are what was published, and how they are run, shared, resumed and listed."""

import json
import multiprocessing
import os
import re
import shutil
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sample_results import sample_result
from small_runs import one_thread, write_tree
from torch import Tensor

from unlearnable_kernels.cli import app
from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.environment import commit
from unlearnable_kernels.errors import BusyError, UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.progress import Progress
from unlearnable_kernels.protect.methods.filters import class_filters
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline import staging
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes import filtered_tests, summary
from unlearnable_kernels.recipes import reproduce as module
from unlearnable_kernels.recipes.effort import Extent, on_one_bar, protection_effort, training_effort
from unlearnable_kernels.recipes.jobs import Scale, digest, place, plan
from unlearnable_kernels.recipes.papers import PAPERS, ROWS, select
from unlearnable_kernels.recipes.papers.dune_icml2026 import MATRIX, MEANS
from unlearnable_kernels.recipes.reproduce import reproduce
from unlearnable_kernels.recipes.results import listing, read_result, read_results, write_result
from unlearnable_kernels.recipes.row import PERMUTED, TESTS
from unlearnable_kernels.recipes.summary import summarise
from unlearnable_kernels.report.matrix import tables
from unlearnable_kernels.training import TrainConfig, evaluate_detection

__all__ = ["one_thread"]  # a fixture
PLACE = "cuda-cvpr2023/cifar10"
NAMES = [f"{PLACE}/erm/clean", f"{PLACE}/erm/cuda", f"{PLACE}/test-permuted/cuda", f"{PLACE}/part-0.8/cuda"]
SCALE = Scale(epochs=0.01, network="resnet8", training={"crop_padding": 1, "batch_size": 8, "lr": 0.02})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data") / "cifar10"
    write_tree(root / "train", ["cat", "dog"], 10, seed=0)
    write_tree(root / "test", ["cat", "dog"], 10, seed=1)
    return {"cifar10": str(root)}


@pytest.fixture(scope="module")
def work(data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    run(data, folder, NAMES)
    return folder


def run(data: dict[str, str], work: Path, names: list[str], **changes: Any) -> dict[str, Any]:
    settings = {"seeds": 2, "scale": SCALE, "data": data} | changes
    return reproduce([ROWS[name] for name in names], work, work / "results", **settings)


def test_titles_say_where_attacks_take_fewer_steps_than_published() -> None:
    shorter = set()
    for paper in PAPERS:
        for row in paper:
            for steps in re.findall(r"^(?:at-\w+|dat):.*steps=(\d+)", "\n".join(row.defences), re.MULTILINE):
                assert f"takes {steps} steps" in paper.title, row.name
                shorter.add(paper.name)
    assert shorter == {"small-grid", "worst-defence"}


def test_every_row_can_be_planned_or_says_what_it_lacks() -> None:
    assert len(ROWS) == sum(len(paper.rows) for paper in PAPERS)
    for row in ROWS.values():
        low, high = row.published or (1, 1)
        assert 0 < low <= high <= 100
        assert row.test in TESTS
        assert row.protection or "protected_fraction" not in row.training, row.name
        if not row.lacking:
            settings = {"train": "x", "network": row.network, "defences": row.defences} | row.training
            settings |= {"clean": "y"} if "protected_fraction" in row.training else {}
            TrainConfig(**settings)


def test_a_line_of_a_table_is_of_one_protection_stored_in_one_way() -> None:
    lines: dict[tuple[str, str], set[tuple[str | None, ...]]] = {}
    for row in ROWS.values():
        table, _, protection = row.name.rsplit("/", 2)
        used = None if row.training.get("only_clean") else row.protection
        lines.setdefault((table, protection), set()).add((used, row.stored_as, row.upon))
    assert {line: sets for line, sets in lines.items() if len(sets) > 1} == {}


def test_the_matrix_is_the_published_one() -> None:
    """That of REM, 51.47, is not the mean of its eight figures, 50.155."""
    means = MEANS | {"rem": 50.155}
    for name, figures in MATRIX.items():
        assert sum(figures) / len(figures) == pytest.approx(means[name], abs=0.0051)


def test_rows_are_chosen_by_name_pattern_or_paper() -> None:
    assert [row.name for row in select([f"{PLACE}/erm/cuda"])] == [f"{PLACE}/erm/cuda"]
    assert {row.name for row in select(["*/coin/cuda"])} == {
        "later-breaks/cifar10/coin/cuda",
        "later-breaks/imagenet100/coin/cuda",
        "dune-icml2026/cifar10/coin/cuda",
    }
    assert len(select(["dune-icml2026"])) == 45
    assert select([]) == list(ROWS.values())
    with pytest.raises(UserError, match="no row is called 'nobody'"):
        select(["nobody"])


def test_a_part_of_a_data_set_may_lie_elsewhere(data: dict[str, str]) -> None:
    assert place("subset:cifar10,images=5", data) == f"subset:{data['cifar10']},images=5"
    assert place("cifar10", data) == data["cifar10"]


def test_rows_share_runs_and_sets(work: Path) -> None:
    assert len(list((work / "sets").iterdir())) == 2  # one for each seed's key
    assert len(list((work / "runs").iterdir())) == 2 * 3  # the permuted test's training is that of erm/cuda


def test_a_result_says_what_was_measured(work: Path) -> None:
    results = {result["row"]: result for result in read_results(work / "results")}
    assert list(results) == sorted(NAMES)
    found = results[f"{PLACE}/erm/cuda"]
    assert found["seeds"] == [0, 1]
    assert found["published"] == [18.48, 25.48]
    assert found["mean"] == pytest.approx(sum(found["accuracy"]["last"]) / 2)
    assert found["standard_error"] == pytest.approx((found["mean"] * (1 - found["mean"]) / 20) ** 0.5)
    assert found["scaled"] == SCALE.as_dict()
    assert found["training"]["epochs"] == 1
    assert len(set(found["burnt_keys"])) == 2
    assert results[f"{PLACE}/erm/clean"]["burnt_keys"] == []
    assert found["machine"]["cores"] >= 1
    assert found["accuracy"]["last"] == [curve[-1] for curve in found["accuracy"]["by_epoch"]]
    assert found["accuracy"]["best"] == [max(curve) for curve in found["accuracy"]["by_epoch"]]
    assert [(run["threads"], run["device"]) for run in found["runs"]] == [(1, "cpu")] * 2
    assert found["runs"][0]["commit"] == commit()
    assert [each["images"] for each in found["quality"]] == [20, 20]
    assert 0 < found["quality"][0]["psnr"] < 100
    assert results[f"{PLACE}/erm/clean"]["quality"] == []
    assert found["data"]["choice"] == {"seed": None, "images": "all", "protected": "all"}
    assert (found["data"]["train"]["images"], found["data"]["test"]["images"]) == (20, 20)


def test_what_is_finished_is_not_done_again(
    work: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (work / "runs").rglob("metrics.jsonl")}
    events: list[tuple[str, int, int]] = []
    run(data, work, NAMES, progress=lambda *event: events.append(event))
    assert {path: path.read_bytes() for path in (work / "runs").rglob("metrics.jsonl")} == before
    assert events == []


OPTIMISED = "bayes-error:steps=2,network=tiny,embeddings=1,first_epochs=2,epochs=1,inner_steps=2"


def test_one_bar_moves_throughout_as_a_set_is_optimised_too(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    movers: set[str] = set()

    def watched(progress: Progress, efforts: Any) -> list[Progress]:
        def watch(report: Progress) -> Progress:
            def told(what: str, done: int, total: int) -> None:
                before = bar[-1]
                report(what, done, total)
                movers.update({what} if bar[-1] > before else ())

            return told

        return [watch(report) for report in on_one_bar(progress, efforts)]

    monkeypatch.setattr(module, "on_one_bar", watched)
    bar: list[tuple[str, int, int]] = [("reproducing", 0, 10_000)]
    rows = [ROWS[NAMES[0]], replace(ROWS[NAMES[1]], protection=OPTIMISED)]
    scale = replace(SCALE, network="tiny")
    reproduce(rows, tmp_path, tmp_path, scale=scale, data=data, progress=lambda *now: bar.append(now))
    assert {(what, total) for what, _, total in bar} == {("reproducing", 10_000)}
    places = [done for _, done, _ in bar]
    assert places == sorted(places)
    assert places[-1] == 10_000
    assert movers == {"training embeddings", "ascending", "protecting", "training"}


def test_the_bar_never_goes_back() -> None:
    bar: list[int] = []
    first, second = on_one_bar(lambda what, done, total: bar.append(done), [{"a": 1, "b": 2}, {"a": 1}])
    for job, what, done in ((first, "a", 5), (first, "b", 10), (first, "b", 1), (second, "a", 10)):
        job(what, done, 10)
    first("c", 1, 1)
    assert bar == [0, 5000, 5000, 7500]


def test_the_bar_goes_by_what_a_set_s_embeddings_and_ascents_take() -> None:
    effort = protection_effort(METHODS.create(OPTIMISED), None, Extent((10, 10), 16))
    ascents, epochs = 2 * 2, 2 * (2 + 1) + 2  # an embedding to ascend, one that measures, and this once more
    assert effort["training embeddings"] / effort["ascending"] == epochs / ascents
    opposition = METHODS.create(OPTIMISED.replace("bayes-error", "gradient-opposition"))
    assert protection_effort(opposition, None, Extent((10, 10), 16))["ascending"] == 4 * effort["ascending"]


def test_the_bar_goes_by_images_epochs_networks_and_attacks() -> None:
    def effort(network: str = "resnet8", **changes: Any) -> int:
        config = TrainConfig("x", network=network, **{"epochs": 10, **changes})
        return training_effort(config, Extent((5000,) * 10, 32))["training"]

    plain = effort()
    assert effort(epochs=30) == 3 * plain
    assert effort(limit_per_class=500) * 10 == plain
    assert effort(defences=["at-linf:steps=6"]) == 5 * plain  # two passes a step, beside three
    half = {"clean": "y", "protected_fraction": 0.5}
    assert effort(**half) == plain
    assert effort(**half, only_clean=True) * 2 == plain
    assert effort(**half, protected_epochs=2) * 2 == plain
    assert 2 < effort("resnet18") / plain < 100
    assert 3 < effort(image_size=64) / plain < 5


def test_parts_give_what_one_gives(work: Path, data: dict[str, str], tmp_path: Path) -> None:
    first = run(data, tmp_path, NAMES, rank=0, world=2)
    assert None in first.values()
    second = run(data, tmp_path, NAMES, rank=1, world=2)
    whole = {result["row"]: result for result in read_results(work / "results")}
    for name, result in second.items():
        assert result["accuracy"] == whole[name]["accuracy"]


class Two:
    """Two processes at the same rows; the first stops at its work until the second says that it waits."""

    def __init__(self, settings: dict[str, Any], dies: bool) -> None:
        # Not forked from this one: where autograd has run, it does not in a process that is forked.
        spare = multiprocessing.get_context("forkserver")
        spare.set_forkserver_preload(["pytest", "unlearnable_kernels.recipes.reproduce"])
        self.settings, self.dies = settings, dies
        self.begun, self.waiting, self.told = spare.Event(), spare.Event(), spare.SimpleQueue()
        self.processes = [spare.Process(target=self.run, args=(number,)) for number in range(2)]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"processes": None}

    def ends(self) -> list[int | None]:
        self.processes[0].start()
        assert self.begun.wait(60)
        self.processes[1].start()
        for process in self.processes:
            process.join()
        return [process.exitcode for process in self.processes]

    def run(self, number: int) -> None:
        staging.LOCK_WAIT = module._BETWEEN_TRIES = 0.05
        module.protect_dataset = partial(protect_dataset, workers=0)
        first: dict[str, Any] = {"rank": 0, "progress": self.at_work}
        second = {"rank": self.settings["world"] - 1, "notify": self.notify}
        run(**self.settings, seeds=1, **(second if number else first))

    def at_work(self, *_: Any) -> None:
        self.begun.set()
        assert self.waiting.wait(60)
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def notify(self, message: str) -> None:
        self.told.put(message)
        self.waiting.set()


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(
    ("names", "world", "what"),
    [(NAMES[1::2], 2, "makes the protected set"), (NAMES[:1], 1, "does the training")],
)
def test_what_another_process_is_at_is_waited_for(
    data: dict[str, str], tmp_path: Path, names: list[str], world: int, what: str, dies: bool
) -> None:
    two = Two({"data": data, "work": tmp_path, "names": names, "world": world}, dies)
    assert two.ends() == [-signal.SIGKILL if dies else 0, 0]
    assert two.told.get().startswith(f"waiting for another process, which {what} of {names[-1]}, seed 0, ")
    assert two.told.empty()
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")]
    assert [record["status"] for record in records] == ["finished"] * (1 if dies else len(names))
    assert [path.suffix for path in tmp_path.glob("sets/*")] == [""] * (world - 1)


def test_processes_that_train_one_network_together_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "locks" / "run"
    with module._alone(lock):
        with pytest.raises(BusyError), module._alone(lock):
            pass
        monkeypatch.setenv("RANK", "1")
        with module._alone(lock):
            pass


@pytest.mark.parametrize("kind", ["square", "vertical"])
@pytest.mark.parametrize(("test", "shown"), [("protected", 0), ("permuted", 1), ("shared", None)])
def test_images_are_tested_behind_the_filters_that_were_asked_for(
    work: Path,
    data: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    test: str,
    shown: int | None,
) -> None:
    job = plan(ROWS[NAMES[1]], 0, work, data, SCALE)
    source, protected = Path(data["cifar10"]), tmp_path / "protected"
    protect_dataset(
        source, protected, secret=job.key, padding="zeros", filters=kind, dataset_name="x", workers=0
    )
    seen: list[LabelledImages] = []

    def measure(model: Any, images: LabelledImages, *_: Any) -> SimpleNamespace:
        seen.append(images)
        return SimpleNamespace(accuracy=0.5)

    monkeypatch.setattr(filtered_tests, "measure", measure)
    assert filtered_tests.accuracy_on_filtered(job.folder, protected, job.key, test) == 0.5
    clean = load_arrays(source, "test")
    filters = class_filters(job.key, "x", ["cat", "dog"], 3, 0.3, kind)
    whose = [0 if shown is None else (label + shown) % 2 for label in clean.labels.tolist()]
    expected = classwise_conv(clean.images.permute(0, 3, 1, 2), torch.tensor(whose), filters, "zeros")
    assert torch.equal(seen[0].images, expected.permute(0, 2, 3, 1))
    assert torch.equal(seen[0].labels, clean.labels)


def test_a_result_that_is_there_keeps_its_date(work: Path) -> None:
    [path, *_] = (work / "results").rglob("*.json")
    result = json.loads(path.read_text()) | {"date": "2020-02-02"}
    path.write_text(json.dumps(result))
    assert write_result(result, work / "results")["date"] == "2020-02-02"
    assert write_result(result | {"mean": 0.123}, work / "results")["date"] > "2020-02-02"
    write_result(result, work / "results")


def test_where_no_protected_image_is_used_none_is_measured(
    work: Path, data: dict[str, str], tmp_path: Path
) -> None:
    job = plan(ROWS[NAMES[3]], 0, work, data, SCALE)
    assert len(summarise([job], SCALE, tmp_path)["quality"]) == 1
    object.__setattr__(job.config, "only_clean", True)
    assert summarise([job], SCALE, tmp_path)["quality"] == []


def test_of_runs_without_a_record_of_it_the_commit_is_unknown(
    work: Path, data: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(work / "runs", tmp_path / "runs")
    job = plan(ROWS[NAMES[0]], 0, work, data, SCALE)
    job = replace(job, folder=tmp_path / "runs" / job.folder.name)
    record = json.loads((job.folder / "run.json").read_text())
    del record["commit"], record["threads"]
    (job.folder / "run.json").write_text(json.dumps(record))
    [origin] = summarise([job], SCALE, tmp_path)["runs"]
    assert (origin["commit"], origin["threads"], origin["device"]) == (None, None, "cpu")


def test_few_seeds_do_not_take_the_place_of_many(work: Path, data: dict[str, str]) -> None:
    assert run(data, work, NAMES[:1], seeds=1)[NAMES[0]]["seeds"] == [0, 1]


def test_a_protection_that_a_row_had_before_does_not_stay(tmp_path: Path) -> None:
    before = sample_result("worst-defence/plain/strong", [0.1, 0.2], protection="spectral:cell=3")
    now = sample_result("worst-defence/plain/strong", [0.3])
    write_result(before, tmp_path)
    assert write_result(now, tmp_path)["protection"] == now["protection"]
    more = sample_result("worst-defence/plain/strong", [0.3, 0.4])
    write_result(more, tmp_path)
    assert len(write_result(now, tmp_path)["seeds"]) == 2


def test_a_scaled_row_never_passes_for_a_full_one(work: Path) -> None:
    scaled = [result for result in read_results(work / "results") if result["row"] == NAMES[1]]
    full = [result | {"scaled": None, "mean": 0.30} for result in scaled]
    row = ROWS[NAMES[1]]
    assert "not yet measured" in listing([row], scaled)
    assert "OUTSIDE" not in listing([row], scaled)
    assert "scaled: 0.01 of the epochs, resnet8, batch_size 8" in listing([row], scaled)
    text = listing([row], full)
    assert "30.00 ±" in text
    assert "OUTSIDE" in text
    assert "OUTSIDE" not in listing([row], [full[0] | {"mean": 0.2}])
    assert "(-1.00)" in listing([replace(row, published=(31.0, 31.0))], full)
    assert "  about 31  " in listing([replace(row, published=(31.0, 31.0), about=True)], full)


@pytest.mark.parametrize(
    ("name", "value"), [("mean", "x"), ("scaled", {}), ("machine", {}), ("date", None), ("seeds", None)]
)
def test_a_damaged_result_is_one_line(work: Path, tmp_path: Path, name: str, value: Any) -> None:
    [path, *_] = (work / "results").rglob("*.json")
    (tmp_path / "r.json").write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(UserError, match=r"r.json is damaged: '\w+' is missing or malformed"):
        read_results(tmp_path)


def test_sets_of_two_sizes_stay_apart(data: dict[str, str], tmp_path: Path) -> None:
    places, row = {"cifar10": data["cifar10"]}, ROWS[NAMES[1]]
    folders = {
        plan(row, 0, tmp_path, places, Scale(training={"image_size": size})).protected for size in (8, 16)
    }
    assert len(folders) == 2


def test_a_scaled_row_has_the_set_of_the_full_one(data: dict[str, str], tmp_path: Path) -> None:
    scales = (Scale(), SCALE, replace(SCALE, images=8))
    sets = {plan(ROWS[NAMES[1]], 0, tmp_path, data, scale).protected for scale in scales}
    assert len(sets) == 1


def test_fine_tuning_begins_with_a_training_on_other_images(data: dict[str, str], tmp_path: Path) -> None:
    """Run once for the rows that share it, in one part of the work, and recorded by its images."""
    others = tmp_path / "others"
    write_tree(others / "train", ["ant", "bee", "cow"], 4, seed=2)
    training = {"crop_padding": 1, "batch_size": 8, "epochs": 1, "test_limit_per_class": 4}
    rows = [
        replace(
            ROWS[f"worst-defence/pretrained-{layers}/none"],
            dataset="cifar10",
            training=training | more,
            pretraining={"train": str(others), "epochs": 2, "image_size": 8, "lr": 0.1},
        )
        for layers, more in (("all", {}), ("last", {}), ("last", {"lr": 0.05}))
    ]
    rows[2] = replace(rows[2], name="worst-defence/pretrained-last/faster")
    found = reproduce(rows, tmp_path, tmp_path / "results", data=data, rank=0, world=2)
    assert reproduce(rows, tmp_path, tmp_path / "results", data=data, rank=1, world=2) == found
    configs = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/config.json")]
    [before] = [config for config in configs if config["train"] == str(others)]
    assert (before["epochs"], before["image_size"], before["test"], before["defences"]) == (2, 8, None, [])
    assert len(configs) == 4
    stems: dict[str, list[Tensor]] = {"finetune-all": [], "finetune-last": []}
    for config in (config for config in configs if config["defences"]):
        [defence] = config["defences"]
        given = load_file(defence["weights"])["model.stem.0.weight"]
        folder = tmp_path / "runs" / digest(config)
        learnt = load_file(folder / "checkpoint.safetensors")["model.stem.0.weight"]
        stems[defence["name"]].append(learnt - given)
    assert [bool(change.any()) for change in stems["finetune-all"]] == [True]
    assert [bool(change.any()) for change in stems["finetune-last"]] == [False, False]
    for result in found.values():
        assert result is not None
        assert result["pretraining"]["train"] == str(others)
        assert "weights" not in result["training"]["defences"][0]


def test_a_set_stored_with_loss_is_another(data: dict[str, str], tmp_path: Path) -> None:
    row = ROWS["formats/plain/reflect-jpeg-25"]
    row = replace(row, dataset="cifar10", training={"crop_padding": 1, "batch_size": 8, "epochs": 1})
    found = {}
    for each in (row, replace(row, name="formats/plain/reflect-lossless", stored_as=None)):
        result = reproduce([each], tmp_path, tmp_path / "results", data=data)[each.name]
        assert result is not None
        found[each.name] = result
    lossy, lossless = (found[f"formats/plain/reflect-{name}"] for name in ("jpeg-25", "lossless"))
    assert (lossy["stored_as"], lossless.get("stored_as")) == ("jpeg:quality=25", None)
    assert lossy["quality"][0]["psnr"] != lossless["quality"][0]["psnr"]
    assert len(list((tmp_path / "sets").glob("*/train/cat/*.jpg"))) == 10


def test_of_two_protections_the_second_is_laid_on_the_first(data: dict[str, str], tmp_path: Path) -> None:
    row = replace(ROWS["hardening/plain/balanced"], dataset="cifar10")
    settings = {"name": "hardening/plain/crossed", "upon": "classwise-conv:padding=reflect"}
    both = replace(row, **settings, training=dict(SCALE.training) | {"epochs": 1})
    result = reproduce([both], tmp_path, tmp_path / "results", data=data)[both.name]
    assert result is not None
    assert result["upon"] == settings["upon"]
    job = plan(both, 0, tmp_path, data, Scale())
    first, second = (each.place for each in job.sets)
    assert sorted(tmp_path.glob("sets/*")) == sorted([first, second])
    [alone] = plan(replace(both, upon=None), 0, tmp_path, data, Scale()).sets
    assert alone.place not in (first, second)
    again = tmp_path / "again"
    method = METHODS.create(both.protection or "")
    protect_dataset(first, again, secret=job.key, method=method, dataset_name="cifar10")
    made, expected = (load_arrays(each, "train").images for each in (second, again))
    assert torch.equal(made, expected)
    shutil.rmtree(first)
    reproduce([both], tmp_path, tmp_path / "results", data=data)
    assert not first.exists()


def test_both_of_two_protections_move_the_bar(data: dict[str, str], tmp_path: Path) -> None:
    row = replace(ROWS[NAMES[1]], upon="classwise-conv:padding=reflect")
    [effort] = module._efforts([plan(row, 0, tmp_path, data, SCALE)])
    assert effort.keys() == {"protecting, before", "protecting", "training"}
    told: dict[str, list[int]] = {}

    def watched(progress: Progress, efforts: Any) -> list[Progress]:
        return [lambda what, done, total: told.setdefault(what, []).append(done)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "on_one_bar", watched)
        reproduce([row], tmp_path, tmp_path / "results", scale=SCALE, data=data)
    assert all(max(told[what]) == 20 for what in ("protecting, before", "protecting"))


def test_what_lies_upon_nothing_is_refused() -> None:
    for settings in ({"protection": None}, {"test": PERMUTED}):
        with pytest.raises(UserError, match=f"{NAMES[1]}: upon needs a protection that is laid upon it, and"):
            replace(ROWS[NAMES[1]], upon="spectral", **settings)


def test_a_detection_is_a_row_without_a_training(data: dict[str, str], tmp_path: Path) -> None:
    name = "later-breaks/cifar10/epd/cuda"
    names = [name, f"{PLACE}/erm/cuda"]
    events: list[tuple[str, int, int]] = []
    found = run(data, tmp_path, names, progress=lambda *event: events.append(event))[name]
    assert run(data, tmp_path, names)[name] == found
    assert (len(list((tmp_path / "runs").iterdir())), len(list((tmp_path / "sets").iterdir()))) == (2, 2)
    assert events[-1] == ("reproducing", 10_000, 10_000)
    sets = [Path(data["cifar10"]), *sorted((tmp_path / "sets").iterdir())]
    rates = [evaluate_detection(sets[0], protected, 0)["hit_rate"] for protected in sets[1:]]
    assert found["accuracy"]["last"][0] in rates
    assert found["mean"] == pytest.approx(sum(found["accuracy"]["last"]) / 2)
    assert (found["training"], found["scaled"], found["test_images"]) == (None, None, 20)
    assert found["data"] == {"clean": {"images": 20}, "protected": {"images": 20}}
    results = read_results(tmp_path / "results")
    assert [table.place for table in tables(results)] == [PLACE]
    assert f"({100 * found['mean'] - 89:+.2f})  2 " in listing([ROWS[name]], results)
    [path] = (tmp_path / "results" / names[1]).glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data": found["data"]}))
    with pytest.raises(UserError, match="'data' is missing or malformed"):
        read_result(path)


def test_the_command(
    work: Path, data: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [
        "reproduce",
        f"{PLACE}/erm/c*",
        f"{PLACE}/erm/em",
        "--epochs-scale",
        "0.01",
        "--network",
        "resnet8",
    ]
    line += ["--set", "crop_padding=1", "--data", f"cifar10={data['cifar10']}", "--limit-train", "8"]
    line += ["--work", str(tmp_path / "w"), "--results", str(tmp_path / "r")]
    app(line, standalone_mode=False)
    shown = capsys.readouterr().out
    assert "left out: cuda-cvpr2023/cifar10/erm/em, which needs the protection EM" in shown
    assert shown.count("scaled: 0.01 of the epochs, 8 images, resnet8") == 2
    app(["reproduce", "--list", "--results", str(tmp_path / "r")], standalone_mode=False)
    shown = capsys.readouterr().out
    assert shown.count("not yet measured") == sum(not row.lacking for row in ROWS.values())
    config = json.loads(next((tmp_path / "w").glob("runs/*/config.json")).read_text())
    assert config["limit_per_class"] == 4


def test_as_many_images_are_recorded_as_there_were(data: dict[str, str], tmp_path: Path) -> None:
    for limit, images in ((7, 6), (500, 20)):
        scale = replace(SCALE, images=limit, network="tiny")
        [result] = run(data, tmp_path, NAMES[:1], seeds=1, scale=scale).values()
        assert result["scaled"]["images"] == result["data"]["train"]["images"] == images
    with pytest.raises(UserError, match="limit_train must be at least 2, one image of each class of cifar10"):
        run(data, tmp_path, NAMES[:1], scale=Scale(images=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, not 0"),
        ({"rank": 2, "world": 2}, "rank must be from 0 to 1, one of world 2, not 2"),
    ],
)
def test_bad_calls(data: dict[str, str], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(data, tmp_path, NAMES, **changes)


def test_a_place_of_no_row_s_data_set_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    known = "cifar10, cifar100, imagenet100, tiny-imagenet"
    with pytest.raises(UserError, match=f"no row's data set is called 'cifar1O'; there are {known}"):
        run(data | {"cifar1O": "x"}, tmp_path, NAMES)


def test_larger_pictures_and_networks_are_what_their_rows_say() -> None:
    for where, dataset, network in (
        ("tiny-imagenet", "subset:tiny-imagenet,classes=20,images=340", "resnet8"),
        ("resnet18", "subset:cifar10,images=1000", "resnet18"),
    ):
        row = ROWS[f"worst-defence/{where}/jpeg/balanced"]
        assert (row.dataset, row.network, row.defences) == (dataset, network, ("jpeg:quality=10",))


def test_a_thief_with_pairs_is_given_the_clean_set(data: dict[str, str], tmp_path: Path) -> None:
    row = ROWS["worst-defence/pairs-10/opponent"]
    places = {row.dataset: data["cifar10"]}
    config = plan(row, 0, tmp_path, places, Scale()).config
    settings = {"name": "clean-pairs", "pairs": 10, "fill": False}
    assert config.defences == [settings | {"clean": data["cifar10"]}]
    assert summary._training(config, row)["defences"] == [settings]


def test_a_limit_takes_what_each_class_has() -> None:
    data = Extent((60, 5), 16)
    assert (data.images(), data.images(50), data.images(3), data.classes) == (65, 55, 6, 2)


def test_what_is_finished_needs_no_lock(work: Path, data: dict[str, str]) -> None:
    shutil.rmtree(work / "locks")
    run(data, work, NAMES)
    assert not (work / "locks").exists()


def test_a_sequence_is_scaled_with_its_epochs(data: dict[str, str], tmp_path: Path) -> None:
    places, row = {"cifar10": data["cifar10"]}, ROWS["beo-aaai2026/cifar10/half-sequential/noise"]
    lengths = {}
    for scale in (1.0, 0.4, 0.01):
        config = plan(row, 0, tmp_path, places, Scale(epochs=scale)).config
        lengths[scale] = (config.epochs, config.protected_epochs)
        assert config.clean == data["cifar10"]
    assert lengths == {1.0: (31, 5), 0.4: (12, 2), 0.01: (2, 1)}


def test_arms_of_a_table_differ_in_nothing_but_what_they_are_called_after() -> None:
    """The same number of images passes through the network in all of them."""
    for row in select(["beo-arms"]):
        share = 0.5 if {"protected_epochs", "only_clean"} & set(row.training) else 1
        assert row.training["epochs"] * share == 12
        assert ("unaugmented" in row.name) == (row.training.get("flip") is False)
        assert ("sequential" in row.name) == ("protected_epochs" in row.training)


def test_what_lacks_something_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="erm/em cannot be run: it needs the protection EM"):
        run(data, tmp_path, [f"{PLACE}/erm/em"])
    for values, message in (
        ({"epochs": 0.0}, "epochs_scale must be above 0"),
        ({"images": 0}, "limit_train"),
    ):
        with pytest.raises(UserError, match=message):
            Scale(**values)
