"""Growing a protected dataset: new pictures and classes come in, and what is published keeps its bytes.

A picture that is published twice, under two filters or once protected and once clean, gives the filters away
(docs/threat_model.md). So whatever decides what becomes of a picture is taken from the earlier manifest.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unlearnable_kernels.data.formats.folder import FolderWriter
from unlearnable_kernels.data.formats.loose import open_training_images
from unlearnable_kernels.data.images import decode
from unlearnable_kernels.data.manifest import INCIDENTAL, MANIFEST_NAME, Manifest, read_manifest
from unlearnable_kernels.data.named import find
from unlearnable_kernels.data.originals import match_originals, stem
from unlearnable_kernels.data.quality import quality_text
from unlearnable_kernels.data.remote import require_local, url_of
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.files import resumable, write_file
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.exposure import bare_name
from unlearnable_kernels.protect.keys import Secret, is_signed_by
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.methods.selection import exact_subset
from unlearnable_kernels.protect.notices import notify_about, notify_skipped, telling_how_to_resume
from unlearnable_kernels.protect.pipeline.chunk import Chunk, Result
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.executors.script import refuse_within_import
from unlearnable_kernels.protect.pipeline.job import Job
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, digest_of, make_plan
from unlearnable_kernels.protect.pipeline.staging import RESTORES_NAME, Staging, differences
from unlearnable_kernels.protect.run import around, check_on_error, check_places
from unlearnable_kernels.protect.verify import verify_dataset


@dataclass(frozen=True)
class Earlier:
    """A finished set that is to grow.

    Attributes:
        dst: Its folder.
        manifest: Its manifest, signed by the key.
    """

    dst: Path
    manifest: Manifest

    @cached_property
    def published(self) -> dict[str, str]:
        """SHA-256 of the file of each picture."""
        return {entry.file: entry.sha256 for entry in self.manifest.entries()}

    @property
    def options(self) -> Options:
        """What it was made with."""
        parameters = self.manifest["parameters"]
        method, quality = self.manifest["method"], parameters.get("quality")
        settings = {name: parameters[name] for name in METHODS.settings(method) if name in parameters}
        return Options(
            METHODS.make(method, settings),
            parameters["fraction"],
            parameters["format"] + ("" if quality is None else f":quality={quality}"),
            parameters["resize"],
            self.manifest["dataset_name"],
        )


def read_earlier(dst: Path, secret: Secret) -> Earlier:
    """The finished set at ``dst``, whole and made with this key.

    Raises:
        UserError: It is not, or it cannot grow.
    """
    manifest = read_manifest(dst)
    if manifest["key"].get("fingerprint") != secret.fingerprint or not is_signed_by(manifest, secret):
        raise UserError(f"{dst} cannot be extended: another key made it, or its manifest has changed")
    method = manifest["method"]
    if method not in METHODS or not METHODS[method].growable(manifest["parameters"]):
        raise UserError(f"{dst} cannot be extended: what {method} does to a picture depends on the others")
    if manifest.get("scheme") != 2:
        raise UserError(
            f"{dst} cannot be extended: its filters belong to a class's place (scheme 1), and another class "
            "would change those of others"
        )
    if any(entry.name is not None for entry in manifest.entries()):
        raise UserError(f"{dst} cannot be extended: it is one array, or shards, and not a tree of pictures")
    report = verify_dataset(dst, secret)
    for kind in ("missing", "changed", "extra"):
        if names := getattr(report, kind):
            raise UserError(f"{dst} cannot be extended: {shown(names[0])} is {kind}")
    return Earlier(dst, manifest)


def grown(plan: Plan, earlier: Earlier, prune: bool) -> Plan:
    """The plan for all pictures of the source that leaves those of the earlier set as they are.

    Args:
        plan: For the source as it is now, by ``earlier.options``.
        earlier: The set that grows.
        prune: Whether what is gone from the source may go from the set.

    Raises:
        UserError: It is to be made in another way, or pictures are gone.
    """
    fixed = ("parameters", "layout", "split", "prefix")
    before, now = ({name: each[name] for name in fixed} for each in (earlier.manifest, plan.header))
    if changed := differences(before, now):
        listed = before["layout"] == "labels" != now["layout"]
        remedy = "; its classes came from a list: give --labels" if listed else ""
        raise UserError(f"{earlier.dst} cannot be extended: {', '.join(changed)} would differ{remedy}")
    assert isinstance(plan.writer, FolderWriter)
    entries = {name: entry.protected for name, entry in earlier.manifest.samples()}
    names = plan.task.names
    fits = plan.writer.fits
    originals = dict(zip(entries, match_originals(list(entries), names, fits), strict=True))
    kept = {row: name for name, row in originals.items() if row is not None}
    new = [row for row in range(len(names)) if row not in kept]
    new_names = [names[row] for row in new]
    _refuse_doubtful(entries, new_names)
    gone = [name for name, row in originals.items() if row is None]
    if gone and not prune:
        raise UserError(
            f"{len(gone)} pictures of {earlier.dst} are not in {url_of(plan.task.source.root)} any more, "
            f"such as {shown(gone[0])}: give --prune to remove them too"
        )
    removed = earlier.manifest.get("removed", {}) | {name: entries[name] for name in gone}
    back = dict(zip(removed, match_originals(list(removed), new_names, fits), strict=True))
    protected = {new[at]: removed[name] for name, at in back.items() if at is not None}
    protected |= {row: entries[name] for row, name in kept.items()}
    removed = {name: removed[name] for name, at in back.items() if at is None}
    header = plan.header | ({"removed": removed} if removed else {})
    task = plan.task
    chosen = exact_subset(task.secret, task.name, names, task.labels, task.fraction, protected)
    assignment = np.where(chosen, plan.task.labels, -1).tolist()
    outputs = _outputs(plan, kept)
    return replace(
        plan,
        header=header,
        assignment=assignment,
        outputs=outputs,
        digest=digest_of(header, assignment, outputs, earlier.manifest["mac"]),
    ).cut()


def check_moved(plan: Plan, earlier: Earlier, accepted: bool, notify: Notify) -> None:
    """Compare new pictures with those that are gone, now or since an earlier pruning, by their files' names.

    Args:
        plan: As ``grown`` gave it.
        earlier: The set that grows.
        accepted: Whether what was moved may be published in a second way.
        notify: Takes a warning then.

    Raises:
        UserError: One seems to have moved, would be published in a second way, and that is not accepted.
    """
    removed = plan.header.get("removed", {})
    gone: dict[str, list[str]] = defaultdict(list)
    for name in removed:
        gone[bare_name(name)].append(name)
    prefix = f"{plan.task.source.prefix}/" if plan.task.source.prefix else ""
    known = earlier.published.keys() | {prefix + name for name in earlier.manifest.get("removed", {})}
    for name, output, assigned in zip(plan.task.names, plan.outputs, plan.assignment, strict=True):
        for old in gone.get(bare_name(name), ()) if output not in known else ():
            if removed[old] != (assigned >= 0):
                ways = "once protected and once clean, which gives the filter of its class away"
            elif removed[old] and old.partition("/")[0] != name.partition("/")[0]:
                ways = "under the filters of two classes, which gives both away"
            else:
                continue
            told = f"{shown(name)} has the name of {shown(old)}: one picture would be published {ways}"
            if not accepted:
                raise UserError(f"{told}; move it back, or give --accept-exposure")
            notify(f"warning: {told}")
            return


def _refuse_doubtful(published: Collection[str], new: Sequence[str]) -> None:
    """Raise UserError where names do not tell a new picture from the original of a published one."""
    stems = {stem(name) for name in published} | {stem(stem(name)) for name in published}
    for name in new:
        if stem(name) in stems and name not in published:
            raise UserError(
                f"{shown(name)} and a published picture have names that differ by the suffix alone, so that "
                "nobody can tell which is new: rename the new one"
            )


def _outputs(plan: Plan, kept: Mapping[int, str]) -> list[str]:
    """Where each picture goes: the old ones where they are, the new ones where nothing is."""
    prefix = f"{plan.task.source.prefix}/" if plan.task.source.prefix else ""
    taken = {(prefix + name).casefold() for name in kept.values()}
    outputs: list[str] = []
    for row, wanted in enumerate(plan.outputs):
        if row in kept:
            outputs.append(prefix + kept[row])
            continue
        suffix = wanted[wanted.rindex(".") :]
        name = wanted if wanted.casefold() not in taken else prefix + plan.task.names[row] + suffix
        while name.casefold() in taken:
            name += suffix
        taken.add(name.casefold())
        outputs.append(name)
    return outputs


def keep_published(
    plan: Plan, earlier: Earlier, result_of: Callable[[Chunk], Result], tree: Path
) -> dict[int, Result]:
    """Put the earlier set's own bytes into the new tree.

    Args:
        plan: As ``grown`` gave it.
        earlier: The set that grows.
        result_of: What was rendered of a chunk.
        tree: Where it lies.

    Returns:
        For chunks with other bytes than were rendered, by their numbers, the results with their digests.

    Raises:
        UserError: A picture of the source has changed since.
    """
    published = earlier.published
    kept: dict[int, Result] = {}
    for chunk in plan.chunks:
        result = result_of(chunk)
        digests = list(result.sha256)
        for position, name in enumerate(chunk.outputs):
            if name in published and digests[position] != published[name]:
                _put_back(earlier.dst / name, tree / name, name)
                digests[position] = published[name]
        if digests != result.sha256:
            kept[chunk.index] = replace(result, sha256=digests)
    return kept


def _put_back(before: Path, new: Path, name: str) -> None:
    data = before.read_bytes()
    # Another version of a library may write the same pixels in other bytes.
    if not new.is_file() or not np.array_equal(decode(data, name), decode(new.read_bytes(), name)):
        raise UserError(
            f"{shown(name)} has another original now than when it was published, and two versions of one "
            "picture can give its filter away: bring the old one back, or add the new one under another name"
        )
    write_file(new, data)


def extend_dataset(
    src: Path,
    dst: Path,
    *,
    secret: Secret,
    prune: bool = False,
    accept_exposure: bool = False,
    labels: Path | None = None,
    workers: int | None = None,
    on_error: str = "raise",
    rehash: bool = False,
    progress: Progress = no_progress,
    notify: Notify | None = None,
) -> Path:
    """Add to a protected dataset what its source has more of by now.

    ``dst`` is whole, old or new, at every moment; what is interrupted goes on when it is called again.

    Args:
        src: The source, with what was protected before and more.
        dst: What ``protect_dataset`` made of it; its manifest says how.
        secret: The key.
        prune: Whether to remove what is gone from the source.
        accept_exposure: Whether to publish in a second way what seems to have moved to another class.
        labels: As for ``protect_dataset``, and so are the others.
        workers: Processes that write images.
        on_error: "raise" or "skip".
        rehash: Whether to look at the pictures even where no name and no size says that anything is new.
        progress: Takes progress.
        notify: Takes messages of one line.

    Returns:
        The path of the manifest.

    Raises:
        UserError: ``dst`` is not whole or cannot grow, a picture was changed or, without ``prune``, is gone,
            or, without ``accept_exposure``, seems to have moved; or as ``protect_dataset`` does.
    """
    refuse_within_import()
    check_on_error(on_error)
    executor = Executor(workers=workers)
    notify = notify or logging.getLogger(__name__).info
    require_local(Path(dst), "extended")
    _, dst = check_places(find(src), Path(dst))
    read_earlier(dst, secret)
    source = open_training_images(src, labels, on_error)
    check_places(around(src, source), dst)
    notify_about(source, notify)
    with resumable(), Staging(dst, secret) as staging:
        staging.refuse_run(RESTORES_NAME)
        try:
            # Within the lock: another process may have changed it meanwhile.
            earlier = read_earlier(dst, secret)
            plan = grown(make_plan(source, secret, earlier.options, on_error), earlier, prune)
            check_moved(plan, earlier, accept_exposure, notify)
            if not rehash and nothing_new(plan, earlier):
                staging.remove()
                notify(f"{dst} has all of it already, by names and sizes")
                return dst / MANIFEST_NAME
        except UserError:
            if staging.is_bare:
                staging.remove()
            raise
        # What takes the place of a finished set is worth the hashing.
        job = Job(source, plan, staging, on_error == "skip", progress, rehash=True)
        job.drop_another()
        with telling_how_to_resume(notify):
            with job.leaving_nothing():
                job.begin(notify)
                job.render(executor, notify)
            try:
                kept = keep_published(job.plan, earlier, job.result, staging.tree)
            except UserError:
                staging.remove()
                raise
            manifest = job.finish(secret, replacing=True, kept=kept)
    before, now = earlier.published.keys(), {entry.file for entry in manifest.entries()}
    looks = quality_text(manifest.get("picture_quality"))
    notify(
        f"added {len(now - before)} pictures and removed {len(before - now)}; {dst} has {len(now)}"
        + (f"; {looks}" if looks else "")
    )
    notify_skipped(manifest, notify)
    return dst / MANIFEST_NAME


def nothing_new(plan: Plan, earlier: Earlier) -> bool:
    """Whether the set is what the plan would make of it."""
    header = {name: value for name, value in plan.header.items() if name not in INCIDENTAL}
    same = header == {name: earlier.manifest.get(name) for name in header}
    return same and sorted(earlier.published) == sorted(plan.outputs)
