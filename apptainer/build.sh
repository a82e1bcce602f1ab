#!/bin/bash
#SBATCH --job-name=build-sif
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=01:00:00
# Builds one pinned image on a compute node, as an ordinary user.
# usage: sbatch build.sh PIN_FOLDER IMAGES_FOLDER [STAGED_FOLDER]
#   PIN_FOLDER     vllm.def, manifest.py, oci.py, pin.yaml and, unless that names an OCI image, requirements.lock; also
#                  commit, the version of all these, where it is known
#   IMAGES_FOLDER  gets NAME.sif, NAME.sif.sha256 and NAME.manifest.json, with the NAME in pin.yaml
#   STAGED_FOLDER  for nodes without a network (default: PIN_FOLDER): base.tar (docker save) and wheels/, or image.tar
#                  (an oci-archive of the image that pin.yaml names)
# Does nothing if an image of the same recipe exists. The image is moved into place last, complete.
# APPTAINER: the program. TMPDIR: holds the unpacked image. BOUCHET_SIGN_KEY: number of the key to sign with in
# Apptainer's keyring. BOUCHET_REBUILD=yes: build although the image exists. BOUCHET_IN_USE: names of deployments that
# serve from the existing image, which is then not replaced. BOUCHET_WORK: folder for the unfinished image, in IMAGES_FOLDER
# and named .NAME.XXXXXX; whoever kills this script knows from it what to remove.
set -euo pipefail

readonly usage="usage: build.sh PIN_FOLDER IMAGES_FOLDER [STAGED_FOLDER]"
# Apptainer would take a relative path of a bind as one below /
pin_folder=$(realpath -ms "${1:?$usage}")
images=$(realpath -ms "${2:?$usage}")
staged=$(realpath -ms "${3:-$pin_folder}")
readonly pin_folder images staged
readonly apptainer=${APPTAINER:-apptainer}

# The value of a flat `name: value` line of pin.yaml, without quotes; empty for null and for a missing name.
fact() {
  local value
  value=$(sed -nE "s/^$1: *//p" "$pin_folder/pin.yaml" | tr -d "\"'")
  [[ $value == null ]] || printf '%s' "$value"
}

pin=$(fact name)
oci=$(fact oci)
readonly pin oci

sha256_of() { sha256sum "$@" | cut -d' ' -f1; }

# The hash of what determines the image's contents, in this order; sizes and comments in pin.yaml do not.
recipe_sha256() {
  local files=(vllm.def requirements.lock)
  [[ -f $pin_folder/requirements.lock ]] || files=(vllm.def)
  (cd "$pin_folder" && { cat "${files[@]}"; grep -vE '^(#|build_gib:|image_gib:|$)' pin.yaml; } | sha256_of)
}

is_current() {
  [[ -s $images/$pin.sif ]] && grep -qs "\"recipe_sha256\": \"$recipe\"" "$images/$pin.manifest.json"
}

refuse() {
  echo "bouchet: refused $*" >&2
  exit 3
}

# Sets `source`: what the image is built from. A tag may be moved to another image, so only a digest is accepted.
choose_source() {
  if [[ -n $oci ]]; then
    [[ $oci =~ ^[A-Za-z0-9._:/-]+@sha256:[0-9a-f]{64}$ ]] ||
      refuse "pin.yaml has \`oci: $oci\`; name the image by its digest, as in vllm/vllm-openai@sha256:..."
    source=(docker "$oci")
    if [[ -f $staged/image.tar ]]; then
      python3 "$pin_folder/oci.py" check "$staged/image.tar" "${oci##*@}" || exit 3
      source=(oci-archive "$staged/image.tar")
    fi
  elif [[ -f $staged/base.tar ]]; then
    source=(docker-archive "$staged/base.tar")
  else
    source=(docker "$(base_reference)")
  fi
}

# pin.yaml's base; by base_digest, if that is there. A reference has a tag or a digest, not both.
base_reference() {
  local base digest
  base=$(fact base)
  digest=$(fact base_digest)
  [[ -z $digest || $digest =~ ^sha256:[0-9a-f]{64}$ ]] || refuse "pin.yaml has \`base_digest: $digest\`; it is sha256:HASH"
  printf '%s' "${digest:+${base%%:*}@}${digest:-$base}"
}

