# Steps, failures, the table, and what every job asks of the lab. Sourced by quickstart.sh.
# shellcheck shell=bash disable=SC2034,SC2153  # variables are shared between the files of quickstart.sh

STEP=
ROWS=()
DONE=0

step() {
    STEP=$1
    say ""
    say "== $1"
}

# fail SAW [LOG...]: which step, what was seen, where the logs are.
fail() {
    local log
    printf '\nfailed: %s\n  seen: %s\n' "$STEP" "$1" >&2
    shift
    for log in "$@"; do show_tail "$log"; done
    exit 1
}

# in_lab HOST COMMAND...: at most two minutes, so that nothing hangs.
in_lab() {
    local host=$1
    shift
    timeout --kill-after=5 120 "${LAB[@]}" exec "$host" -- "$@"
}

# read_lab: where the lab keeps its files.
read_lab() {
    local status
    status=$("${LAB[@]}" status --json)
    LAB_DIR=$(jq -r .dir <<<"$status")
    DATA_DIR=$(jq -r .data_dir <<<"$status")
    LOG_DIR=$LAB_DIR/logs
    WORK_DIR=$DATA_DIR/quickstart
    mkdir -p -- "$WORK_DIR"
}

# service AGENCY NAME: sets ENDPOINT, HOST and PORT to where that agency's own box says the service is.
service() {
    ENDPOINT=$("${LAB[@]}" endpoint "$1" "$2") || fail "$1.gw does not list $2 as available"
    HOST=${ENDPOINT%:*}
    PORT=${ENDPOINT##*:}
    say "  $1.gw says: $2 is at $ENDPOINT"
}

new_marker() { printf 'PNSBOX-%s-%s' "$1" "$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')"; }

# add_row JOB MOVED RESULT SECONDS
add_row() {
    ROWS+=("$1"$'\t'"$2"$'\t'"$3"$'\t'"$4")
    say "  $3"
}

print_table() {
    {
        printf 'job\tmoved\tresult\tseconds\n'
        printf '%s\n' "${ROWS[@]}"
    } | awk -F '\t' '
        { for (i = 1; i <= 4; i++) { cell[NR, i] = $i; if (length($i) > width[i]) width[i] = length($i) } }
        END {
            print ""
            for (row = 1; row <= NR; row++) {
                printf "%-*s  %-*s  %-*s  %*s\n", width[1], cell[row, 1], width[2], cell[row, 2], width[3], cell[row, 3], width[4], cell[row, 4]
                if (row == 1) { for (i = 1; i <= 4; i++) { line = sprintf("%*s", width[i], ""); gsub(/ /, "-", line); printf "%s%s", line, (i < 4 ? "  " : "\n") } }
            }
        }'
}

# report_joins: from the command 'pnsbox join' to the first packet between LANs, as the lab measured it.
report_joins() {
    local agency joined other first
    while read -r agency joined other first; do
        add_row "join $agency" "" "joined in $joined s, first packet to $other's LAN" "$first"
    done <"$LAB_DIR/timings"
}

relay_job() {
    local relay summary loss average
    service kab-demak kota-malang/cache
    relay=$(in_lab kab-demak.gw pnsbox peers --json | jq -r '.peers[] | select(.node | startswith("kota-malang/")) | .relay // "none"')
    [[ $relay != none && -n $relay ]] || fail "kab-demak.gw does not reach kota-malang over a relay"
    summary=$(in_lab kab-demak.lan ping -n -q -c 50 -i 0.05 -W 2 "$HOST") || fail "ping from kab-demak.lan to $HOST: $summary"
    loss=$(sed -nE 's/.* ([0-9.]+)% packet loss.*/\1/p' <<<"$summary")
    average=$(sed -nE 's|^rtt [^=]*= [0-9.]+/([0-9.]+)/.*|\1|p' <<<"$summary")
    [[ $loss == 0 ]] || fail "$loss % of 50 pings were lost over $relay"
    add_row "ping over relay" "50 packets" "none lost over $relay, $average ms" ""
}

# private_at_isp: packets with a LAN or overlay address that the ISP has seen outside tunnels, and dropped.
private_at_isp() {
    in_lab isp nft -j list counters | jq '[.nftables[].counter? // empty | select(.name | startswith("private_")) | .packets] | add'
}

# isp_job BEFORE: during the jobs no packet between LANs left a tunnel, and none left the ISP untranslated.
isp_job() {
    local untranslated private
    untranslated=$(in_lab isp nft -j list counter inet isp left_untranslated | jq '[.nftables[].counter? // empty | .packets] | add')
    [[ $untranslated == 0 ]] || fail "$untranslated packets with a private source left the ISP untranslated"
    private=$(($(private_at_isp) - $1))
    ((private == 0)) || fail "$private packets between LANs reached the ISP outside a tunnel during the jobs"
    add_row "isp" "" "no packet between LANs outside a tunnel" ""
}

# finish KEEP: runs when the script ends, however it ends.
finish() {
    local saved
    stop_captures
    if ((DONE == 0)) && [[ -d /run/pnsbox-lab/quickstart/logs ]]; then
        saved=$(mktemp -d /tmp/pnsbox-quickstart-logs.XXXXXX)
        cp -r -- /run/pnsbox-lab/quickstart/logs/. "$saved/"
        say "logs of every program: $saved"
    fi
    if (($1)); then
        say "the lab is still up: scripts/lab.sh --name quickstart status | exec HOST -- CMD... | down"
    else
        "${LAB[@]}" down
    fi
}
