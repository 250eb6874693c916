"""The commands that show what networks learned: evaluate, report and demo."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlearnable_kernels.cli.options import Device, Plugin
from unlearnable_kernels.errors import UserError, shown

if TYPE_CHECKING:
    from unlearnable_kernels.training import AutoAttack, Pgd


class AttackName(str, Enum):
    linf = "linf"
    l2 = "l2"
    autoattack_linf = "autoattack-linf"
    autoattack_l2 = "autoattack-l2"


class DemoData(str, Enum):
    digits = "digits"
    cifar10 = "cifar10"


Reported = Annotated[
    list[Path],
    typer.Argument(help="Run folders of `train`, or of several seeds; or folders of results of `reproduce`."),
]


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run folder of `unlearnable train`, or a folder of several seeds; --detect needs none."
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Images to test on.")] = None,
    attack: Annotated[
        list[AttackName] | None,
        typer.Option(help="Attack the images first, by PGD or torchattacks' AutoAttack; repeatable."),
    ] = None,
    eps: Annotated[
        str | None,
        typer.Option(help="Of the attack, one or several: 2/255,8/255.  [default: linf 4/255, l2 0.5]"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of PGD.  [default: 10]")] = None,
    certify: Annotated[
        float | None,
        typer.Option(help="Instead, certify the network under Gaussian noise of this σ (Cohen et al.)."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Noisy copies per certified image.  [default: 10000]")
    ] = None,
    radii: Annotated[
        str | None, typer.Option(help="To certify, L2, with commas.  [default: 0 to 1.5 in quarters]")
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Certify so many, at even distances.  [default: all]")
    ] = None,
    bayes_error: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two sets, before and after: estimate their Bayes errors in the run's features."),
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="σ of the estimate's kernel.  [default: 0.3]")
    ] = None,
    detect: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two sets, clean and protected: can their borders tell them apart (EPD)?"),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the halves for --detect's fit and trial.  [default: 0]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Add --detect's result to this file, a line of JSON.")
    ] = None,
    device: Device = None,
    plugin: Plugin = None,
) -> None:
    """Test a trained network, or a protection, and note the result in the run folder.

    Example: unlearnable evaluate runs/protected --test photos --attack linf --eps 2/255,4/255,8/255

    Example: unlearnable evaluate runs/smooth --test photos --certify 0.5 --images 500

    Example: unlearnable evaluate --detect photos protected
    """
    names = [each.value for each in attack or []]
    if test is None and bayes_error is None and detect is None:
        raise UserError("nothing to evaluate: give --test, --bayes-error or --detect")
    for given, needed, advice in (
        ((names or None, eps, steps), test, "an attack needs images to attack: give --test"),
        ((certify,), test, "a certificate needs images to certify: give --test"),
        (
            (samples, radii, images),
            certify,
            "samples, radii and images are those of a certificate: give --certify",
        ),
        ((bandwidth,), bayes_error, "a bandwidth is that of an estimate: give --bayes-error"),
        ((seed, out), detect, "seed and out are those of a detection: give --detect"),
    ):
        if needed is None and any(each is not None for each in given):
            raise UserError(advice)
    if certify is not None and (names or eps is not None or steps is not None):
        raise UserError("an attack and a certificate are two tests: give one of --attack and --certify")
    if run is None and (test is not None or bayes_error is not None):
        raise UserError("a network is needed: give its run folder")
    from unlearnable_kernels.training.attacks import requested_attacks
    from unlearnable_kernels.training.run_folder import run_folders

    attacks = requested_attacks(names, eps, steps)
    for each in [] if run is None else run_folders(run):
        if test is not None and certify is not None:
            evaluate_certificate(
                each, test, certify, radii, 10_000 if samples is None else samples, images, device
            )
        elif test is not None:
            evaluate_accuracy(each, test, attacks, device)
        if bayes_error is not None:
            evaluate_estimates(each, bayes_error, 0.3 if bandwidth is None else bandwidth, device)
    if detect is not None:
        evaluate_borders(run, detect, 0 if seed is None else seed, out)


def evaluate_accuracy(run: Path, test: Path, attacks: "list[Pgd | AutoAttack]", device: str | None) -> None:
    """Test the run's network, under each of the attacks if there are any, and print its accuracies."""
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate_attacks

    with progress() as report:
        results = evaluate_attacks(run, test, attacks or [None], report, device)
    unfinished = "" if results[0]["status"] == "finished" else ", unfinished"
    head = shown(f"{run}, epoch {results[0]['epoch']}{unfinished}, on {test}:")
    images = f"of {results[0]['images']:,} images"
    if len(results) == 1:
        under = f" under {attacks[0].name}" if attacks else ""
        print(f"{head} accuracy {results[0]['accuracy']:.2%} {images}{under}")
        return
    print(f"{head} accuracy {images} under")
    for attack, result in zip(attacks, results, strict=True):
        print(f"  {attack.name:24} {result['accuracy']:7.2%}")


