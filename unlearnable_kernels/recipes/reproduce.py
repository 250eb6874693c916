"""Measuring rows of the papers' tables: protect, train, test, and one JSON file for each row.

Read ``reproduce`` first. Rows share what they have in common: a protected set is made once, and of equal
trainings one is run. Both stay in a work folder, where what was interrupted goes on.
"""

import fcntl
import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.data.quality import picture_quality
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.defences import DEFENCES, Defence
from unlearnable_kernels.defences.clean_pairs import CleanPairs
from unlearnable_kernels.defences.finetune import FinetuneAll
from unlearnable_kernels.errors import BusyError, UserError
from unlearnable_kernels.files import writing
from unlearnable_kernels.progress import Notify, Progress, no_progress
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.protect.methods.method import METHODS
from unlearnable_kernels.protect.pipeline.staging import holding
from unlearnable_kernels.protect.run import protect_dataset
from unlearnable_kernels.recipes.detections import detected, run_detection, summarise_detections
from unlearnable_kernels.recipes.effort import extent, on_one_bar, protection_effort, training_effort
from unlearnable_kernels.recipes.filtered_tests import accuracy_on_filtered
from unlearnable_kernels.recipes.papers import ROWS
from unlearnable_kernels.recipes.results import accuracies, origin, standard_error, write_result
from unlearnable_kernels.recipes.row import CLEAN, DETECTED, Row
from unlearnable_kernels.training import TrainConfig, train
from unlearnable_kernels.training.processes import is_first_process
from unlearnable_kernels.training.run_folder import CHECKPOINT, RECORD, read_metrics, read_run

_BETWEEN_TRIES = 1.0  # seconds
_OF_A_RUN = ("train", "test", "clean", "seed")  # settings that are not the row's

WHERE = {"imagenet100": "imagenet100:"}
"""Where the rows' data sets are, where that is not their own name; see ``data.named``."""


@dataclass(frozen=True)
class Scale:
    """What is left out of a row to save time; a scaled row says nothing about the published figure.

    Attributes:
        epochs: Factor on the number of epochs, above 0 and at most 1.
        images: Training images in all, the same number of each class, so that a rest is left out; None takes
            all.
        network: Instead of every row's network.
        training: Fields of ``TrainConfig`` instead of every row's.

    Raises:
        UserError: A value is out of range.
    """

    epochs: float = 1.0
    images: int | None = None
    network: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.epochs <= 1:
            raise UserError(f"epochs_scale must be above 0 and at most 1, not {self.epochs}")
        if self.images is not None and self.images < 1:
            raise UserError(f"limit_train must be at least 1, not {self.images}")

    def as_dict(self) -> dict[str, Any] | None:
        """As JSON; None where nothing is left out."""
        if self == Scale():
            return None
        return {
            "epochs": self.epochs,
            "images": self.images,
            "network": self.network,
            "training": dict(self.training),
        }


@dataclass(frozen=True)
class Job:
    """One training of a row, or one detection, from one seed.

    Attributes:
        row: The row.
        seed: Of weights, order, augmentation and, by way of the key, of the protection.
        key: A key that everybody knows, for reproduction only.
        source: Where the row's data set is.
        protected: Where the protected set is or will be; None for a row without one.
        config: The training.
        folder: Its run folder, which rows with the same training share; for a detection a folder of its own.
        pretraining: What has to be trained before; None where nothing has.
    """

    row: Row
    seed: int
    key: Key
    source: str
    protected: Path | None
    config: TrainConfig
    folder: Path
    pretraining: "Job | None" = None

    @property
    def finished(self) -> bool:
        """Whether the run is there, whole."""
        if self.row.test == DETECTED:
            return detected(self.folder)
        return (self.folder / RECORD).is_file() and read_run(self.folder)[1]["status"] == "finished"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.row.name}, seed {self.seed}"


