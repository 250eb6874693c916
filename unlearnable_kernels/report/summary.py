"""What the runs of a report show, in a sentence for each protected one."""

from unlearnable_kernels.report.runs import Entry, Run, percent
from unlearnable_kernels.training.config import TrainConfig


def summarise(entries: list[Entry]) -> list[str]:
    """Say what protection cost the trained network.

    Args:
        entries: What the report is about.

    Returns:
        One sentence for each protected entry that has a clean one beside it, tested on the same images. Of
        several clean ones that whose settings differ least is taken.
    """
    sentences = []
    for entry in entries:
        others = [other for other in entries if _comparable(other.first, entry.first)]
        alike = [len(_differing_fields(other.first.config, entry.first.config)) for other in others]
        clean = others[alike.index(min(alike))] if others else None
        if clean is not None and clean.test_accuracies and entry.test_accuracies:
            sentences.append(_sentence(clean, entry))
    return sentences


def _sentence(before: Entry, after: Entry) -> str:
    clean, run = before.first, after.first
    fraction = run.config.protected_fraction or run.protected_by("parameters").get("fraction", 1.0)
    part = "part" if clean.config.only_clean else "images"
    copy = "the protected ones"
    if isinstance(fraction, float) and fraction != 1:
        copy = f"a copy of which {100 * fraction:g} % is protected"
    sentence = (
        f"Trained {_how(clean.config)}on the clean {part} of {clean.train_set}, the network recognises "
        f"{percent(before.test_accuracies)} of {run.record['test']['images']:,} clean test images; trained "
        f"on {copy}, {percent(after.test_accuracies)}. "
        f"Guessing would give {percent(1 / len(run.record['classes']))}."
    )
    differing = _differing_fields(clean.config, run.config)
    if len(before.runs) > 1 and len(after.runs) > 1:
        differing = [name for name in differing if name != "seed"]
    return sentence + (f" Note that the two runs also differ in {', '.join(differing)}." if differing else "")


def _how(config: TrainConfig) -> str:
    names = [defence.name for defence in config.make_defences()]
    return f"with {' and '.join(names)} " if names else ""


def _comparable(clean: Run, protected: Run) -> bool:
    tests = [run.record["test"] for run in (clean, protected)]
    return (
        clean.protection is None
        and protected.protection is not None
        and None not in tests
        and tests[0]["sha256"] == tests[1]["sha256"]
        and clean.record["classes"] == protected.record["classes"]
        and (not clean.config.only_clean or _mixed_alike(clean.config, protected.config))
    )


def _mixed_alike(first: TrainConfig, second: TrainConfig) -> bool:
    return (first.train, first.protected_fraction) == (second.train, second.protected_fraction)


def _differing_fields(first: TrainConfig, second: TrainConfig) -> list[str]:
    a, b = first.as_dict(), second.as_dict()
    sets = ("train", "test", "clean", "protected_fraction", "only_clean", "protected_epochs")
    return [name.replace("_", " ") for name in a if name not in sets and a[name] != b[name]]
