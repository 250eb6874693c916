"""Which image of a protected copy was made from which image of the source, by their names alone."""

from collections import defaultdict
from collections.abc import Callable, Sequence


def match_originals(
    names: Sequence[str],
    originals: Sequence[str],
    fits: Callable[[str, str], bool] = lambda name, original: True,
) -> list[int | None]:
    """Find the original of every image in a protected copy.

    A copy's name is its original's with another suffix (a.bmp, a.png), the same name, or, where two
    originals would collide, the original's whole name with one suffix or more added (a.jpg, a.jpg.png). No
    original serves twice, so that of a.jpg and a.jpg.bmp the copies a.png and a.jpg.png are told apart.

    Args:
        names: Names of the copy's samples, each once; some may be missing.
        originals: Names of the source's samples, each once.
        fits: Whether a copy could be called so (first) that was made from an original (second) of another
            suffix. Without, an original that is gone by now leaves its copy to another of its stem.

    Returns:
        For each of ``names`` its position in ``originals``; None where there is none, or no telling which of
        several.
    """
    free = {name: position for position, name in enumerate(originals)}
    found = {name: free.pop(name) for name in names if name in free}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for name in free:
        by_stem[stem(name)].append(name)

    def candidates(name: str) -> list[str]:
        return [each for each in by_stem.get(stem(name), ()) if each in free and fits(name, each)]

    for name in names:
        # Only added suffixes can have made it: before a.png takes the original of a.gif.png.
        if name not in found and not candidates(name) and (whole := _longest_original(name, free)):
            found[name] = free.pop(whole)
    for name in names:
        if name not in found and len(could := candidates(name)) == 1:
            found[name] = free.pop(could[0])
    for name in names:
        if name not in found and (whole := _longest_original(name, free)):
            found[name] = free.pop(whole)
    return [found.get(name) for name in names]


def stem(name: str) -> str:
    """The name of a sample without its last suffix; folders stay."""
    start, dot, suffix = name.rpartition(".")
    return start if dot and "/" not in suffix else name


def _longest_original(name: str, originals: dict[str, int]) -> str | None:
    """The longest of ``originals`` that gives ``name`` by adding suffixes."""
    while (shorter := stem(name)) != name:
        if shorter in originals:
            return shorter
        name = shorter
    return None
