# The steps that imagenet100.sh, imagenet100_ray.sh and imagenet100.slurm are made of; they read this file.

usage() { grep '^# ' "$0" | sed '1,1d;s/^# \{0,1\}//' >&2; exit 2; }

# options WORD…: fills in the settings below from the command line.
options() {
  classes="" count=100 class_seed=0 size=224 method=classwise-conv format=png network=resnet18
  epochs=100 batch=256 seeds=0 fraction=1.0 workers=""
  while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
      --classes) classes=$2 ;;
      --count) count=$2 ;;
      --class-seed) class_seed=$2 ;;
      --size) size=$2 ;;
      --method) method=$2 ;;
      --format) format=$2 ;;
      --fraction) fraction=$2 ;;
      --workers) workers=$2 ;;
      --network) network=$2 ;;
      --epochs) epochs=$2 ;;
      --batch-size) batch=$2 ;;
      --seeds) seeds=$2 ;;
      *) usage ;;
    esac
    shift 2
  done
}

# The classes, into OUT/classes.txt: those of a file, or COUNT by a seed. A list that is there stays.
choose() {
  mkdir -p "$out"
  if [ ! -e "$out/classes.txt" ]; then
    if [ -n "$classes" ]; then
      cp "$classes" "$out/classes.txt.part"
    else
      "${PYTHON:-python3}" "$scripts/choose_classes.py" "$tree" --count "$count" --seed "$class_seed" \
        > "$out/classes.txt.part"
    fi
    mv "$out/classes.txt.part" "$out/classes.txt"
  fi
  source_set="imagenet100:$tree,classes=$out/classes.txt"
  [ -e "$out/private.key" ] || unlearnable keygen "$out/private.key"
}

# how: what is asked of `protect` and of `plan`.
how() {
  printf '%s\n' --key-file "$out/private.key" --method "$method" --format "$format" --resize "$size" \
    --fraction "$fraction"
}

# all_here OPTION… -- WORD…: everything on this machine, `protect` with these options besides.
all_here() {
  local more=()
  while [ "$1" != -- ]; do more+=("$1"); shift; done
  shift
  [ $# -ge 2 ] || usage
  tree=$1 out=$2
  shift 2
  options "$@"
  choose
  local asked
  mapfile -t asked < <(how)
  unlearnable protect "$source_set" "$out/protected" "${asked[@]}" "${more[@]}" ${workers:+--workers "$workers"}
  check_result
  train_both
}

check_result() { unlearnable verify "$out/protected" --key-file "$out/private.key"; }

# A network on the clean images and one on the protected, both tested on clean ones.
train_both() {
  local kind train
  for kind in clean protected; do
    train=$source_set
    [ $kind = clean ] || train=$out/protected
    unlearnable train --train "$train" --test "$source_set" --out "$out/runs/$kind" --network "$network" \
      --image-size "$size" --epochs "$epochs" --batch-size "$batch" --seeds "$seeds"
    unlearnable evaluate "$out/runs/$kind" --test "$source_set"
  done
  unlearnable report "$out/runs/clean" "$out/runs/protected" --out "$out/report.html" --title "ImageNet-100"
}
