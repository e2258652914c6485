# Proof that the ISP sees ciphertext only: capture everything that enters it, and the LAN beside it.
# The marker must be found on the LAN, which proves that the search works, and never at the ISP.
# Sourced by quickstart.sh.
# shellcheck shell=bash disable=SC2034,SC2153  # variables are shared between the files of quickstart.sh

CAPTURES=()

# start_captures LAN_HOST: on every port of the ISP, and on one LAN.
start_captures() {
    local port ports
    ports=$(in_lab isp ip -j link show type veth | jq -r '.[].ifname')
    for port in $ports; do start_capture isp "$port" "isp-$port"; done
    start_capture "$1" eth0 lan
}

# start_capture HOST INTERFACE NAME
start_capture() {
    local log=$LOG_DIR/$1/capture-$3.log
    rm -f -- "$log"
    # Every packet enters the ISP through exactly one port, so 'in' sees each once. -Z: Debian's tcpdump would
    # change to a user who may not write here.
    "${LAB[@]}" start-program "$1" "capture-$3" -- \
        tcpdump -Z root -n -s 0 -B 65536 -i "$2" -Q "$(capture_direction "$1")" -w "$WORK_DIR/$3.pcap"
    CAPTURES+=("$1 capture-$3 $log")
    wait_for 10 grep -qs 'listening on' "$log" || fail "tcpdump does not start on $1" "$log"
}

capture_direction() { if [[ $1 == isp ]]; then printf in; else printf inout; fi; }

stop_captures() {
    local entry host program
    for entry in ${CAPTURES[@]+"${CAPTURES[@]}"}; do
        read -r host program _ <<<"$entry"
        "${LAB[@]}" stop-program "$host" "$program" || true
    done
    CAPTURES=()
}

# check_captures MARKER: stop, search, and say what was seen in SEEN.
check_captures() {
    local entry log logs=() dropped packets=0 count
    for entry in "${CAPTURES[@]}"; do
        read -r _ _ log <<<"$entry"
        logs+=("$log")
    done
    stop_captures
    for log in "${logs[@]}"; do
        dropped=$(sed -nE 's/^([0-9]+) packets? dropped by kernel.*/\1/p' "$log")
        # A packet that was not captured could have held the marker.
        [[ $dropped == 0 ]] || fail "tcpdump missed ${dropped:-?} packets, so the capture proves nothing" "$log"
        count=$(sed -nE 's/^([0-9]+) packets? captured.*/\1/p' "$log")
        if [[ $log == */isp/* ]]; then packets=$((packets + count)); fi
    done
    ((packets > 0)) || fail "the capture at isp is empty"
    LC_ALL=C grep -qaF -- "$1" "$WORK_DIR/lan.pcap" ||
        fail "the marker is not in the capture on the LAN, so the search at isp would prove nothing"
    if LC_ALL=C grep -laF -- "$1" "$WORK_DIR"/isp-*.pcap >&2; then fail "the marker was readable at isp, in the files above"; fi
    rm -f -- "$WORK_DIR"/*.pcap
    SEEN="marker on the LAN, in none of $packets packets at isp"
}
