#!/bin/bash
# One image, one role per container: ctl (controller and accounting), login (sshd), compute (slurmd, sshd).
set -euo pipefail

readonly role=${1:?usage: entrypoint.sh ctl|login|compute}
readonly keys=/run/cluster-keys

log() { printf '%s %s: %s\n' "$(date +%T)" "$role" "$*"; }

start_munge() {
  install -d -o munge -g munge -m 0755 /run/munge
  install -d -o munge -g munge -m 0711 /var/lib/munge /var/log/munge
  install -o munge -g munge -m 0400 "$keys/munge.key" /etc/munge/munge.key
  rm -f /run/munge/munge.socket* /run/munge/munged.pid   # left by a container that was killed
  runuser -u munge -- /usr/sbin/munged
}

# The host key comes from the keys volume, so clients' known_hosts stay true when a container is made again.
prepare_sshd() {
  local flavour=$1
  install -d /run/sshd
  install -m 0600 "$keys/host/$(hostname)" /etc/ssh/ssh_host_ed25519_key
  install -m 0644 "$keys/host/known_hosts" /etc/ssh/ssh_known_hosts
  install -m 0644 "/usr/share/demo/sshd-$flavour.conf" /etc/ssh/sshd_config.d/10-demo.conf
  install -m 0644 "/usr/share/demo/pam-$flavour" /etc/pam.d/sshd
}

run_ctl() {
  /usr/libexec/demo/accounting.sh database
  install -d -o slurm -g slurm /var/lib/demo/slurmctld
  /usr/libexec/demo/accounting.sh associations
  /usr/libexec/demo/accounting.sh gpu-limits &
  log "starting slurmctld"
  exec slurmctld -D -i
}

# The cluster has no internet: this hub serves the demo's own models under other names, so that downloads can be tried.
run_hub() {
  while :; do
    setpriv --reuid=65534 --regid=65534 --clear-groups python3 /usr/libexec/demo/hub.py 8600 /software/models \
      hub-demo/SmolLM2-135M-Instruct=HuggingFaceTB/SmolLM2-135M-Instruct hub-demo/scripted=demo/scripted || true
    sleep 2 # the port is taken while a test has a hub of its own there
  done
}

run_login() {
  prepare_sshd login
  run_hub 2>/dev/null &
  log "starting sshd"
  exec /usr/sbin/sshd -D -e
}

run_compute() {
  prepare_sshd compute
  /usr/sbin/sshd
  chmod 0666 /dev/fuse                                     # Apptainer mounts images as the user
  install -d "/var/lib/slurm/slurmd.$(hostname)"
  log "starting slurmd"
  exec slurmd -D -N "$(hostname)"
}

umask 022
install -d -o slurm -g slurm /run/slurm /var/log/slurm /var/lib/slurm
start_munge
"run_$role"
