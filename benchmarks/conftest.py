"""Prints every figure with its target, writes them as JSON, and fails a run that misses two thirds of one."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
SLACK = 2 / 3  # a shared machine's speed swings
RESULTS: list[dict] = []
NO_GPU = not torch.cuda.is_available()
collect_ignore = ["gpu"] if NO_GPU else []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", help="write the figures, with machine and versions, to this JSON file")


@pytest.fixture
def report_figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    def report(
        title: str, rates: dict, measured: dict, targets: dict, floors: dict[str, float] | None = None
    ) -> None:
        RESULTS.append({"title": title, "rates": rates, "measured": measured, "targets": targets})
        _write(request.config.getoption("--figures"))
        # A target that is missed for a reason that is understood has a floor instead: under the worst seen.
        limits = {name: SLACK * target for name, target in targets.items()} | (floors or {})
        missed = [f"{name} ({limit:.2f})" for name, limit in limits.items() if measured[name] < limit]
        assert not missed, f"{title}: under the limit: {', '.join(missed)}"

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for result in RESULTS:
        terminalreporter.write_line(f"\n{result['title']}")
        for name, rate in result["rates"].items():
            terminalreporter.write_line(f"  {name:18} {rate}")
        for name, value in result["measured"].items():
            target = result["targets"].get(name)
            goal = "" if target is None else f"   target {target:g}   {'ok' if value >= target else 'UNDER'}"
            terminalreporter.write_line(f"  ours / {name:18} {value:8.2f}{goal}")
    if NO_GPU:
        terminalreporter.write_line("\nnot measured: benchmarks/gpu, for there is no GPU")


def _write(path: str | None) -> None:
    """After every benchmark, so that an interrupted run leaves what was measured."""
    if path is None:
        return
    from unlearnable_kernels.environment import machine, versions

    record = {"machine": machine(), "versions": versions(), "benchmarks": RESULTS}
    Path(path).write_text(json.dumps(record, indent=1) + "\n")
