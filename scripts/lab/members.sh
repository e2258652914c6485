# The network's own programs: controller, agents, enrolment, and waiting until all see each other.
# Sourced by lab.sh; the scenario has set its variables.
# shellcheck shell=bash

CONTROLLER_SOCKET=/run/pnsbox-controller/controller.sock
AGENT_SOCKET=/run/pnsbox/agent.sock

# Agents run as their unit runs them: a user of their own with one capability. The number needs no entry in
# passwd(5), so nothing is added to this machine.
AGENT_UID=5182
AS_AGENT=(setpriv --reuid "$AGENT_UID" --regid "$AGENT_UID" --clear-groups --no-new-privs
    "--inh-caps=-all,+net_admin" "--ambient-caps=-all,+net_admin" "--bounding-set=-all,+net_admin" --)

start_controller() {
    local host=$SCENARIO_CONTROLLER_HOST dir entry agency prefix
    dir=$(host_dir "$host")
    cp -- "$SCENARIO_DIR/controller.toml" "$SCENARIO_DIR/policy.toml" "$dir/etc/"
    options address "$SCENARIO_CONTROLLER_ADDRESS"
    control init --network pns "${OPTIONS[@]}"
    run_program "$host" pnsbox-controller pnsbox-controller --config /etc/pnsbox/controller.toml serve
    await_program "$host" pnsbox-controller 15 in_host "$host" test -S "$CONTROLLER_SOCKET"
    for entry in "${SCENARIO_AGENCIES[@]}"; do
        read -r agency prefix _ <<<"$entry"
        options prefix "$prefix"
        control agency add "$agency" "${OPTIONS[@]}"
    done
    control apply /etc/pnsbox/policy.toml
}

# options NAME LIST: sets OPTIONS to --NAME VALUE for each value of a list with commas.
options() {
    local value values
    OPTIONS=()
    IFS=, read -ra values <<<"$2"
    for value in "${values[@]}"; do OPTIONS+=("--$1" "$value"); done
}

# control ARGUMENT...: a command of the operator; what it prints goes to the lab's log, and to the screen on failure.
control() {
    local log=$LOG_DIR/$SCENARIO_CONTROLLER_HOST/operator.log
    printf '$ pnsbox-controller %s\n' "$*" >>"$log"
    if ! in_host "$SCENARIO_CONTROLLER_HOST" timeout 30 pnsbox-controller "$@" >>"$log" 2>&1; then
        show_tail "$log"
        show_tail "$(program_log "$SCENARIO_CONTROLLER_HOST" pnsbox-controller)"
        die "the controller did not accept: pnsbox-controller $*"
    fi
}

start_agents() {
    local entry agency
    for entry in "${SCENARIO_AGENCIES[@]}"; do
        read -r agency _ <<<"$entry"
        cp -- "$SCENARIO_DIR/agents/$agency.toml" "$(host_dir "$agency.gw")/etc/agent.toml"
        in_host "$agency.gw" chown "$AGENT_UID:$AGENT_UID" /var/lib/pnsbox /run/pnsbox
        run_program "$agency.gw" pnsbox-agent "${AS_AGENT[@]}" pnsbox-agent run --config /etc/pnsbox/agent.toml
    done
    for entry in "${SCENARIO_AGENCIES[@]}"; do
        read -r agency _ <<<"$entry"
        await_program "$agency.gw" pnsbox-agent 15 in_host "$agency.gw" test -S "$AGENT_SOCKET"
    done
}

# join_agencies: one after the other, measuring from the command to the first packet between LANs.
join_agencies() {
    local entry agency lan public previous='' started joined
    : >"$LAB_DIR/timings"
    for entry in "${SCENARIO_AGENCIES[@]}"; do
        read -r agency _ lan public <<<"$entry"
        started=$(now_ms)
        join_agency "$agency" "$lan" "$public"
        joined=$(seconds_since "$started")
        say "  $agency joined in $joined s"
        if [[ -n $previous ]]; then
            await_first_packet "$agency" "$previous"
            # agency, its answer from the controller, the LAN reached, the first packet: seconds since the command
            printf '%s %s %s %s\n' "$agency" "$joined" "$previous" "$(seconds_since "$started")" >>"$LAB_DIR/timings"
            say "  first packet between the LANs of $agency and $previous after $(seconds_since "$started") s"
        fi
        previous=$agency
    done
}

