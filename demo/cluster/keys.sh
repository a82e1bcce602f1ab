#!/bin/bash
# Runs once before the cluster starts: makes every key the first time, and the users' homes. Safe to repeat.
# usage: keys.sh GATEWAY_UID
#   /run/cluster-keys   munge key, host keys, users' public keys: for the cluster's containers
#   /run/demo           users' private keys and the known_hosts file: for the gateway's container, and nothing else
set -euo pipefail

readonly gateway_uid=${1:?usage: keys.sh GATEWAY_UID}
readonly cluster=/run/cluster-keys
readonly gateway=/run/demo/gateway
readonly hosts=(login node1 node2)
readonly users=(researcher guarded colleague)

make_key() {
  local file=$1 comment=$2
  [[ -s $file ]] || { rm -f "$file"; ssh-keygen -q -t ed25519 -N '' -C "$comment" -f "$file"; }
}

make_munge_key() {
  [[ -s $cluster/munge.key ]] || (umask 077; head -c 1024 /dev/urandom > "$cluster/munge.key")
}

make_host_keys() {
  local host
  install -d -m 0755 "$cluster/host"
  for host in "${hosts[@]}"; do
    make_key "$cluster/host/$host" "$host"
    printf '%s %s\n' "$host" "$(cut -d' ' -f1,2 "$cluster/host/$host.pub")"
  done > "$cluster/host/known_hosts"
}

# The gateway's names for them: id_ed25519 is the researcher's, the user that needs no second factor.
key_of() { if [[ $1 == researcher ]]; then echo "$gateway/id_ed25519"; else echo "$gateway/${1}_ed25519"; fi; }

make_home() {
  local user=$1 home=/home/$1
  install -d -m 0700 -o "$user" -g "$user" "$home" "$home/.ssh"
  cp --update=none /etc/skel/.[a-z]* "$home/"
  chown "$user:$user" "$home"/.[a-z]*
  install -m 0600 -o "$user" -g "$user" "$(key_of "$user").pub" "$home/.ssh/authorized_keys"
}

make_user_keys() {
  local user
  install -d -m 0700 "$gateway"
  for user in "${users[@]}"; do
    make_key "$(key_of "$user")" "$user"
    make_home "$user"
  done
  install -m 0644 "$cluster/host/known_hosts" "$gateway/known_hosts"
  chown -R "$gateway_uid" "$gateway"
}

make_munge_key
make_host_keys
make_user_keys
install -d -m 0755 -o researcher -g researcher /software /software/images /software/models
