"""The command line, ``unlearnable``: each command turns its options into one call of a public function."""

import os
import sys
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlearnable_kernels.errors import UserError

if TYPE_CHECKING:
    from unlearnable_kernels.protect.filters import FiltersFrom

app = typer.Typer(
    name="unlearnable",
    help="Publish image data sets that models cannot learn from without your consent.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__base__


class Method(str, Enum):
    classwise_conv = "classwise-conv"
    bayes_error = "bayes-error"
    beo_aaai2026 = "beo-aaai2026"


class Padding(str, Enum):
    zeros = "zeros"
    reflect = "reflect"
    replicate = "replicate"
    circular = "circular"


class Format(str, Enum):
    png = "png"
    webp = "webp"
    jpeg = "jpeg"
    npz = "npz"


class OnError(str, Enum):
    stop = "stop"
    skip = "skip"


class Protocol(str, Enum):
    erm = "erm"
    at_linf = "at-linf"
    at_l2 = "at-l2"
    mixed = "mixed"


class Precision(str, Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Norm(str, Enum):
    linf = "linf"
    l2 = "l2"


class DemoData(str, Enum):
    digits = "digits"
    cifar10 = "cifar10"


KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="The private key, from `unlearnable keygen`.")
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed-compat", help="An int seed, which is no secret: the released program's filters for it."
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure-key-permissions", help="Take a key file that other users can read.")
]
KernelSize = Annotated[
    int | None, typer.Option(help="classwise-conv: side of the filters, odd.  [default: by data set]")
]
Strength = Annotated[
    float | None,
    typer.Option(
        help="classwise-conv: p_b, filter entries are drawn from U(0, p_b).  [default: by data set]"
    ),
]
PaddingOption = Annotated[
    Padding | None,
    typer.Option(
        help="classwise-conv: what lies beyond the border.  [default: reflect; zeros with --seed-compat]"
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(help="Shorter side to this many pixels, then the central square, before all else."),
]
DatasetName = Annotated[
    str | None, typer.Option(help="Name that all secrets derive from.  [default: the data set's own]")
]
OnErrorOption = Annotated[
    OnError, typer.Option(help="A bad image: stop, or skip and list it in the manifest.")
]
Eps = Annotated[str | None, typer.Option(help="Of the attack.  [default: linf 4/255, l2 0.5]")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="name=value, repeatable; a wrong name lists all.")
]
RunFolders = Annotated[list[Path], typer.Argument(help="Run folders of `unlearnable train`.")]


def filters_source(key_file: Path | None, seed: int | None, insecure: bool) -> "FiltersFrom":
    from unlearnable_kernels.protect.filters import SeedCompat
    from unlearnable_kernels.protect.keys import read_key_file

    if (key_file is None) == (seed is None):
        raise UserError("give either --key-file (make one with `unlearnable keygen my.key`) or --seed-compat")
    if key_file is not None:
        return read_key_file(key_file, insecure_permissions=insecure)
    assert seed is not None
    return SeedCompat(seed)


def value(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File to create, mode 0600; never overwritten.")],
) -> None:
    """Create a private key, 256 random bits.

    Example: unlearnable keygen my.key
    """
    from unlearnable_kernels.protect.keys import create_key_file

    key = create_key_file(path)
    print(f"wrote {path}, fingerprint {key.fingerprint}; keep it secret, and keep a copy")


