"""Protecting a data set: source in, protected data set and manifest out, whole or not at all."""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.formats.npz import write_npz
from unlearnable_kernels.data.manifest import MANIFEST_NAME, manifest_text, read_manifest
from unlearnable_kernels.data.source import ArraySource, Source, open_source
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import resolved, resumable, sha256_of, write_file, writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Secret, sign
from unlearnable_kernels.protect.methods import make_method
from unlearnable_kernels.protect.methods.method import Perturbation, Workspace
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering, Result, array_file
from unlearnable_kernels.protect.pipeline.executors.local import render_all
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, check_options, make_plan
from unlearnable_kernels.protect.pipeline.staging import Staging, differences, staging_folder
from unlearnable_kernels.protect.verify import verify_dataset

ON_ERROR = ("raise", "skip")


def protect_dataset(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    method: str = "classwise-conv",
    fraction: float = 1.0,
    format: str | None = None,
    resize: int | None = None,
    dataset_name: str | None = None,
    workers: int | None = None,
    on_error: str = "raise",
    progress: Progress | None = None,
    notify: Notify | None = None,
    **method_options: Any,
) -> Path:
    """Write a protected copy of the training split of ``src`` to ``dst``; returns its manifest's path.

    method: a name in ``methods.METHODS``; ``method_options`` are that method's own, the fields of
    ``ClasswiseConv`` (kernel_size, strength, padding, quality) or ``BayesError`` (eps, norm, bandwidth,
    steps, network). Images outside the fraction are written in the same format, so that the format does not
    betray which are protected. The work goes on in ``dst``.partial, which becomes ``dst`` when it is whole:
    after a kill, a full disk or Ctrl-C, the same call goes on where it was, and ends with the bytes of an
    uninterrupted one. A complete ``dst`` of the same call is left as it is.

    secret: the key, or a seed, that everything secret or random derives from. format: None is png for
    trees, npz for array archives. fraction: in (0, 1]; exact in every class with a key. resize: pixels of the
    shorter side, then the central square; the method acts after it. dataset_name: part of what is derived,
    the source's own name by default. workers: processes that write files, 0 for none, by default one for each
    core. on_error: "raise", or "skip" to list images that cannot be processed in the manifest and go on.
    progress: called as files are written, and before that where a method optimises; notify: with one-line
    messages.

    Raises UserError for bad parameters, a source that cannot be read, a ``dst`` that holds something else,
    was damaged since or lies within ``src`` (or the other way round), a disk that is full.
    """
    options = Options(make_method(method, method_options), fraction, format, resize, dataset_name)
    check_options(options)
    if workers is not None and workers < 0:
        raise UserError(f"workers must be 0 or more, not {workers}")
    if on_error not in ON_ERROR:
        raise UserError(f"on_error must be one of {', '.join(ON_ERROR)}, not {on_error!r}")
    tell = notify or logging.getLogger(__name__).info
    src, dst = check_places(Path(src), Path(dst))
    source = open_source(src, "train", on_error)
    # A split's folder may have been opened as part of the whole that lies around it.
    check_places(source.root, dst)
    _tell_about(source, tell)
    plan = make_plan(source, secret, options, on_error)
    if plan.protects_nothing:
        tell(f"warning: no image is protected: {plan.protects_nothing}")
    if _is_complete(dst, plan, secret) and not staging_folder(dst).exists():
        tell(f"{dst} is complete already")
        return dst / MANIFEST_NAME
    with resumable(), Staging(dst) as staging:
        # Asked again: another process may have finished it while this one waited.
        if _is_complete(dst, plan, secret):
            staging.remove()
            tell(f"{dst} is complete already")
            return dst / MANIFEST_NAME
        job = _Job(src, source, plan, staging, on_error == "skip", progress or no_progress)
        try:
            results = job.render(workers, tell)
            manifest = job.finish(results, secret)
        except KeyboardInterrupt:
            tell("interrupted; run the same command again to resume")
            raise
    _tell_result(manifest, len(plan.outputs), tell)
    return dst / MANIFEST_NAME


def _tell_about(source: Source, tell: Notify) -> None:
    for note in source.notes:
        tell(note)
    if source.left_out and not any(note.startswith("left out:") for note in source.notes):
        tell(f"left out: {', '.join(source.left_out)}")


