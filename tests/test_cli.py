import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from typer.main import get_command

import unlearnable_kernels
from unlearnable_kernels import progress
from unlearnable_kernels.cli import app, main
from unlearnable_kernels.cli.options import LISTED, registries

COMMANDS = (
    "keygen",
    "check",
    "protect",
    "plan",
    "render",
    "finish",
    "verify",
    "preview",
    "train",
    "sweep",
    "evaluate",
    "report",
    "theory",
    "demo",
    "info",
)


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Runs the command line in this process, in an empty folder: a fresh one imports torch for seconds."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unlearnable", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with pytest.raises(SystemExit) as caught:
            main()
        output, errors = capfd.readouterr()
        return Result(int(caught.value.code or 0), output, errors)

    return run


def test_the_help_lists_what_can_be_chosen(run):
    for command, kinds in LISTED.items():
        text = run(command, "--help").stdout
        for kind in kinds:
            registry = registries()[kind]
            for entry in registry.entries():
                line = " ".join(text.split(f"\n    {entry.name}: ")[1].split())
                assert line.startswith(entry.description)
                assert all(setting in line for setting in registry.settings(entry.name))


def test_the_help_groups_options(run):
    text = run("protect", "--help").stdout
    headings = [
        "Arguments",
        "Key",
        "What becomes of the pictures",
        "Source and destination",
        "Releases",
        "Running",
        "Options",
    ]
    assert re.findall(r"^(\w[\w ]+):$", text, re.M)[: len(headings)] == headings
    groups = dict(zip(headings, re.split(r"^\w[\w ]+:$", text, flags=re.M)[1:], strict=False))
    assert max(group.count("\n  --") for group in groups.values()) <= 5
    assert "--extend" in groups["Releases"]


def test_the_version(run):
    result = run("--version")
    assert (result.returncode, result.stdout) == (
        0,
        f"unlearnable_kernels {unlearnable_kernels.__version__}\n",
    )


def protect_one_picture(run, folder):
    """src/train/a/1.png and the key k; protected in out."""
    source = folder / "src" / "train" / "a"
    source.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(source / "1.png")
    run("keygen", "k")
    run("protect", "src", "out", "--key-file", "k")


def test_json_is_one_object(run, tmp_path):
    protect_one_picture(run, tmp_path)
    (tmp_path / "out" / "é\n").touch()
    result = run("verify", "out", "--key-file", "k", "--json")
    assert result.returncode == 1
    expected = {"ok": False, "checked": 1, "missing": [], "extra": ["é\n"], "changed": [], "key": "matches"}
    quality = {"images": 1, "psnr": None, "ssim": None}  # one black picture of 8x8
    assert json.loads(result.stdout) == expected | {"quality": quality}
    found = json.loads(run("info", "--json").stdout)
    assert found["cpu kernels"]
    assert "classwise-conv" in found["methods"]


def test_a_terminated_command_says_how_to_resume(run, tmp_path, monkeypatch):
    source = tmp_path / "src" / "train" / "a"
    source.mkdir(parents=True)
    for number in range(300):
        Image.new("RGB", (8, 8)).save(source / f"{number}.png")
    run("keygen", "k")

    @contextlib.contextmanager
    def terminating(unit="images"):
        yield lambda what, done, total: os.kill(os.getpid(), signal.SIGTERM) if done else None

    command = ("protect", "src", "out", "--key-file", "k", "--workers", "0")
    with monkeypatch.context() as patch:
        patch.setattr(progress, "progress", terminating)
        result = run(*command)
    assert result.returncode == 143
    assert result.stderr == "interrupted; run the same command again to resume\n"
    assert "resuming: 256 of 300 images are done" in run(*command).stderr