@app.command()
def protect(
    src: Annotated[
        Path, typer.Argument(help="Class folders, CIFAR archives, Tiny-ImageNet or ImageNet layout.")
    ],
    dst: Annotated[Path, typer.Argument(help="Folder to create; appears when it is whole.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    method: Annotated[
        Method, typer.Option(help="Protection; an option that names one is that method's alone.")
    ] = Method.classwise_conv,
    fraction: Annotated[float, typer.Option(help="Part of each class to protect, chosen by the key.")] = 1.0,
    format: Annotated[
        Format | None, typer.Option(help="Of the output.  [default: png for trees, npz for archives]")
    ] = None,
    resize: Resize = None,
    workers: Annotated[int | None, typer.Option(help="Processes.  [default: one a core]")] = None,
    on_error: OnErrorOption = OnError.stop,
    dataset_name: DatasetName = None,
    kernel_size: KernelSize = None,
    strength: Strength = None,
    padding: PaddingOption = None,
    quality: Annotated[
        int | None, typer.Option(help="classwise-conv: of --format jpeg, 1 to 100.  [default: 95]")
    ] = None,
    eps: Annotated[
        str | None, typer.Option(help="bayes-error: budget, such as 8/255.  [default: 8/255, or 1 with l2]")
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="bayes-error: norm of the budget, linf or l2.  [default: linf]")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="bayes-error: of the kernel, a number or median.  [default: 0.3]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="bayes-error: outer steps.  [default: 10; 2 in beo-aaai2026]")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="bayes-error: network of the features.  [default: resnet18]")
    ] = None,
) -> None:
    """Write a protected copy of the training images in SRC to DST, with a manifest.

    classwise-conv filters each class; bayes-error optimises pixels within a budget, which takes long, and
    beo-aaai2026 does so by its authors' recipe, with the same options. Interrupted, even killed, it goes on
    where it was when the same command is run again.

    Example: unlearnable protect photos protected --key-file my.key
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.budget import parse_number
    from unlearnable_kernels.protect.run import protect_dataset

    sigma: float | str | None = bandwidth
    if bandwidth not in (None, "median"):
        sigma = parse_number("bandwidth", bandwidth)
    with progress() as report:
        manifest = protect_dataset(
            src,
            dst,
            filters_from=filters_source(key_file, seed_compat, insecure_key_permissions),
            method=method.value,
            fraction=fraction,
            format=value(format),
            resize=resize,
            dataset_name=dataset_name,
            workers=workers,
            on_error="skip" if on_error is OnError.skip else "raise",
            kernel_size=kernel_size,
            strength=strength,
            padding=value(padding),
            quality=quality,
            eps=None if eps is None else parse_number("eps", eps),
            norm=norm,
            bandwidth=sigma,
            steps=steps,
            network=network,
            progress=lambda done, total: report("protecting", done, total),
            stages=report,
            notify=lambda message: print(message, file=sys.stderr),
        )
    print(f"wrote {dst} with {manifest}")


@app.command()
def verify(
    dst: Annotated[Path, typer.Argument(help="Folder that `unlearnable protect` wrote.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
) -> None:
    """Check a protected data set against its manifest, and with the key that it was this key.

    Exit status 1 if anything differs.

    Example: unlearnable verify protected --key-file my.key
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.verify import verify_dataset

    key = None
    if key_file is not None or seed_compat is not None:
        key = filters_source(key_file, seed_compat, insecure_key_permissions)
    with progress("files") as report:
        found = verify_dataset(dst, key, lambda done, total: report("verifying", done, total))
    for kind in ("missing", "extra", "changed"):
        for name in getattr(found, kind):
            print(f"{kind}: {name}")
    print(f"{'ok' if found.ok else 'NOT ok'}: {found.checked:,} files checked, key {found.key}")
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def preview(
    src: Annotated[Path, typer.Argument(help="As for `unlearnable protect`.")],
    key_file: KeyFile = None,
    seed_compat: SeedOption = None,
    insecure_key_permissions: Insecure = False,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("preview.png"),
    protected: Annotated[
        Path | None, typer.Option(help="Show this protected copy of SRC, by any method; needs no key.")
    ] = None,
    kernel_size: KernelSize = None,
    strength: Strength = None,
    padding: PaddingOption = None,
    resize: Resize = None,
    dataset_name: DatasetName = None,
    classes: Annotated[int, typer.Option(help="Show the first so many classes.")] = 10,
    on_error: OnErrorOption = OnError.stop,
) -> None:
    """Draw clean, difference and protected pictures of each class: filtered now, or out of a protected copy.

    Of bayes-error, which optimises all images together, there is nothing to see without a protected copy.

    Example: unlearnable preview photos --key-file my.key
    """
    from unlearnable_kernels.protect.preview import write_comparison, write_preview

    if protected is not None:
        given = (key_file, seed_compat, kernel_size, strength, padding, resize, dataset_name)
        if any(option is not None for option in given) or on_error is OnError.skip:
            raise UserError(
                "with --protected, the copy's manifest says how it was made: give no key and no option of it"
            )
        print(f"wrote {write_comparison(src, protected, out, classes=classes)}")
        return
    written = write_preview(
        src,
        out,
        filters_source(key_file, seed_compat, insecure_key_permissions),
        kernel_size=kernel_size,
        strength=strength,
        padding=value(padding),
        resize=resize,
        dataset_name=dataset_name,
        classes=classes,
        on_error="skip" if on_error is OnError.skip else "raise",
    )
    print(f"wrote {written}")


