# shellcheck shell=bash
# Common code of `up` and `down`: directory and settings of the cluster, and detection of its processes.

program=dev_cluster/$(basename "$0") # prefix of messages

# Debian keeps PostgreSQL's programs apart, in a directory for each version; those in PATH are wrappers.
PATH=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort | tail -n 1):$PATH:/usr/sbin:/sbin
umask 022

say() { echo "$program: $*" >&2; }

# Reports an unexpected failure: exit code 1.
fail() {
  say "$*"
  exit 1
}

# Reports an invalid request or an unsuitable machine in one sentence: exit code 2.
refuse() {
  say "$*"
  exit 2
}

# Clients of SLURM read dozens of variables; the caller's may belong to another cluster or change the output we parse.
for variable in ${!SLURM_@} ${!SBATCH_@} ${!SCANCEL_@} ${!SINFO_@} ${!SQUEUE_@} ${!SACCT_@}; do unset "$variable"; done

require_linux() { [ "$(uname -s)" = Linux ] || refuse "the development cluster needs Linux; this is $(uname -s)"; }

require_root() { [ "$(id -u)" = 0 ] || refuse "SLURM's daemons must be started as root; this is user $(id -un)"; }

# The name under which SLURM knows this machine.
node=$(uname -n)
node=${node%%.*}

# Sets `directory` to the canonical path of $1. SLURM's configuration does not support quoting.
set_directory() {
  directory=$(realpath --canonicalize-missing -- "$1")
  [[ $directory =~ ^(/[A-Za-z0-9._+-]+)+$ ]] || refuse "'$directory' may contain only letters, digits and ./_+-"
  settings=$directory/etc/settings
  export SLURM_CONF=$directory/etc/slurm.conf
}

# Locks the directory until this process ends. The lock is on the directory itself, so it leaves no file; a process that
# waited for a directory that was purged meanwhile tries again. False if the directory does not exist.
lock_directory() {
  while { exec 9<"$directory"; } 2>/dev/null; do
    flock --timeout 120 9 || fail "another up or down has held $directory for two minutes"
    [ "$directory" -ef /dev/fd/9 ] && return 0
    exec 9<&-
  done
  return 1
}

# Reads the permanent settings of a cluster, lines key=number, without sourcing the file.
read_settings() {
  local key value
  while IFS='=' read -r key value; do
    case $key in
      slurm | tracking | cpus | gpus | accounting | first_job_id | \
        slurmctld_port | slurmd_port | slurmdbd_port | tracking_port)
        [[ $value =~ ^[0-9]+$ ]] && printf -v "$key" %s "$value"
        ;;
    esac
  done <"$settings"
}

# Whether process $1 is a $2 of this cluster: it has that name and an open file in the directory, at least its log.
# This excludes zombies, and other processes that got the id of a dead daemon. PostgreSQL runs as another user, whose
# open files root may not see in a container, and MLflow has the name of its Python.
is_ours() {
  case $2 in
    postgres) grep -qszxF "$directory/postgres/data" "/proc/$1/cmdline" ;;
    mlflow) grep -qszxF "MENVAE_TRACKING=$directory" "/proc/$1/environ" ;;
    *)
      [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$2" ] &&
        [ -n "$(find "/proc/$1/fd" -lname "$directory/*" -print -quit 2>/dev/null)" ]
      ;;
  esac
}

# Prints the process id of daemon $1 of this cluster; false if it is not running.
pid_of() {
  local pid
  pid=$(head -n 1 "$directory/run/$1.pid" 2>/dev/null)
  [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" "$1" && echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# Whether a process exists and is not a zombie, which process 1 of a container may keep for long.
lives() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }

# Prints the ids of all processes of this cluster with one of the given names, with or without a pid file.
pids_named() {
  local entry name comm
  for entry in /proc/[0-9]*; do
    { read -r comm <"$entry/comm"; } 2>/dev/null || continue
    for name in "$@"; do
      [ "$comm" = "$name" ] && is_ours "${entry#/proc/}" "$name" && echo "${entry#/proc/}"
    done
  done
}

# Prints the ids of MLflow's server and of its workers, with or without a pid file.
mlflow_pids() {
  local pid
  grep -lszxF "MENVAE_TRACKING=$directory" /proc/[0-9]*/environ | while IFS=/ read -r _ _ pid _; do echo "$pid"; done
}
