"""The report: one page that needs nothing else, with the table, the sentence, curves and true pictures."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import stop_after

from unlearnable_kernels.cli import app
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.report import write_report
from unlearnable_kernels.training import TrainConfig, evaluate, train

CLASSES = ["<b>cat", "dog & fox", "emu"]
KEY = Key(bytes(range(32)))


class Page(HTMLParser):
    """What a browser would see: the text, table rows, pictures by their alternative text, what is fetched."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.rows: list[list[str]] = []
        self.pictures: dict[str, np.ndarray] = {}
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for name in ("src", "href", "xlink:href"):
            reference = values.get(name)
            if reference is not None and not reference.startswith("#"):
                self.fetched.append(reference)
        if tag == "img":
            kind, _, data = str(values["src"]).partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as file:
                self.pictures[str(values["alt"])] = np.asarray(file)

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.lasttag in ("td", "th") and self.rows:
            self.rows[-1][-1] += data.strip()

    def row(self, heading: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0] == heading)


def write_tree(root: Path, split: str, count: int, suffix: str) -> None:
    generator = np.random.default_rng(0 if split == "train" else 1)
    for label, name in enumerate(CLASSES):
        (root / split / name).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            image[label * 5 : label * 5 + 5] += 120
            Image.fromarray(image).save(root / split / name / f"{index:04d}{suffix}")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A clean and a protected training set, a run on each, and one evaluation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("work")
    write_tree(root / "animals", "train", 6, ".bmp")
    write_tree(root / "animals", "test", 2, ".bmp")
    protect_dataset(root / "animals", root / "guarded", secret=KEY, workers=0, strength=0.25)
    for name, data in (("clean", "animals"), ("protected", "guarded")):
        train(config_for(root, data), root / "runs" / name)
    evaluate(root / "runs" / "clean", root / "animals" / "test")
    yield root
    torch.set_num_threads(threads)


def config_for(root: Path, data: str, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "test": str(root / "animals"),
        "network": "tiny",
        "epochs": 2,
        "batch_size": 4,
        "lr": 0.01,
    }
    return TrainConfig(str(root / data), **settings | changes)


@pytest.fixture(scope="module")
def page(work: Path) -> Page:
    out = work / "out" / "report.html"
    write_report([work / "runs" / "clean", work / "runs" / "protected"], out, title="Guarding <animals>")
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    return Page(out)


def test_it_needs_nothing_else(page: Page) -> None:
    assert all(reference.startswith("data:") for reference in page.fetched)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in page.source
    assert "url(http" not in page.source


def test_the_table_says_what_was_run(page: Page, work: Path) -> None:
    assert page.row("Run") == ["clean", "protected"]
    assert page.row("Training set") == ["animals, 18 images", "guarded, 18 images"]
    clean, protected = page.row("Protection")
    assert clean == "none"
    assert protected.startswith("classwise-conv: kernel size 3, strength 0.25, fraction 1,")
    assert page.row("Key fingerprint") == ["-", KEY.fingerprint]
    assert page.row("Network") == ["tiny, 16 px"] * 2
    assert page.row("Epochs") == ["2", "2"]
    assert page.row("Seed") == ["0", "0"]
    evaluations = page.row("Evaluations")
    assert evaluations[0] == f"test: {page.row('Clean-test accuracy')[0]} of 6"
    assert evaluations[1] == "-"
    assert all(f"torch {torch.__version__}" in cell for cell in page.row("Versions"))


def test_the_sentence_gives_both_accuracies(page: Page) -> None:
    clean, protected = page.row("Clean-test accuracy")
    assert (
        f"recognises {clean} of 6 clean test images; trained on the protected ones, {protected}. "
        "Guessing would give 33.3 %."
    ) in page.text
    assert "also differ" not in page.text


def test_names_are_escaped(page: Page) -> None:
    assert "Guarding <animals>" in page.text
    assert "<b>cat" in page.text
    assert "b" not in page.tags


