# Where a lab keeps what it knows, its lock, and the directories that its hosts mount over.
# Sourced by lab.sh after messages.sh; LAB_NAME is set.
# shellcheck shell=bash

LABS_DIR=/run/pnsbox-lab
# What the programs of a host believe to be theirs, and the folder below the host's own that they see there.
HOST_DIRS=(
    /etc/pnsbox:etc
    /var/lib/pnsbox:lib
    /var/lib/pnsbox-controller:lib-controller
    /run/pnsbox:run
    /run/pnsbox-controller:run-controller
    /run/wireguard:wireguard
)

# use_lab NAME: set the paths of one lab.
use_lab() {
    [[ $1 =~ ^[a-z0-9][a-z0-9-]{0,30}$ ]] || usage_error "lab name '$1': must be lower-case letters, digits and '-', at most 31"
    LAB_NAME=$1
    LAB_DIR=$LABS_DIR/$LAB_NAME
    # Databases, shares and caches: /run is memory on many machines, so they lie on disk.
    DATA_DIR=/var/lib/pnsbox-lab/$LAB_NAME
    LOG_DIR=$LAB_DIR/logs
}

lab_exists() { [[ -s $LAB_DIR/id ]]; }

host_dir() { printf '%s/hosts/%s' "$LAB_DIR" "$1"; }
host_names() { (cd -- "$LAB_DIR/hosts" 2>/dev/null && printf '%s\n' *) || true; }
require_host() {
    lab_exists || die "there is no lab '$LAB_NAME'" "start it with: scripts/lab.sh --name $LAB_NAME up"
    [[ -d $(host_dir "$1") ]] || die "lab '$LAB_NAME' has no host '$1'" "its hosts are: $(host_names | tr '\n' ' ')"
}

# create_state SCENARIO BIN_DIR
create_state() {
    mkdir -p -- "$LAB_DIR/hosts" "$LOG_DIR" "$DATA_DIR"
    # The id marks the lab's mount namespaces, so that what runs in them is found whatever became of PID files.
    printf 'pnsbox-lab-%s' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')" >"$LAB_DIR/id"
    printf '%s\n' "$1" >"$LAB_DIR/scenario"
    printf '%s\n' "$2" >"$LAB_DIR/bin-dir"
    with_lock .labs create_mount_points
}

remove_state() {
    rm -rf -- "$LAB_DIR" "$DATA_DIR"
    with_lock .labs remove_mount_points
}

# lock_lab: one command at a time changes a lab.
lock_lab() {
    mkdir -p -- "$LABS_DIR"
    lock 9 ".$LAB_NAME.lock" || die "another command is changing lab '$LAB_NAME'; it held the lock for two minutes"
    at_exit 'unlock_lab'
}

# The lock file goes with the lab; a waiting command notices that its file is no longer the one in the folder.
unlock_lab() {
    if ! lab_exists; then rm -f -- "$LABS_DIR/.$LAB_NAME.lock"; fi
    exec 9>&-
    rmdir -- "$LABS_DIR" 2>/dev/null || true
}

# lock FD FILE
lock() {
    local file=$LABS_DIR/$2
    while :; do
        mkdir -p -- "$LABS_DIR"
        eval "exec $1>'$file'"
        flock --timeout 120 "$1" || return 1
        if [[ $file -ef /proc/self/fd/$1 ]]; then return 0; fi
    done
}

# with_lock FILE COMMAND: what several labs share.
with_lock() {
    lock 8 "$1" || die "another lab held $LABS_DIR/$1 for two minutes"
    "$2"
    exec 8>&-
}

# create_mount_points: a mount needs a directory of the machine to lie on. Those that were not there are
# remembered, and the last lab to go removes them.
create_mount_points() {
    local entry dir
    for entry in "${HOST_DIRS[@]}"; do
        dir=${entry%%:*}
        if [[ ! -d $dir ]]; then
            mkdir -p -- "$dir"
            printf '%s\n' "$dir" >>"$LABS_DIR/.mount-points"
        fi
    done
}

remove_mount_points() {
    local dir
    # Removing a directory would unmount it in the hosts of other labs.
    if compgen -G "$LABS_DIR/*/id" >/dev/null; then return 0; fi
    if [[ -e $LABS_DIR/.mount-points ]]; then
        while read -r dir; do
            rmdir -- "$dir" 2>/dev/null || true
        done <"$LABS_DIR/.mount-points"
    fi
    rm -f -- "$LABS_DIR/.mount-points" "$LABS_DIR/.labs"
    rmdir -- /var/lib/pnsbox-lab 2>/dev/null || true
}
