"""One run: a plan applied in a staging folder, chunk by chunk, and put together."""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unlearnable_kernels.data.listing import Compact, Followed
from unlearnable_kernels.data.manifest import MANIFEST_NAME, Manifest, read_manifest, write_manifest
from unlearnable_kernels.data.manifest_entries import part_name
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.data.source import Source
from unlearnable_kernels.data.writer import Destination, WrittenChunk
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import writing
from unlearnable_kernels.progress import Notify, Progress, by_share
from unlearnable_kernels.protect.keys import Secret, Seed, sign
from unlearnable_kernels.protect.methods.method import Perturbation, Workspace
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Rendering, Result
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.plan import Plan
from unlearnable_kernels.protect.pipeline.plan_file import (
    Head,
    head_of,
    read_chunks,
    read_head,
    write_plan,
)
from unlearnable_kernels.protect.pipeline.probe import of_rendering
from unlearnable_kernels.protect.pipeline.records import intact
from unlearnable_kernels.protect.pipeline.staging import RESTORES_NAME, Staging, differences
from unlearnable_kernels.protect.sample_quality import sample_quality

OF_THE_SOURCE = ("source_listing_sha256", "classes", "left_out", "versions", "plugins")
"""What may differ in an unfinished run that the same command goes on with."""
_SHOWN = 3