# In the background, so that bash handles a signal at once.
run() {
  "$@" &
  child=$!
  wait "$child"
  child=
}

build_image() {
  local name value lock=none
  [[ ! -f $pin_folder/requirements.lock ]] || lock=$(sha256_of "$pin_folder/requirements.lock")
  for name in packages environment vllm torch cuda oci; do
    value=$(fact "$name")
    [[ -z $value ]] || printf '%s=%s\n' "$name" "$value"
  done > "$scratch/arguments"
  cat >> "$scratch/arguments" <<END
bootstrap=${source[0]}
base=${source[1]}
pin=$pin
lock_sha256=$lock
recipe_sha256=$recipe
commit=$(cat "$pin_folder/commit" 2> /dev/null || echo unknown)
END
  # zstd is three times as fast as gzip; level 1 makes the image a few MiB larger.
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
    docker-archive) echo "base.tar sha256:$(sha256_of "${source[1]}")" > "$scratch/base" ;;
    docker) find "$scratch/cache" -path '*/blob/index.json' -exec cp {} "$scratch/fetched.json" \; ;;
  esac
  [[ ${source[0]} != docker || -n $oci ]] || echo "${source[1]}" > "$scratch/base"
  "$apptainer" inspect --json --labels "$work/$pin.sif" > "$scratch/labels.json"
  "$apptainer" exec --cleanenv --no-home --bind "$pin_folder:/mnt:ro" --bind "$scratch:/srv:ro" "$work/$pin.sif" \
    python3 /mnt/manifest.py "$(cut -d' ' -f1 "$work/$pin.sif.sha256")" > "$work/$pin.manifest.json"
}

# An older image is removed first: it must never be next to the manifest of a newer one.
install_image() {
  chmod 0644 "$work/$pin."*
  rm -f "$images/$pin.sif"
  mv "$work/$pin.manifest.json" "$work/$pin.sif.sha256" "$images/"
  mv "$work/$pin.sif" "$images/"
}

# One build of a pin at a time. Whoever removes the image removes the lock's file as well, and with it this lock.
lock_pin() {
  local file=$images/.$pin.lock
  while :; do
    exec 9> "$file"
    flock 9
    if [[ $file -ef /dev/fd/9 ]]; then return; fi
  done
}

clean_up() {
  [[ -z $child ]] || { kill "$child" && wait "$child"; } 2> /dev/null || true
  rm -rf "$work"
  chmod -R u+rwX "$scratch"
  rm -rf "$scratch"
}

mkdir -p "$images"
lock_pin
recipe=$(recipe_sha256)
readonly recipe
if [[ ${BOUCHET_REBUILD:-} != yes ]] && is_current; then
  echo "bouchet: current $images/$pin.sif is up to date"
  exit 0
fi
if [[ -s $images/$pin.sif && -n ${BOUCHET_IN_USE:-} ]]; then
  refuse "$BOUCHET_IN_USE serves from the existing image; cancel it first, or use --force"
fi

echo 'bouchet: step base'
declare -a source
choose_source
# Removes what a killed build has left. The finished file is written in the images folder, so that the last step is a
# rename; the unpacked image, tens of thousands of small files, on the node's own disk.
rm -rf "$images/.$pin".??????
child=
work=${BOUCHET_WORK:-$(mktemp -d -p "$images" ".$pin.XXXXXX")}
mkdir -p "$work"
scratch=$(mktemp -d)
mkdir "$scratch/cache"
readonly work scratch
trap clean_up EXIT
trap 'exit 143' TERM INT
export APPTAINER_TMPDIR=$scratch APPTAINER_CACHEDIR=$scratch/cache
export SINGULARITY_TMPDIR=$scratch SINGULARITY_CACHEDIR=$scratch/cache
build_image
sign_image
describe_image
install_image
echo "bouchet: made $images/$pin.sif"
