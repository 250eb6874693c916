#!/usr/bin/env bash
# ImageNet-100 from a tree of ImageNet (TREE/train and TREE/val with a folder for each class), on one machine:
#
#   scripts/imagenet100.sh TREE OUT [--classes FILE | --count 100 --class-seed 0] [--size 224]
#       [--method NAME] [--format png] [--fraction 1.0] [--workers N]
#       [--network resnet18] [--epochs 100] [--batch-size 256] [--seeds 0]
#
# Chooses the classes, makes a key, protects, verifies, trains on the clean and on the protected images, evaluates
# and writes OUT/report.html. Interrupted, it goes on when the same command is run again.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$scripts/imagenet100_steps.sh"
all_here -- "$@"