def reproduce(
    rows: Sequence[Row],
    work: Path,
    results: Path,
    *,
    seeds: int = 1,
    scale: Scale | None = None,
    data: Mapping[str, str] | None = None,
    rank: int = 0,
    world: int = 1,
    progress: Progress = no_progress,
    notify: Notify = lambda message: None,
) -> dict[str, dict[str, Any] | None]:
    """Measure rows, and write what came out.

    Several processes may do so at once in one ``work``: what another one is making is waited for.

    Args:
        rows: None that lacks something.
        work: Folder for protected sets and runs; whatever is finished in it is not done again.
        results: Folder for the JSON files.
        seeds: How many runs a row has, with the seeds from 0 on.
        scale: What to leave out.
        data: Where data sets are, by the names that rows have for them; the name itself by default.
        rank: Which part of the trainings to do; the parts share ``work`` and ``results``.
        world: How many parts there are.
        progress: Called with shares of all that is left to do.
        notify: Takes messages of one line: what is waited for.

    Returns:
        For each row's name what its JSON file holds; None where another part has not finished its trainings.

    Raises:
        UserError: A row cannot be run, a value is out of range, or as ``protect_dataset`` and ``train`` do.
    """
    scale = scale or Scale()
    if seeds < 1:
        raise UserError(f"seeds must be at least 1, not {seeds}")
    if not 0 <= rank < world:
        raise UserError(f"rank must be from 0 to {world - 1}, one of world {world}, not {rank}")
    for row in rows:
        if row.lacking:
            raise UserError(f"{row.name} cannot be run: it needs {row.lacking}")
    names = dataset_names(rows)
    known = sorted({_whole(name) for name in names | dataset_names(ROWS.values())})
    for name in data or {}:
        if name not in known:
            raise UserError(f"data: no row's data set is called {name!r}; there are {', '.join(known)}")
    places = {name: place(name, {**WHERE, **(data or {})}) for name in names}
    jobs = {row.name: [plan(row, seed, work, places, scale) for seed in range(seeds)] for row in rows}
    run_jobs(jobs, work, rank, world, progress, notify)
    found: dict[str, dict[str, Any] | None] = {}
    for row in rows:
        ready = all(job.finished for job in jobs[row.name])
        found[row.name] = summarise(jobs[row.name], scale, results) if ready else None
    return found


def dataset_names(rows: Iterable[Row]) -> set[str]:
    """What rows call their data sets, those of pretrainings included."""
    return {name for row in rows for name in (row.dataset, row.pretraining.get("train")) if name is not None}


def _whole(name: str) -> str:
    """NAME of "subset:NAME,…", otherwise the name itself."""
    return name.partition(":")[2].partition(",")[0] or name


def place(name: str, known: Mapping[str, str]) -> str:
    """Where a row's data set is; of "subset:NAME,…" it is NAME that may be elsewhere."""
    kind, colon, rest = name.partition(":")
    if not colon:
        return resolve(known.get(name, name))
    whole, comma, part = rest.partition(",")
    return resolve(f"{kind}:{known.get(whole, whole)}{comma}{part}")


def plan(row: Row, seed: int, work: Path, places: Mapping[str, str], scale: Scale) -> Job:
    """What one run of a row is, and where it and its protected set belong."""
    if row.test == DETECTED:
        scale = Scale()  # nothing is trained
    key = Key(hashlib.sha256(f"unlearnable reproduce {seed}".encode()).digest())
    source, protected = places[row.dataset], None
    settings: dict[str, Any] = {"network": row.network, "defences": row.defences, **row.training}
    if row.protection is not None:
        size = (settings | dict(scale.training)).get("image_size")
        stored = [] if row.stored_as is None else [row.stored_as]
        protected = work / "sets" / _digest([source, row.protection, size, key.fingerprint, *stored])
    settings = {"test": source} | settings
    settings |= {"train": source if protected is None else str(protected), "seed": seed}
    if "protected_fraction" in settings:
        settings["clean"] = source
    pretraining = _plan_pretraining(row, seed, work, places, scale) if row.pretraining else None
    weights = None if pretraining is None else pretraining.folder / CHECKPOINT
    settings["defences"] = _with_places(row.defences, weights, source)
    settings |= scale.training
    settings["network"] = scale.network or settings["network"]
    epochs = settings.get("epochs", TrainConfig(source).epochs)
    settings["epochs"] = max(1, round(epochs * scale.epochs))
    if "protected_epochs" in settings:
        last = settings["protected_epochs"] = max(1, round(settings["protected_epochs"] * scale.epochs))
        settings["epochs"] = max(settings["epochs"], last + 1)
    if scale.images is not None:
        classes = extent(source).classes
        if scale.images < classes:
            raise UserError(
                f"limit_train must be at least {classes}, one image of each class of {row.dataset}, "
                f"not {scale.images}"
            )
        settings["limit_per_class"] = scale.images // classes
    config = TrainConfig(**settings)
    folder = work / "runs" / _digest(config.as_dict())
    if row.test == DETECTED:
        folder = work / "detections" / _digest([source, str(protected), seed])
    return Job(row, seed, key, source, protected, config, folder, pretraining)


