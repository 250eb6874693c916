"""Where chunks are rendered makes no difference to the bytes, whoever dies meanwhile."""

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_imagenet100 import SMALL, WNIDS, imagenet, noted, noting, run_script
from test_protect_resume import KEY, contents, make_tree
from warm_commands import warm_commands

from unlearnable_kernels.data.images import SUFFIX, encode
from unlearnable_kernels.data.source import Sample
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.protect.methods.classwise_conv import ClasswiseConv
from unlearnable_kernels.protect.methods.method import Perturbation
from unlearnable_kernels.protect.pipeline import plan as plan_module
from unlearnable_kernels.protect.pipeline import probe
from unlearnable_kernels.protect.pipeline.chunk import Chunk
from unlearnable_kernels.protect.pipeline.executors import local
from unlearnable_kernels.protect.pipeline.executors import ray as by_ray
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.probe import PROBE, fingerprint, refuse_to_mix
from unlearnable_kernels.protect.run import protect_dataset

CHUNK = Chunk(0, [Sample(f"c/{number}.png", 0, 1, 1) for number in range(3)], [0, 0, 0], ["", "", ""])


@dataclass(frozen=True)
class _Deadly:
    """Does what another perturbation does, but for the times that its process dies."""

    inner: Perturbation
    deaths: Path
    times: int

    @property
    def outcome(self) -> dict[str, Any]:
        return {}

    def apply(self, images: np.ndarray, assignment: list[int], out: np.ndarray) -> None:
        time.sleep(0.05)
        for number in range(self.times):
            try:
                os.close(os.open(self.deaths / str(number), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        self.inner.apply(images, assignment, out)


@dataclass(frozen=True)
class DeadlyConv(ClasswiseConv):
    """The method whose name it has, in workers that die."""

    deaths: str = ""
    times: int = 0

    def perturbation(self, *arguments: Any) -> Perturbation:
        return _Deadly(super().perturbation(*arguments), Path(self.deaths), self.times)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "CHUNK_IMAGES", 2)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "src", 16)


def protect(src: Path, dst: Path, **options: Any) -> dict[str, bytes]:
    protect_dataset(src, dst, **{"secret": KEY, **options})
    assert not dst.with_name(dst.name + ".partial").exists()
    return contents(dst)


def deadly(folder: Path, times: int) -> DeadlyConv:
    folder.mkdir()
    return DeadlyConv(deaths=str(folder), times=times)


def test_a_worker_that_dies_is_replaced(tree: Path, tmp_path: Path) -> None:
    whole = protect(tree, tmp_path / "whole", workers=0)
    dying = deadly(tmp_path / "deaths", 2)
    assert protect(tree, tmp_path / "dst", workers=1, method=dying) == whole
    assert len(list((tmp_path / "deaths").iterdir())) == 2


