# A host of the lab: a network, mount and IPC namespace, held open by one process. Links and addresses.
# Sourced by lab.sh.
# shellcheck shell=bash

# create_host HOST
create_host() {
    local dir
    dir=$(host_dir "$1")
    mkdir -p -- "$dir"/{etc/agent.d,lib,lib-controller,run,run-controller,programs,pids} "$LOG_DIR/$1"
    cp -- "$SCENARIO_DIR/hosts" "$SCENARIO_DIR/resolv.conf" "$dir/"
    # The IPC namespace takes PostgreSQL's shared memory with it, even after a crash.
    setsid unshare --mount --propagation private --net --ipc \
        bash "$PROJECT_DIR/scripts/lab/holder.sh" "$dir" "$(<"$LAB_DIR/id")" "${HOST_DIRS[@]}" \
        </dev/null >>"$LOG_DIR/$1/holder.log" 2>&1 8>&- 9>&- &
    record_pid "$1" holder $!
}

# wait_for_hosts: until every holder has set its namespaces up.
wait_for_hosts() {
    local host
    for host in $(host_names); do
        if ! wait_for 10 test -e "$(host_dir "$host")/ready"; then
            show_tail "$LOG_DIR/$host/holder.log"
            die "host '$host' could not be made within 10 s"
        fi
    done
}

holder_pid() {
    live_pid "$1" holder || die "host '$1' of lab '$LAB_NAME' is gone: its holder process has ended" \
        "run: scripts/lab.sh --name $LAB_NAME up"
}

# enter HOST [DIR]: set ENTER to the command prefix that runs something in the host, our programs on PATH.
# --root matters where the lab itself runs in a chroot: joining a mount namespace would leave it.
enter() {
    local pid
    pid=$(holder_pid "$1") || exit 1
    ENTER=(nsenter --target "$pid" --mount --net --ipc --root env "--chdir=${2:-/}"
        "PATH=$(<"$LAB_DIR/bin-dir"):$PATH")
}

# in_host HOST COMMAND...: run it there and wait.
in_host() {
    enter "$1"
    shift
    "${ENTER[@]}" "$@"
}

# exec_in_host HOST COMMAND...: the same in place of this process, so that exit code and signals are its own.
exec_in_host() {
    enter "$1" "$PWD"
    shift
    exec "${ENTER[@]}" "$@"
}

# link_hosts HOST INTERFACE OTHER INTERFACE: a cable. Made inside the namespaces, so names never meet those of
# the machine or of another lab.
link_hosts() {
    in_host "$1" ip link add "$2" type veth peer name "$4" netns "$(holder_pid "$3")"
    in_host "$1" ip link set "$2" up
    in_host "$3" ip link set "$4" up
}

# configure_host HOST < lines of ip-batch(8)
configure_host() { in_host "$1" ip -batch -; }

# make_router HOST
make_router() { in_host "$1" sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; }