def _plan_pretraining(row: Row, seed: int, work: Path, places: Mapping[str, str], scale: Scale) -> Job:
    """The plain training on other images whose weights a row begins with; it is not tested."""
    mixture = ("protected_fraction", "protected_epochs", "only_clean", "test_limit_per_class")
    training = {name: value for name, value in row.training.items() if name not in mixture}
    training |= {name: value for name, value in row.pretraining.items() if name != "train"} | {"test": None}
    plain = replace(row, dataset=row.pretraining["train"], protection=None, defences=(), pretraining={})
    return plan(replace(plain, training=training), seed, work, places, scale)


def _with_places(defences: Sequence[str], weights: Path | None, clean: str) -> Sequence[str | Defence]:
    """Defences, of which those that fine-tune take these weights, those that go by pairs this data set."""
    made: list[str | Defence] = []
    for text in defences:
        defence = DEFENCES.create(text)
        if isinstance(defence, FinetuneAll) and weights is not None:
            made.append(replace(defence, weights=str(weights)))
        elif isinstance(defence, CleanPairs):
            made.append(replace(defence, clean=clean))
        else:
            made.append(text)
    return made


def run_jobs(
    jobs: Mapping[str, Sequence[Job]],
    work: Path,
    rank: int,
    world: int,
    progress: Progress,
    notify: Notify,
) -> None:
    """Do this part of the trainings, each once, and what has to be protected for them."""
    groups: dict[Path, dict[Path, Job]] = {}  # what begins with the same weights stays together
    for job in (job for part in jobs.values() for job in part):
        first = job.pretraining or job
        groups.setdefault(first.folder, {first.folder: first})[job.folder] = job
    mine = [job for group in list(groups.values())[rank::world] for job in group.values()]
    efforts = _efforts(mine)
    for job, effort, report in zip(mine, efforts, on_one_bar(progress, efforts), strict=True):
        if job.protected is not None:
            protect = functools.partial(_protect, job, job.protected, report)
            _patiently(protect, f"makes the protected set of {job.title}, {job.protected}", notify)
        one = functools.partial(_train, job, work / "locks" / job.folder.name, report)
        _patiently(one, f"does the training of {job.title}, {job.folder}", notify)
        for what in effort:
            report(what, 1, 1)  # even where another process did it


def _efforts(jobs: Sequence[Job]) -> list[dict[str, int]]:
    """What is left to do of each job; a set that several share is that of the first one."""
    sets: set[Path] = set()
    efforts: list[dict[str, int]] = []
    for job in jobs:
        effort: dict[str, int] = {}
        if job.protected is not None and job.protected not in sets and not job.protected.exists():
            assert job.row.protection is not None
            sets.add(job.protected)
            method = METHODS.create(job.row.protection)
            effort |= protection_effort(method, job.config.image_size, extent(job.source))
        if not job.finished and job.row.test != DETECTED:
            effort |= training_effort(job.config, extent(job.source))
        efforts.append(effort)
    return efforts


def _protect(job: Job, dst: Path, progress: Progress) -> None:
    """Make the protected set of a job. Raises BusyError while another process does."""
    source = Path(job.source)
    assert job.row.protection is not None
    protect_dataset(
        source,
        dst,
        secret=job.key,
        method=METHODS.create(job.row.protection),
        format=job.row.stored_as or open_source(source).lossless_as,
        resize=job.config.image_size,
        progress=progress,
    )