def test_a_name_is_one_line_that_no_terminal_obeys(run, tmp_path):
    """Of a file, a class or a folder; whether bad input ends there or not."""
    protect_one_picture(run, tmp_path)
    for name in (
        b"z\nok: 1,000 files checked, key matches",
        b"\x1b[2J\xc2\x9b31m",
        b"\xff.png",
        "\u202egnp".encode(),
    ):
        (tmp_path / "out" / os.fsdecode(name)).touch()
    result = run("verify", "out", "--key-file", "k")
    assert result.stdout.splitlines() == [
        r"extra: \x1b[2J\x9b31m",
        r"extra: z\nok: 1,000 files checked, key matches",
        r"extra: \u202egnp",
        r"extra: \xff.png",
        "NOT ok: 1 files checked, key matches",
    ]
    result = run("protect", "no\nsuch\x1b[2J\udcff", "b", "--key-file", "k")
    assert result.stderr.startswith(rf"unlearnable: {tmp_path}/no\nsuch\x1b[2J\xff: no such file or folder")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(run, command):
    text = run(command, "--help").stdout
    options = [each for each in get_command(app).commands[command].params if each.param_type_name == "option"]
    assert len(options) <= 24
    example = " ".join(text.split("Example: ")[1].split("\n\n")[0].split())
    _, name, *arguments = shlex.split(example)
    assert name == command
    get_command(app).commands[command].make_context(command, arguments)


