# Installs what the benchmarks need, and the tunnels that ours is compared with. Sourced by bench.sh.
# shellcheck shell=bash

# crate@version and its program. Debian's wireguard-go comes as a package; upstream's is built by whoever compares.
COMPETITORS=(
    'gotatun-cli@0.10.2 gotatun'
    'boringtun-cli@0.7.1 boringtun-cli'
)

competitors_dir() { printf '%s/bench-competitors' "$(target_dir)"; }

setup_competitors() {
    local entry crate program
    install_packages "${BENCH_PACKAGES[@]}" "${BENCH_COMPETITOR_PACKAGES[@]}"
    need_cargo
    for entry in "${COMPETITORS[@]}"; do
        read -r crate program <<<"$entry"
        install_competitor "$crate" "$program"
    done
    say "everything is there; upstream wireguard-go comes from you: WIREGUARD_GO=/path/to/wireguard-go"
}

# install_competitor CRATE@VERSION PROGRAM: from the crate registry, once for each version.
install_competitor() {
    local dir log
    dir=$(competitors_dir)
    if [[ -x $dir/bin/$2 && $("$dir/bin/$2" --version 2>/dev/null | head -n 1) == *" ${1#*@}" ]]; then
        say "$1 is there"
        return 0
    fi
    log=$(mktemp /tmp/pnsbox-competitor.XXXXXX)
    at_exit "rm -f '$log'"
    say "building $1 in $dir"
    # Not in our folder, whose toolchain file and configuration are ours alone.
    if ! (cd / && CARGO_TARGET_DIR=$dir/build "$CARGO" install --locked --force --root "$dir" "$1" </dev/null >"$log" 2>&1); then
        show_tail "$log" 30
        die "$1 could not be built; the lines above say why"
    fi
    # A few hundred MiB that nobody needs again.
    rm -rf -- "$dir/build"
}
