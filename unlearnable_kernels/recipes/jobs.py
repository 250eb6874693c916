"""What a run of a row is: its protected set, its training, where both belong, and what scaling leaves out."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.defences import DEFENCES, Defence
from unlearnable_kernels.defences.clean_pairs import CleanPairs
from unlearnable_kernels.defences.finetune import FinetuneAll
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.keys import Key
from unlearnable_kernels.recipes.detections import detected
from unlearnable_kernels.recipes.effort import extent
from unlearnable_kernels.recipes.row import DETECTED, Row
from unlearnable_kernels.training import TrainConfig
from unlearnable_kernels.training.run_folder import CHECKPOINT, RECORD, read_run

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
class ProtectedSet:
    """One that a job needs.

    Attributes:
        source: What it is made from.
        place: Where it is or will be.
        method: As ``protect --method`` takes it.
        stored_as: As ``protect --format`` takes it; None stores without loss.
    """

    source: str
    place: Path
    method: str
    stored_as: str | None = None


@dataclass(frozen=True)
class Job:
    """One training of a row, or one detection, from one seed.

    Attributes:
        row: The row.
        seed: Of weights, order, augmentation and, by way of the key, of the protection.
        key: A key that everybody knows, for reproduction only.
        source: Where the row's data set is.
        sets: What has to be protected, in this order; the last one is trained on. None for a row without
            protection, two for one that lays it upon another.
        config: The training.
        folder: Its run folder, which rows with the same training share; for a detection a folder of its own.
        pretraining: What has to be trained before; None where nothing has.
    """

    row: Row
    seed: int
    key: Key
    source: str
    sets: tuple[ProtectedSet, ...]
    config: TrainConfig
    folder: Path
    pretraining: "Job | None" = None

    @property
    def protected(self) -> Path | None:
        """Where the protected set is or will be; None for a row without one."""
        return self.sets[-1].place if self.sets else None

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


def dataset_names(rows: Iterable[Row]) -> set[str]:
    """What rows call their data sets, those of pretrainings included."""
    return {name for row in rows for name in (row.dataset, row.pretraining.get("train")) if name is not None}


def whole_name(name: str) -> str:
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
    source = places[row.dataset]
    settings: dict[str, Any] = {"network": row.network, "defences": row.defences, **row.training}
    sets = _plan_sets(row, source, (settings | dict(scale.training)).get("image_size"), key, work / "sets")
    settings = {"test": source} | settings
    settings |= {"train": str(sets[-1].place) if sets else source, "seed": seed}
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
    folder = work / "runs" / digest(config.as_dict())
    if row.test == DETECTED:
        folder = work / "detections" / digest([source, settings["train"], seed])
    return Job(row, seed, key, source, sets, config, folder, pretraining)


def _plan_sets(row: Row, source: str, size: int | None, key: Key, folder: Path) -> tuple[ProtectedSet, ...]:
    """The sets of a row, whose names go by all that they are made of."""
    if row.protection is None:
        return ()
    before: tuple[ProtectedSet, ...] = ()
    made: list[Any] = [source, row.protection, size, key.fingerprint]
    if row.upon is not None:
        below = folder / digest([source, row.upon, size, key.fingerprint])
        before = (ProtectedSet(source, below, row.upon),)
        source = str(below)
        made.append({"upon": row.upon})
    if row.stored_as is not None:
        made.append(row.stored_as)
    return *before, ProtectedSet(source, folder / digest(made), row.protection, row.stored_as)


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


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
