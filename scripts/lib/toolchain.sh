# Finds or installs cargo, and builds. Sourced after messages.sh and install.sh.
# shellcheck shell=bash

CARGO_MINIMUM=1.95
CARGO=${CARGO:-}

# need_cargo: the machine's cargo if it is new enough, else Debian's. Sets CARGO and puts it first on PATH.
need_cargo() {
    local candidate
    for candidate in "$CARGO" "$(command -v cargo || true)" "${HOME:-/root}/.cargo/bin/cargo" /usr/bin/cargo; do
        if cargo_is_new_enough "$candidate"; then
            use_cargo "$candidate"
            install_packages gcc:cc libc6-dev:/usr/include/stdio.h
            return 0
        fi
    done
    install_debian_cargo
}

cargo_is_new_enough() {
    [[ -n $1 && -x $1 ]] || return 1
    local version
    # rustup reads rust-toolchain.toml of the folder that it runs in, so ask where the build will be.
    version=$(cd -- "$PROJECT_DIR" && timeout 120 "$1" --version 2>/dev/null | awk '{ print $2; exit }') || return 1
    [[ -n $version ]] && printf '%s\n%s\n' "$CARGO_MINIMUM" "$version" | sort -V -C
}

use_cargo() {
    CARGO=$1
    PATH=$(dirname -- "$CARGO"):$PATH
    export CARGO PATH
}

# install_debian_cargo: cargo-web of Debian's security archive. It conflicts with Debian's own cargo and rustc,
# and what an admin installed is not ours to remove.
install_debian_cargo() {
    local package installed=()
    for package in cargo rustc cargo-mozilla rustc-mozilla rustup; do
        if package_installed "$package"; then installed+=("$package"); fi
    done
    if ((${#installed[@]} > 0)); then
        die "cargo is older than $CARGO_MINIMUM, and the newer 'cargo-web' conflicts with the installed: ${installed[*]}" \
            "nothing was removed; either remove it yourself: apt-get remove ${installed[*]}" \
            "or install Rust $CARGO_MINIMUM or newer another way, then run this again"
    fi
    apt_refresh
    package=$(apt-cache policy cargo-web | sed -n 's/^  Candidate: //p')
    if [[ -z $package || $package == '(none)' ]] || ! printf '%s\n%s\n' "$CARGO_MINIMUM" "$package" | sort -V -C; then
        die "no cargo $CARGO_MINIMUM or newer is to be had: this machine has none, and its archive offers cargo-web '${package:-none}'" \
            "Debian 12 has it in its security archive (bookworm-security); check /etc/apt/sources.list*"
    fi
    install_packages cargo-web:/usr/bin/cargo rustc-web:/usr/bin/rustc gcc:cc libc6-dev:/usr/include/stdio.h
    cargo_is_new_enough /usr/bin/cargo || die "/usr/bin/cargo was installed but is not $CARGO_MINIMUM or newer"
    use_cargo /usr/bin/cargo
}

package_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-$PROJECT_DIR/target}"; }

BUILD_PID=

# Packages that build_release builds too.
BUILD_ALSO=()

# build_release: the three programs, with a line of progress every few seconds.
build_release() {
    local log started package packages=()
    for package in pnsbox-agent pnsbox-controller ${BUILD_ALSO[@]+"${BUILD_ALSO[@]}"}; do packages+=(-p "$package"); done
    log=$(mktemp /tmp/pnsbox-build.XXXXXX)
    at_exit "rm -f '$log'"
    started=$(now_ms)
    say "building the programs (release) in $(target_dir)"
    (
        cd -- "$PROJECT_DIR" || exit 1
        # The progress bar is read from the log; width only keeps it short.
        exec env CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 CARGO_TERM_COLOR=never \
            "$CARGO" build --release --locked "${packages[@]}" </dev/null >"$log" 2>&1
    ) &
    BUILD_PID=$!
    at_exit stop_build
    show_build_progress "$BUILD_PID" "$log" "$started"
    if ! wait "$BUILD_PID"; then
        BUILD_PID=
        tr '\r' '\n' <"$log" | grep -v 'Building \[' | tail -n 40 >&2
        die "the build failed; the lines above say why"
    fi
    BUILD_PID=
    say "built in $(seconds_since "$started") s"
}

# The shell keeps the PID from being reused until it is waited for.
stop_build() { if [[ -n $BUILD_PID ]]; then kill "$BUILD_PID" 2>/dev/null; fi; }

show_build_progress() {
    local pid=$1 log=$2 started=$3 next=$(($(now_ms) + 5000)) done_of
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if (($(now_ms) < next)); then continue; fi
        next=$((next + 10000))
        done_of=$(tail -c 4000 "$log" | tr '\r' '\n' | grep -aoE '[0-9]+/[0-9]+:' | tail -n 1 || true)
        say "  building: ${done_of:+${done_of%:} crates, }$(seconds_since "$started") s"
    done
}