class _Suicide:
    def render(self, chunk: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class _Failing:
    def render(self, chunk: object) -> None:
        raise LookupError("what a worker met")


class _Refusing:
    def render(self, chunk: object) -> None:
        raise UserError("what a worker met")


class _OpenFiles:
    def render(self, chunk: object) -> list[str]:
        return [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]


def render_with(rendering: object, lock: Path, **options: Any) -> list[Any]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        return list(local.execute(rendering, [CHUNK], 1, descriptor, **options))  # type: ignore[arg-type]
    finally:
        os.close(descriptor)


def test_workers_hold_the_lock_and_say_what_ails_them(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert str(lock) in render_with(_OpenFiles(), lock)[0]
    named = r"a worker process died 3 times of the same chunk, 3 pictures from c/0\.png to c/2\.png, perhaps"
    with pytest.raises(UserError, match=named):
        render_with(_Suicide(), lock)
    with pytest.raises(LookupError, match="what a worker met") as caught:
        render_with(_Failing(), lock)
    assert "_Failing" in str(caught.value.__cause__) or "in render" in str(caught.value.__cause__)
    with pytest.raises(UserError, match=r"torch is .*, not 1\.0; make them the same"):
        render_with(_OpenFiles(), lock, planned={**fingerprint(), "torch": "1.0"})


def turned(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[::-1])


def test_a_machine_that_makes_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_mix(fingerprint())
    here = {name: version for name, version in fingerprint().items() if name != "numpy"}
    monkeypatch.setattr(probe, "fingerprint", lambda: here)
    with pytest.raises(UserError, match=r"numpy is [\d.]+, not 2;"):
        refuse_to_mix({**here, "numpy": "2"})
    monkeypatch.undo()
    before = fingerprint()[PROBE]
    for name, other in (("decode", turned), ("resize", turned), ("encode", bytes.swapcase)):
        original = getattr(probe, name)

        def changed(*arguments: Any, original: Any = original, other: Any = other) -> Any:
            return other(original(*arguments))

        with monkeypatch.context() as patch:
            patch.setattr(probe, name, changed)
            assert probe._probe() != before, name
    for format in SUFFIX:
        with monkeypatch.context() as patch:
            patch.setattr(
                probe,
                "encode",
                lambda image, wanted, bad=format: encode(image, wanted) * (1 + (wanted == bad)),
            )
            assert probe._probe() != before, format
    assert probe._probe() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "workers must be 0 or more, not -1"),
        ({"name": "spark"}, "executor must be one of local, ray, not 'spark'"),
        ({"name": "ray", "workers": 0}, "workers must be 1 or more with executor ray, not 0"),
        ({"address": "127.0.0.1:1"}, "an address goes with executor ray"),
    ],
)
def test_an_executor_that_there_is_not(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Executor(**settings)


def test_without_ray_one_line_says_what_to_install(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra_module.cache_clear()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        UserError, match=r"^ray cannot be imported .*: pip install 'unlearnable_kernels\[ray\]'$"
    ):
        protect(tree, tmp_path / "dst", executor="ray")
    assert not (tmp_path / "dst.partial").exists()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", "a..b:1"]
)
def test_a_cluster_that_is_not_there_is_found_at_once(address: str) -> None:
    asked: list[str] = []
    ray = SimpleNamespace(init=lambda address, **_: asked.append(address))
    with pytest.raises(UserError, match=f"^the Ray cluster at {re.escape(address)} cannot be used: "):
        by_ray._connect(ray, None, address)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = f"127.0.0.1:{listening.getsockname()[1]}"
        for each in (there, f"ray://{there}", "local"):
            by_ray._connect(ray, None, each)
    assert asked == [there, f"ray://{there}", "local"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two machines, as far as Ray is concerned, of one core each."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), before.get("PYTHONPATH", "")])
    # Ray listens on loopback then; it reads these when it is imported.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    from ray.cluster_utils import Cluster

    fewer = {"no_monitor": True, "include_log_monitor": False}
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    running = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False, **fewer})
    yield running, running.add_node(**small)
    running.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_ray_makes_the_same_bytes_though_a_worker_and_a_machine_die(
    tree: Path, tmp_path: Path, cluster: Any
) -> None:
    running, machine = cluster
    whole = protect(tree, tmp_path / "whole", workers=0)
    removed = False

    def progress(what: str, done: int, total: int) -> None:
        nonlocal removed
        if done >= 6 and not removed:
            removed = True
            running.remove_node(machine, allow_graceful=False)

    options = {"executor": "ray", "address": running.address, "method": deadly(tmp_path / "deaths", 1)}
    assert protect(tree, tmp_path / "dst", progress=progress, **options) == whole
    assert removed
    assert (tmp_path / "deaths" / "0").exists()


def test_ray_says_what_ails_its_workers(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def execute(rendering: Any, planned: dict[str, str]) -> None:
        list(by_ray.execute(rendering, [CHUNK], 1, None, tmp_path / "lock", planned))

    running, _ = cluster
    ray.init(address=running.address, log_to_driver=False, logging_level="ERROR")
    try:
        with pytest.raises(UserError, match=r"torch is .*, not 1\.0; make them the same"):
            execute(_OpenFiles(), {**fingerprint(), "torch": "1.0"})
        with pytest.raises(UserError, match=r"^what a worker met$"):
            execute(_Refusing(), fingerprint())
        monkeypatch.setattr(by_ray, "ATTEMPTS", 1)
        with pytest.raises(
            UserError, match=r"a Ray worker died 1 times of the same chunk, 3 pictures from c/0"
        ):
            execute(_Suicide(), fingerprint())
        assert ray.is_initialized()  # whoever connected goes on
    finally:
        ray.shutdown()


def test_the_script_for_ray(tmp_path: Path, cluster: Any) -> None:
    listed, out = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text(f"{WNIDS[0]}\n{WNIDS[3]}\n")
    options = [*SMALL, "--classes", listed, "--workers", "1"]
    with warm_commands(tmp_path) as commands:
        path = f"{commands}{os.pathsep}{os.environ['PATH']}"
        tree = imagenet(tmp_path / "imagenet")
        address = {"RAY_ADDRESS": cluster[0].address}
        told = run_script("imagenet100_ray.sh", tree, out, *options, PATH=path, **address, **noting(tmp_path))
    assert "ok: 8 files checked, key matches" in told
    assert sorted(each.name for each in (out / "protected" / "train").iterdir()) == [WNIDS[0], WNIDS[3]]
    assert noted(tmp_path) == ["train", "evaluate"] * 2 + ["report"]
