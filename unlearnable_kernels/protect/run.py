"""Protecting a dataset: source in, protected dataset and manifest out, whole or not at all."""

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.formats.loose import open_labelled
from unlearnable_kernels.data.manifest import MANIFEST_NAME, manifest_text, read_manifest, sample_entries
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.source import Source, open_source
from unlearnable_kernels.data.writer import Destination, WrittenChunk
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import resolved, resumable, sha256_of, write_file, writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, sign
from unlearnable_kernels.protect.methods.method import Method, Perturbation, Workspace, make_method
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering, Result
from unlearnable_kernels.protect.pipeline.executors.local import execute
from unlearnable_kernels.protect.pipeline.executors.script import refuse_within_import
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, check_options, make_plan
from unlearnable_kernels.protect.pipeline.staging import Staging, differences, scheme_at, staging_folder
from unlearnable_kernels.protect.verify import verify_dataset

ON_ERROR = ("raise", "skip")

_LITTLE = 0.5  # of a budget, used on average


def protect_dataset(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    method: str | Method = "classwise-conv",
    fraction: float = 1.0,
    format: str | None = None,
    resize: int | None = None,
    dataset_name: str | None = None,
    labels: Path | None = None,
    workers: int | None = None,
    on_error: str = "raise",
    progress: Progress = no_progress,
    notify: Notify | None = None,
    **method_settings: Any,
) -> Path:
    """Write a protected copy of the training split of a dataset.

    The work goes on in ``dst``.partial, which becomes ``dst`` when it is whole: after a kill, a full disk or
    Ctrl-C, the same call resumes, and ends with the bytes of an uninterrupted one. A complete
    ``dst`` of the same call is left as it is. Images outside the fraction are written in the same format,
    so that the format does not betray which are protected.

    Args:
        src: The dataset, as ``open_source`` takes it.
        dst: Folder to create.
        secret: The key, or a seed, that everything secret or random derives from.
        method: A name in ``METHODS``, or a method with its settings.
        fraction: Share of the images to protect, in (0, 1]; exact in every class with a key.
        format: A name in ``WRITERS``, with settings where it has some, such as "jpeg:quality=90". None is
            png for trees and npz for archives.
        resize: Pixels of the shorter side, then the central square; the method acts after it.
        dataset_name: Part of every derivation; the source's own name by default.
        labels: A list of the classes of the pictures in ``src``, as ``open_labelled`` takes it.
        workers: Processes that write images, 0 for none; by default one for each core.
        on_error: "raise", or "skip" to list images that cannot be processed in the manifest and go on.
        progress: Takes progress.
        notify: Takes messages of one line; by default they are logged.
        **method_settings: With a name, fields of the method's class, such as ``ClasswiseConv``; None is the
            default.

    Returns:
        The path of the manifest.

    Raises:
        UserError: A parameter is bad, the source cannot be read, the disk is full, or ``dst`` holds
            something else, was damaged since, lies within ``src`` or around it.
    """
    refuse_within_import()
    options = Options(make_method(method, method_settings), fraction, format, resize, dataset_name)
    check_options(options)
    if workers is not None and workers < 0:
        raise UserError(f"workers must be 0 or more, not {workers}")
    if on_error not in ON_ERROR:
        raise UserError(f"on_error must be one of {', '.join(ON_ERROR)}, not {on_error!r}")
    notify = notify or logging.getLogger(__name__).info
    _, dst = check_places(find(src), Path(dst))
    source = open_source(src, "train", on_error) if labels is None else open_labelled(src, labels, on_error)
    # A split's folder may have been opened as part of the whole that lies around it.
    check_places(source.root, dst)
    _notify_about(source, notify)
    plan = make_plan(source, secret, options, on_error, scheme_at(dst))
    if plan.protects_nothing:
        notify(f"warning: no image is protected: {plan.protects_nothing}")
    if _is_complete(dst, plan, secret) and not staging_folder(dst).exists():
        notify(f"{dst} is complete already")
        return dst / MANIFEST_NAME
    with resumable(), Staging(dst, secret) as staging:
        # Asked again: another process may have finished it while this one waited.
        if _is_complete(dst, plan, secret):
            staging.remove()
            notify(f"{dst} is complete already")
            return dst / MANIFEST_NAME
        job = _Job(source, plan, staging, on_error == "skip", progress)
        try:
            results = job.render(workers, notify)
            manifest = job.finish(results, secret)
        except (KeyboardInterrupt, SystemExit):
            notify("interrupted; run the same command again to resume")
            raise
    _notify_result(manifest, len(plan.outputs), notify)
    return dst / MANIFEST_NAME


