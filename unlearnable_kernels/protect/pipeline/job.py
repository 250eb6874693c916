"""One run: a plan applied in a staging folder, chunk by chunk, and put together."""

from contextlib import closing
from typing import Any

import numpy as np

from unlearnable_kernels.data.manifest import MANIFEST_NAME, manifest_text
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.data.writer import Destination, WrittenChunk
from unlearnable_kernels.environment import usable_cores
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import sha256_of, write_file, writing
from unlearnable_kernels.progress import Notify, Progress
from unlearnable_kernels.protect.keys import Secret, sign
from unlearnable_kernels.protect.methods.method import Perturbation, Workspace
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering, Result
from unlearnable_kernels.protect.pipeline.executors.local import execute
from unlearnable_kernels.protect.pipeline.plan import Plan
from unlearnable_kernels.protect.pipeline.staging import Staging
from unlearnable_kernels.protect.sample_quality import sample_quality


class Job:
    """One run's plan, applied in one staging folder."""

    def __init__(
        self, source: Source, plan: Plan, staging: Staging, skip_bad: bool, progress: Progress
    ) -> None:
        self.source, self.plan, self.staging = source, plan, staging
        self.skip_bad, self.progress = skip_bad, progress
        self.destination = Destination(
            staging.tree, staging.parts, source.without_samples(), plan.task.image.shape
        )
        self.perturbation: Perturbation | None = None

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
        self.perturbation = perturbation
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

    def _outcome(self, chunks: list[WrittenChunk]) -> dict[str, Any]:
        """What the manifest says beyond the plan: the method's own fields, and how the pictures look."""
        perturbation = self.perturbation
        assert perturbation is not None
        ends = np.cumsum([len(chunk.outputs) for chunk in chunks])
        skipped = {
            int(end) - len(chunk.outputs) + position
            for end, chunk in zip(ends, chunks, strict=True)
            for position in chunk.skipped
        }
        quality = sample_quality(self.source, self.plan, perturbation, self.destination, skipped)
        return {**perturbation.outcome, **quality}

    def finish(self, results: dict[int, Result], secret: Secret, replacing: bool = False) -> dict[str, Any]:
        """Put the dataset together, write the manifest last, and publish.

        Args:
            results: Of every chunk.
            secret: Signs the manifest.
            replacing: Whether a finished set takes its place.

        Returns:
            The manifest.
        """
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
            **self._outcome(chunks),
            "skipped": [*map(list, self.source.skipped), *skipped],
            **entries,
        }
        text = manifest_text(sign(manifest, secret))
        write_file(self.staging.tree / MANIFEST_NAME, text.encode())
        self.staging.publish(replacing)
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
