"""Shards in remote stores: fsspec's own in memory, and S3 as moto plays it."""

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from sample_shards import KEY, TAR, protect, write_pictures
from typer.testing import CliRunner

from unlearnable_kernels.cli import app, main
from unlearnable_kernels.data import manifest_entries
from unlearnable_kernels.data.arrays import LabelledImages, load_arrays
from unlearnable_kernels.data.manifest import read_manifest
from unlearnable_kernels.data.named import resolve
from unlearnable_kernels.data.remote import upload as upload_set
from unlearnable_kernels.data.source import open_source
from unlearnable_kernels.datasets import Protected
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.extend import extend_dataset
from unlearnable_kernels.protect.methods.method import make_method
from unlearnable_kernels.protect.pipeline.executors.executor import Executor
from unlearnable_kernels.protect.pipeline.plan import Options
from unlearnable_kernels.protect.pipeline.staging import Staging
from unlearnable_kernels.protect.restore import restore_dataset
from unlearnable_kernels.protect.run import check_publishing, protect_dataset
from unlearnable_kernels.protect.stages import finish_dataset, plan_dataset, render_dataset
from unlearnable_kernels.protect.verify import verify_dataset


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A protected set in shards of either format, by the format."""
    root = tmp_path_factory.mktemp("local")
    write_pictures(root / "zoo")
    for format in ("webdataset", "parquet"):
        protect(root / "zoo", root / format, format=f"{format}:shard_size=4")
    return {format: root / format for format in ("webdataset", "parquet")}


def upload(folder: Path, url: str) -> None:
    system, place = fsspec.core.url_to_fs(url)
    for path in sorted(folder.iterdir()):
        system.pipe_file(f"{place}/{path.name}", path.read_bytes())


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://store/zoo"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def s3(shards: dict[str, Path]) -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("pictures")
        for format, folder in shards.items():
            upload(folder, f"s3://pictures/{format}")
        yield "s3://pictures"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_set_in_memory_is_the_same_as_here(format: str, shards: dict[str, Path], memory: str) -> None:
    upload(shards[format], memory)
    here, there = load_arrays(shards[format]), load_arrays(Path(memory))
    assert here.digest() == there.digest()
    assert here.names == there.names
    assert there.manifest == here.manifest
    assert there.manifest is not None


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_a_set_in_s3_is_the_same_as_here(format: str, shards: dict[str, Path], s3: str) -> None:
    there = Path(f"{s3}/{format}")
    assert load_arrays(shards[format]).digest() == load_arrays(there).digest()
    source = open_source(there)
    last = source.samples[-1]
    elsewhere = pickle.loads(pickle.dumps(source.without_samples()))
    assert elsewhere.read(last) == source.read(last)


def test_a_set_in_s3_is_protected(shards: dict[str, Path], s3: str, tmp_path: Path) -> None:
    protect(Path(f"{s3}/webdataset"), tmp_path / "there", dataset_name="zoo")
    protect(shards["webdataset"], tmp_path / "here", dataset_name="zoo")
    assert verify_dataset(tmp_path / "there", KEY).ok
    assert load_arrays(tmp_path / "there").digest() == load_arrays(tmp_path / "here").digest()


def local(url: str) -> dict[str, bytes]:
    """The files below a URL, by name."""
    system, place = fsspec.core.url_to_fs(url)
    return {name.rpartition("/")[2]: system.cat_file(name) for name in system.find(place)}


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_shards_are_written_to_a_store(
    format: str, shards: dict[str, Path], memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(manifest_entries, "PART_ENTRIES", 4)
    options: dict[str, Any] = {"secret": KEY, "workers": 0, "format": f"{format}:shard_size=4"}
    here = protect(shards["parquet"], tmp_path / "here", format=options["format"])
    system, notes = type(fsspec.filesystem("memory")), list[str]()
    put, sent = system.put_file, list[str]()

    def cut(self: Any, source: str, place: str, **more: Any) -> None:
        sent.append(Path(place).name)
        if sent[-1] == "manifest-00001.pq":
            raise OSError(28, "No space left on device")
        put(self, source, place, **more)

    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", cut)
        with pytest.raises(UserError, match=r"^cannot write memory://store/zoo/manifest-00001\.pq: No space"):
            protect_dataset(shards["parquet"], Path(memory), **options)
    assert "manifest.json" not in local(memory)
    assert list(tmp_path.glob("zoo-????????.partial"))
    told: list[tuple[str, int, int]] = []
    protect_dataset(shards["parquet"], Path(memory), progress=lambda *each: told.append(each), **options)
    assert local(memory) == here
    assert told[-1] == ("uploading", 9, 9)
    assert ("uploading", 0, 9) in told
    assert not list(tmp_path.glob("*.partial"))
    protect_dataset(shards["parquet"], Path(memory), notify=notes.append, **options)
    assert notes == ["memory://store/zoo is complete already"]
    with pytest.raises(
        UserError, match=r"^memory://store/zoo holds a dataset that differs in fraction.*; choose"
    ):
        protect_dataset(shards["parquet"], Path(memory), fraction=0.5, **options)
    assert sum(LabelledImages.protected_flags(load_arrays(Path(memory)))) == 9


def test_what_a_store_does_not_take(
    shards: dict[str, Path], memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^format must be webdataset or parquet for memory://.*, not 'png'"):
        protect_dataset(shards["parquet"], Path(memory), secret=KEY)
    fsspec.filesystem("memory").pipe_file("store/zoo/mine.txt", b"")
    with pytest.raises(UserError, match=r"^memory://store/zoo holds something else \(there is no manifest"):
        protect_dataset(shards["parquet"], Path(memory), secret=KEY, format="parquet")


def test_a_set_in_a_store_is_verified(shards: dict[str, Path], s3: str, memory: str) -> None:
    found = verify_dataset(Path(f"{s3}/parquet"), KEY)
    assert (found.ok, found.checked, found.key) == (True, 3, "matches")
    upload(shards["webdataset"], memory)
    store, place = fsspec.core.url_to_fs(memory)
    whole = [each["name"] for each in store.ls(place, detail=True)]
    assert len(Protected(memory, verify=True)) == 9
    changed, gone = (next(name for name in whole if name.endswith(f"00000{n}.tar")) for n in range(2))
    store.pipe_file(changed, store.cat_file(changed)[:-1] + b"x")
    store.rm_file(gone)
    for name in ("mine.txt", "more/.mine.txt"):
        store.pipe_file(f"{place}/{name}", b"")
    found = verify_dataset(Path(memory), KEY, executor=Executor(workers=0))
    assert (found.changed, found.missing) == (["train-000000.tar"], ["train-000001.tar"])
    assert (found.ok, found.extra) == (False, ["mine.txt", "more/.mine.txt"])
    with pytest.raises(UserError, match=r"^memory://store/zoo/less/manifest.json: no such file or folder"):
        verify_dataset(Path(memory) / "less", KEY)


def test_ranks_write_to_s3(
    shards: dict[str, Path], s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = Options(make_method("classwise-conv", {}), format="webdataset:shard_size=4")
    here, there = protect(shards["parquet"], tmp_path / "here", format=options.format), Path(f"{s3}/new")
    plan_dataset(shards["parquet"], there, options, secret=KEY)
    render_dataset(there, secret=KEY, executor=Executor(workers=0))
    finish_dataset(there, secret=KEY)
    assert local(f"{s3}/new") == here
    with pytest.raises(UserError, match=r"^s3://pictures/new is there already"):
        plan_dataset(shards["parquet"], there, options, secret=KEY)


def test_part_of_a_remote_set_is_taken(shards: dict[str, Path], memory: str) -> None:
    upload(shards["webdataset"], memory)
    whole = open_source(Path(memory))
    part = open_source(Path(f"subset:{memory}/train-000000.tar,classes=1"))
    assert part.classes == whole.classes[:1]
    assert resolve(Path(f"subset:{memory},classes=1")) == "subset:memory:/store/zoo,classes=1"
    assert part.read(part.samples[0]) == whole.read(whole.samples[0])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://nowhere/at/all", r"^memory://nowhere/at/all: no such file or folder$"),
        ("nosuch://bucket/zoo", r"^nosuch://bucket/zoo: Protocol not known: nosuch"),
        ("memory://store/zoo/a.txt", r"^memory://store/zoo/a.txt: "),
    ],
)
def test_what_is_not_there_is_one_line(path: str, message: str, memory: str) -> None:
    fsspec.filesystem("memory").pipe_file("/store/zoo/a.txt", b"x")
    with pytest.raises(UserError, match=message) as error:
        open_source(Path(path))
    assert "\n" not in str(error.value)


def test_a_bucket_without_permission_is_one_line(s3: str) -> None:
    with pytest.raises(UserError, match=r"^s3://nobodys-bucket/zoo: "):
        open_source(Path("s3://nobodys-bucket/zoo"))


def test_a_bucket_that_is_not_there_is_found_at_once(shards: dict[str, Path], s3: str, away: Path) -> None:
    with pytest.raises(UserError, match=r"^s3://nobodys-bucket: no such file or folder$"):
        planned(shards["parquet"], Path("s3://nobodys-bucket/zoo"))
    assert not list(away.iterdir())


def test_messages_name_a_url_as_it_is_written(shards: dict[str, Path], memory: str, away: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/store/zoo/manifest.json", b"{}")
    with pytest.raises(UserError, match=r"^memory://store/zoo/manifest\.json: damaged: "):
        read_manifest(Path(memory))
    fsspec.filesystem("memory").rm("/store/zoo/manifest.json")
    command = ["plan", str(shards["parquet"]), memory, "--seed-compat", "1", "--format", "webdataset"]
    with pytest.warns(UserWarning, match="is not a secret"):
        result = CliRunner().invoke(app, command)
    assert re.search(r"planned \d+ chunks in zoo-[0-9a-f]{8}\.partial\n", result.output), result.output


def test_a_shard_that_shrinks_meanwhile_is_named(shards: dict[str, Path], memory: str) -> None:
    upload(shards["webdataset"], memory)
    source = open_source(Path(memory))
    fsspec.filesystem("memory").pipe_file("/store/zoo/train-000000.tar", TAR[:600])
    with pytest.raises(UserError, match=r"train-000000\.tar: ends within"):
        source.read(source.samples[1])


def test_a_remote_set_is_read_by_many_threads(shards: dict[str, Path], memory: str) -> None:
    upload(shards["webdataset"], memory)
    arrays = [load_arrays(Path(memory)).images for _ in range(2)]
    assert torch.equal(*arrays)
    assert np.ptp(arrays[0].numpy()) > 0


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str) -> Path:
    """An empty current folder, for the staging folders of what goes to ``memory``."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(src: Path, dst: Path, format: str | None = "webdataset:shard_size=4") -> None:
    """Plan and render."""
    plan_dataset(src, dst, Options(make_method("classwise-conv", {}), format=format), secret=KEY)
    render_dataset(dst, secret=KEY, executor=Executor(workers=0))