class Job:
    """One run's plan, applied in one staging folder: begun once, rendered by one or by many, and finished.

    What is done is told by the sizes of its files, and with ``rehash`` by their hashes.
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        staging: Staging,
        skip_bad: bool,
        progress: Progress,
        rehash: bool = False,
    ) -> None:
        self.source, self.plan, self.staging = source, plan, staging
        self.skip_bad, self.progress, self.rehash = skip_bad, progress, rehash
        self.destination = Destination(
            staging.tree, staging.parts, source.without_samples(), plan.task.image.shape
        )
        self._perturbation: Perturbation | None = None
        self._touched: set[str] = set()  # digests of chunks whose pictures have other times than when planned
        self.is_new = False

    def begin(self, notify: Notify) -> None:
        """Write the plan, and do all that comes before the first image.

        What was begun here before by the same command is gone on with, even if the source has changed.

        Raises:
            UserError: Another command began something here, or the method cannot protect this dataset.
        """
        staging = self.staging
        staging.refuse_run(RESTORES_NAME)
        head = read_head(staging.folder)
        self.is_new = head is None
        if head is None:
            # What a run left that was killed while it tidied up is no part of this one.
            with writing(staging.folder):
                staging.clear()
        else:
            refuse_another(head, self.plan, staging)
            before = read_chunks(staging.folder, staging.secret)
            self.plan = self.plan.cut_as(before)
            self._look_at_times(before, notify)
            made_on = of_rendering(head.made_on), of_rendering(self.plan.made_on)
            if head.digest != self.plan.digest or made_on[0] != made_on[1]:
                self._drop_what_changed(before, notify)
        if head != head_of(self.plan, self.skip_bad):
            write_plan(staging.folder, self.plan, staging.secret, self.skip_bad)
        with writing(staging.folder):
            for folder in (staging.tree, staging.work):
                folder.mkdir(exist_ok=True)
            self.plan.writer.prepare(self.destination, self.plan.outputs)
        self._perturb(notify)

    def drop_another(self) -> None:
        """Clear what another command began here: for a set that is finished, nothing of it is needed."""
        folder = self.staging.folder
        try:
            if (head := read_head(folder)) is not None:
                refuse_another(head, self.plan, self.staging)
        except UserError:
            with writing(folder):
                self.staging.clear()

    def _look_at_times(self, before: list[Chunk], notify: Notify) -> None:
        """A picture that was replaced by one of its size has another time; so has one that was copied."""
        times = {chunk.digest: [sample.mtime_ns for sample in chunk.samples] for chunk in before}
        self._touched = {
            chunk.digest
            for chunk in self.plan.chunks
            if times.get(chunk.digest, found := [sample.mtime_ns for sample in chunk.samples]) != found
        }
        if self._touched and not self.rehash:
            notify(
                "pictures have other times of change than when this was begun, as copies have: if some were "
                "replaced by others of their size, run it with --rehash"
            )

    @contextmanager
    def leaving_nothing(self) -> Iterator[None]:
        """Where the block ends with a UserError before anything was done, remove what it began.

        Nothing is lost, and a remedy that the message names is another plan.
        """
        try:
            yield
        except UserError:
            if self.is_new and self.staging.is_bare:
                self.staging.remove()
            raise

    def _drop_what_changed(self, before: list[Chunk], notify: Notify) -> None:
        plan, staging = self.plan, self.staging
        known = {chunk.digest for chunk in before}
        same = sum(len(chunk.samples) for chunk in plan.chunks if chunk.digest in known)
        what = describe_changes(before, plan.chunks) or "how the pictures are treated"
        notify(f"changed since this was begun: {what}; what is done of {same} pictures is kept")
        files = {str(file) for chunk in plan.chunks for file in self._files(chunk)}
        with writing(staging.folder):
            staging.keep_only(files)
            if not plan.stands_alone and staging.work.exists():
                shutil.rmtree(staging.work)

    def _perturb(self, notify: Notify) -> Perturbation:
        if self._perturbation is None:
            plan = self.plan
            workspace = Workspace(self.staging.work, self.skip_bad, notify, self.progress)
            self._perturbation = plan.method.perturbation(
                plan.task, plan.parameters, list(plan.assignment), workspace
            )
        return self._perturbation

    def done(self) -> set[int]:
        """The numbers of the chunks that are finished."""
        return self.staging.records.finished(self.plan.chunks, self._is_whole)

    def render(
        self, executor: Executor, notify: Notify, wanted: Callable[[int], bool] = lambda index: True
    ) -> int:
        """Render every chunk that is wanted, unless it is done; the number of these chunks."""
        chunks = [chunk for chunk in self.plan.chunks if wanted(chunk.index)]
        results = self.staging.records.finished(chunks, self._stays)
        total = sum(len(chunk.samples) for chunk in chunks)
        done = sum(len(chunk.samples) for chunk in chunks if chunk.index in results)
        if done:
            notify(f"resuming: {done} of {total} images are done")
        self.progress("protecting", done, total)
        left = {chunk.index: chunk for chunk in chunks if chunk.index not in results}
        rendering = self._rendering(self._perturb(notify))
        # Closed at once, whatever is raised here: that ends the workers.
        with closing(executor.execute(rendering, [*left.values()], self.plan, self.staging)) as new:
            for result in new:
                self.staging.records.add(left[result.index], result)
                done += len(left[result.index].samples)
                self.progress("protecting", done, total)
        return len(chunks)

    def _rendering(self, perturbation: Perturbation) -> Rendering:
        return Rendering(
            source=self.destination.source,
            perturbation=perturbation,
            writer=self.plan.writer,
            destination=self.destination,
            resize=self.plan.task.resize,
            skip_bad=self.skip_bad,
        )

    def _files(self, chunk: Chunk) -> list[Path]:
        return self.plan.writer.files(self.destination, chunk.index, chunk.outputs)

    def _is_whole(self, chunk: Chunk, result: Result) -> bool:
        if result.skipped and not self.skip_bad:
            return False
        return intact(self._files(chunk), result, self.rehash)

    def _stays(self, chunk: Chunk, result: Result) -> bool:
        """Whether it need not be rendered again; what was skipped may be readable by now."""
        suspected = self.rehash and chunk.digest in self._touched
        return not result.skipped and not suspected and self._is_whole(chunk, result)

    def result(self, chunk: Chunk) -> Result:
        """What became of a chunk that is finished."""
        found = self.staging.records.read(chunk)
        if found is None:
            raise UserError(f"{self.staging.folder}: the record of {chunk.pictures} is gone; render it again")
        return found

    def _fields(self) -> dict[str, Any]:
        """The manifest but for its entries: of plan, method and pictures, and what was skipped."""
        perturbation = self._perturb(lambda message: None)
        rows, skipped, start = set[int](), list[list[str]](), 0
        for chunk in self.plan.chunks:
            for position, reason in sorted(self.result(chunk).skipped.items()):
                rows.add(start + position)
                skipped.append([chunk.samples[position].name, reason])
            start += len(chunk.samples)
        quality = sample_quality(self.source, self.plan, perturbation, self.destination, rows)
        skipped = [*map(list, self.source.skipped), *skipped]
        return {**self.plan.header, **perturbation.outcome, **quality, "skipped": skipped}

    def finish(
        self, secret: Secret, replacing: bool = False, kept: Mapping[int, Result] = MappingProxyType({})
    ) -> Manifest:
        """Put the dataset together, write the manifest last, and publish.

        Args:
            secret: Signs the manifest.
            replacing: Whether a finished set takes its place.
            kept: What stands in the place of the results of some chunks, by their numbers.

        Returns:
            The manifest.
        """
        chunks = _Written(self.plan.chunks, lambda chunk: kept.get(chunk.index) or self.result(chunk))
        if all(len(chunk.skipped) == len(chunk.outputs) for chunk in chunks):
            raise UserError(
                f"{url_of(self.source.root)}: all of its {len(self.plan.outputs)} images had to be skipped"
            )
        share = partial(by_share, self.progress, len(self.plan.outputs))
        with writing(self.staging.tree):
            self.plan.writer.seal(self.destination, Followed(chunks, share("putting together")))
        fields = self._fields()
        writer, tree = self.plan.writer, self.staging.tree
        with writing(tree):
            entries = writer.entries(self.destination, Followed(chunks, share("listing")))
            side_files = writer.side_files(self.destination)
            write_manifest(tree, fields, entries, side_files, lambda whole: sign(whole, secret))
            self._drop_foreign(read_manifest(tree))
        self.staging.publish(replacing, share("uploading"))
        return read_manifest(self.staging.dst)

    def _drop_foreign(self, manifest: Manifest) -> None:
        """Delete what lies in the tree and is not of the set, as file managers leave it. Raises OSError."""
        tree = self.staging.tree
        own = [MANIFEST_NAME, *map(part_name, range(len(manifest.get("parts", ()))))]
        count = len(own) + sum(1 for _ in manifest.digests())
        if count != sum(len(names) for _, _, names in os.walk(tree)):
            own += [name for name, _ in manifest.digests()]
            self.staging.keep_only({str(tree / name) for name in own})


def refuse_another(head: Head, plan: Plan, staging: Staging) -> None:
    """Check that an unfinished run may be gone on with.

    Raises:
        UserError: Another command began it: options differ, or the key, or the dataset altogether.
    """
    found = differences(head.header, plan.header, but=OF_THE_SOURCE)
    who = head.header["key"] == plan.header["key"] and head.header.get("scheme") == plan.header.get("scheme")
    same_set = head.origin == plan.origin or head.header["dataset_name"] == plan.header["dataset_name"]
    if found and not (head.asked == plan.asked and who and same_set):
        # A command that another version gave other defaults begins another run here.
        key = "--seed-compat SEED" if head.header["key"].get("kind") == Seed.kind else "--key-file KEY"
        which = "" if head.header["key"] == plan.header["key"] else " and take its own key"
        what = f"{shlex.quote(url_of(staging.dst))} {key}"
        raise UserError(
            f"{staging.folder} holds an unfinished run that differs in {', '.join(found)}; run that command "
            f"again, or `unlearnable render {what}` and `unlearnable finish {what}`, which go by its "
            f"plan{which}, to finish it, or delete the folder to start over"
        )


def check_unfinished(plan: Plan, staging: Staging) -> None:
    """Check, without a lock, that a run may begin here or be gone on with. Raises UserError as ``begin``."""
    staging.refuse_run(RESTORES_NAME)
    if (head := read_head(staging.folder)) is not None:
        refuse_another(head, plan, staging)
        read_chunks(staging.folder, staging.secret)


def describe_changes(before: Sequence[Chunk], now: Sequence[Chunk]) -> str:
    """Which pictures came, went or changed, in few words."""
    same = {chunk.digest for chunk in before} & {chunk.digest for chunk in now}
    old, new = (
        {sample.name: sample for chunk in chunks if chunk.digest not in same for sample in chunk.samples}
        for chunks in (before, now)
    )
    kinds = {
        # Not by the label, a class's place, which changes when others come.
        "changed": [name for name in new if name in old and new[name].size != old[name].size],
        "new": [name for name in new if name not in old],
        "gone": [name for name in old if name not in new],
    }
    return "; ".join(_told(names, kind) for kind, names in kinds.items() if names)


def _told(names: Sequence[str], kind: str) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(map(shown, names[:_SHOWN]))}{more} {'are' if len(names) > 1 else 'is'} {kind}"


def written_chunk(chunk: Chunk, result: Result) -> WrittenChunk:
    """What a writer is told of a finished chunk."""
    return WrittenChunk(
        index=chunk.index,
        outputs=chunk.outputs,
        labels=[sample.label for sample in chunk.samples],
        protected=[assigned >= 0 for assigned in chunk.assignment],
        skipped=frozenset(result.skipped),
        sha256=result.sha256,
    )


class _Written(Compact[WrittenChunk]):
    """All chunks as they were written: read from their records whenever they are looked at."""

    def __init__(self, chunks: Sequence[Chunk], result: Callable[[Chunk], Result]) -> None:
        self._chunks, self._result = chunks, result

    def __len__(self) -> int:
        return len(self._chunks)

    def item(self, position: int) -> WrittenChunk:
        chunk = self._chunks[position]
        return written_chunk(chunk, self._result(chunk))