def _notify_about(source: Source, notify: Notify) -> None:
    for note in source.notes:
        notify(note)
    if source.left_out and not any(note.startswith("left out:") for note in source.notes):
        notify(f"left out: {', '.join(source.left_out)}")


def _notify_result(manifest: dict[str, Any], total: int, notify: Notify) -> None:
    protected = sum(entry["protected"] for entry in sample_entries(manifest).values())
    used = manifest.get("budget_used")
    share = f", using {used['mean']:.0%} of the budget (at most {used['largest']:.0%})" if used else ""
    notify(f"protected {protected} of {total} images{share}")
    if used and used["mean"] < _LITTLE:
        notify("warning: less than half of the budget was used on average: give more steps")
    if manifest["skipped"]:
        notify(f"skipped {len(manifest['skipped'])} images or files, listed in the manifest")


def check_places(src: Path, dst: Path) -> tuple[Path, Path]:
    """Both paths, resolved.

    Raises:
        UserError: They, or the staging folder and the source, do not lie clear of each other.
    """
    src, dst = resolved(src), resolved(dst)
    if not src.exists():
        raise UserError(f"{src}: no such file or folder")
    if not dst.name:
        raise UserError(f"{dst} cannot be replaced by the protected dataset; choose a folder within it")
    for place in (dst, resolved(staging_folder(dst))):
        if place == src or src in place.parents or place in src.parents:
            raise UserError(f"{place} must lie outside the source {src}, and not around it")
    return src, dst


def _is_complete(dst: Path, plan: Plan, secret: Secret) -> bool:
    """Whether ``dst`` is the whole result of this plan. Raises UserError if it holds anything else."""
    if not dst.exists():
        return False
    if not dst.is_dir():
        raise UserError(f"{dst} exists and is not a folder; choose another name")
    if dst.is_mount():
        # The last step renames a folder to this name, which a mount point does not allow.
        raise UserError(f"{dst} is a mount point; choose a folder within it")
    if not any(dst.iterdir()):
        return False
    if not (dst / MANIFEST_NAME).is_file():
        raise UserError(f"{dst} holds something else (there is no {MANIFEST_NAME}); choose another name")
    manifest = read_manifest(dst)
    before = {name: manifest.get(name) for name in plan.header if name != "versions"}
    now = {name: value for name, value in plan.header.items() if name != "versions"}
    if changed := differences(before, now):
        raise UserError(f"{dst} holds a dataset that differs in {', '.join(changed)}; choose another name")
    report = verify_dataset(dst, secret)
    damage = [f"{name} is missing" for name in report.missing] + [
        f"{name} has changed" for name in report.changed
    ]
    if report.key != "matches":
        damage.append(f"{MANIFEST_NAME} has changed")
    if damage:
        raise UserError(
            f"{dst} holds this dataset, but {damage[0]}; "
            "delete the folder to start over, or choose another name"
        )
    return True