def test_what_was_planned_for_one_place_is_not_finished_at_another(
    shards: dict[str, Path], memory: str, away: Path
) -> None:
    planned(shards["parquet"], away / "zoo", format=None)
    for url in (memory, "memory://other/zoo"):
        with pytest.raises(UserError, match=rf"zoo-[0-9a-f]{{8}}\.partial is not there: .* {url} is fin"):
            finish_dataset(Path(url), secret=KEY)
    with pytest.raises(UserError, match=r"^format must be webdataset or parquet for memory://"):
        planned(shards["parquet"], Path(memory), format="png")
    options: dict[str, Any] = {"secret": KEY, "workers": 0, "format": "webdataset"}
    for _ in range(2):
        protect_dataset(shards["parquet"], Path(memory), **options)
    assert [path.name for path in away.iterdir()] == ["zoo.partial"]
    finish_dataset(away / "zoo", secret=KEY)


def test_a_folder_is_not_uploaded(memory: str, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"^memory://store/zoo takes files alone, and .*train is a folder$"):
        upload_set(tmp_path, Path(memory), "manifest.json", print)
    assert not local(memory)


def test_nothing_at_a_url_is_overwritten(shards: dict[str, Path], memory: str, away: Path) -> None:
    store, there = fsspec.filesystem("memory"), "/store/zoo/train-000000.tar"
    store.pipe_file(there, b"precious")
    with pytest.raises(UserError, match=r"holds something else \(there is no manifest\.json\), such as tr"):
        planned(shards["parquet"], Path(memory))
    store.rm(there)
    options = Options(make_method("classwise-conv", {}))
    how: dict[str, Any] = {"labels": None, "on_error": "raise", "earlier": (), "accept_exposure": False}
    store.pipe_file("/store/zoo/.keep", b"")  # as in a folder here
    with pytest.raises(UserError, match=r"holds something else .*, such as \.keep; choose another name$"):
        planned(shards["parquet"], Path(memory))
    with pytest.raises(UserError, match=r"what is in memory://store/zoo can be compared with the key alone"):
        check_publishing(shards["parquet"], Path(memory), options, None, notify=print, **how)
    store.rm("/store/zoo/.keep")
    planned(shards["parquet"], Path(memory))
    store.pipe_file(there, b"precious")
    with pytest.raises(UserError, match=r"holds something else"):
        finish_dataset(Path(memory), secret=KEY)
    assert local(memory) == {"train-000000.tar": b"precious"}


