"""Checkpoints: weights, buffers and momentum in one safetensors file, and the epoch they belong to."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing

_MODEL = "model."
_MOMENTUM = "momentum."


def save_checkpoint(path: Path, epoch: int, model: nn.Module, optimizer: torch.optim.SGD) -> None:
    """Write the state after ``epoch`` epochs; the file is replaced in one step. Raises WriteError."""
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[_MOMENTUM + name] = buffer
    with replacing(path) as temporary:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(contiguous, temporary, metadata={"epoch": str(epoch)})
        except SafetensorError as error:
            raise OSError(str(error).splitlines()[0]) from None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.SGD | None = None) -> int:
    """Read a checkpoint into ``model``, and into ``optimizer`` if given, in place; return its epoch.

    Raises UserError if the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            epoch = int(file.metadata()["epoch"])
        model.load_state_dict(_under(tensors, _MODEL))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is damaged or belongs to another network: {reason}") from error
    if optimizer is not None:
        momentum = _under(tensors, _MOMENTUM)
        for name, parameter in model.named_parameters():
            if name in momentum:
                # The parameter's own strides: sums over gradients run in memory order, so must not change.
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
    return epoch


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
