#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU is for, in one go, in under nine minutes and without a network:
#
#   scripts/gpu_check.sh OUT [--only tests|bench|train]
#
# It needs nvcc and a Python (PYTHON, default python3) with torch >= 2.11, torchvision, safetensors, pybind11 and
# pytest; what only some tests and benchmarks import is named where it is missing, and these then count as failed.
# The training runs read CIFAR10_NPZ, a folder that scripts/cifar10_npz.py wrote and that needs no decoder, or
# else CIFAR-10 under UNLEARNABLE_DATA. What is done goes to OUT as it is done: logs,
# OUT/<machine>-<torch>-gpu.json from the benchmarks, OUT/cifar10/ from the training runs, which end where the
# time does and which the same command takes up again. A stage alone has more time, which the tests, of three
# minutes on an H200 with 16 cores, and the benchmarks, of half a minute an operator, need. Exit status 1 if one
# failed.
# The speed of plain training (ResNet-18 on CIFAR-10, ERM): in the benchmarks eager and compiled; by the first run
# of the training stage, of 100 epochs, whose images a second and seconds OUT/train.log tells.
set -uo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 1 ] || usage
out=$1; shift
only=""
while [ $# -gt 0 ]; do
  case "$1 ${2:-}" in
    "--only tests" | "--only bench" | "--only train") only=$2; shift 2 ;;
    *) usage ;;
  esac
done
python=${PYTHON:-python3}
mkdir -p "$out" || exit 2
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
summary=()
failed=0

# limit TOGETHER ALONE: seconds of a stage beside the others, or with --only.
limit() { if [ -n "$only" ]; then echo "$2"; else echo "$1"; fi; }

# stage NAME SECONDS COMMAND…: its output goes to the terminal and to OUT/NAME.log.
stage() {
  local name=$1 limit=$2 start=$SECONDS status
  shift 2
  echo "== $name (at most $limit s)"
  timeout --signal=INT --kill-after=15 "$limit" "$@" 2>&1 | tee "$out/$name.log"
  status=${PIPESTATUS[0]}
  case $status in 0) result=passed ;; 124 | 137) result="stopped at its limit" ;; *) result="FAILED ($status)" ;; esac
  [ "$result" = passed ] || [ "$name $status" = "train 124" ] || failed=1
  summary+=("$(printf '%-10s %5d s  %s' "$name" $((SECONDS - start)) "$result")")
}

wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }

"$python" - "$only" <<'PYTHON' || exit 2
import importlib.util, sys
def missing(names):
    return ", ".join(name for name in names.split() if importlib.util.find_spec(name) is None)
testing = "" if sys.argv[1] == "train" else " pytest pytest_benchmark pytest_timeout"
if needed := missing("torch torchvision triton numpy safetensors pybind11 setuptools" + testing):
    sys.exit(f"gpu_check: this Python lacks {needed}")
import torch
if not torch.cuda.is_available():
    sys.exit("gpu_check: torch finds no GPU here")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
if some := missing("hypothesis simplejpeg isal cv2 safetensors sklearn PIL torchattacks"):
    print(f"gpu_check: this Python lacks {some}: the tests and benchmarks that import it will fail")
PYTHON
command -v nvcc >/dev/null || { echo "gpu_check: nvcc is not on the PATH" >&2; exit 2; }

architecture=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
figures="$out/$("$python" -c '
import re, torch
name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
print(f"{name}-torch{torch.__version__[:4]}-gpu.json")')"

# egg_info: the package asks for its own version, which nothing installed tells it here.
stage build "$(limit 90 150)" env UNLEARNABLE_REQUIRE_NATIVE=1 UNLEARNABLE_CUDA_ARCHS="$architecture" \
  "$python" setup.py -q egg_info build_ext --inplace
[ "$failed" -eq 0 ] || { printf '%s\n' "${summary[@]}"; exit 1; }

if wanted tests; then
  # Most of the time goes into compiling Triton kernels, which several processes share where pytest-xdist is there.
  workers=()
  ! "$python" -c 'import xdist' 2>/dev/null || workers=(-n 8)
  stage tests "$(limit 130 300)" env ${workers:+OMP_NUM_THREADS=2} "$python" -m pytest tests/gpu \
    ${workers[@]+"${workers[@]}"} -p no:cacheprovider --continue-on-collection-errors
  # Triton's compiler would spend the tools' time: what this compiles, they find in its cache.
  stage cases "$(limit 30 60)" "$python" scripts/gpu_small_cases.py
  for tool in "memcheck --report-api-errors no" racecheck; do
    # Without the caching allocator every tensor has bounds that the tool knows.
    stage "${tool%% *}" "$(limit 45 90)" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
      compute-sanitizer --tool $tool --error-exitcode 9 "$python" scripts/gpu_small_cases.py
  done
fi
if wanted bench; then
  stage bench "$(limit 150 480)" "$python" -m pytest benchmarks/gpu benchmarks/bench_training.py \
    -o python_files='bench_*.py' -p no:cacheprovider --continue-on-collection-errors --benchmark-enable \
    --benchmark-columns=median,rounds --figures "$figures"
fi
if wanted train; then
  left=$((515 - SECONDS))
  stage train $((left > 30 ? left : 30)) "$python" scripts/cifar10_runs.py "$out/cifar10" --amp bf16 \
    ${CIFAR10_NPZ:+--data "$CIFAR10_NPZ"}
fi

echo
[ -f "$figures" ] && "$python" scripts/figures_table.py "$figures"
printf '%s\n' "${summary[@]}"
exit "$failed"
