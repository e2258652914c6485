# DRC: a streaming standby of PostgreSQL at another agency. Sourced by quickstart.sh.
# shellcheck shell=bash disable=SC2034,SC2153  # variables are shared between the files of quickstart.sh

DRC_ROWS=10000

drc_job() {
    local marker started state seconds
    marker=$(new_marker DRC)
    service prov-jateng kab-demak/simpeg-db
    start_captures prov-jateng.lan
    started=$(now_ms)
    primary_sql "CREATE TABLE pegawai (nip bigint PRIMARY KEY, nama text)" >/dev/null || fail "the primary accepts no table"
    start_standby
    primary_sql "INSERT INTO pegawai SELECT n, '$marker ' || n FROM generate_series(1, $DRC_ROWS) n" >/dev/null ||
        fail "the primary accepts no rows" "$LOG_DIR/kab-demak.lan/postgres.log"
    wait_for 30 rows_arrived || fail "the standby has $(standby_rows) of $DRC_ROWS rows after 30 s" "$LOG_DIR/prov-jateng.lan/standby.log"
    state=$(primary_sql "SELECT string_agg(state, ' ') FROM pg_stat_replication")
    [[ $state == streaming ]] || fail "pg_stat_replication says '$state', not 'streaming'" "$LOG_DIR/prov-jateng.lan/standby.log"
    seconds=$(seconds_since "$started")
    check_captures "$marker"
    add_row drc "$DRC_ROWS rows" "all at the standby, state streaming; $SEEN" "$seconds"
}

# start_standby: base backup from the address that the service has, then a server that follows it.
start_standby() {
    local dir=$DATA_DIR/prov-jateng.lan/standby log=$LOG_DIR/prov-jateng.lan/pg_basebackup.log
    install -d -m 700 -o postgres -g postgres "$dir"
    as_postgres prov-jateng.lan pg_basebackup --host="$HOST" --port="$PORT" --username=postgres --no-password \
        --pgdata="$dir/data" --wal-method=stream --checkpoint=fast --write-recovery-conf >"$log" 2>&1 ||
        fail "pg_basebackup from $ENDPOINT failed" "$log" "$LOG_DIR/kab-demak.lan/postgres.log"
    "${LAB[@]}" start-program prov-jateng.lan standby -- "${AS_POSTGRES[@]}" "$(postgres_command postgres)" -D "$dir/data" \
        -c listen_addresses= -c unix_socket_directories="$dir"
    wait_for 30 standby_answers || fail "the standby does not answer within 30 s" "$LOG_DIR/prov-jateng.lan/standby.log"
}

AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --clear-groups env --chdir=/ HOME=/)

# as_postgres HOST PROGRAM ARGUMENT...
as_postgres() {
    local host=$1 program=$2
    shift 2
    in_lab "$host" "${AS_POSTGRES[@]}" "$(postgres_command "$program")" "$@"
}

# postgres_command PROGRAM: of the newest PostgreSQL on this machine, as the lab uses it.
postgres_command() {
    local bins
    mapfile -t bins < <(compgen -G '/usr/lib/postgresql/*/bin' | sort -V)
    printf '%s/%s' "${bins[-1]}" "$1"
}

sql() { as_postgres "$1" psql --no-psqlrc -qAt --host="$2" --dbname=postgres --command="$3"; }
primary_sql() { sql kab-demak.lan "$DATA_DIR/kab-demak.lan/postgres" "$1"; }
standby_sql() { sql prov-jateng.lan "$DATA_DIR/prov-jateng.lan/standby" "$1"; }
standby_answers() { standby_sql 'SELECT 1' >/dev/null 2>&1; }
standby_rows() { standby_sql 'SELECT count(*) FROM pegawai' 2>/dev/null; }
rows_arrived() { [[ $(standby_rows) == "$DRC_ROWS" ]]; }
