# What every script of the lab shares; sourced, never run. Settings come from the environment:
#
#   MILLSTREAM_LAB_DIR       state of the lab: data, logs, process ids; made by `up`, removed by `down`
#                            (default: millstream/lab in the user's cache folder)
#   MILLSTREAM_PROGRAMS      what `setup` built, kept over `down` (default: millstream/programs in the cache folder)
#   MILLSTREAM_LAB_DEADLINE  seconds that each step may take before it fails with its reason (default 90)
#
# The lab owns one bridge, `msl-lab`, whose address 10.199.0.1 is how pods reach the servers on this machine. Its sub-networks are
# fixed (nodes 10.199.0.0/24, pods 10.244.0.0/16, Services 10.96.0.0/16), so there is one lab per machine.
lab=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millstream
state=${MILLSTREAM_LAB_DIR:-$cache/lab}
programs=${MILLSTREAM_PROGRAMS:-$cache/programs}
deadline=${MILLSTREAM_LAB_DEADLINE:-90}
bridge=msl-lab
net=10.199.0 pod_net=10.244 service_net=10.96
host=$net.1

say() { printf 'lab: %s\n' "$*" >&2; }
die() { printf 'lab: %s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# locked NAME ARGUMENT...: runs the calling script again under the lock NAME, so that two calls never interleave.
locked() {
  local name=$1 held=MILLSTREAM_LOCKED_$1
  shift
  [ -z "${!held:-}" ] || return 0
  mkdir -p "$cache"
  export "$held=1"
  # -o: the servers that the script starts must not inherit the lock.
  exec flock -o -w 1800 -E 75 "$cache/$name.lock" "$0" "$@"
}

# start_time PID: the kernel's start time of a running process; a zombie does not run.
start_time() {
  local stat fields
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -r -a fields <<<"${stat##*) }"
  [ "${fields[0]}" != Z ] && printf '%s\n' "${fields[19]}"
}

# record PID FILE: keeps the id with the start time, so that a reused id is never taken for the process.
record() {
  local started
  started=$(start_time "$1") || return 1
  printf '%s %s\n' "$1" "$started" >"$2"
}

# alive FILE: the recorded process still runs.
alive() {
  local pid started
  [ -s "$1" ] && read -r pid started <"$1" && [ "$(start_time "$pid")" = "$started" ]
}

# end FILE [SIGNAL [SECONDS]]: ends the recorded process and waits for it; SIGKILL when it does not go in time.
end() {
  local pid _rest i
  if alive "$1"; then
    read -r pid _rest <"$1"
    kill "-${2:-TERM}" "$pid" 2>/dev/null || true
    for ((i = 0; i < ${3:-10} * 20; i++)); do
      alive "$1" || break
      sleep 0.05
    done
    if alive "$1"; then
      kill -KILL "$pid" 2>/dev/null || true
      for ((i = 0; i < 100; i++)); do alive "$1" || break; sleep 0.05; done
    fi
  fi
  rm -f "$1"
}

# wait_for WHAT LOG COMMAND...: repeats COMMAND until it succeeds. At the deadline it says what COMMAND said and how LOG ends.
wait_for() {
  local what=$1 log=$2 until=$((SECONDS + deadline)) answer
  shift 2
  until answer=$("$@" 2>&1); do
    if ((SECONDS >= until)); then
      say "not ready after $deadline s: $what. Last answer: ${answer:-none}"
      if [ -f "$log" ]; then
        say "the end of $log:"
        tail -n 25 "$log" >&2
      fi
      exit 1
    fi
    sleep 0.1
  done
}

# listens ADDRESS PORT: something accepts connections there.
listens() { (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; }

# quietly WHAT COMMAND...: runs a long command with its output in a file; says every half minute that it still works, and shows the
# end of the file when it fails.
quietly() {
  local what=$1 begin=$SECONDS log pid spoken=0
  shift
  mkdir -p "$cache/log"
  log="$cache/log/${what//[^a-zA-Z0-9]/-}.log"
  say "$what …"
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2
    if ((SECONDS - begin >= spoken + 30)); then
      spoken=$((SECONDS - begin))
      say "$what … $spoken s"
    fi
  done
  wait "$pid" || {
    say "failed: $what. The end of $log:"
    tail -n 30 "$log" >&2
    return 1
  }
  say "$what: done in $((SECONDS - begin)) s"
}

# stamp FILE...: one hash over the files, to know whether something must be built again.
stamp() { cat "$@" | sha256sum | cut -d' ' -f1; }

# bridge_up: makes the bridge unless it is there. Without root there is no bridge, and the servers listen on loopback only.
bridge_up() {
  if ip link show "$bridge" >/dev/null 2>&1; then return 0; fi
  [ "$(id -u)" = 0 ] && command -v ip >/dev/null || return 1
  ip link add "$bridge" type bridge && ip addr add "$host/24" dev "$bridge" && ip link set "$bridge" up
}

kubectl() { "$programs/kubectl" --kubeconfig "$state/kubernetes/pki/admin.kubeconfig" "$@"; }