def test_a_run_that_finishes_first_stays(
    shards: dict[str, Path], memory: str, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(shards["parquet"], Path(memory))
    system = type(fsspec.filesystem("memory"))
    put = system.put_file

    def race(self: Any, source: str, place: str, **more: Any) -> None:
        put(self, source, place, **more)
        self.pipe_file("/store/zoo/manifest.json", b"of another run")

    monkeypatch.setattr(system, "put_file", race)
    with pytest.raises(UserError, match=r"manifest\.json is there already: another run finished meanwhile"):
        finish_dataset(Path(memory), secret=KEY)
    assert local(memory)["manifest.json"] == b"of another run"


@pytest.mark.parametrize(("when", "wins"), [(0, "theirs"), (1, "ours"), (2, "ours")])
def test_two_that_upload_at_once_do_not_mix(
    shards: dict[str, Path], memory: str, away: Path, monkeypatch: pytest.MonkeyPatch, when: int, wins: str
) -> None:
    """Another machine's run finishes when ours has looked, and has written nothing, or one file, or two."""
    whole, written, told = {}, 0, ""
    for name, strength in (("ours", 0.3), ("theirs", 0.1)):
        (away / name).mkdir()
        monkeypatch.chdir(away / name)
        method, format = make_method("classwise-conv", {"strength": strength}), "webdataset:shard_size=4"
        whole[name] = protect(shards["parquet"], away / f"{name}-here", method=method, format=format)
        plan_dataset(shards["parquet"], Path(memory), Options(method, format=format), secret=KEY)
        render_dataset(Path(memory), secret=KEY, executor=Executor(workers=0))
    system = type(fsspec.filesystem("memory"))

    def finish(name: str) -> str:
        monkeypatch.chdir(away / name)
        try:
            return str(finish_dataset(Path(memory), secret=KEY))
        except UserError as error:
            return str(error)

    def counted(write: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> None:
            nonlocal written, told
            written += 1
            if written == when + 1:
                told = finish("theirs")
            write(*arguments, **more)

        return call

    monkeypatch.setattr(system, "put_file", counted(system.put_file))
    monkeypatch.setattr(system, "pipe_file", counted(system.pipe_file))
    ended = {"ours": finish("ours"), "theirs": told}
    assert local(memory) == whole[wins]
    assert ended.pop(wins).endswith("manifest.json")
    assert next(iter(ended.values())).startswith("memory://store/zoo is ")


def test_two_that_begin_to_upload_at_once_both_step_back(
    shards: dict[str, Path], memory: str, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(shards["parquet"], Path(memory))
    system = type(fsspec.filesystem("memory"))
    pipe = system.pipe_file

    def both(self: Any, place: str, data: bytes, **more: Any) -> None:
        pipe(self, place, data, **more)
        pipe(self, "/store/zoo/uploading-0123456789abcdef", data)

    with monkeypatch.context() as patch:
        patch.setattr(system, "pipe_file", both)
        with pytest.raises(UserError, match=r"^memory://store/zoo is being written by another run; choose"):
            finish_dataset(Path(memory), secret=KEY)
    assert list(local(memory)) == ["uploading-0123456789abcdef"]
    fsspec.filesystem("memory").rm("/store/zoo/uploading-0123456789abcdef")
    finish_dataset(Path(memory), secret=KEY)
    assert read_manifest(Path(memory))["classes"]


def test_what_half_an_upload_left_is_no_part_of_the_set(
    memory: str, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_entries, "PART_ENTRIES", 2)
    src, system = write_pictures(away / "src"), type(fsspec.filesystem("memory"))
    put, options = system.put_file, {"secret": KEY, "workers": 0, "format": "webdataset:shard_size=2"}

    def cut(self: Any, source: str, place: str, **more: Any) -> None:
        if place.endswith("manifest.json"):
            raise OSError(5, "connection lost")
        put(self, source, place, **more)

    with monkeypatch.context() as patch:
        patch.setattr(system, "put_file", cut)
        with pytest.raises(UserError, match="connection lost"):
            protect_dataset(src, Path(memory), **options)
    before = local(memory).keys()
    for path in src.rglob("0[12].png"):
        path.unlink()
    protect_dataset(src, Path(memory), **options)
    assert local(memory) == protect(src, away / "here", format=options["format"])
    assert before - local(memory).keys() >= {"train-000004.tar", "manifest-00004.pq"}


def test_a_finish_that_was_killed_at_the_end_is_done_again(
    shards: dict[str, Path], memory: str, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(shards["parquet"], Path(memory))
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "remove", lambda self: sys.exit(143))
        with pytest.raises(SystemExit):
            finish_dataset(Path(memory), secret=KEY)
    assert list(away.iterdir())
    assert finish_dataset(Path(memory), secret=KEY) == Path(memory) / "manifest.json"
    assert not list(away.iterdir())


def test_a_set_is_restored_to_this_machine_alone(
    shards: dict[str, Path], memory: str, away: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(shards["webdataset"], memory)
    first = rf"^{memory}: .* copy it to this machine first$"
    for fails in (
        lambda: restore_dataset(Path(memory), away / "back", secret=KEY),
        lambda: extend_dataset(shards["parquet"], Path(memory), secret=KEY),
    ):
        with pytest.raises(UserError, match=first):
            fails()
    with pytest.raises(UserError, match=r"^memory://store/back: .* give a folder on this machine$"):
        restore_dataset(shards["webdataset"], Path("memory://store/back"), secret=KEY)
    assert not list(away.iterdir())


@pytest.mark.parametrize("url", ["file:///tmp/out", "local:///tmp/out"])
def test_a_url_of_a_file_on_this_machine_is_refused(
    url: str, shards: dict[str, Path], away: Path, tmp_path: Path
) -> None:
    message = r"^(file|local)://tmp/out is on this machine: give the path itself, such as /home/me/set$"
    with pytest.raises(UserError, match=message):
        protect_dataset(shards["parquet"], Path(url), secret=KEY, workers=0, format="webdataset")
    with pytest.raises(UserError, match=message):
        finish_dataset(Path(url), secret=KEY)
    with pytest.raises(UserError, match=message):
        open_source(Path(url))
    assert not list(away.iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("MEMORY://store/zoo", r"^MEMORY://store/zoo: write memory:// in lower case$"),
        ("memory://", r"^memory://: name the bucket and the folder after ://, such as s3://bucket/set$"),
        ("s3:/", r"^s3://: name the bucket"),
    ],
)
def test_a_url_that_would_be_a_folder_here_is_refused(
    url: str, message: str, shards: dict[str, Path], away: Path
) -> None:
    for fails in (
        lambda: protect_dataset(shards["parquet"], Path(url), secret=KEY, workers=0, format="webdataset"),
        lambda: restore_dataset(shards["webdataset"], Path(url), secret=KEY),
        lambda: open_source(Path(url)),
    ):
        with pytest.raises(UserError, match=message):
            fails()
    assert not list(away.iterdir())


def test_a_url_without_a_host_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("warnings.showwarning", None)  # as it was, afterwards
    monkeypatch.setattr(sys, "argv", ["unlearnable", "protect", "src", "hdfs:///data/set"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == (
        "unlearnable: hdfs:///data/set: name the host or bucket after ://, or give the path itself where the "
        "files are on this machine\n"
    )


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_one_remote_shard_is_of_a_protected_set(format: str, shards: dict[str, Path], memory: str) -> None:
    upload(shards[format], memory)
    [name, *_] = [path.name for path in sorted(shards[format].iterdir()) if path.name != "manifest.json"]
    here, there = load_arrays(shards[format] / name), load_arrays(Path(f"{memory}/{name}"))
    assert there.protected_flags() == here.protected_flags() == [True] * len(here.labels)