def _tell_result(manifest: dict[str, Any], total: int, tell: Notify) -> None:
    entries = [
        image for file in manifest["files"].values() for image in file.get("samples", {"": file}).values()
    ]
    tell(f"protected {sum(image['protected'] for image in entries)} of {total} images")
    if manifest["skipped"]:
        tell(f"skipped {len(manifest['skipped'])} images or files, listed in the manifest")


def check_places(src: Path, dst: Path) -> tuple[Path, Path]:
    """Both paths, resolved. Raises UserError unless they, and the staging folder, lie clear of each other."""
    src, dst = resolved(src), resolved(dst)
    if not src.exists():
        raise UserError(f"{src}: no such file or folder")
    if not dst.name:
        raise UserError(f"{dst} cannot be replaced by the protected data set; choose a folder within it")
    for place in (dst, resolved(staging_folder(dst))):
        if place == src or src in place.parents or place in src.parents:
            raise UserError(f"{place} must lie outside the source {src}, and not around it")
    return src, dst


def _is_complete(dst: Path, plan: Plan, secret: Secret) -> bool:
    """Whether ``dst`` is the whole result of this plan; UserError if it holds anything else."""
    if not dst.exists():
        return False
    if not dst.is_dir():
        raise UserError(f"{dst} exists and is no folder; choose another name")
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
        raise UserError(f"{dst} holds a data set that differs in {', '.join(changed)}; choose another name")
    report = verify_dataset(dst, secret)
    damage = [f"{name} is missing" for name in report.missing] + [
        f"{name} has changed" for name in report.changed
    ]
    if report.key != "matches":
        damage.append(f"{MANIFEST_NAME} has changed")
    if damage:
        raise UserError(
            f"{dst} holds this data set, but {damage[0]}; "
            "delete the folder to start over, or choose another name"
        )
    return True


