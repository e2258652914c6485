#!/usr/bin/env bash
# From a fresh Debian 12 to real traffic between three agencies: installs what is missing, builds, brings the lab up,
# moves files, cached pages and a database through the network, prints what it saw, takes the lab down.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/messages.sh
source "$here/lib/messages.sh"
# shellcheck source=scripts/lib/checks.sh
source "$here/lib/checks.sh"
# shellcheck source=scripts/lib/install.sh
source "$here/lib/install.sh"
# shellcheck source=scripts/lib/packages.sh
source "$here/lib/packages.sh"
# shellcheck source=scripts/lib/toolchain.sh
source "$here/lib/toolchain.sh"
for part in job capture files cdn drc; do
    # shellcheck disable=SC1090  # all of them are in scripts/quickstart
    source "$here/quickstart/$part.sh"
done

# A release build takes 2 GiB, the servers 1 GiB, the captures of 100 MB a few times that.
DISK_MIB=6000
LAB=(bash "$here/lab.sh" --name quickstart)

main() {
    local private_before started keep=0
    case ${1:-} in
        --keep) keep=1 ;;
        '') ;;
        -h | --help)
            say "usage: scripts/quickstart.sh [--keep]     --keep leaves the lab up"
            exit 0
            ;;
        *) usage_error "unknown argument '$1'; usage: scripts/quickstart.sh [--keep]" ;;
    esac
    started=$(now_ms)
    step "checking this machine"
    check_machine
    step "installing what is missing"
    install_packages "${LAB_PACKAGES[@]}"
    need_cargo
    say "cargo: $CARGO ($("$CARGO" --version))"
    step "building"
    build_release
    step "bringing the lab up"
    at_exit "finish $keep"
    "${LAB[@]}" --bin "$(target_dir)/release" up || fail "the lab did not come up; the lines above say what is missing"
    read_lab
    report_joins
    private_before=$(private_at_isp)
    step "ping between the two agencies behind NAT, over the relay"
    relay_job
    step "files: 100 MB from prov-jateng's share to kab-demak's LAN"
    files_job
    step "cdn: kab-demak's LAN reads prov-jateng's portal through kota-malang's cache"
    cdn_job
    step "drc: kab-demak's database streams to a standby at prov-jateng"
    drc_job
    step "what the ISP saw outside tunnels"
    isp_job "$private_before"
    add_row total "" "everything worked" "$(seconds_since "$started")"
    print_table
    # shellcheck disable=SC2034  # read by finish
    DONE=1
}

check_machine() {
    require_root
    require_debian
    require_net_admin
    require_tun
    mkdir -p -- "$(target_dir)"
    require_disk "$(target_dir)" "$DISK_MIB"
    require_disk /var/lib 2000
}

main "$@"
