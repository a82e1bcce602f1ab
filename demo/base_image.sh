#!/bin/bash
# Gets a Debian base image: pulled, or made from this machine's own package source where no registry answers.
# usage: base_image.sh TAG SUITE [ARCH]   e.g. base_image.sh debian:trixie-slim trixie
# A digest for TAG in setup/locks/base-images.lock decides which image is pulled. ARCH, as Debian calls it, is for a TAG of
# another CPU type than this machine's: base_image.sh arm64v8/debian:trixie-slim trixie arm64. To make such a base, the
# kernel needs an emulator that runs its programs (qemu).
# Making one needs root and mmdebstrap; the result is what debian:*-slim holds, plus the CA certificates.
set -euo pipefail

readonly tag=${1:?usage: base_image.sh TAG SUITE [ARCH]}
readonly suite=${2:?usage: base_image.sh TAG SUITE [ARCH]}
readonly arch=${3:-}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
digest=$(sed -n "s|^$tag \(sha256:[0-9a-f]\{64\}\)$|\1|p" "$here/../setup/locks/base-images.lock")
readonly here digest
readonly wanted=${digest:+${tag%%:*}@$digest}
readonly answer_seconds=8 pull_seconds=300
# mmdebstrap gives files no later time than this: the same packages make the same layer, whenever they are unpacked.
export SOURCE_DATE_EPOCH=1735689600
work=$(mktemp -d)
readonly work
trap 'rm -rf "$work"' EXIT

# pull prints "Pulling from ..." once the registry has answered; an engine that gets no answer may try for a minute.
# Neither macOS nor bash 3.2 has a program that limits the time of another.
pull() {
  local waited=0 limit=$answer_seconds puller
  docker pull ${arch:+--platform "linux/$arch"} "${wanted:-$tag}" >"$work/pull" 2>&1 &
  puller=$!
  while kill -0 "$puller" 2>/dev/null; do
    if grep -q 'Pulling from' "$work/pull"; then limit=$pull_seconds; fi
    if ((waited++ >= limit * 5)); then kill "$puller"; break; fi
    sleep 0.2
  done
  wait "$puller" || return
  [[ -z $wanted ]] || docker tag "$wanted" "$tag"
}

# Succeeds if the engine has the image: by the digest wanted, by any if none is, or made here, without one.
have_it() {
  local digests
  digests=$(docker image inspect --format '{{join .RepoDigests " "}}' "$tag" 2>/dev/null) || return
  [[ -z $wanted || -z $digests || $digests == *"@$digest"* ]]
}

# Debian's entries of this machine, for another suite. Other vendors' sources stay out.
sources_for_suite() {
  local release
  # shellcheck source=/dev/null
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
  if [[ -f /etc/apt/sources.list.d/debian.sources ]]; then
    grep -v '^#' /etc/apt/sources.list.d/debian.sources | sed "s/\b$release\b/$suite/g"
  else
    printf 'Types: deb\nURIs: %s\nSuites: %s %s-updates\nComponents: main\nSigned-By: %s\n' \
      "$(awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^[a-z]+:/) { print $i; exit } }' /etc/apt/sources.list)" \
      "$suite" "$suite" /usr/share/keyrings/debian-archive-keyring.gpg
  fi
}

# Inside an image: no .debs kept, no documentation, one sources file.
readonly docker_clean='DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb || true"; };
Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";'

# shellcheck disable=SC2016  # $1 is mmdebstrap's
make_root() {
  mmdebstrap --quiet --variant=minbase --include=ca-certificates ${arch:+"--architectures=$arch"} \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="upload '$work/docker-clean' /etc/apt/apt.conf.d/docker-clean" \
    --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*' \
    --customize-hook="upload '$work/debian.sources' /etc/apt/sources.list.d/debian.sources" \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/log/*.log "$1"/var/log/apt' \
    "$suite" "$work/root.tar" "$work/debian.sources"
}

# Engines before 23.0 ignore the CPU type that an import is for, and a build then does not take the image.
load_root() {
  local layer made=2025-01-01T00:00:00Z
  layer=$(sha256sum "$work/root.tar" | cut -d' ' -f1)
  printf '{"architecture": "%s", "os": "linux", "created": "%s", "config": {"Cmd": ["bash"], "Env": ["LANG=C.UTF-8"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}, "history": [{"created": "%s"}]}' \
    "$arch" "$made" "$layer" "$made" > "$work/config.json"
  printf '[{"Config": "config.json", "RepoTags": ["%s"], "Layers": ["root.tar"]}]' "$tag" > "$work/manifest.json"
  tar -C "$work" -cf - manifest.json config.json root.tar | docker load >/dev/null
}

if have_it; then exit 0; fi
if pull; then exit 0; fi
command -v mmdebstrap >/dev/null || {
  echo "No registry gives $tag, and mmdebstrap is not here to make it: install mmdebstrap, or pull the image by hand." >&2
  exit 1
}
sources_for_suite > "$work/debian.sources"
printf '%s\n' "$docker_clean" > "$work/docker-clean"
make_root
if [[ -n $arch ]]; then
  load_root
else
  docker import -c 'CMD ["bash"]' -c 'ENV LANG=C.UTF-8' "$work/root.tar" "$tag" >/dev/null
fi