class _Job:
    """One run's plan, applied in one staging folder."""

    def __init__(
        self, src: Path, source: Source, plan: Plan, staging: Staging, skip_bad: bool, progress: Progress
    ) -> None:
        self.src, self.source, self.plan, self.staging = src, source, plan, staging
        self.skip_bad, self.progress = skip_bad, progress
        self.folder = staging.tree if plan.shape is None else staging.arrays
        self.outcome: dict[str, Any] = {}

    def render(self, workers: int | None, tell: Notify) -> dict[int, Result]:
        """Every chunk's result: from the journal where its files are still there, rendered else."""
        plan, staging = self.plan, self.staging
        resumed = staging.adopt(plan.digest, plan.header)
        self._make_folders()
        workspace = Workspace(staging.work, self.skip_bad, tell, self.progress)
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
            tell(f"resuming: {done} of {total} images are done")
        self.progress("protecting", done, total)
        left = [chunk for chunk in plan.chunks if chunk.index not in results]
        # Closed at once, whatever is raised here: that ends the workers.
        rendering = self._rendering(perturbation)
        with closing(render_all(rendering, left, self._workers(workers, left), staging.lock)) as new:
            for result in new:
                staging.record(result)
                results[result.index] = result
                done += len(plan.chunks[result.index].samples)
                self.progress("protecting", done, total)
        return results

    def _workers(self, wanted: int | None, left: list[Chunk]) -> int:
        if wanted is None:
            # From array to array there is nothing to decode or encode: less work than starting a process.
            only_filter = self.plan.shape is not None and isinstance(self.source, ArraySource)
            wanted = 0 if only_filter or len(left) == 1 else usable_cores()
        return min(wanted, len(left))

    def _rendering(self, perturbation: Perturbation) -> Rendering:
        parameters = self.plan.parameters
        # Each chunk brings its samples; a folder's list of all of them would go to every worker in vain.
        source = self.source if isinstance(self.source, ArraySource) else replace(self.source, samples=[])
        return Rendering(
            source=source,
            perturbation=perturbation,
            resize=parameters["resize"],
            format=parameters["format"],
            quality=parameters.get("quality"),
            skip_bad=self.skip_bad,
            folder=str(self.folder),
            shape=self.plan.shape,
        )

    def _make_folders(self) -> None:
        folders = {self.staging.tree, self.staging.work, self.folder}
        if self.plan.shape is None:
            root = self.staging.tree / self.source.prefix
            # A class without images keeps its folder, and so the other classes their labels.
            folders |= {root / name for name in self.source.classes}
            folders |= {
                self.staging.tree / parent for parent in {_parent(name) for name in self.plan.outputs}
            }
        with writing(self.staging.folder):
            for folder in sorted(folders):
                folder.mkdir(parents=True, exist_ok=True)

    def _files(self, result: Result) -> list[str]:
        if self.plan.shape is not None:
            return [array_file(str(self.folder), result.index)]
        return [f"{self.folder}/{name}" for name in self.plan.chunks[result.index].outputs]

    def _is_whole(self, result: Result) -> bool:
        if not 0 <= result.index < len(self.plan.chunks) or (result.skipped and not self.skip_bad):
            return False
        files = self._files(result)
        try:
            return len(files) == len(result.sha256) and all(
                digest is None or sha256_of(Path(file)) == digest
                for file, digest in zip(files, result.sha256, strict=True)
            )
        except OSError:
            return False

    def finish(self, results: dict[int, Result], secret: Secret) -> dict[str, Any]:
        """Write what is left to write, the manifest last, and publish. Returns the manifest."""
        with writing(self.staging.tree):
            files, skipped = (
                self._tree_files(results) if self.plan.shape is None else self._array_file(results)
            )
            side_files = self._copy_side_files()
        manifest = {
            **self.plan.header,
            **self.outcome,
            "skipped": [*map(list, self.source.skipped), *skipped],
            "files": files,
            "side_files": side_files,
        }
        text = manifest_text(sign(manifest, secret))
        write_file(self.staging.tree / MANIFEST_NAME, text.encode())
        self.staging.publish()
        return manifest

    def _tree_files(self, results: dict[int, Result]) -> tuple[dict[str, Any], list[list[str]]]:
        files: dict[str, Any] = {}
        skipped: list[list[str]] = []
        for chunk in self.plan.chunks:
            result = results[chunk.index]
            for position, sample in enumerate(chunk.samples):
                if position in result.skipped:
                    skipped.append([sample.name, result.skipped[position]])
                    continue
                files[chunk.outputs[position]] = {
                    "sha256": result.sha256[position],
                    "label": sample.label,
                    "protected": chunk.assignment[position] >= 0,
                }
        # A file that an earlier attempt wrote and this one skips is nobody's.
        for name in {output for chunk in self.plan.chunks for output in chunk.outputs} - files.keys():
            (self.staging.tree / name).unlink(missing_ok=True)
        self._refuse_empty(files)
        return files, skipped

    def _array_file(self, results: dict[int, Result]) -> tuple[dict[str, Any], list[list[str]]]:
        assert self.plan.shape is not None
        samples: dict[str, Any] = {}
        skipped: list[list[str]] = []
        for chunk in self.plan.chunks:
            reasons = results[chunk.index].skipped
            for position, sample in enumerate(chunk.samples):
                if position in reasons:
                    skipped.append([sample.name, reasons[position]])
                else:
                    protected = chunk.assignment[position] >= 0
                    samples[sample.name] = {"label": sample.label, "protected": protected}
        self._refuse_empty(samples)
        path = self.staging.tree / f"{self.source.split or 'train'}.npz"
        parts = [Path(array_file(str(self.folder), chunk.index)) for chunk in self.plan.chunks]
        labels = [entry["label"] for entry in samples.values()]
        write_npz(path, parts, self.plan.shape, labels, self.source.classes, list(samples))
        return {path.name: {"sha256": sha256_of(path), "samples": samples}}, skipped

    def _refuse_empty(self, written: dict[str, Any]) -> None:
        if not written:
            raise UserError(f"{self.src}: all of its {len(self.plan.outputs)} images had to be skipped")

    def _copy_side_files(self) -> dict[str, str]:
        """Class metadata of the layout, as it is."""
        if self.plan.shape is not None:
            return {}
        digests = {}
        for file in sorted(self.source.side_files):
            target = self.staging.tree / file
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, (self.source.root / file).read_bytes())
            digests[file.as_posix()] = sha256_of(target)
        return digests


def _parent(name: str) -> str:
    return name.rpartition("/")[0]