class _Job:
    """One run's plan, applied in one staging folder."""

    def __init__(
        self, source: Source, plan: Plan, staging: Staging, skip_bad: bool, progress: Progress
    ) -> None:
        self.source, self.plan, self.staging = source, plan, staging
        self.skip_bad, self.progress = skip_bad, progress
        self.destination = Destination(
            staging.tree, staging.parts, source.without_samples(), plan.task.image.shape
        )
        self.outcome: dict[str, Any] = {}

    def render(self, workers: int | None, notify: Notify) -> dict[int, Result]:
        """Every chunk's result: from the journal where its files are still there, otherwise rendered."""
        plan, staging = self.plan, self.staging
        resumed = staging.begin(plan.digest, plan.header)
        with writing(staging.folder):
            for folder in (staging.tree, staging.work):
                folder.mkdir(exist_ok=True)
            plan.writer.prepare(self.destination, plan.outputs)
        workspace = Workspace(staging.work, self.skip_bad, notify, self.progress)
        try:
            perturbation = plan.method.perturbation(plan.task, plan.parameters, plan.assignment, workspace)
        except UserError:
            if not resumed and not any(staging.work.iterdir()):
                # Nothing is lost, and a remedy that the message names is another plan.
                staging.remove()
            raise
        self.outcome = perturbation.outcome
        results = staging.finished(self._is_whole)
        total = len(plan.outputs)
        done = sum(len(chunk.samples) for chunk in plan.chunks if chunk.index in results)
        if resumed:
            notify(f"resuming: {done} of {total} images are done")
        self.progress("protecting", done, total)
        left = [chunk for chunk in plan.chunks if chunk.index not in results]
        rendering = self._rendering(perturbation)
        # Closed at once, whatever is raised here: that ends the workers.
        with closing(execute(rendering, left, self._workers(workers, left), staging.lock)) as new:
            for result in new:
                staging.record(result)
                results[result.index] = result
                done += len(plan.chunks[result.index].samples)
                self.progress("protecting", done, total)
        return results

    def _workers(self, wanted: int | None, left: list[Chunk]) -> int:
        if wanted is None:
            # Where there is nothing to decode or encode, starting a process takes longer than the work.
            idle = not self.source.is_encoded and not self.plan.writer.encodes
            wanted = 0 if idle or len(left) == 1 else usable_cores()
        return min(wanted, len(left))

    def _rendering(self, perturbation: Perturbation) -> Rendering:
        return Rendering(
            source=self.destination.source,
            perturbation=perturbation,
            writer=self.plan.writer,
            destination=self.destination,
            resize=self.plan.task.resize,
            skip_bad=self.skip_bad,
        )

    def _is_whole(self, result: Result) -> bool:
        if not 0 <= result.index < len(self.plan.chunks) or (result.skipped and not self.skip_bad):
            return False
        outputs = self.plan.chunks[result.index].outputs
        files = self.plan.writer.files(self.destination, result.index, outputs)
        try:
            return len(files) == len(result.sha256) and all(
                digest is None or sha256_of(file) == digest
                for file, digest in zip(files, result.sha256, strict=True)
            )
        except OSError:
            return False

    def finish(self, results: dict[int, Result], secret: Secret) -> dict[str, Any]:
        """Put the dataset together, write the manifest last, and publish. Returns the manifest."""
        chunks = [_written(chunk, results[chunk.index]) for chunk in self.plan.chunks]
        if all(len(chunk.skipped) == len(chunk.outputs) for chunk in chunks):
            raise UserError(
                f"{self.source.root}: all of its {len(self.plan.outputs)} images had to be skipped"
            )
        with writing(self.staging.tree):
            self.plan.writer.seal(self.destination, chunks)
            entries = self.plan.writer.entries(self.destination, chunks)
        skipped = [
            [chunk.samples[position].name, reason]
            for chunk in self.plan.chunks
            for position, reason in sorted(results[chunk.index].skipped.items())
        ]
        manifest = {
            **self.plan.header,
            **self.outcome,
            "skipped": [*map(list, self.source.skipped), *skipped],
            **entries,
        }
        text = manifest_text(sign(manifest, secret))
        write_file(self.staging.tree / MANIFEST_NAME, text.encode())
        self.staging.publish()
        return manifest


def _written(chunk: Chunk, result: Result) -> WrittenChunk:
    return WrittenChunk(
        index=chunk.index,
        outputs=chunk.outputs,
        labels=[sample.label for sample in chunk.samples],
        protected=[assigned >= 0 for assigned in chunk.assignment],
        skipped=frozenset(result.skipped),
        sha256=result.sha256,
    )