def test_names_of_runs_are_text_everywhere(work: Path, tmp_path: Path) -> None:
    """No formulas, nothing left out of the legend, no controls, no bytes that a page cannot hold."""
    names = [r"$\frac{1}{$", "_name", "<i>", "\udcff\n\x1b[31m", "long-" * 40]
    for name in names:
        shutil.copytree(work / "runs" / "clean", tmp_path / name)
    write_report([tmp_path / name for name in names], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    told = [*names[:3], r"\xff\n\x1b[31m", names[4]]
    assert page.row("Run") == told
    assert "i" not in page.tags
    assert "\x1b" not in page.source
    figure = page.text[page.text.index("accuracy in %") :]
    for name in told[:4]:
        assert f"{name}: in training" in figure
        assert f"{name}: clean test" in figure
    assert figure.count("long-") > 80, "wrapped, and twice in the legend"


def test_commands_print_names_on_one_line(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(work / "runs" / "clean", tmp_path / "a\nok: \x1b[31m")
    test = work / "animals" / "test"
    for command in (
        ["evaluate", str(run), "--test", str(test), "--device", "cpu"],
        ["evaluate", str(run), "--bayes-error", str(test), str(test), "--device", "cpu"],
        ["report", str(run), "--out", str(run / "r.html")],
    ):
        app(command, standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert sum(r"a\nok: \x1b[31m" in line for line in lines) == 3
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("ok") for line in lines)


def test_one_epoch_has_an_axis_of_whole_numbers(work: Path, tmp_path: Path) -> None:
    run = shutil.copytree(work / "runs" / "clean", tmp_path / "run")
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0])
    write_report([run], tmp_path / "r.html")
    source = Page(tmp_path / "r.html").source
    axis = source[source.index('id="matplotlib.axis_1"') : source.index('id="matplotlib.axis_2"')]
    assert re.findall(r">([^<>]*)</text>", axis) == ["0", "1", "epoch"]


def test_the_pictures_are_of_the_data(page: Page, work: Path) -> None:
    factors = set()
    for name in CLASSES:
        shown = {alt.removeprefix(f"{name}, "): image for alt, image in page.pictures.items() if name in alt}
        heading = next(key for key in shown if key.startswith("difference"))
        factor = 1 if heading == "difference" else int(heading.split()[2])
        factors.add(factor)
        with Image.open(work / "animals" / "train" / name / "0000.bmp") as file:
            before = np.asarray(file)
        with Image.open(work / "guarded" / "train" / name / "0000.bmp") as file:
            after = np.asarray(file)
        assert np.array_equal(shown["clean"], before)
        assert np.array_equal(shown["protected"], after)
        change = after.astype(int) - before
        assert change.any()
        assert np.array_equal(shown[heading], np.clip(128 + factor * change, 0, 255))
    assert len(factors) == 1


def test_the_curves_show_every_run(page: Page) -> None:
    start, end = page.source.index("<svg"), page.source.index("</svg>")
    figure = page.source[start:end]
    for label in (
        "clean: in training",
        "clean: clean test",
        "protected: in training",
        "protected: clean test",
    ):
        assert label in figure
    assert "currentColor" in figure, "the figure should follow the page's dark mode"


