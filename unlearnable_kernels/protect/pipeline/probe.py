"""What decides the bytes that a machine writes: versions, and what becomes of one small picture."""

import hashlib
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import torch

from unlearnable_kernels.data.images import SUFFIX, decode, encode, resize
from unlearnable_kernels.environment import installed, versions
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv

PROBE = "what becomes of a probe image"
_SIDE = 96
# 40x32 pixels, 4:2:0.
_JPEG = b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAx"
    "NDQ0Hyc5PTgyPC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIy"
    "MjIyMjIyMjL/wAARCAAgACgDASIAAhEBAxEB/8QAGQAAAwEBAQAAAAAAAAAAAAAAAAYHBQME/8QAJxAAAQQCAgIBAwUAAAAAAAAA"
    "AQACAwQFEQYhMVETEhWRFiJBcXL/xAAYAQADAQEAAAAAAAAAAAAAAAADBAUCBv/EACARAAEEAgIDAQAAAAAAAAAAAAECAwQFABET"
    "QQYiI1H/2gAMAwEAAhEDEQA/AHK9yypLE4NkHY9/hI2ZzkGyS4ews7MYWzjq7pXPdoKd28lLZmMWzvevKeiQax54TGnNlOU2bHhP"
    "IjrLZxDkNdrSC8etA+Fw5VkYrMp+k7ShwzFzzEbc78pwu8Wlkrl5cT0o1s/GjTjPSr2OTrss2jQU0dufmTu3k4o5CC7whZmfw0sN"
    "tzdnooXSR/KllsHWbjVclLQGsqmRt/dITE8DTuiEsw8Lp/OZC4bJ35Xsy0zqtRz2HsJGdym8yV2nnW1CoaR0+yDpPeBvqx6M4lLS"
    "tA49S2v0+QK/f+VtU+VzWqTg5vevCwOLNGdaPn/d/aapMNDVcI2t1vo9It2uubPE4jZGTY9e+4dRzpY7yZ56zNYvPJYdbP8ACFVI"
    "+LVJ2/JIwb9oTcazqktAceOHyVyP8lnZGf/Z"
)


@cache
def fingerprint() -> dict[str, str]:
    """The versions of all libraries by name, and the digest of a picture that went through all of them."""
    return {**versions(), PROBE: _probe()}


def of_rendering(made_on: Mapping[str, str]) -> dict[str, str]:
    """Of ``Plan.made_on`` what pictures are rendered with, without what is only to put them together."""
    return {name: version for name, version in made_on.items() if name in fingerprint()}


def _probe() -> str:
    """SHA-256, in hex, of a picture decoded, resized, filtered and encoded, each step for itself.

    Arrays need no codec: where one is missing, that is what its step comes to.
    """
    decoded = _with_codec(lambda: decode(_JPEG, "probe.jpg").tobytes())
    image = np.random.RandomState(1).randint(0, 256, (32, 40, 3)).astype(np.uint8)
    resized = resize(image, _SIDE)
    taps = np.random.RandomState(0).random_sample((1, 3, 3)).astype(np.float32)
    filtered = np.empty_like(resized)
    classwise_conv(
        torch.from_numpy(resized[None]).permute(0, 3, 1, 2),
        torch.tensor([0]),
        torch.from_numpy(taps),
        "reflect",
        out=torch.from_numpy(filtered[None]).permute(0, 3, 1, 2),
    )
    written = [_with_codec(partial(encode, filtered, format)) for format in SUFFIX]
    digest = hashlib.sha256()
    for data in (decoded, resized.tobytes(), filtered.tobytes(), *written):
        digest.update(hashlib.sha256(data).digest())
    return digest.hexdigest()


def _with_codec(step: Callable[[], bytes]) -> bytes:
    try:
        return step()
    except UserError as error:
        return str(error).encode()


def refuse_to_mix(planned: Mapping[str, str]) -> None:
    """Check that this process writes the bytes that the planning one would.

    Args:
        planned: ``Plan.made_on``.

    Raises:
        UserError: A library has another version, or the probe image comes out in another way.
    """
    here = fingerprint()
    for name in planned.keys() | here.keys():
        found, wanted = here.get(name) or installed(name), planned.get(name, "missing")
        if found != wanted:
            raise UserError(
                f"this machine might write other bytes than the one that planned: {name} is {found}, not "
                f"{wanted}; make them the same, or plan here"
            )