def _train(job: Job, lock: Path, progress: Progress) -> None:
    """Do the training, or the detection, of a job. Raises BusyError while another process does."""
    with _alone(lock):
        if job.row.test == DETECTED:
            assert job.protected is not None
            run_detection(Path(job.source), job.protected, job.seed, job.folder)
        else:
            train(job.config, job.folder, progress)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock, which the system frees when this process dies. Raises BusyError where another has it."""
    if not is_first_process():  # of several that train together
        yield
        return
    with ExitStack() as held:
        with writing(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(holding(lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                raise BusyError(f"another process holds {lock}") from None
        yield


def _patiently(action: Callable[[], None], what: str, notify: Notify) -> None:
    """Do what another process may be doing: then wait until it has done it, or died."""
    waiting = False
    while True:
        try:
            action()
            return
        except BusyError:
            if not waiting:
                notify(f"waiting for another process, which {what}")
            waiting = True
            time.sleep(_BETWEEN_TRIES)


def summarise(jobs: Sequence[Job], scale: Scale, results: Path) -> dict[str, Any]:
    """What the finished runs of a row have shown, written as its JSON file.

    Accuracies are in [0, 1]: of the last epoch, which is the row's figure, of the best one, the mean of the
    last five, and those of all epochs, for each seed. Of a detection the last one is the hit rate.
    """
    row, config = jobs[0].row, jobs[0].config
    if row.test == DETECTED:
        measured, records = summarise_detections([job.folder for job in jobs])
    else:
        measured, records = _summarise_trainings(jobs, scale)
    last, images = measured["accuracy"]["last"], measured["test_images"]
    mean = sum(last) / len(last)
    spread = math.sqrt(sum((each - mean) ** 2 for each in last) / (len(last) - 1)) if len(last) > 1 else None
    sets = [job.protected for job in jobs if job.protected is not None]
    result = {
        "row": row.name,
        "published": None if row.published is None else list(row.published),
        "dataset": row.dataset,
        "protection": row.protection,
        "test": row.test,
        "training": measured["training"],
        "data": measured["data"],
        "scaled": measured["scaled"],
        "seeds": [job.seed for job in jobs],
        "accuracy": measured["accuracy"],
        "mean": mean,
        "standard_deviation": spread,
        "test_images": images,
        "standard_error": standard_error(mean, images),
        "quality": [] if config.only_clean else [_quality(config.test, protected) for protected in sets],
        "machine": _machine(records[-1]),
        "runs": [origin(record) for record in records],
        # No secrets: whoever reads this can make the same sets.
        "burnt_keys": [] if row.protection is None else [job.key.material.hex() for job in jobs],
    }
    if row.about:
        result["about"] = True
    if row.stored_as is not None:
        result["stored_as"] = row.stored_as
    if row.pretraining:
        result["pretraining"] = dict(row.pretraining)
    return write_result(result, results)


def _summarise_trainings(jobs: Sequence[Job], scale: Scale) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the JSON file says of the trainings, and their records."""
    config = jobs[0].config
    records: list[dict[str, Any]] = [read_run(job.folder)[1] for job in jobs]
    curves = [_curve(job) for job in jobs]
    summary = {
        "training": _training(config, jobs[0].row),
        "data": {part: _seen(records[-1][part]) for part in ("train", "test")} | {"choice": _choice(config)},
        "scaled": _scaled(scale, jobs[0]),
        "accuracy": accuracies(curves),
        "test_images": records[0]["test"]["images"],
    }
    return summary, records


def _curve(job: Job) -> list[float]:
    """Accuracy by epoch; on filtered images that of the last one alone."""
    if job.row.test == CLEAN:
        return [line["test_accuracy"] for line in read_metrics(job.folder, job.config)]
    assert job.protected is not None
    return [accuracy_on_filtered(job.folder, job.protected, job.key, job.row.test)]


def _training(config: TrainConfig, row: Row) -> dict[str, Any]:
    """The row's settings, without the places of weights and clean images."""
    settings = {name: value for name, value in config.as_dict().items() if name not in _OF_A_RUN}
    places = {"clean", "weights"} if row.pretraining else {"clean"}
    settings["defences"] = [
        {name: value for name, value in each.items() if name not in places} for each in settings["defences"]
    ]
    return settings


def _scaled(scale: Scale, job: Job) -> dict[str, Any] | None:
    """What was left out, with the number of images that there were."""
    scaled, per_class = scale.as_dict(), job.config.limit_per_class
    if scaled is not None and scale.images is not None and per_class is not None:
        data = extent(job.source)
        scaled["images"] = min(per_class * data.classes, data.images)
    return scaled


def _seen(data: Mapping[str, Any]) -> dict[str, Any]:
    """A data set of the last seed."""
    return {name: data[name] for name in ("images", "sha256")}


def _choice(config: TrainConfig) -> dict[str, Any]:
    """How images were chosen; nothing is drawn, so there is no seed."""
    return {
        "seed": None,
        "images": "all" if config.limit_per_class is None else "the first of each class, by name",
        "protected": "all" if config.protected_fraction is None else "first in each class by SHA-256 of name",
    }


def _machine(record: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run was trained, without a GPU that it did not use."""
    used: dict[str, Any] = record["machine"]
    return used if record["device"] == "cuda" else used | {"gpu": None}


@functools.cache
def _quality(source: str, protected: Path) -> dict[str, Any]:
    """Once for each set, however many rows share it."""
    return picture_quality(source, protected)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
