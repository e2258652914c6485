#!/usr/bin/env bash
# Installs the programs of a box or of a controller on this Debian 12, and removes them again.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib/messages.sh
source "$here/lib/messages.sh"
# shellcheck source=scripts/lib/install.sh
source "$here/lib/install.sh"
# shellcheck source=scripts/lib/toolchain.sh
source "$here/lib/toolchain.sh"

# What was installed as configuration, to tell the admin's changes from ours.
PRISTINE=/usr/share/pnsbox

usage() {
    cat <<'END'
usage: scripts/install.sh agent|controller [--bin DIR]
       scripts/install.sh uninstall agent|controller [--purge]
  --bin DIR   take the programs from DIR (default: PNSBOX_BIN_DIR, else a release build)
  --purge     remove keys, state, changed configuration and user as well: the box or the network is gone
END
}

main() {
    local action=install what='' bin=${PNSBOX_BIN_DIR:-} purge=0
    if [[ ${1:-} == uninstall ]]; then action=uninstall && shift; fi
    while (($# > 0)); do
        case $1 in
            agent | controller) what=$1 && shift ;;
            --bin) (($# > 1)) || usage_error "--bin needs a folder" && bin=$2 && shift 2 ;;
            --purge) purge=1 && shift ;;
            -h | --help) usage && exit 0 ;;
            *) usage_error "unknown argument '$1'; see scripts/install.sh --help" ;;
        esac
    done
    [[ -n $what ]] || { usage >&2 && exit 64; }
    ((EUID == 0)) || die "this needs root: it installs programs, units and a user" "run it as root, for example: sudo $0"
    describe "$what"
    if [[ $action == uninstall ]]; then
        remove "$purge"
    else
        install_all "$bin"
    fi
}

# describe agent|controller: what belongs to it.
describe() {
    WHAT=$1 USER_NAME=pnsbox-$1 STATE=/var/lib/pnsbox-$1 RUN=/run/pnsbox-$1 SYSCTL=()
    UNITS=("pnsbox-$1.service") PROGRAMS=("pnsbox-$1")
    if [[ $1 == agent ]]; then
        # A box has one user, named as the box.
        USER_NAME=pnsbox STATE=/var/lib/pnsbox RUN=/run/pnsbox
        PROGRAMS+=(pnsbox) CONFIGS=(agent.toml) SYSCTL=(60-pnsbox.conf)
    else
        UNITS+=(pnsbox-controller.socket) CONFIGS=(controller.toml policy.toml)
    fi
}

install_all() {
    local bin=$1
    install_packages_needed
    if [[ -z $bin ]]; then
        need_cargo
        build_release
        bin=$(target_dir)/release
    fi
    check_programs "$bin"
    local file
    # install(1) replaces a program that runs.
    for file in "${PROGRAMS[@]}"; do install -m 755 -- "$bin/$file" "/usr/bin/$file"; done
    for file in "${UNITS[@]}"; do put "systemd/$file" "/usr/lib/systemd/system/$file"; done
    put "systemd/pnsbox-$WHAT.sysusers" "/usr/lib/sysusers.d/pnsbox-$WHAT.conf"
    put "systemd/pnsbox-$WHAT.tmpfiles" "/usr/lib/tmpfiles.d/pnsbox-$WHAT.conf"
    for file in ${SYSCTL[@]+"${SYSCTL[@]}"}; do put "systemd/$file" "/usr/lib/sysctl.d/$file"; done
    for file in "${CONFIGS[@]}"; do put_config "$file"; done
    put_papers
    take_effect
}

install_packages_needed() {
    local needed=(systemd:systemd-sysusers)
    if [[ $WHAT == agent ]]; then needed+=(nftables:nft); fi
    install_packages "${needed[@]}"
}

check_programs() {
    local file
    for file in "${PROGRAMS[@]}"; do
        [[ -x $1/$file ]] || die "there is no program $1/$file" "build them first (cargo build --release), or leave --bin out"
        "$1/$file" --version >/dev/null || die "$1/$file does not run on this machine" "build it here: leave --bin out"
    done
}

put() { install -D -m 644 -- "$PROJECT_DIR/$1" "$2"; }

# put_config FILE: new, or unchanged since we put it; what the admin changed stays.
put_config() {
    local there=/etc/pnsbox/$1 pristine=$PRISTINE/$1
    if [[ ! -e $there ]] || cmp -s -- "$there" "$pristine"; then
        put "configs/$1" "$there"
    elif ! cmp -s -- "$there" "$PROJECT_DIR/configs/$1"; then
        say "kept: $there, which was changed here; the new example is $pristine"
    fi
    put "configs/$1" "$pristine"
}

