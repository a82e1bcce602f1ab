#!/bin/bash
# The controller's accounting: a database, slurmdbd, and the associations and limits that the real site has.
# The state is in /var/lib/demo, a volume: job numbers must never start again at 1 for clients that remember them.
set -euo pipefail

readonly data=/var/lib/demo/mysql
readonly socket=/run/mysqld/mysqld.sock

# wait_for SECONDS COMMAND...
wait_for() {
  local tries=$(($1 * 10))
  shift
  until "$@" >/dev/null 2>&1; do
    ((tries-- > 0)) || { echo "gave up waiting for: $*" >&2; return 1; }
    sleep 0.1
  done
}

sql() { mariadb --socket="$socket" -e "$1"; }

start_database() {
  install -d -o mysql -g mysql /run/mysqld "$data"
  if [[ ! -d $data/mysql ]]; then
    mariadb-install-db --user=mysql --datadir="$data" --auth-root-authentication-method=socket --skip-test-db >/dev/null
  fi
  mariadbd --user=mysql --datadir="$data" --skip-networking --socket="$socket" \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 >/var/log/mariadb.log 2>&1 &
  wait_for 60 sql 'select 1'
  sql "create database if not exists slurm_acct_db;
       create user if not exists 'slurm'@'localhost' identified via unix_socket;
       grant all on slurm_acct_db.* to 'slurm'@'localhost'"
}

start_slurmdbd() {
  rm -f /run/slurm/slurmdbd.pid
  runuser -u slurm -- slurmdbd
  wait_for 60 sacctmgr -n list cluster
}

# Limits after Yale's Bouchet. A group is one account.
add_associations() {
  [[ -z $(sacctmgr -nP list cluster format=cluster) ]] || return 0
  sacctmgr -iQ add cluster demo
  sacctmgr -iQ add qos gpu_devel set MaxJobsPU=1 MaxSubmitJobsPU=2 MaxTRESPU=cpu=12 Flags=DenyOnLimit
  sacctmgr -iQ add qos gpu_h200
  sacctmgr -iQ add account lab
  sacctmgr -iQ add user researcher,guarded,colleague account=lab
}

# slurmctld registers gres/gpu with the database itself, so limits on it have to wait until it is up.
# The file at the end is what the health check looks for.
add_gpu_limits() {
  wait_for 60 sacctmgr -iQ modify qos gpu_devel set MaxTRESPU=gres/gpu=2
  wait_for 60 sacctmgr -iQ modify qos gpu_h200 set MaxTRESPU=gres/gpu=3
  touch /run/slurm/limits-are-set
}

case ${1:-} in
  database) start_database && start_slurmdbd ;;
  associations) add_associations ;;
  gpu-limits) add_gpu_limits ;;
  *) echo "usage: accounting.sh database|associations|gpu-limits" >&2; exit 2 ;;
esac
