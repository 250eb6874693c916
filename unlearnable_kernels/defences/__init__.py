"""The defences by name: what the trainer of a stolen data set does about a protection."""

from typing import Any

from unlearnable_kernels.registry import Registry

DEFENCES: Registry[Any] = Registry("defence", __name__)