PROTECT = ("protect", "a", "b", "--seed-compat", "1", "--method")
BAD_CALLS = {
    ("frobnicate",): "No such command 'frobnicate'",
    ("protect", "a"): "Missing argument 'dst'",
    ("protect", "a", "b"): "give either --key-file",
    ("protect", "a", "b", "--seed-compat", "1", "--key-file", "k"): "give either --key-file",
    ("protect", "a", "b", "--key-file", "no-such.key"): "no-such.key",
    ("protect", "no-such-folder", "b", "--seed-compat", "1"): "no-such-folder",
    (*PROTECT, "noise"): "unknown method 'noise': choose one of bayes-error, beo-aaai2026, classwise-conv",
    (*PROTECT, "classwise-conv:padding=same"): "padding must be one of zeros, reflect, replicate, circular",
    (*PROTECT, "classwise-conv:kernel_size=big"): "kernel_size must be a whole number, not 'big'",
    (*PROTECT, "classwise-conv:eps=8/255"): "'eps' is not a setting of method classwise-conv: choose from",
    (*PROTECT, "classwise-conv:strength"): "method classwise-conv: give strength a value",
    (*PROTECT, "classwise-conv:strength=1,strength=2"): "strength is given twice",
    (*PROTECT, "bayes-error:padding=zeros"): "'padding' is not a setting of method bayes-error",
    (*PROTECT, "bayes-error:eps=8/0"): "eps must be a number or a fraction such as 8/255, not '8/0'",
    (*PROTECT, "bayes-error:eps=1/500"): "eps must be a finite number of at least 1/255",
    (
        *PROTECT,
        "bayes-error:bandwidth=mean",
    ): "bandwidth must be a finite number above 0, or median, not mean",
    (*PROTECT, "bayes-error:bandwidth=0"): "bandwidth must be a finite number above 0, or median",
    (*PROTECT, "bayes-error:norm=l1"): "norm must be one of linf, l2",
    (*PROTECT, "bayes-error:steps=0"): "steps must be 1 or more",
    (*PROTECT, "bayes-error:network=alexnet"): "resnet18",
    (
        *PROTECT,
        "bayes-error",
        "--format",
        "jpeg",
    ): "parquet, png, webdataset, webp with bayes-error",
    (*PROTECT, "beo-aaai2026:norm=l2"): "norm must be linf with rule adamw, not 'l2'",
    (*PROTECT, "bayes-error:rule=sgd"): "rule must be one of pgd, adamw, not 'sgd'",
    (*PROTECT, "bayes-error:inner_steps=0"): "inner_steps must be 1 or more, not 0",
    (*PROTECT, "bayes-error:float_images=true"): "float_images needs augment=false",
    (*PROTECT, "classwise-conv", "--format", "tiff"): "unknown output format 'tiff': choose one of jpeg",
    (*PROTECT, "classwise-conv", "--format", "png:quality=9"): "'quality' is not a setting of output format",
    (*PROTECT, "classwise-conv", "--format", "jpeg:quality=0"): "quality must be from 1 to 100, not 0",
    ("verify", "no-such-folder"): "no-such-folder",
    ("train", "--train", "no-such-folder", "--out", "r"): "no-such-folder",
    ("train", "--train", ".", "--out", "r", "--network", "alexnet"): "resnet18",
    ("train", "--train", ".", "--out", "r", "--protocol", "at-l2"): "No such option: --protocol",
    ("train", "--train", ".", "--out", "r", "--defence", "trades"): "choose one of at-l2, at-linf",
    ("train", "--train", ".", "--out", "r", "--defence", "at-l2:epsilon=1"): "choose from eps, steps, step_s",
    ("train", "--train", ".", "--out", "r", "--defence", "at-l2:eps=a half"): "eps must be a number or a fr",
    (
        "train",
        "--train",
        ".",
        "--out",
        "r",
        "--defence",
        "at-linf:eps=4",
    ): "at-linf: eps must be at most 1",
    ("train", "--train", ".", "--out", "r", "--set", "flips=1"): "'flips' is not a setting of training",
    ("train", "--train", ".", "--out", "r", "--set", "eps=1"): "'eps' is not a setting of training",
    ("train", "--train", ".", "--out", "r", "--optimizer", "adam"): "unknown optimizer 'adam': choose one of",
    ("train", "--train", ".", "--out", "r", "--amp", "fp16"): "unknown amp 'fp16': choose one of none, bf16",
    ("train", "--train", ".", "--out", "r", "--seeds", "0,a"): "such as 0,1,2, not '0,a'",
    ("train", "--train", ".", "--out", "r", "--seeds", "1,1"): "seeds must be one or more, each once",
    (
        "train",
        "--train",
        ".",
        "--out",
        "r",
        "--log",
        "wandb",
    ): "unknown log 'wandb': choose one of tensor",
    (
        "train",
        "--train",
        ".",
        "--out",
        "r",
        "--device",
        "tpu",
    ): "device must be cpu, cuda or cuda:N, not",
    ("train", "--train", ".", "--out", "r", "--device", "cuda:99"): "there is no device cuda:99: torch finds",
    ("train", "--train", ".", "--out", "r", "--plugin", "no_such"): "plug-in no_such cannot be imported",
    ("train", "--train", ".", "--out", "r", "--plugin", "no.py"): "plug-in no.py: no such file",
    ("train", "--train", ".", "--out", "r", "--set", "normalise=grey"): "normalise must be",
    ("train", "--train", ".", "--out", "r", "--set", "warmup=100"): "fewer than the 100 epochs, not 100",
    ("sweep", "--train", ".", "--clean", ".", "--out", "r", "--fraction", "2"): "above 0 and at most 1",
    ("sweep", "--train", ".", "--clean", ".", "--out", "r", "--set", "clean=x"): "'clean' is not a setting",
    ("evaluate", "no-such-run", "--test", "."): "no-such-run",
    ("evaluate", "no-such-run", "--test", ".", "--eps", "0.5"): "eps is 0.5, but there is no attack",
    ("evaluate", "no-such-run", "--test", ".", "--steps", "5"): "steps is 5, but there is no attack",
    ("evaluate", "no-such-run", "--test", ".", "--bandwidth", "1"): "give --bayes-error",
    ("evaluate", "r", "--bayes-error", "a", "b", "--attack", "l2"): "an attack needs images",
    (
        "evaluate",
        "r",
        "--bayes-error",
        "a",
        "b",
        "--bandwidth",
        "0",
    ): "bandwidth must be a finite number above 0, not 0.0",
    ("report", "no-such-run"): "no-such-run",
    ("preview", ".", "--out", "p.png"): "give either --key-file",
    ("preview", "a", "--protected", "no-such-folder"): "no-such-folder",
    ("preview", "a", "--protected", "x", "--method", "bayes-error"): "with --protected, the copy's manifest",
    ("preview", "a", "--seed-compat", "1", "--method", "bayes-error"): "optimises all images together",
}


