# shellcheck shell=bash
# What `up` and `down` share: where the cluster lies, its settings, and which processes are its own.

program=dev_cluster/$(basename "$0") # messages begin with it

PATH=$PATH:/usr/sbin:/sbin
umask 022

say() { echo "$program: $*" >&2; }

# Something that should have worked did not: exit code 1.
fail() {
  say "$*"
  exit 1
}

# The request or the machine is wrong: one sentence, exit code 2.
refuse() {
  say "$*"
  exit 2
}

# Clients of SLURM read dozens of variables; those of the caller may belong to another cluster or change what we parse.
for variable in ${!SLURM_@} ${!SBATCH_@} ${!SCANCEL_@} ${!SINFO_@} ${!SQUEUE_@} ${!SACCT_@}; do unset "$variable"; done

require_root_on_linux() {
  [ "$(uname -s)" = Linux ] || refuse "SLURM's daemons need Linux, and this is $(uname -s)"
  [ "$(id -u)" = 0 ] || refuse "SLURM's daemons must be started by root, and this is user $(id -un)"
}

# The name under which SLURM knows this machine.
node=$(uname -n)
node=${node%%.*}

# Sets `directory` to the canonical path of $1. SLURM's configuration knows no quoting.
set_directory() {
  directory=$(realpath --canonicalize-missing -- "$1")
  [[ $directory =~ ^(/[A-Za-z0-9._+-]+)+$ ]] || refuse "'$directory' may hold only letters, digits and ./_+-"
  settings=$directory/etc/settings
  export SLURM_CONF=$directory/etc/slurm.conf
}

# Holds the directory's lock until this process ends. The lock is on the directory itself, so that nothing is left of it;
# who waited for the lock of a directory that was purged meanwhile asks again. False where there is no directory.
lock_directory() {
  while { exec 9<"$directory"; } 2>/dev/null; do
    flock --timeout 120 9 || fail "another up or down has held $directory for two minutes"
    [ "$directory" -ef /dev/fd/9 ] && return 0
    exec 9<&-
  done
  return 1
}

# The settings that a cluster keeps for life, as lines key=number; read, never sourced.
read_settings() {
  local key value
  while IFS='=' read -r key value; do
    case $key in
      cpus | gpus | accounting | first_job_id | slurmctld_port | slurmd_port | slurmdbd_port)
        [[ $value =~ ^[0-9]+$ ]] && printf -v "$key" %s "$value"
        ;;
    esac
  done <"$settings"
}

# Whether process $1 is a $2 of this cluster: it has that name and a file of the directory open, its log if nothing else.
# A zombie has no open files, nor has a stranger who was given the number of a daemon that died.
is_ours() {
  [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$2" ] &&
    [ -n "$(find "/proc/$1/fd" -lname "$directory/*" -print -quit 2>/dev/null)" ]
}

# Prints the process number of daemon $1 of this cluster; false where it does not run.
pid_of() {
  local pid
  pid=$(cat "$directory/run/$1.pid" 2>/dev/null)
  [[ $pid =~ ^[0-9]+$ ]] && is_ours "$pid" "$1" && echo "$pid"
}

runs() { pid_of "$1" >/dev/null; }

# Neither gone nor a zombie, which a container's process 1 may keep for long.
lives() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }

# Prints the numbers of all processes of this cluster that have one of the given names, with or without a pid file.
pids_named() {
  local entry name comm
  for entry in /proc/[0-9]*; do
    { read -r comm <"$entry/comm"; } 2>/dev/null || continue
    for name in "$@"; do
      [ "$comm" = "$name" ] && is_ours "${entry#/proc/}" "$name" && echo "${entry#/proc/}"
    done
  done
}
