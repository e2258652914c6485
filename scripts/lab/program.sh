# Programs of a host: started in the background, remembered by PID and start time, stopped, started again.
# Sourced by lab.sh.
# shellcheck shell=bash

# start_time PID: in clock ticks since boot; with the PID it names a process for good.
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The command's name, in parentheses, may hold anything; the start time is the 20th field after it.
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    # A zombie has ended.
    [[ $1 != Z ]] && printf '%s' "${20}"
}

record_pid() { printf '%s %s\n' "$3" "$(start_time "$3" || true)" >"$(host_dir "$1")/pids/$2"; }

# live_pid HOST PROGRAM: its PID, if that very process still lives.
live_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$(host_dir "$1")/pids/$2" || return 1
    [[ -n $started && $(start_time "$pid" || true) == "$started" ]] && printf '%s' "$pid"
}

program_names() { (cd -- "$(host_dir "$1")/programs" 2>/dev/null && compgen -G '*') || true; }
program_log() { printf '%s/%s/%s.log' "$LOG_DIR" "$1" "$2"; }
is_gone() { ! live_pid "$1" "$2" >/dev/null; }

# run_program HOST PROGRAM COMMAND...: remember the command and start it.
run_program() {
    local host=$1 program=$2
    shift 2
    printf '%s\0' "$@" >"$(host_dir "$host")/programs/$program"
    start_program "$host" "$program"
}

# start_program HOST PROGRAM [NAME=VALUE...]: start it with the command that it was started with first,
# this time with these variables in its environment.
start_program() {
    local file command environment=("${@:3}")
    file=$(host_dir "$1")/programs/$2
    [[ -e $file ]] || die "host '$1' has no program '$2'" "its programs are: $(program_names "$1" | tr '\n' ' ')"
    if live_pid "$1" "$2" >/dev/null; then die "$2 on $1 runs already, PID $(live_pid "$1" "$2")"; fi
    mapfile -d '' -t command <"$file"
    enter "$1"
    # Every step to the program is an exec, so the PID is the program's own. Our locks stay with us.
    setsid "${ENTER[@]}" "${environment[@]}" "${command[@]}" </dev/null >>"$(program_log "$1" "$2")" 2>&1 8>&- 9>&- &
    record_pid "$1" "$2" $!
}

# stop_program HOST PROGRAM [SIGNAL]: send it, and wait for the end where the signal means to end it.
stop_program() {
    local pid signal=${3:-TERM}
    pid=$(live_pid "$1" "$2") || die "$2 does not run on $1" "its programs are: $(program_names "$1" | tr '\n' ' ')"
    kill -s "$signal" "$pid"
    case $signal in TERM | INT | QUIT | KILL) ;; *) return 0 ;; esac
    wait_for 10 is_gone "$1" "$2" || die "$2 on $1 (PID $pid) still runs 10 s after SIG$signal" "log: $(program_log "$1" "$2")"
}

# await_program HOST PROGRAM SECONDS CHECK...: until the check passes; the log is shown when it does not.
await_program() {
    local host=$1 program=$2 seconds=$3
    shift 3
    if ! wait_for "$seconds" ends_or_passes "$host" "$program" "$@" || is_gone "$host" "$program"; then
        show_tail "$(program_log "$host" "$program")"
        if is_gone "$host" "$program"; then die "$program on $host has ended"; fi
        die "$program on $host was not ready within $seconds s (waited for: $*)"
    fi
}

ends_or_passes() {
    if is_gone "$1" "$2"; then return 0; fi
    shift 2
    "$@" >/dev/null 2>&1
}

# listens HOST TCP_PORT
listens() { [[ -n $(in_host "$1" ss -Htln "sport = :$2") ]]; }
