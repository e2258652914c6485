# Installs Debian packages that are missing, without starting or enabling any service that they bring.
# Sourced after messages.sh.
# shellcheck shell=bash

POLICY_RC=/usr/sbin/policy-rc.d
POLICY_RC_SAVED=/usr/sbin/policy-rc.d.before-pnsbox
CREATECLUSTER=/etc/postgresql-common/createcluster.conf
CREATECLUSTER_SAVED=/etc/postgresql-common/createcluster.conf.before-pnsbox
INSTALL_LOCK=/run/pnsbox-install.lock
APT_LOG=

# install_packages PACKAGE:COMMAND...: install each package whose command is not there.
# 'PACKAGE:/path' tests for a file (a pattern is allowed) instead.
install_packages() {
    # One script at a time, and what a killed one left is put back even if nothing is missing any more.
    exec 9>"$INSTALL_LOCK"
    flock 9
    allow_starting
    allow_clusters
    install_missing "$@"
    exec 9>&-
}

install_missing() {
    local entry missing=()
    for entry in "$@"; do
        provided "${entry#*:}" || missing+=("${entry%%:*}")
    done
    if ((${#missing[@]} == 0)); then return 0; fi
    say "installing: ${missing[*]}"
    apt_refresh
    # postgresql-common first and alone: its configuration must forbid the package's own cluster before
    # postgresql-15 is set up, and the file comes with this package.
    if [[ " ${missing[*]} " == *" postgresql-15 "* ]]; then
        apt_install postgresql-common
        forbid_clusters
    fi
    apt_install "${missing[@]}"
    allow_clusters
}

# provided COMMAND|/PATTERN: whether it is on this machine.
provided() {
    if [[ $1 == /* ]]; then compgen -G "$1" >/dev/null; else have "$1"; fi
}

# apt_refresh: read the archive's lists once per script.
apt_refresh() {
    [[ -z $APT_LOG ]] || return 0
    require_debian
    APT_LOG=$(mktemp /tmp/pnsbox-apt.XXXXXX)
    at_exit "rm -f '$APT_LOG'"
    # Another repository of this machine may be broken without harm to us, so a failure only counts when it
    # leaves a package without a candidate.
    apt_get update || true
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=30 -o Dpkg::Use-Pty=0 "$@" </dev/null >>"$APT_LOG" 2>&1
}

# apt_install PACKAGE...: install with starting forbidden, then disable the units that are new.
apt_install() {
    local package candidate before
    for package in "$@"; do
        candidate=$(apt-cache policy "$package" 2>/dev/null | sed -n 's/^  Candidate: //p')
        [[ -n $candidate && $candidate != '(none)' ]] || apt_failure "the Debian archive offers no package '$package'"
    done
    before=$(mktemp /tmp/pnsbox-units.XXXXXX)
    list_units >"$before"
    forbid_starting
    if ! apt_get --no-remove -y --no-install-recommends install "$@"; then
        allow_starting
        rm -f "$before"
        apt_failure "apt-get could not install: $*"
    fi
    disable_new_units "$before"
    allow_starting
    rm -f "$before"
}

apt_failure() {
    show_tail "$APT_LOG" 12
    die "$1" "check that this machine reaches its Debian archive ('apt-get update'), then run this again"
}

# forbid_starting: invoke-rc.d and deb-systemd-invoke ask policy-rc.d first; 101 means 'forbidden'.
forbid_starting() {
    # A run that was killed may have left our file and the saved one.
    allow_starting
    if [[ -e $POLICY_RC || -L $POLICY_RC ]]; then mv -- "$POLICY_RC" "$POLICY_RC_SAVED"; fi
    printf '%s\n' '#!/bin/sh' '# Made by pnsbox while it installs packages; removed right after.' 'exit 101' >"$POLICY_RC"
    chmod 755 "$POLICY_RC"
    at_exit allow_starting
}

# allow_starting: put back what was there. Harmless when nothing is to be done.
allow_starting() {
    if [[ -e $POLICY_RC_SAVED || -L $POLICY_RC_SAVED ]]; then
        mv -f -- "$POLICY_RC_SAVED" "$POLICY_RC"
    elif grep -qs '^# Made by pnsbox' "$POLICY_RC"; then
        rm -f -- "$POLICY_RC"
    fi
}

# forbid_clusters: postgresql-15 would make and start a cluster 'main'.
forbid_clusters() {
    allow_clusters
    [[ -e $CREATECLUSTER ]] || return 0
    cp -p -- "$CREATECLUSTER" "$CREATECLUSTER_SAVED"
    at_exit allow_clusters
    printf '\ncreate_main_cluster = false\n' >>"$CREATECLUSTER"
}

allow_clusters() {
    if [[ -e $CREATECLUSTER_SAVED ]]; then mv -f -- "$CREATECLUSTER_SAVED" "$CREATECLUSTER"; fi
}

# list_units: units and init scripts that packages have brought, sorted.
list_units() {
    {
        find /lib/systemd/system /usr/lib/systemd/system -maxdepth 1 -type f \
            \( -name '*.service' -o -name '*.socket' -o -name '*.timer' -o -name '*.path' \) -printf '%f\n'
        find /etc/init.d -maxdepth 1 -type f -printf 'init:%f\n'
    } 2>/dev/null | sort -u
}

# disable_new_units BEFORE: what was not there before shall not start at the next boot.
disable_new_units() {
    local unit
    while read -r unit; do
        case $unit in
            init:*) update-rc.d "${unit#init:}" disable >>"$APT_LOG" 2>&1 || true ;;
            # Templates have no instance to disable.
            *@.*) ;;
            *) disable_unit "$unit" ;;
        esac
    done < <(list_units | comm -13 "$1" -)
}

disable_unit() {
    if have systemctl; then
        systemctl disable "$1" >>"$APT_LOG" 2>&1 || true
    else
        # Without systemd the packages still leave enabling links for a later systemd.
        deb-systemd-helper disable "$1" >>"$APT_LOG" 2>&1 || true
    fi
}
