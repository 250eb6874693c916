"""State in safetensors files: named tensors with a few words about them; and the checkpoints of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unlearnable_kernels.defences import Defence
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.files import replacing

_MODEL = "model."
_OPTIMIZER = "optimizer."
_DEFENCES = "defences."


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors, on any device, to a safetensors file, which is replaced in one step.

    Raises:
        WriteError: The file cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error).splitlines()[0]) from None


@contextmanager
def stored_tensors(
    path: Path, problem: str = "is damaged", advice: str = ""
) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Yield the tensors, on the CPU, and the metadata of a safetensors file, to be used in the block.

    Args:
        path: The file.
        problem: What to say of the file where it cannot be read, or not be used.
        advice: What to add to that.

    Raises:
        UserError: The file is damaged, or what it holds does not fit: the block raised KeyError, TypeError,
            ValueError or RuntimeError.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
        yield tensors, metadata
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} {problem} ({reason}){advice}") from error


def save_checkpoint(
    path: Path,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    defences: Sequence[Defence] = (),
) -> None:
    """Write weights, buffers and the optimiser's state after ``epoch`` epochs, in place of an earlier file.

    What the defences found in the training set goes with them.

    Raises:
        WriteError: The file cannot be written.
    """
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):  # without momentum, SGD's is None
                tensors[f"{_OPTIMIZER}{kind}.{name}"] = value
    for number, defence in enumerate(defences):
        tensors |= {f"{_DEFENCES}{number}.{name}": value for name, value in defence.state().items()}
    save_tensors(path, tensors, {"epoch": str(epoch)})


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    defences: Sequence[Defence] = (),
) -> int:
    """Read a checkpoint into ``model``, and into ``optimizer`` and ``defences`` if given, in place.

    Returns:
        The number of finished epochs.

    Raises:
        UserError: The file is damaged or belongs to another network.
    """
    with stored_tensors(path, "is damaged or belongs to another network") as (tensors, metadata):
        epoch = int(metadata["epoch"])
        model.load_state_dict(tensors_under(tensors, _MODEL))
        if optimizer is not None:
            _restore(optimizer, model, tensors_under(tensors, _OPTIMIZER))
        for number, defence in enumerate(defences):
            defence.restore(tensors_under(tensors, f"{_DEFENCES}{number}."))
    return epoch


def _restore(optimizer: torch.optim.Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for key, value in state.items():
        kind, _, name = key.partition(".")
        parameter = parameters[name]
        if kind == "step":
            # Only fused steps are counted on the GPU.
            value = value.to(parameter.device) if optimizer.param_groups[0]["fused"] else value
        elif value.shape == parameter.shape:
            # The parameter's own strides: sums over gradients run in memory order, so must not change.
            value = torch.empty_like(parameter).copy_(value).detach()
        optimizer.state[parameter][kind] = value


def tensors_under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
