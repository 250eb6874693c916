"""The commands around a protected data set: keygen, protect, verify and preview."""

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlearnable_kernels.errors import UserError

if TYPE_CHECKING:
    from unlearnable_kernels.protect.keys import Secret


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


def filters_source(key_file: Path | None, seed: int | None, insecure: bool) -> "Secret":
    from unlearnable_kernels.protect.keys import Seed, read_key_file

    if (key_file is None) == (seed is None):
        raise UserError("give either --key-file (make one with `unlearnable keygen my.key`) or --seed-compat")
    if key_file is not None:
        return read_key_file(key_file, insecure_permissions=insecure)
    assert seed is not None
    return Seed(seed)


def value(choice: Enum | None) -> str | None:
    return None if choice is None else str(choice.value)


def keygen(
    path: Annotated[Path, typer.Argument(help="File to create, mode 0600; never overwritten.")],
) -> None:
    """Create a private key, 256 random bits.

    Example: unlearnable keygen my.key
    """
    from unlearnable_kernels.protect.keys import create_key_file

    key = create_key_file(path)
    print(f"wrote {path}, fingerprint {key.fingerprint}; keep it secret, and keep a copy")


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
    from unlearnable_kernels.parsing import parse_number
    from unlearnable_kernels.progress import progress
    from unlearnable_kernels.protect.run import protect_dataset

    sigma: float | str | None = bandwidth
    if bandwidth not in (None, "median"):
        sigma = parse_number("bandwidth", bandwidth)
    with progress() as report:
        manifest = protect_dataset(
            src,
            dst,
            secret=filters_source(key_file, seed_compat, insecure_key_permissions),
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
            progress=report,
            notify=lambda message: print(message, file=sys.stderr),
        )
    print(f"wrote {dst} with {manifest}")


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
        found = verify_dataset(dst, key, report)
    for kind in ("missing", "extra", "changed"):
        for name in getattr(found, kind):
            print(f"{kind}: {name}")
    print(f"{'ok' if found.ok else 'NOT ok'}: {found.checked:,} files checked, key {found.key}")
    if not found.ok:
        raise typer.Exit(1)


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
    from unlearnable_kernels.report.contact_sheet import write_comparison, write_preview

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
