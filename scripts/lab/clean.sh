# Takes a lab down: exactly what it started, whatever state it is in. Sourced by lab.sh.
# shellcheck shell=bash

# clean_lab: idempotent; also for what a crash left.
clean_lab() {
    if [[ -d $LAB_DIR ]]; then
        # Agents first: they say goodbye and take their routes along. The controller before the servers.
        signal_programs 'pnsbox-agent' TERM
        wait_for 5 none_live 'pnsbox-agent' || warn "an agent of lab '$LAB_NAME' ignored SIGTERM for 5 s; it is killed"
        signal_programs 'pnsbox-controller' TERM
        # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for its clients.
        signal_programs 'postgres' INT
        signal_programs '*' TERM
        wait_for 5 none_live '*' || true
        kill_marked
        kill_holders
        wait_for 5 nothing_marked || warn "some processes of lab '$LAB_NAME' do not end: $(marked_pids | tr '\n' ' ')"
    fi
    remove_state
}

# signal_programs PATTERN SIGNAL
signal_programs() {
    local host program pid
    for host in $(host_names); do
        for program in $(program_names "$host"); do
            # shellcheck disable=SC2254  # a pattern is meant
            case $program in $1) ;; *) continue ;; esac
            if pid=$(live_pid "$host" "$program"); then kill -s "$2" "$pid" 2>/dev/null || true; fi
        done
    done
}

none_live() {
    local host program
    for host in $(host_names); do
        for program in $(program_names "$host"); do
            # shellcheck disable=SC2254  # a pattern is meant
            case $program in $1) ;; *) continue ;; esac
            if ! is_gone "$host" "$program"; then return 1; fi
        done
    done
}

# marked_pids: every process in a mount namespace of this lab, whoever started it there.
marked_pids() {
    local id file
    id=$(cat "$LAB_DIR/id" 2>/dev/null) && [[ -n $id ]] || return 0
    grep -sl -- " $id " /proc/[0-9]*/mountinfo 2>/dev/null | while read -r file; do
        file=${file#/proc/}
        printf '%s\n' "${file%/mountinfo}"
    done
}

nothing_marked() { [[ -z $(marked_pids) ]]; }

kill_marked() {
    local pid
    for pid in $(marked_pids); do kill -s KILL "$pid" 2>/dev/null || true; done
}

# A holder that was killed before it made its mounts carries no mark.
kill_holders() {
    local host pid
    for host in $(host_names); do
        if pid=$(live_pid "$host" holder); then kill -s KILL "$pid" 2>/dev/null || true; fi
    done
}
