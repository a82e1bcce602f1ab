#!/bin/bash
#SBATCH --job-name=build-sif
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
# Builds one pinned image on a compute node, as an ordinary user.
# usage: sbatch build.sh PIN_FOLDER IMAGES_FOLDER [STAGED_FOLDER]
#   PIN_FOLDER     vllm.def, manifest.py, oci.py, pin.yaml and, unless that names an OCI image, requirements.lock; perhaps
#                  commit, the version of all these
#   IMAGES_FOLDER  receives NAME.sif, NAME.sif.sha256 and NAME.manifest.json, NAME being the one in pin.yaml
#   STAGED_FOLDER  for nodes without a network (PIN_FOLDER if left out): base.tar (docker save) and wheels/, or image.tar
#                  (an oci-archive of the image that pin.yaml names)
# Does nothing if the image there was made from the same recipe. The image appears last, and whole.
# APPTAINER names the program; TMPDIR holds the unpacked image; BOUCHET_SIGN_KEY is the place in Apptainer's keyring of the
# key to sign with; BOUCHET_REBUILD=yes builds what is there already; BOUCHET_IN_USE names who serves from the image that
# is there, which is then not replaced.
set -euo pipefail

readonly usage="usage: build.sh PIN_FOLDER IMAGES_FOLDER [STAGED_FOLDER]"
readonly pin_folder=${1:?$usage}
readonly images=${2:?$usage}
readonly staged=${3:-$pin_folder}
readonly apptainer=${APPTAINER:-apptainer}

# A line of pin.yaml: flat `name: word`, perhaps in quotes; empty for null and for what is not there.
fact() {
  local word
  word=$(sed -nE "s/^$1: *//p" "$pin_folder/pin.yaml" | tr -d "\"'")
  [[ $word == null ]] || printf '%s' "$word"
}

pin=$(fact name)
oci=$(fact oci)
readonly pin oci

sha256_of() { sha256sum "$@" | cut -d' ' -f1; }

# Of the files that decide what goes in, in this order.
recipe_sha256() {
  local files=(vllm.def requirements.lock pin.yaml)
  [[ -f $pin_folder/requirements.lock ]] || files=(vllm.def pin.yaml)
  (cd "$pin_folder" && cat "${files[@]}" | sha256_of)
}

is_current() {
  [[ -s $images/$pin.sif ]] && grep -qs "\"recipe_sha256\": \"$recipe\"" "$images/$pin.manifest.json"
}

refuse() {
  echo "bouchet: refused $*" >&2
  exit 3
}

# Sets `source`: where the image begins. A tag may name another image tomorrow, so only a digest will do.
choose_source() {
  if [[ -n $oci ]]; then
    [[ $oci =~ ^[A-Za-z0-9._:/-]+@sha256:[0-9a-f]{64}$ ]] ||
      refuse "pin.yaml says \`oci: $oci\`; name the image by its digest, as in vllm/vllm-openai@sha256:..."
    source=(docker "$oci")
    if [[ -f $staged/image.tar ]]; then
      python3 "$pin_folder/oci.py" check "$staged/image.tar" "${oci##*@}" || exit 3
      source=(oci-archive "$staged/image.tar")
    fi
  elif [[ -f $staged/base.tar ]]; then
    source=(docker-archive "$staged/base.tar")
  else
    source=(docker "$(fact base)")
  fi
}

# In the background, so that a signal is heard at once.
run() {
  "$@" &
  child=$!
  wait "$child"
  child=
}

build_image() {
  local name word lock=none
  [[ ! -f $pin_folder/requirements.lock ]] || lock=$(sha256_of "$pin_folder/requirements.lock")
  for name in packages environment vllm torch cuda oci; do
    word=$(fact "$name")
    [[ -z $word ]] || printf '%s=%s\n' "$name" "$word"
  done > "$scratch/arguments"
  cat >> "$scratch/arguments" <<END
bootstrap=${source[0]}
base=${source[1]}
pin=$pin
lock_sha256=$lock
recipe_sha256=$recipe
commit=$(cat "$pin_folder/commit" 2> /dev/null || echo unknown)
END
  # zstd writes three times as fast as gzip. Level 1 costs a few MiB.
  run "$apptainer" build --bind "$pin_folder:/mnt:ro" --bind "$staged:/srv:ro" --build-arg-file "$scratch/arguments" \
    --mksquashfs-args "-comp zstd -Xcompression-level 1" "$work/$pin.sif" "$pin_folder/vllm.def"
}

sign_image() {
  [[ -n ${BOUCHET_SIGN_KEY:-} ]] || return 0
  echo 'bouchet: step sign'
  run "$apptainer" sign --keyidx "$BOUCHET_SIGN_KEY" "$work/$pin.sif" < /dev/null
}

describe_image() {
  echo 'bouchet: step hash'
  (cd "$work" && sha256sum "$pin.sif" > "$pin.sif.sha256")
  case ${source[0]} in
    oci-archive) tar -xOf "${source[1]}" index.json > "$scratch/fetched.json" ;;
    docker) find "$scratch/cache" -path '*/blob/index.json' -exec cp {} "$scratch/fetched.json" \; ;;
  esac
  "$apptainer" inspect --json --labels "$work/$pin.sif" > "$scratch/labels.json"
  "$apptainer" exec --cleanenv --no-home --bind "$pin_folder:/mnt:ro" --bind "$scratch:/srv:ro" "$work/$pin.sif" \
    python3 /mnt/manifest.py "$(cut -d' ' -f1 "$work/$pin.sif.sha256")" > "$work/$pin.manifest.json"
}

# An older image goes first: it must never stand beside the manifest of a newer one.
install_image() {
  chmod 0644 "$work/$pin."*
  rm -f "$images/$pin.sif"
  mv "$work/$pin.manifest.json" "$work/$pin.sif.sha256" "$images/"
  mv "$work/$pin.sif" "$images/"
}

clean_up() {
  [[ -z $child ]] || { kill "$child" && wait "$child"; } 2> /dev/null || true
  rm -rf "$work"
  chmod -R u+rwX "$scratch"
  rm -rf "$scratch"
}

mkdir -p "$images"
exec 9> "$images/.$pin.lock"
flock 9
recipe=$(recipe_sha256)
readonly recipe
if [[ ${BOUCHET_REBUILD:-} != yes ]] && is_current; then
  echo "bouchet: current $images/$pin.sif is there already"
  exit 0
fi
if [[ -s $images/$pin.sif && -n ${BOUCHET_IN_USE:-} ]]; then
  refuse "$BOUCHET_IN_USE serves from the image that is there; cancel that first, or say --force"
fi

echo 'bouchet: step base'
declare -a source
choose_source
# What a build that was killed has left. The finished file is made in the folder it ends in, so that the last step is a
# rename; the unpacked image, of tens of thousands of small files, on the node's own disk.
rm -rf "$images/.$pin".??????
child=
work=$(mktemp -d -p "$images" ".$pin.XXXXXX")
scratch=$(mktemp -d)
mkdir "$scratch/cache"
readonly work scratch
trap clean_up EXIT
trap 'exit 143' TERM INT
export APPTAINER_TMPDIR=$scratch APPTAINER_CACHEDIR=$scratch/cache
build_image
sign_image
describe_image
install_image
echo "bouchet: made $images/$pin.sif"
