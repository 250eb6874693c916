"""What the runs of a report show, in a sentence for each protected one."""

from unlearnable_kernels.report.runs import Run, percent
from unlearnable_kernels.training.config import TrainConfig


def summarise(runs: list[Run]) -> list[str]:
    """Say what protection cost the trained network.

    Args:
        runs: What the report is about.

    Returns:
        One sentence for each protected run that has a clean one beside it, tested on the same images. Of
        several clean runs the one whose settings differ least is taken.
    """
    sentences = []
    for run in runs:
        others = [other for other in runs if _comparable(other, run)]
        alike = [len(_differing_fields(other.config, run.config)) for other in others]
        clean = others[alike.index(min(alike))] if others else None
        if clean is not None and clean.test_accuracy is not None and run.test_accuracy is not None:
            sentences.append(_sentence(clean, clean.test_accuracy, run, run.test_accuracy))
    return sentences


def _sentence(clean: Run, clean_accuracy: float, run: Run, accuracy: float) -> str:
    fraction = run.config.protected_fraction or run.protected_by("parameters").get("fraction", 1.0)
    part = "part" if clean.config.only_clean else "images"
    copy = "the protected ones"
    if isinstance(fraction, float) and fraction != 1:
        copy = f"a copy of which {100 * fraction:g} % is protected"
    sentence = (
        f"Trained {_how(clean.config)}on the clean {part} of {clean.train_set}, the network recognises "
        f"{percent(clean_accuracy)} of {run.record['test']['images']:,} clean test images; trained "
        f"on {copy}, {percent(accuracy)}. Guessing would give {percent(1 / len(run.record['classes']))}."
    )
    differing = _differing_fields(clean.config, run.config)
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
    sets = ("train", "test", "clean", "protected_fraction", "only_clean")
    return [name.replace("_", " ") for name in a if a[name] != b[name] and name not in sets]
