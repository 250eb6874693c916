"""Protected datasets, and any others that this package opens, for training scripts of your own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from unlearnable_kernels.data.checked import open_checked
from unlearnable_kernels.data.manifest import Manifest, find_manifest, without_tables
from unlearnable_kernels.data.source import load_image
from unlearnable_kernels.errors import UserError, shown
from unlearnable_kernels.extras import extra_module
from unlearnable_kernels.protect.verify import verify_dataset


class Protected(Dataset[tuple[Any, Any]]):
    """A dataset of (image, label), used like those of torchvision.

    Images are decoded when they are asked for. It can be pickled, so that loaders with workers, forked or
    spawned, can use it; a spawned worker reads an .npz anew.

    Example::

        train = Protected("protected", transform=v2.Compose([v2.PILToTensor(), v2.RandomHorizontalFlip()]))
        loader = torch.utils.data.DataLoader(train, 128, shuffle=True, num_workers=2)

    Args:
        root: What ``protect`` wrote, in any format, or any dataset as ``open_source`` takes it, such as
            the clean images to test on.
        split: "train" or "test".
        transform: Takes the PIL image; what it returns is the image.
        target_transform: Likewise for the label.
        verify: Whether to compare the bytes of all files with the manifest. That no image is missing or of
            another class is checked in any case.

    Attributes:
        classes: Names of the classes, sorted unless the dataset's format says otherwise.
        class_to_idx: The label of each class.
        targets: The label of each image.
        names: The name of each image, unique.
        protected: Whether each image is protected, as the manifest says; all are not where there is none.
        protection: How the dataset was protected, its manifest without the tables of files, or None.

    Raises:
        UserError: The dataset cannot be opened, or differs from its manifest.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        verify: bool = False,
    ) -> None:
        self.root, self.split = str(root), split
        self.transform, self.target_transform = transform, target_transform
        if verify:
            _verify(self.root, find_manifest(Path(root)))
        checked = open_checked(Path(root), split)
        self._source = checked.source
        self.classes = self._source.classes
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self.targets = [sample.label for sample in self._source.samples]
        self.names = [sample.name for sample in self._source.samples]
        self.protected = checked.protected
        self.protection = None if checked.manifest is None else without_tables(checked.manifest)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The image, as ``transform`` returns it, and its label.

        Raises:
            ImageError: The file cannot be read or decoded.
        """
        sample = self._source.samples[index]
        image = extra_module("PIL.Image").fromarray(load_image(self._source, sample, None))
        label: Any = sample.label
        if self.transform is not None:
            image = self.transform(image)
        if self.target_transform is not None:
            label = self.target_transform(label)
        return image, label

    def __repr__(self) -> str:
        size = f"{len(self)} images of {len(self.classes)} classes"
        return f"<{type(self).__name__} {self.root!r}, {self.split}: {size}>"


def _verify(root: str, manifest: Manifest | None) -> None:
    """Raises UserError unless the files of a set are those of its manifest."""
    if manifest is None:
        raise UserError(f"{root}: there is no manifest to verify it by")
    report = verify_dataset(manifest.folder)
    for kind in ("missing", "changed"):
        if names := getattr(report, kind):
            raise UserError(
                f"{root} differs from its manifest: {len(names)} files {kind}, such as {shown(names[0])}"
            )
