"""What whoever protects a dataset is told of it, before, in the end and when it stops."""

from collections.abc import Iterator
from contextlib import contextmanager

from unlearnable_kernels.data.manifest import MANIFEST_NAME, Manifest
from unlearnable_kernels.data.quality import quality_text
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.errors import shown
from unlearnable_kernels.progress import Notify
from unlearnable_kernels.protect.pipeline.plan import Plan

_LITTLE = 0.5  # of a budget, used on average
_NAMED = 100  # skipped pictures, a line each


@contextmanager
def telling_how_to_resume(notify: Notify) -> Iterator[None]:
    """Say so where Ctrl-C or SIGTERM ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        notify("interrupted; run the same command again to resume")
        raise


def notify_about(source: Source, notify: Notify) -> None:
    """Say what a user should know of a dataset before it is protected."""
    for note in source.notes:
        notify(note)
    if source.left_out and not any(note.startswith("left out:") for note in source.notes):
        notify(f"left out: {', '.join(source.left_out)}")


def notify_unprotected(plan: Plan, notify: Notify) -> None:
    """Warn of a plan that protects no image."""
    if plan.protects_nothing:
        notify(f"warning: no image is protected: {plan.protects_nothing}")


def notify_result(manifest: Manifest, total: int, notify: Notify) -> None:
    protected = sum(entry.protected for entry in manifest.entries())
    used = manifest.get("budget_used")
    share = f", using {used['mean']:.0%} of the budget (at most {used['largest']:.0%})" if used else ""
    looks = quality_text(manifest.get("picture_quality"))
    notify(f"protected {protected} of {total} images{share}" + (f"; {looks}" if looks else ""))
    if used and used["mean"] < _LITTLE:
        notify("warning: less than half of the budget was used on average: give more steps")
    notify_skipped(manifest, notify)


def notify_skipped(manifest: Manifest, notify: Notify) -> None:
    """Name what was passed over, with reasons: all of it, or the first ``_NAMED``."""
    skipped = manifest["skipped"]
    for name, reason in skipped[:_NAMED]:
        notify(f"skipped {shown(name)}: {shown(reason)}")
    if skipped:
        some = f", of which the first {_NAMED} are named here" if skipped[_NAMED:] else ""
        notify(
            f'skipped {len(skipped)} images or files{some}; all are listed with reasons under "skipped" in '
            f"{url_of(manifest.folder / MANIFEST_NAME)}"
        )