@app.command()
def train(
    train: Annotated[Path, typer.Option(help="Training images, protected or not.")],
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it is resumed.")],
    test: Annotated[Path | None, typer.Option(help="Clean images to test on after every epoch.")] = None,
    network: Annotated[str, typer.Option(help="resnet18 or resnet8.")] = "resnet18",
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Images a step, over all processes.")] = 512,
    lr: Annotated[float, typer.Option(help="Highest learning rate of SGD.")] = 0.1,
    protocol: Annotated[
        Protocol, typer.Option(help="Plain, adversarial, or mixed with clean images.")
    ] = Protocol.erm,
    eps: Eps = None,
    precision: Annotated[Precision, typer.Option(help="Of the network's arithmetic.")] = Precision.fp32,
    compile: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
    image_size: Annotated[int | None, typer.Option(help="Side to resize to, where sizes are mixed.")] = None,
    limit_per_class: Annotated[int | None, typer.Option(help="First so many of each class.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    set: Settings = None,
) -> None:
    """Train a network, plainly (ERM) or adversarially (PGD), with torchrun on several processes.

    The defaults are the recipe of CUDA (Sadasivan et al., CVPR 2023). Protocol mixed trains plainly on
    mixtures of the protected images and their originals (--set clean=DIR), a tenth of them protected, two
    tenths and so on (or --set protected_fraction=F), and beside each on its clean part alone.

    Example: unlearnable train --train protected --out run --protocol at-linf
    """
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import TrainConfig
    from unlearnable_kernels.training import train as run_training
    from unlearnable_kernels.training.config import parse_number, parse_settings
    from unlearnable_kernels.training.distributed import is_first_process
    from unlearnable_kernels.training.mixed import train_mixed

    given: dict[str, Any] = {
        "train": str(train),
        "test": None if test is None else str(test),
        "network": network,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "protocol": protocol.value,
        "eps": None if eps is None else parse_number("eps", eps),
        "precision": precision.value,
        "compile": compile,
        "image_size": image_size,
        "limit_per_class": limit_per_class,
        "seed": seed,
    }
    given |= parse_settings(set or [], given)
    with progress() as report:

        def tell(what: str, done: int, total: int, _: dict[str, Any]) -> None:
            report(what, done, total)

        if protocol is Protocol.mixed:
            records = {out / name: record for name, record in train_mixed(given, out, tell).items()}
        else:
            records = {out: run_training(TrainConfig(**given), out, tell)}
    for folder, record in records.items() if is_first_process() else ():
        final = record["final"]
        tested = f", test accuracy {final['test_accuracy']:.2%}" if "test_accuracy" in final else ""
        print(f"wrote {folder}: train accuracy {final['train_accuracy']:.2%}{tested}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder of `unlearnable train`.")],
    test: Annotated[Path | None, typer.Option(help="Images to test on.")] = None,
    attack: Annotated[Norm | None, typer.Option(help="Attack the images first (PGD), in this norm.")] = None,
    eps: Eps = None,
    steps: Annotated[int, typer.Option(help="Of the attack.")] = 10,
    bayes_error: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two sets, before and after: estimate their Bayes errors in the run's features."),
    ] = None,
    bandwidth: Annotated[float, typer.Option(help="σ of the estimate's kernel.")] = 0.3,
) -> None:
    """Test a trained network on a data set, and note the result in its run folder.

    Example: unlearnable evaluate runs/protected --test photos --attack linf --eps 4/255

    Example: unlearnable evaluate runs/clean --bayes-error photos protected
    """
    if test is None and bayes_error is None:
        raise UserError("nothing to evaluate: give --test, --bayes-error, or both")
    if test is not None:
        evaluate_accuracy(run, test, value(attack), eps, steps)
    if bayes_error is not None:
        evaluate_estimates(run, bayes_error, bandwidth)


