# What 'lab.sh status' prints. Sourced by lab.sh.
# shellcheck shell=bash

status_json() {
    local host
    for host in $(host_names); do host_json "$host"; done |
        jq -s --arg name "$LAB_NAME" --arg scenario "$(cat "$LAB_DIR/scenario")" --arg dir "$LAB_DIR" --arg data "$DATA_DIR" \
            '{schema: "pnsbox.lab/1", name: $name, scenario: $scenario, dir: $dir, data_dir: $data, hosts: (map({(.host): del(.host)}) | add)}'
}

host_json() {
    local program pid pids='{}' logs='{}' addresses='[]'
    for program in $(program_names "$1"); do
        if pid=$(live_pid "$1" "$program"); then pids=$(jq -c --arg p "$program" --argjson v "$pid" '.[$p] = $v' <<<"$pids"); fi
        logs=$(jq -c --arg p "$program" --arg v "$(program_log "$1" "$program")" '.[$p] = $v' <<<"$logs")
    done
    if ! is_gone "$1" holder; then
        addresses=$(in_host "$1" ip -j address show |
            jq -c '[.[] | select(.ifname != "lo") | .addr_info[] | select(.scope == "global") | .local]')
    fi
    jq -nc --arg host "$1" --arg dir "$(host_dir "$1")" --argjson a "$addresses" --argjson p "$pids" --argjson l "$logs" \
        '{host: $host, addresses: $a, pids: $p, logs: $l, dir: $dir}'
}

status_text() {
    status_json | jq -r '"lab \(.name), scenario \(.scenario), state in \(.dir)",
        (.hosts | to_entries[] | "  \(.key)  \(.value.addresses | join(" "))",
            (.value as $v | $v.logs | to_entries[] |
                "      \(.key)  \(if $v.pids[.key] then "PID \($v.pids[.key])" else "not running" end)  log \(.value)"))'
}