# put_papers: completions and manual pages, as the programs themselves print them.
put_papers() {
    local program folder page
    folder=$(mktemp -d /tmp/pnsbox-papers.XXXXXX)
    at_exit "rm -rf -- '$folder'"
    for program in "${PROGRAMS[@]}"; do
        "/usr/bin/$program" completion bash >"$folder/bash"
        "/usr/bin/$program" completion zsh >"$folder/zsh"
        "/usr/bin/$program" completion fish >"$folder/fish"
        install -D -m 644 -- "$folder/bash" "/usr/share/bash-completion/completions/$program"
        install -D -m 644 -- "$folder/zsh" "/usr/share/zsh/vendor-completions/_$program"
        install -D -m 644 -- "$folder/fish" "/usr/share/fish/vendor_completions.d/$program.fish"
        "/usr/bin/$program" man "$folder/man"
    done
    for page in "$folder"/man/*; do
        install -D -m 644 -- "$page" "/usr/share/man/man${page##*.}/${page##*/}"
    done
}

systemd_runs() { [[ -d /run/systemd/system ]]; }

take_effect() {
    # An earlier version ran as root: its keys and state go to the user.
    systemd-sysusers "/usr/lib/sysusers.d/pnsbox-$WHAT.conf"
    if [[ -d $STATE && $(stat -c %u -- "$STATE") == 0 ]]; then chown -R -- "$USER_NAME:$USER_NAME" "$STATE"; fi
    install -d -m 700 -o "$USER_NAME" -g "$USER_NAME" -- "$STATE"
    if ! systemd_runs; then
        install -d -m 750 -o "$USER_NAME" -g "$USER_NAME" -- "$RUN"
        enable_units
        say "systemd does not run here: nothing was started, and no kernel switch was set." \
            "docs/operations.md, 'Without systemd', says how to start by hand."
        return 0
    fi
    systemd-tmpfiles --create "/usr/lib/tmpfiles.d/pnsbox-$WHAT.conf"
    if [[ $WHAT == agent ]]; then /usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/60-pnsbox.conf; fi
    systemctl daemon-reload
    enable_units
    start_units
}

enable_units() { systemctl --quiet enable "${UNITS[@]}"; }

start_units() {
    if [[ $WHAT == controller && ! -e $STATE/pnsbox.db ]]; then
        say "the controller has no network yet: 'pnsbox-controller init', then 'systemctl start pnsbox-controller'"
        return 0
    fi
    systemctl restart "pnsbox-$WHAT.service" ||
        die "pnsbox-$WHAT.service did not start" "'journalctl -u pnsbox-$WHAT' says why; everything is installed"
}

remove() {
    local purge=$1 file program
    if systemd_runs; then systemctl stop "${UNITS[@]}" 2>/dev/null || true; fi
    if have systemctl; then systemctl --quiet disable "${UNITS[@]}" 2>/dev/null || true; fi
    for file in "${UNITS[@]}"; do rm -f -- "/usr/lib/systemd/system/$file"; done
    for program in "${PROGRAMS[@]}"; do
        rm -f -- "/usr/bin/$program" "/usr/share/bash-completion/completions/$program" \
            "/usr/share/zsh/vendor-completions/_$program" "/usr/share/fish/vendor_completions.d/$program.fish"
        rm -f -- "/usr/share/man/man1/$program".1 "/usr/share/man/man8/$program".8 "/usr/share/man/man8/$program"-*.8
    done
    if [[ $WHAT == agent ]]; then remove_box_pages; fi
    rm -f -- "/usr/lib/sysusers.d/pnsbox-$WHAT.conf" "/usr/lib/tmpfiles.d/pnsbox-$WHAT.conf"
    for file in ${SYSCTL[@]+"${SYSCTL[@]}"}; do rm -f -- "/usr/lib/sysctl.d/$file"; done
    for file in "${CONFIGS[@]}"; do remove_config "$file" "$purge"; done
    if ((purge)); then remove_state; fi
    remove_empty
    if systemd_runs; then systemctl daemon-reload; fi
    if [[ -d $STATE ]]; then say "kept: $STATE, with the keys; --purge removes it"; fi
}

# remove_box_pages: the pages of the subcommands of pnsbox. Those of pnsbox-agent and pnsbox-controller are in section 8.
remove_box_pages() { rm -f -- /usr/share/man/man1/pnsbox-*.1; }

remove_config() {
    local there=/etc/pnsbox/$1
    if (($2)) || cmp -s -- "$there" "$PRISTINE/$1"; then
        rm -f -- "$there"
    elif [[ -e $there ]]; then
        say "kept: $there, which was changed here; --purge removes it"
    fi
    rm -f -- "$PRISTINE/$1"
}

remove_state() {
    rm -rf -- "$STATE" "$RUN"
    if [[ $WHAT == agent ]]; then rm -rf -- /etc/pnsbox/agent.d; fi
    if getent passwd "$USER_NAME" >/dev/null && ! userdel -- "$USER_NAME"; then
        die "user '$USER_NAME' could not be removed" "end what runs as it (ps -u $USER_NAME), then run this again"
    fi
}

# remove_empty: folders that install made and nobody else uses.
remove_empty() {
    local folder
    for folder in "$PRISTINE" /etc/pnsbox /usr/share/zsh/vendor-completions /usr/share/zsh \
        /usr/share/fish/vendor_completions.d /usr/share/fish; do
        if [[ -d $folder ]]; then rmdir --ignore-fail-on-non-empty -- "$folder"; fi
    done
}

main "$@"