def evaluate_accuracy(run: Path, test: Path, norm: str | None, eps: str | None, steps: int) -> None:
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.training import evaluate as run_evaluation
    from unlearnable_kernels.training.config import requested_attack

    pgd = requested_attack(norm, eps, steps)
    with progress() as report:
        result = run_evaluation(run, test, pgd, lambda done, total: report("testing", done, total))
    under = "" if pgd is None else f" under {pgd.name}"
    print(f"{run} on {test}: accuracy {result['accuracy']:.2%} of {result['images']:,} images{under}")


def evaluate_estimates(run: Path, sets: tuple[Path, Path], bandwidth: float) -> None:
    from unlearnable_kernels.training import evaluate_bayes_error

    for (name, found), path in zip(evaluate_bayes_error(run, *sets, bandwidth).items(), sets, strict=True):
        (low, high), (least, most) = found.interval, found.bounds
        print(
            f"{name} ({path}, {found.images:,} images): Bayes error {found.error:.4f}, 95% {low:.4f} to "
            f"{high:.4f}; 1-NN error {found.nearest_neighbour:.4f}, so as images become many, between "
            f"{least:.4f} and {most:.4f} (Cover–Hart)"
        )
    print(f"in the features of {run}, σ {bandwidth}: another network's, or another σ, give other figures")


@app.command()
def report(
    runs: RunFolders,
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page.")] = "Training on protected images",
) -> None:
    """Write one HTML page on several runs: table, learning curves, pictures.

    Example: unlearnable report runs/clean runs/protected --out report.html
    """
    from unlearnable_kernels.report import write_report

    write_report(runs, out, title)
    print(f"wrote {out}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for all that the demo makes.")] = Path("demo"),
    data: Annotated[DemoData, typer.Option(help="Embedded digits, or real photos.")] = DemoData.digits,
) -> None:
    """Protect a real data set under a fresh key, train on it and on the clean one, and report both.

    Example: unlearnable demo --data cifar10
    """
    from unlearnable_kernels.demo import run_demo

    run_demo(out, data.value)


@app.command()
def info() -> None:
    """Print versions, the machine, and which kernels are in use.

    Example: unlearnable info
    """
    import unlearnable_kernels
    from unlearnable_kernels.record import machine, versions

    print(f"cpu kernels: {unlearnable_kernels.cpu_capability()}")
    print(f"cuda kernels: {unlearnable_kernels.cuda_backend()}")
    for name, entry in (versions() | machine()).items():
        print(f"{name}: {entry}")


def _say(message: object) -> None:
    if os.environ.get("RANK", "0") == "0":  # one line, however many processes torchrun started
        print(f"unlearnable: {message}", file=sys.stderr)


def main() -> None:
    """Entry point: exit status 0, 1 for a failed check, 2 for bad input with one line, 130 if interrupted."""
    warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))
    except UserError as error:
        _say(error)
    except UsageError as error:
        _say(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else error)
    sys.exit(2)
