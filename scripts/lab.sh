#!/usr/bin/env bash
# A network of agencies on this machine: the real programs, each host in namespaces of its own.
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
for part in state program host members clean report; do
    # shellcheck disable=SC1090  # all of them are in scripts/lab
    source "$here/lab/$part.sh"
done

usage() {
    cat <<'END'
usage: scripts/lab.sh [--name NAME] [--bin DIR] COMMAND

  up [SCENARIO]            start a lab (default scenario: three-agencies); returns when every agent is online
                           and every service is seen; takes down first what is left of a lab of this name
  exec HOST -- CMD...      run a command in a host; our programs are on its PATH
  status [--json]          hosts, addresses, PIDs and logs
  stop-program HOST PROGRAM [--signal S]
                           send SIGTERM, or S (TERM, INT, QUIT and KILL wait for the end)
  start-program HOST PROGRAM [--env NAME=VALUE]... [-- CMD...]
                           start it again with the command that it was started with first, this time with these
                           variables; with CMD, start a new program, which 'status' then lists and 'down' stops
  endpoint AGENCY SERVICE  where hosts of AGENCY reach a service, as its own box says (pnsbox services --json)
  down                     stop and remove everything that the lab started; harmless when there is none

  --name NAME   several labs run side by side under different names (default: lab)
  --bin DIR     use the programs in DIR (default: PNSBOX_BIN_DIR, else a release build)
END
}

main() {
    local name=lab bin=${PNSBOX_BIN_DIR:-}
    while (($# > 0)); do
        case $1 in
            --name) name=${2:?--name needs a name} && shift 2 ;;
            --bin) bin=${2:?--bin needs a folder} && shift 2 ;;
            -h | --help) usage && exit 0 ;;
            -*) usage_error "unknown option $1; see scripts/lab.sh --help" ;;
            *) break ;;
        esac
    done
    (($# > 0)) || { usage >&2 && exit 64; }
    use_lab "$name"
    local command=$1
    shift
    case $command in
        up) command_up "$bin" "$@" ;;
        exec) command_exec "$@" ;;
        status) command_status "$@" ;;
        endpoint) command_endpoint "$@" ;;
        stop-program) command_stop_program "$@" ;;
        start-program) command_start_program "$@" ;;
        down) command_down ;;
        *) usage_error "unknown command '$command'; see scripts/lab.sh --help" ;;
    esac
}

# command_up BIN_DIR [SCENARIO]
command_up() {
    local bin=$1 scenario=${2:-three-agencies} started
    [[ -f $here/lab/$scenario/scenario.sh ]] || usage_error "no scenario '$scenario' in $here/lab"
    require_root
    require_net_admin
    require_tun
    install_packages "${LAB_PACKAGES[@]}"
    if [[ -z $bin ]]; then
        need_cargo
        build_release
        bin=$(target_dir)/release
    fi
    bin=$(cd -- "$bin" && pwd) || die "there is no folder '$bin'"
    require_programs "$bin"
    lock_lab
    clean_lab
    started=$(now_ms)
    say "lab '$LAB_NAME': starting scenario $scenario"
    create_state "$scenario" "$bin"
    load_scenario "$scenario"
    local host
    for host in "${SCENARIO_HOSTS[@]}"; do create_host "$host"; done
    wait_for_hosts
    scenario_network
    start_controller
    start_agents
    scenario_servers
    join_agencies
    scenario_late_servers
    await_members 30 "${SCENARIO_SERVICES_SEEN[@]}"
    say "lab '$LAB_NAME' is up after $(seconds_since "$started") s: every agent online, every service seen"
}

require_programs() {
    local program
    for program in pnsbox pnsbox-agent pnsbox-controller; do
        [[ -x $1/$program ]] || die "$1 holds no program '$program'" "build it with: cargo build --release --locked"
    done
}

load_scenario() {
    SCENARIO_DIR=$here/lab/$1
    # shellcheck source=scripts/lab/three-agencies/scenario.sh
    source "$SCENARIO_DIR/scenario.sh"
}

command_exec() {
    (($# > 0)) || usage_error "exec needs: HOST -- COMMAND..."
    local host=$1
    shift
    if [[ ${1:-} == -- ]]; then shift; fi
    (($# > 0)) || usage_error "exec $host needs a command"
    require_host "$host"
    exec_in_host "$host" "$@"
}

command_status() {
    lab_exists || die "there is no lab '$LAB_NAME'" "start it with: scripts/lab.sh --name $LAB_NAME up"
    case ${1:-} in
        --json) status_json ;;
        '') status_text ;;
        *) usage_error "status knows only --json, not '$1'" ;;
    esac
}

command_endpoint() {
    (($# == 2)) || usage_error "endpoint needs: AGENCY SERVICE"
    require_host "$1.gw"
    local endpoint
    endpoint=$(endpoint_of "$1" "$2")
    [[ -n $endpoint ]] || die "$1.gw knows no available service '$2'" "see: scripts/lab.sh --name $LAB_NAME exec $1.gw -- pnsbox services"
    printf '%s\n' "$endpoint"
}

command_stop_program() {
    local signal=TERM
    if (($# == 4)) && [[ $3 == --signal ]]; then signal=${4#SIG}; elif (($# != 2)); then
        usage_error "stop-program needs: HOST PROGRAM [--signal S]"
    fi
    require_host "$1"
    stop_program "$1" "$2" "$signal"
}

command_start_program() {
    local usage='start-program needs: HOST PROGRAM [--env NAME=VALUE]... [-- COMMAND...]' environment=()
    (($# >= 2)) || usage_error "$usage"
    local host=$1 program=$2
    shift 2
    require_host "$host"
    while [[ ${1:-} == --env && ${2:-} == *=* ]]; do
        environment+=("$2")
        shift 2
    done
    if (($# == 0)); then
        start_program "$host" "$program" "${environment[@]}"
        return
    fi
    if [[ $1 != -- ]] || (($# < 2)) || ((${#environment[@]} > 0)); then usage_error "$usage"; fi
    shift
    [[ $program =~ ^[a-z0-9][a-z0-9-]*$ ]] || usage_error "program name '$program': must be lower-case letters, digits and '-'"
    if live_pid "$host" "$program" >/dev/null; then die "$program on $host runs already, PID $(live_pid "$host" "$program")"; fi
    run_program "$host" "$program" "$@"
}

command_down() {
    require_root
    lock_lab
    clean_lab
}

main "$@"
