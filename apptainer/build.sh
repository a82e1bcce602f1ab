#!/bin/bash
#SBATCH --job-name=build-sif
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
# Builds one pinned image on a compute node, as an ordinary user.
# usage: sbatch build.sh PIN_FOLDER IMAGES_FOLDER
#   PIN_FOLDER     requirements.lock, pin.yaml, vllm.def, manifest.py; without a network also base.tar and wheels/
#   IMAGES_FOLDER  receives NAME.sif, NAME.sif.sha256 and NAME.manifest.json, NAME being PIN_FOLDER's
# Does nothing if the image there was made from the same recipe. The image appears last, and whole.
set -euo pipefail

readonly pin_folder=${1:?usage: build.sh PIN_FOLDER IMAGES_FOLDER}
readonly images=${2:?usage: build.sh PIN_FOLDER IMAGES_FOLDER}
pin=$(basename "$pin_folder")
readonly pin

# Of the files that decide what goes in, in this order.
recipe_sha256() { (cd "$pin_folder" && cat vllm.def requirements.lock pin.yaml | sha256sum | cut -d' ' -f1); }

is_current() {
  [[ -s $images/$pin.sif ]] && grep -qs "\"recipe_sha256\": \"$recipe\"" "$images/$pin.manifest.json"
}

build_image() {
  local packages source=(--build-arg bootstrap=docker --build-arg base=debian:bookworm-slim)
  [[ ! -f $pin_folder/base.tar ]] || source=(--build-arg bootstrap=docker-archive --build-arg "base=$pin_folder/base.tar")
  packages=$(sed -n 's/^packages: *//p' "$pin_folder/pin.yaml")
  [[ -z $packages ]] || source+=(--build-arg "packages=$packages")
  # zstd writes three times as fast as gzip. Level 1 costs a few MiB.
  apptainer build --bind "$pin_folder:/mnt:ro" "${source[@]}" --build-arg "pin=$pin" \
    --mksquashfs-args "-comp zstd -Xcompression-level 1" "$work/$pin.sif" "$pin_folder/vllm.def"
}

describe_image() {
  (cd "$work" && sha256sum "$pin.sif" > "$pin.sif.sha256")
  apptainer exec --cleanenv --no-home --bind "$pin_folder:/mnt:ro" "$work/$pin.sif" \
    python /mnt/manifest.py "$pin" "$recipe" "$(cut -d' ' -f1 "$work/$pin.sif.sha256")" > "$work/$pin.manifest.json"
}

# An older image goes first: it must never stand beside the manifest of a newer one.
install_image() {
  chmod 0644 "$work/$pin."*
  rm -f "$images/$pin.sif"
  mv "$work/$pin.manifest.json" "$work/$pin.sif.sha256" "$images/"
  mv "$work/$pin.sif" "$images/"
}

mkdir -p "$images"
exec 9> "$images/.$pin.lock"
flock 9
recipe=$(recipe_sha256)
readonly recipe
if is_current; then echo "$images/$pin.sif is there already"; exit 0; fi

# The finished file is made in the folder it ends in, so that the last step is a rename; the unpacked image, of
# tens of thousands of small files, on the node's own disk.
work=$(mktemp -d -p "$images" ".$pin.XXXXXX")
scratch=$(mktemp -d)
readonly work scratch
trap 'rm -rf "$work"; chmod -R u+rwX "$scratch"; rm -rf "$scratch"' EXIT
export APPTAINER_TMPDIR=$scratch APPTAINER_CACHEDIR=$scratch
build_image
describe_image
install_image
echo "made $images/$pin.sif"