join_agency() {
    local anchor log arguments
    log=$LOG_DIR/$1.gw/admin.log
    anchor=$(in_host "$SCENARIO_CONTROLLER_HOST" timeout 30 pnsbox-controller invite "$1" 2>>"$log") || {
        show_tail "$log"
        die "the controller gave no invitation for $1"
    }
    options lan "$2"
    arguments=("${OPTIONS[@]}")
    options public "$3"
    arguments+=("${OPTIONS[@]}")
    if ! in_host "$1.gw" timeout 60 pnsbox join "$anchor" "${arguments[@]}" >>"$log" 2>&1; then
        show_tail "$log"
        show_tail "$(program_log "$1.gw" pnsbox-agent)"
        show_tail "$(program_log "$SCENARIO_CONTROLLER_HOST" pnsbox-controller)"
        die "$1 could not join"
    fi
    # Its admin consents to what the operator's policy will ever open, so that scenarios may change that.
    if ! wait_for 10 consent "$1"; then
        show_tail "$log"
        die "$1 could not consent to its links"
    fi
}

consent() {
    in_host "$1.gw" timeout 5 pnsbox consent grant --all --any >>"$LOG_DIR/$1.gw/admin.log" 2>&1
}

# await_first_packet AGENCY OTHER: a ping from LAN to LAN.
await_first_packet() {
    local target
    target=$(lan_address "$2")
    if ! wait_for 30 lan_ping "$1" "$target"; then
        in_host "$1.gw" pnsbox status >&2 || true
        show_tail "$(program_log "$1.gw" pnsbox-agent)"
        show_tail "$(program_log "$2.gw" pnsbox-agent)"
        die "no packet between the LANs of $1 and $2 within 30 s (from $1.lan to $target)"
    fi
}

lan_ping() { in_host "$1.lan" ping -n -q -c 1 -W 0.2 "$2" >/dev/null 2>&1; }

# lan_address AGENCY: of its LAN host.
lan_address() { in_host "$1.lan" ip -j -4 address show dev eth0 | jq -r '.[0].addr_info[0].local'; }

# agent_json AGENCY COMMAND...: what its CLI says, {} when it says nothing.
agent_json() {
    local agency=$1
    shift
    in_host "$agency.gw" timeout 5 pnsbox "$@" --json 2>/dev/null || printf '{}'
}

# await_services HOST:SERVICE...: every agent online and each service known where it should be.
await_members() {
    local seconds=$1
    shift
    if ! wait_for "$seconds" nothing_missing "$@"; then
        missing_members "$@" | sed 's/^/  missing: /' >&2
        local entry agency
        for entry in "${SCENARIO_AGENCIES[@]}"; do
            read -r agency _ <<<"$entry"
            show_tail "$(program_log "$agency.gw" pnsbox-agent)" 8
        done
        show_tail "$(program_log "$SCENARIO_CONTROLLER_HOST" pnsbox-controller)" 8
        die "not everything was there within $seconds s; the lab is left up for a look" \
            "logs: $LOG_DIR; take it down with: scripts/lab.sh --name $LAB_NAME down"
    fi
}

nothing_missing() { [[ -z $(missing_members "$@") ]]; }

# missing_members AGENCY:SERVICE...: one line for each thing that is not as it should be.
missing_members() {
    local entry agency wanted services
    for entry in "${SCENARIO_AGENCIES[@]}"; do
        read -r agency _ <<<"$entry"
        agent_json "$agency" status | jq -e '.status.controller.connected' >/dev/null 2>&1 ||
            printf '%s.gw is not online\n' "$agency"
        services=$(agent_json "$agency" services | jq -r '.services[]?.name')
        for wanted in "$@"; do
            [[ ${wanted%%:*} == "$agency" ]] || continue
            grep -qxF -- "${wanted#*:}" <<<"$services" || printf '%s.gw does not see %s\n' "$agency" "${wanted#*:}"
        done
    done
}

# endpoint_of AGENCY SERVICE: where hosts of that agency's LAN reach it, as its own box says.
endpoint_of() {
    agent_json "$1" services |
        jq -r --arg name "$2" \
            '[.services[]? | select(.name == $name and .state == "available")] | sort_by(.priority) | .[0].endpoints[0] // empty'
}
