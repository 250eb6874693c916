"""``unlearnable``, also as ``python -m unlearnable_kernels``: one line where its packages are missing."""

import sys

from unlearnable_kernels.extras import DISTRIBUTIONS, missing


def main() -> None:
    """Run the command line; exit status 2 with one line where a package of the extra is not installed."""
    try:
        from unlearnable_kernels.cli import main as run

        run()
    except ModuleNotFoundError as error:
        name = error.name or ""
        if name.partition(".")[0] not in DISTRIBUTIONS:
            raise
        print(f"unlearnable: {missing(name, error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
