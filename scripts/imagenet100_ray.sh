#!/usr/bin/env bash
# ImageNet-100 from a tree of ImageNet (TREE/train and TREE/val with a folder for each class), protected by the
# machines of the Ray cluster that RAY_ADDRESS names, or by a Ray of this machine's own:
#
#   RAY_ADDRESS=HOST:6379 scripts/imagenet100_ray.sh TREE OUT [OPTIONS of scripts/imagenet100.sh]
#
# All machines need TREE and OUT under the same names, and the same versions of all libraries. Training runs here.
set -euo pipefail
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$scripts/imagenet100_steps.sh"
all_here --executor ray -- "$@"