def test_only_protected_samples_are_compared(work: Path, tmp_path: Path) -> None:
    protect_dataset(work / "animals", tmp_path / "half", secret=KEY, workers=0, fraction=0.5)
    train(config_for(work, str(tmp_path / "half"), epochs=1), tmp_path / "run")
    write_report([tmp_path / "run", work / "runs" / "clean"], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    for name in CLASSES:
        assert not np.array_equal(page.pictures[f"{name}, clean"], page.pictures[f"{name}, protected"])
    assert "trained on a copy of which 50 % is protected, " in page.text
    assert "the two runs also differ in epochs" in page.text


def test_a_protected_run_is_compared_with_the_clean_one_most_like_it(work: Path, tmp_path: Path) -> None:
    for name, data in (("clean", "animals"), ("protected", "guarded")):
        config = config_for(work, str(work / data), epochs=1, defences=["at-linf:steps=1"])
        train(config, tmp_path / name)
    clean = [work / "runs" / "clean", tmp_path / "clean"]
    write_report([*clean, tmp_path / "protected"], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    accuracy = page.row("Clean-test accuracy")[1]
    assert (
        f"Trained with at-linf on the clean images of animals, the network recognises {accuracy}" in page.text
    )
    assert "also differ" not in page.text


def test_a_mixture_is_told_by_what_was_trained_on(work: Path, tmp_path: Path) -> None:
    protect_dataset(work / "animals", tmp_path / "half", secret=KEY, workers=0, fraction=2 / 3)
    mixture: dict[str, Any] = {"epochs": 1, "clean": str(work / "animals"), "protected_fraction": 1 / 3}
    for name, only_clean in (("mixed", False), ("rest", True)):
        config = config_for(work, str(tmp_path / "half"), **mixture, only_clean=only_clean)
        train(config, tmp_path / name)
    write_report([tmp_path / "mixed", tmp_path / "rest"], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    mixed, rest = page.row("Training set")
    assert mixed.endswith("images, 33.3333 % of them protected")
    assert rest.endswith("images, without its protected 33.3333 %")
    assert "Trained on the clean part of half, " in page.text
    assert "trained on a copy of which 33.3333 % is protected, " in page.text
    assert "also differ" not in page.text


def test_without_a_pair_the_set_is_shown_alone(work: Path, tmp_path: Path) -> None:
    write_report([work / "runs" / "protected"], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert list(page.pictures) == [f"{name}, first of its class" for name in CLASSES]
    assert "Guessing" not in page.text
    assert "<h2>guarded</h2>" in page.source


def test_a_training_set_that_is_gone_is_no_obstacle(work: Path, tmp_path: Path) -> None:
    shutil.copytree(work / "animals", tmp_path / "short-lived")
    train(config_for(work, str(tmp_path / "short-lived"), epochs=1, test=None), tmp_path / "run")
    shutil.rmtree(tmp_path / "short-lived")
    write_report([tmp_path / "run"], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert page.pictures == {}
    assert "No pictures of short-lived" in page.text
    assert page.row("Clean-test accuracy") == ["-"]


def test_an_unfinished_run_is_marked(work: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(config_for(work, "animals"), tmp_path / "run", stop_after(1, tmp_path / "run"))
    write_report([tmp_path / "run"], tmp_path / "r.html")
    assert Page(tmp_path / "r.html").row("Epochs") == ["1 of 2, unfinished"]


def test_what_cannot_be_reported(work: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one run"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(UserError, match="not a run folder"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(UserError, match="given twice"):
        write_report([work / "runs" / "clean"] * 2, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_only_a_page_is_replaced(work: Path, tmp_path: Path) -> None:
    runs = [work / "runs" / "clean"]
    for content in (b"a secret", b"", b"<html>"):
        (tmp_path / "my.key").write_bytes(content)
        with pytest.raises(UserError, match=r"my\.key exists and is not an HTML page"):
            write_report(runs, tmp_path / "my.key")
        assert (tmp_path / "my.key").read_bytes() == content
    with pytest.raises(UserError, match="exists and is not an HTML page"):
        write_report(runs, tmp_path)
    (tmp_path / "r.html").write_bytes(b"<!DOCTYPE HTML>\nold")
    write_report(runs, tmp_path / "r.html")
    assert "Training on protected images" in (tmp_path / "r.html").read_text()
    for name in ("my.key/r.html", "my.key/new/r.html"):
        with pytest.raises(UserError, match=rf"cannot write {tmp_path / name}: "):
            write_report(runs, tmp_path / name)


def test_other_classes_or_other_test_images_are_not_compared(work: Path, tmp_path: Path) -> None:
    clean = shutil.copytree(work / "runs" / "clean", tmp_path / "clean")
    record = json.loads((clean / "run.json").read_text())
    others = [
        record,
        record | {"classes": record["classes"][::-1]},
        record | {"test": record["test"] | {"sha256": "0"}},
    ]
    told = []
    for other in others:
        (clean / "run.json").write_text(json.dumps(other))
        write_report([clean, work / "runs" / "protected"], tmp_path / "r.html")
        told.append("Guessing would give" in Page(tmp_path / "r.html").text)
    assert told == [True, False, False]


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"fraction": "x", "resize": "y"}},
        {"parameters": {"strength": [None]}, "key": {"fingerprint": 5}},
        {"prefix": 7},
        {"files": {"train/x.png": {"sha256": "0"}}},
    ],
)
def test_a_malformed_manifest_does_not_break_it(work: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    guarded = shutil.copytree(work / "guarded", tmp_path / "guarded")
    manifest = json.loads((guarded / "manifest.json").read_text()) | changes
    (guarded / "manifest.json").write_text(json.dumps(manifest))
    run = shutil.copytree(work / "runs" / "protected", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["train"]["protection"] = {"method": 3, "parameters": [], "key": "k"} | changes
    (run / "run.json").write_text(json.dumps(record))
    config = json.loads((run / "config.json").read_text()) | {"train": str(guarded)}
    (run / "config.json").write_text(json.dumps(config))
    write_report([work / "runs" / "clean", run], tmp_path / "r.html")
    page = Page(tmp_path / "r.html")
    assert "trained on the protected ones" in page.text
    assert len(page.pictures) >= len(CLASSES)
