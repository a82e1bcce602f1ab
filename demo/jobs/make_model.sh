#!/bin/bash
#SBATCH --job-name=make-model
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=00:30:00
# Makes one of the demo's models with the image's own Python.
# usage: sbatch make_model.sh SCRIPT RECIPE SIF SOURCES MODEL
#   SCRIPT   convert_smollm2.py or make_scripted_model.py
#   RECIPE   a word for what the model is made from; nothing is done if the model there carries the same
#   SOURCES  folder with the scripts and wheels/
#   MODEL    the folder to make; it appears whole or not at all
set -euo pipefail

readonly usage="usage: make_model.sh SCRIPT RECIPE SIF SOURCES MODEL"
readonly script=${1:?$usage} recipe=${2:?$usage} sif=${3:?$usage} sources=${4:?$usage} model=${5:?$usage}
readonly made_from=.made-from
parent=$(dirname "$model")
readonly parent

is_current() { [[ -f $model/$made_from && $(< "$model/$made_from") == "$recipe" ]]; }

# What the image lacks to read GGUF files. These wheels are plain Python: unpacked is installed.
unpack_readers() {
  local wheel
  for wheel in "$sources"/wheels/{accelerate,gguf}-*.whl; do python3 -m zipfile -e "$wheel" "$work/site"; done
}

make_model() {
  apptainer exec --cleanenv --no-home --bind "$sources:/mnt:ro" --bind "$work" \
    --env "PYTHONPATH=$work/site,TQDM_DISABLE=1" "$sif" python "/mnt/$script" /mnt/wheels "$work/new"
}

# Modes are set because safetensors makes its files for their owner alone.
install_model() {
  echo "$recipe" > "$work/new/$made_from"
  chmod -R a+rX "$work/new"
  [[ ! -e $model ]] || mv "$model" "$work/old"
  mv -T "$work/new" "$model"
}

mkdir -p "$parent"
exec 9> "$parent/.$(basename "$model").lock"
flock 9
if is_current; then echo "$model is there already"; exit 0; fi
work=$(mktemp -d -p "$parent" .making.XXXXXX)
readonly work
trap 'rm -rf "$work"' EXIT
mkdir "$work/new" "$work/site"
unpack_readers
make_model
install_model
echo "made $model"
