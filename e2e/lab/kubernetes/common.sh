# What the cluster's scripts share; sourced after lib.sh.
kube_dir=$state/kubernetes
pki=$kube_dir/pki
dns=$service_net.0.10
grace=8     # seconds without a lease renewal until a node is NotReady
tolerate=5  # seconds that a pod tolerates a lost node

is_node() { [[ $1 =~ ^[1-9]$ ]] || die "a node is a number from 1 to 9"; }
link_of() { printf '%s-%s\n' "$bridge" "$1"; }
cgroup_of() { printf '%s/node%s\n' "$bridge" "$1"; }
running_nodes() {
  local d
  for d in "$kube_dir"/nodes/node*; do
    if alive "$d/pid"; then printf '%s\n' "${d##*node}"; fi
  done
}

# in_node N COMMAND...: runs a command in the namespaces of a node.
in_node() {
  local pid _rest file=$kube_dir/nodes/node$1/pid
  alive "$file" || die "node$1 does not run"
  read -r pid _rest <"$file"
  shift
  nsenter --target "$pid" --mount --pid --uts --ipc --net -- "$@"
}
