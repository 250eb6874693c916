import pytest

from unlearnable_kernels import demo
from unlearnable_kernels.errors import UserError


def test_demo_in_short(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(
        demo.SETTINGS, "digits", demo.SETTINGS["digits"] | {"epochs": 1, "limit_per_class": 20}
    )
    accuracies = demo.run_demo(tmp_path / "demo")
    assert list(accuracies) == ["clean", "protected"]
    shown = capsys.readouterr().out
    assert all(f"{accuracy:.1%}" in shown for accuracy in accuracies.values())
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png") >= 30  # clean, difference and protected for each of ten digits
    first_key = (tmp_path / "demo" / "my.key").read_text()
    demo.run_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "my.key").read_text() != first_key


def test_demo_leaves_other_folders_alone(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(UserError, match="no earlier demo"):
        demo.run_demo(tmp_path)
    assert (tmp_path / "photo.jpg").read_bytes() == b"precious"


def test_cifar10_that_cannot_be_had_is_said(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def refuse(self):
        raise RuntimeError("no route\nto host")

    monkeypatch.setenv("UNLEARNABLE_DATA", str(tmp_path))
    monkeypatch.setattr(CIFAR10, "download", refuse)
    with pytest.raises(
        UserError, match=r"CIFAR-10 is not in UNLEARNABLE_DATA \(.*\) and cannot be downloaded"
    ):
        demo.find_cifar10()