@pytest.mark.parametrize("arguments", BAD_CALLS, ids=" ".join)
def test_bad_input_is_one_line_and_status_2(run, arguments, tmp_path):
    result = run(*arguments)
    lines = [line for line in result.stderr.splitlines() if "warning:" not in line]
    assert result.returncode == 2
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("unlearnable: ")
    assert BAD_CALLS[arguments].lower() in lines[0].lower()
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_seed_compat_warns(run):
    assert "warning: an integer seed is not a secret" in run("protect", "a", "b", "--seed-compat", 1).stderr


def test_no_arguments_show_the_commands(run):
    result = run()
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)


def test_info_names_the_kernels_and_all_that_can_be_chosen(run):
    text = run("info").stdout
    assert re.match(r"cpu kernels: (avx512|avx2|default)\n", text)
    for registry in registries().values():
        assert all(f"\n  {name}: " in text for name in registry)


def test_it_is_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "unlearnable_kernels", "verify", "no-such-folder"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stderr) == (2, "unlearnable: no-such-folder: no such folder\n")


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """Thirty images of each class: all take seconds, and show no more."""
    from unlearnable_kernels.data.digits import write_digits

    tree = write_digits(tmp_path_factory.mktemp("source") / "digits")
    for split, kept in (("train", 20), ("test", 10)):
        for folder in (tree / split).iterdir():
            for path in sorted(folder.iterdir())[kept:]:
                path.unlink()
    return tree


def test_from_key_to_report(run, digits, tmp_path):
    """The README's main path: every command once, on real images, each reading what the last one wrote."""

    def ok(*arguments):
        result = run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "fingerprint" in ok("keygen", "my.key")
    assert (tmp_path / "my.key").stat().st_mode & 0o777 == 0o600
    ok("preview", digits, "--key-file", "my.key", "--out", "preview.png")
    ok("protect", digits, "protected", "--key-file", "my.key", "--workers", 0)
    assert "key matches" in ok("verify", "protected", "--key-file", "my.key")
    few = (
        "--epochs",
        1,
        "--network",
        "resnet8",
        "--batch-size",
        64,
        "--set",
        "limit_per_class=10",
        "--set",
        "flip=false",
    )
    for name, train in (("clean", digits), ("protected", tmp_path / "protected")):
        ok("train", "--train", train, "--test", digits, "--out", f"runs/{name}", *few)
    assert re.search(r"accuracy \d+\.\d\d% of 100 images", ok("evaluate", "runs/clean", "--test", digits))
    attacked = ok("evaluate", "runs/clean", "--test", digits, "--attack", "l2", "--eps", "1/4", "--steps", 2)
    assert re.search(r"accuracy \d+\.\d\d% of 100 images under l2 0\.25, 2 steps", attacked)
    ok("report", "runs/clean", "runs/protected", "--out", "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<table" in page
    assert page.count("data:image/png") >= 3

    run("keygen", "other.key")
    other = run("verify", "protected", "--key-file", "other.key")
    assert other.returncode == 1
    (tmp_path / "protected" / "train" / "0" / "extra.png").write_bytes(b"")
    assert "extra: train/0/extra.png" in run("verify", "protected").stdout


def report_thirteen_times(unit="images"):
    with progress.progress(unit) as report:
        for done in range(13):
            report("working", done, 12)
            time.sleep(0.02)


def test_progress_is_lines_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setattr(progress, "FIRST_LINE_AFTER", 0.05)
    report_thirteen_times()
    line = r"working: \d+/12 images, \d+/s, \d+ s left\n"
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.parametrize(("unit", "amount"), [("images", "0/12"), (None, "0.0 %")])
def test_progress_is_a_bar_on_a_terminal(monkeypatch, unit, amount):
    terminal, child_side = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(child_side, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        report_thirteen_times(unit)
        shown = os.read(terminal, 65536).decode(errors="replace")
    os.close(terminal)
    assert "working" in shown
    assert amount in shown
    assert ("/s" in shown) == (unit is not None)
    assert "left" in shown
