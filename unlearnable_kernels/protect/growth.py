"""What a protected dataset that grows becomes: what is published stays, and whatever decides it is kept.

A picture that is published twice, under two filters or once protected and once clean, gives the filters away
(docs/threat_model.md). So whatever decides what becomes of a picture is taken from the earlier manifest.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unlearnable_kernels.data.formats.folder import FolderWriter
from unlearnable_kernels.data.manifest import INCIDENTAL, Manifest, read_manifest
from unlearnable_kernels.data.originals import match_originals, stem
from unlearnable_kernels.data.remote import url_of
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.progress import Notify
from unlearnable_kernels.protect.exposure import bare_name
from unlearnable_kernels.protect.keys import Secret, is_signed_by
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.methods.selection import exact_subset
from unlearnable_kernels.protect.pipeline.plan import Options, Plan, digest_of
from unlearnable_kernels.protect.pipeline.staging import differences
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
        return Options(
            METHODS.make(method, METHODS[method].settings(parameters)),
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
    if (why := obstacle(manifest)) is not None:
        raise UserError(f"{dst} cannot be extended: {why}")
    report = verify_dataset(dst, secret)
    for kind in ("missing", "changed", "extra"):
        if names := getattr(report, kind):
            raise UserError(f"{dst} cannot be extended: {shown(names[0])} is {kind}")
    return Earlier(dst, manifest)


def obstacle(manifest: Manifest) -> str | None:
    """Why a set with this manifest cannot grow, whatever the key; None where it can."""
    method = manifest["method"]
    if method not in METHODS or not METHODS[method].growable(manifest["parameters"]):
        return f"what {method} does to a picture depends on the others"
    if manifest.get("scheme") != 2:
        return (
            "its filters belong to a class's place (scheme 1), and another class would change those of others"
        )
    if any(entry.name is not None for entry in manifest.entries()):
        return "it is one array, or shards, and not a tree of pictures"
    return None


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


def nothing_new(plan: Plan, earlier: Earlier) -> bool:
    """Whether the set is what the plan would make of it."""
    header = {name: value for name, value in plan.header.items() if name not in INCIDENTAL}
    same = header == {name: earlier.manifest.get(name) for name in header}
    return same and sorted(earlier.published) == sorted(plan.outputs)
