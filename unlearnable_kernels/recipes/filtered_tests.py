"""Tests on images that carry class-wise filters themselves (Sadasivan et al., CVPR 2023)."""

from dataclasses import replace
from pathlib import Path

import torch

from unlearnable_kernels.data.arrays import load_arrays
from unlearnable_kernels.data.manifest import find_manifest
from unlearnable_kernels.device import pick_device
from unlearnable_kernels.errors import UserError
from unlearnable_kernels.ops.classwise_conv import classwise_conv
from unlearnable_kernels.protect.keys import Secret
from unlearnable_kernels.protect.methods.filters import IRP, SQUARE, class_filters
from unlearnable_kernels.recipes.row import PERMUTED, SHARED
from unlearnable_kernels.training import Processes
from unlearnable_kernels.training.evaluation import at_test, load_trained, measure


def accuracy_on_filtered(run: Path, protected: Path, secret: Secret, test: str) -> float:
    """The accuracy, in [0, 1], of a run's network on its test set, filtered with the training set's filters.

    Args:
        run: The folder of a run that was tested.
        protected: The data set that it was trained on, protected by class-wise convolution.
        secret: Of the protection.
        test: "protected" gives each image its own class's filter, "permuted" the next class's, "shared" the
            first class's.

    Raises:
        UserError: The data set was not protected so, or as ``load_trained`` does.
    """
    manifest = find_manifest(protected)
    if manifest is None or manifest["method"] != "classwise-conv":
        raise UserError(
            f"{protected} was not protected by classwise-conv: its filters are needed for the test"
        )
    settings = manifest["parameters"]
    kind = settings.get("filters", SQUARE)
    if kind == IRP:
        raise UserError(f"{protected} has irp filters, which were fitted to its images and not kept")
    device = pick_device()
    trained = load_trained(run, device)
    config, classes = trained.config, trained.record["classes"]
    assert config.test is not None
    data = load_arrays(
        Path(config.test), "test", config.image_size, limit_per_class=config.test_limit_per_class
    )
    data = data.relabelled(classes, config.test)
    derived = classes if manifest.get("scheme") == 2 else len(classes)
    filters = class_filters(
        secret,
        manifest["dataset_name"],
        derived,
        settings["kernel_size"],
        settings["strength"],
        kind,
        settings.get("centred", False),
    )
    shown = data.labels
    if test == PERMUTED:
        shown = (shown + 1) % len(classes)
    elif test == SHARED:
        shown = torch.zeros_like(shown)
    images = torch.empty_like(data.images)
    classwise_conv(
        data.images.permute(0, 3, 1, 2), shown, filters, settings["padding"], out=images.permute(0, 3, 1, 2)
    )
    seen = at_test(trained.defences, replace(data, images=images))
    found = measure(trained.model, seen, config.batch_size, Processes(0, 1, device), config.precision)
    return found.accuracy
