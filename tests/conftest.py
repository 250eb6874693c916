import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

HAS_GPU = torch.cuda.is_available()
if not HAS_GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

# Inductor goes by the processor's flags, without a program compiled and run for each set of instructions.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# One that compiles little starts no processes for it, which would import torch each.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

# By day the same few cases each time; `make fuzz` gives --hypothesis-profile=night.
settings.register_profile("day", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("night", max_examples=10_000, deadline=None)
settings.load_profile("day")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not HAS_GPU and "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no GPU"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("gpu" in report.keywords for report in skipped)
    if count:
        why = "torch.cuda.is_available() is False" if not HAS_GPU else "see their reasons above"
        terminalreporter.write_line(f"GPU tests not run: {count}, since {why}")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real datasets that UNLEARNABLE_DATA names; the test is skipped where it is unset."""
    root = os.environ.get("UNLEARNABLE_DATA")
    if not root:
        pytest.skip("UNLEARNABLE_DATA is not set: no real images")
    return Path(root).expanduser()


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    """What a test draws without a generator of its own depends on no test before it."""
    torch.manual_seed(0)


@pytest.fixture
def with_threads() -> Iterator[Callable[[int, Callable[[], Any]], Any]]:
    """Calls a function with so many threads."""
    before = torch.get_num_threads()

    def call(threads: int, function: Callable[[], Any]) -> Any:
        torch.set_num_threads(threads)
        return function()

    yield call
    torch.set_num_threads(before)
