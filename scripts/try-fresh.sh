#!/usr/bin/env bash
# Tries a script of this project on a fresh Debian 12: makes a minimal root, copies the project in, runs it there.
# A chroot shares the machine's kernel and network, not its files and processes.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/messages.sh
source "$here/lib/messages.sh"
# shellcheck source=scripts/lib/checks.sh
source "$here/lib/checks.sh"
# shellcheck source=scripts/lib/install.sh
source "$here/lib/install.sh"

MIRROR=${PNSBOX_DEBIAN_MIRROR:-http://deb.debian.org/debian}
SECURITY_MIRROR=${PNSBOX_DEBIAN_SECURITY_MIRROR:-http://deb.debian.org/debian-security}

usage() {
    cat <<'END'
usage: scripts/try-fresh.sh [--root DIR] [--worktree] SCRIPT [ARGUMENT...]
  for example: scripts/try-fresh.sh scripts/quickstart.sh
  --root DIR    make the root there, or use the one that is there, and keep it (default: a temporary one)
  --worktree    copy the working tree with its uncommitted files (default: a clone of HEAD)
END
}

main() {
    local root='' worktree=0
    while (($# > 0)); do
        case $1 in
            --root) root=${2:?--root needs a folder} && shift 2 ;;
            --worktree) worktree=1 && shift ;;
            -h | --help) usage && exit 0 ;;
            -*) usage_error "unknown option $1; see scripts/try-fresh.sh --help" ;;
            *) break ;;
        esac
    done
    (($# > 0)) || { usage >&2 && exit 64; }
    require_root
    require_net_admin
    install_packages mmdebstrap:mmdebstrap git:git
    if [[ -z $root ]]; then
        root=$(mktemp -d /var/tmp/pnsbox-fresh.XXXXXX)
        at_exit "rm -rf --one-file-system -- '$root'"
    fi
    [[ -e $root/etc/debian_version ]] || make_root "$root"
    copy_machine_access "$root"
    copy_project "$root" "$worktree"
    say "running in $root: $*"
    run_in_root "$root" "$@"
}

make_root() {
    say "making a Debian 12 root in $1"
    mkdir -p -- "$1"
    # The machine may reach its archive in a way of its own (proxy, dates): the root reaches it the same way.
    local option options=()
    while read -r option; do options+=(--aptopt="$option"); done < <(apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-Valid-Until|Check-Date) ' || true)
    mmdebstrap --quiet --variant=minbase --include=ca-certificates,git ${options[@]+"${options[@]}"} bookworm "$1" \
        "deb $MIRROR bookworm main" "deb $MIRROR bookworm-updates main" "deb $SECURITY_MIRROR bookworm-security main" ||
        die "mmdebstrap could not make a root; does this machine reach $MIRROR?"
}

# copy_machine_access ROOT: names and certificate authorities.
copy_machine_access() {
    cp -L -- /etc/resolv.conf /etc/hosts "$1/etc/"
    if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        cp -- /usr/local/share/ca-certificates/*.crt "$1/usr/local/share/ca-certificates/"
        chroot "$1" update-ca-certificates >/dev/null 2>&1
    elif [[ -s /etc/ssl/certs/ca-certificates.crt ]]; then
        cp -L -- /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"
    fi
}

copy_project() {
    local target=$1/root/pnsbox
    rm -rf -- "$target"
    if (($2)); then
        mkdir -p -- "$target"
        (cd -- "$PROJECT_DIR" && git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
            # A file deleted from the working tree is still listed.
            if [[ -e $file ]]; then printf '%s\0' "$file"; fi
        done | tar -c --null -T -) | tar -x -C "$target" --no-same-owner
    else
        git clone --quiet --no-hardlinks -- "$PROJECT_DIR" "$target" || die "git clone failed; --worktree copies uncommitted files"
    fi
}

# run_in_root ROOT COMMAND...: a PID namespace ends whatever the script leaves running.
run_in_root() {
    local root=$1 variable keep=()
    shift
    for variable in http_proxy https_proxy no_proxy TERM; do
        if [[ -n ${!variable:-} ]]; then keep+=("$variable=${!variable}"); fi
    done
    # shellcheck disable=SC2016  # expanded inside
    unshare --mount --propagation private --pid --fork --kill-child bash -euc '
        root=$1
        shift
        # A mount point of its own, as namespaces inside ask of "/".
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=0755 tmpfs "$root/run"
        cd "$root"
        exec chroot "$root" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 "$@"
    ' try-fresh "$root" ${keep[@]+"${keep[@]}"} bash -c 'cd /root/pnsbox && exec bash "$@"' script "$@"
}

main "$@"