def evaluate_estimates(run: Path, sets: tuple[Path, Path], bandwidth: float, device: str | None) -> None:
    """Estimate the Bayes errors of two sets in the run's features and print them."""
    from unlearnable_kernels.training import evaluate_bayes_error

    estimates = evaluate_bayes_error(run, *sets, bandwidth, device)
    for (name, found), path in zip(estimates.items(), sets, strict=True):
        (low, high), (least, most) = found.interval, found.bounds
        print(
            f"{name} ({shown(str(path))}, {found.images:,} images): Bayes error {found.error:.4f}, "
            f"95% {low:.4f} to {high:.4f}; 1-NN error {found.nearest_neighbour:.4f}, so as images become "
            f"many, between {least:.4f} and {most:.4f} (Cover–Hart)"
        )
    where = shown(f"in the features of {run}")
    print(f"{where}, σ {bandwidth}: another network's, or another σ, give other figures")


def evaluate_certificate(
    run: Path,
    test: Path,
    sigma: float,
    radii: str | None,
    samples: int,
    images: int | None,
    device: str | None,
) -> None:
    """Certify the run's network under noise and print its accuracy by radius."""
    from unlearnable_kernels.parsing import parse_number
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate_certified
    from unlearnable_kernels.training.certified import RADII

    at = RADII if radii is None else [parse_number("radii", text) for text in radii.split(",")]
    with progress() as report:
        result = evaluate_certified(
            run, test, sigma, at, samples=samples, images=images, progress=report, device=device
        )
    head = shown(f"{run}, epoch {result['epoch']}, on {test}")
    print(
        f"{head}: {result['images']:,} images under noise of σ {sigma:g}, "
        f"{samples:,} samples each, {result['abstained']:.2%} undecided"
    )
    for each in result["accuracies"]:
        print(f"  radius {each['radius']:g}: certified accuracy {each['accuracy']:.2%}")


def evaluate_borders(run: Path | None, sets: tuple[Path, Path], seed: int, out: Path | None) -> None:
    """Try to tell protected images from clean ones, and print how often that succeeds."""
    from unlearnable_kernels.files import append_jsonl
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate_detection
    from unlearnable_kernels.training.run_folder import DETECTIONS, read_run, run_folders

    runs = [] if run is None else run_folders(run)
    for each in runs:
        read_run(each)  # so that nothing is written to what is no run folder
    with progress() as report:
        result = evaluate_detection(*sets, seed, report)
    for file in (*(each / DETECTIONS for each in runs), out):
        if file is not None:
            append_jsonl(file, result)
    names = shown(f"{sets[0]} and {sets[1]}")
    print(
        f"{names}: {result['hit_rate']:.1%} ± {result['standard_error']:.1%} of "
        f"{result['images']:,} held-out images told apart by their borders (50% is guessing): "
        f"{result['clean_as_clean']:.1%} of the clean ones, "
        f"{result['protected_as_protected']:.1%} of the protected"
    )


def report(
    runs: Reported,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Work folder of `reproduce`: adds pictures to its results.")
    ] = None,
    plugin: Plugin = None,
) -> None:
    """Write one HTML page on several runs, or on results of `reproduce`: tables, curves, pictures.

    Beside the page of results, in a folder of its name, each table lies as CSV and LaTeX.

    Example: unlearnable report runs/clean runs/protected --out report.html
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.report import is_results, write_report, write_results_report

    named = {} if title is None else {"title": title}
    kinds = {is_results(path) for path in runs}
    if len(kinds) > 1:
        raise UserError("a page is about runs or about results of `reproduce`, not both: give either")
    if kinds == {True}:
        with progress("tables") as drawn:
            files = len(write_results_report(runs, out, work=work, progress=drawn, **named)) - 1
        print(shown(f"wrote {out}, and {files} files of tables into {out.with_suffix('')}"))
        return
    if work is not None:
        raise UserError("--work goes with results of `reproduce`: for runs leave it out")
    write_report(runs, out, **named)
    print(shown(f"wrote {out}"))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path("demo"),
    data: Annotated[DemoData, typer.Option(help="Embedded digits, or real photos.")] = DemoData.digits,
) -> None:
    """Protect a real dataset under a fresh key, train on it and on the clean one, and report both.

    Example: unlearnable demo --data cifar10
    """
    from unlearnable_kernels.demo import run_demo

    run_demo(out, data.value)
