# The servers of the three agencies: Debian's own, each with private folders below the lab's data.
# Sourced by the scenario.
# shellcheck shell=bash

# scenario_servers: those that need nobody else.
scenario_servers() {
    start_samba
    start_origin
    start_database
    await_program prov-jateng.lan smbd 20 listens prov-jateng.lan 445
    await_program prov-jateng.lan nginx 10 listens prov-jateng.lan 8080
    await_program kab-demak.lan postgres 20 listens kab-demak.lan 5432
}

# scenario_late_servers: the cache asks its own box where the origin is.
scenario_late_servers() {
    local origin
    if ! wait_for 20 origin_is_known; then
        in_host kota-malang.gw pnsbox services >&2 || true
        die "kota-malang.gw does not see prov-jateng/portal as available within 20 s, so its cache has no origin"
    fi
    origin=$(endpoint_of kota-malang prov-jateng/portal)
    start_nginx kota-malang.lan cache.conf "@ORIGIN@=$origin"
    await_program kota-malang.lan nginx 10 listens kota-malang.lan 8081
    start_prometheus
    await_program pusat.lan prometheus 20 in_host pusat.lan curl -sf http://127.0.0.1:9090/-/ready
}

origin_is_known() { [[ -n $(endpoint_of kota-malang prov-jateng/portal) ]]; }

# server_dir HOST NAME: a private folder, made.
server_dir() {
    local dir=$DATA_DIR/$1/$2
    mkdir -p -- "$dir"
    printf '%s' "$dir"
}

# fill_in TEMPLATE KEY=VALUE...: the template with each key replaced.
fill_in() {
    local text pair
    text=$(<"$1")
    shift
    for pair in "$@"; do text=${text//"${pair%%=*}"/"${pair#*=}"}; done
    printf '%s\n' "$text"
}

start_samba() {
    local dir
    dir=$(server_dir prov-jateng.lan samba)
    mkdir -p -- "$dir"/{private,lock,state,cache,pid,ncalrpc} "$DATA_DIR/prov-jateng.lan/arsip"
    chmod 700 "$dir/private"
    fill_in "$SCENARIO_DIR/smb.conf" "@DIR@=$dir" "@SHARE@=$DATA_DIR/prov-jateng.lan/arsip" >"$dir/smb.conf"
    run_program prov-jateng.lan smbd smbd --foreground --no-process-group --debug-stdout --configfile="$dir/smb.conf"
}

start_origin() {
    local www=$DATA_DIR/prov-jateng.lan/portal
    mkdir -p -- "$www"
    printf '<h1>Portal Jawa Tengah</h1>\n' >"$www/index.html"
    start_nginx prov-jateng.lan origin.conf "@WWW@=$www"
}

# start_nginx HOST TEMPLATE KEY=VALUE...
start_nginx() {
    local host=$1 template=$2 dir
    shift 2
    dir=$(server_dir "$host" nginx)
    mkdir -p -- "$dir/tmp"
    fill_in "$SCENARIO_DIR/$template" "@DIR@=$dir" "@ACCESS_LOG@=$LOG_DIR/$host/nginx-access.log" "$@" >"$dir/nginx.conf"
    run_program "$host" nginx nginx -p "$dir" -c "$dir/nginx.conf" -e stderr -g 'daemon off;'
}

start_database() {
    local dir bin
    bin=$(postgres_bin)
    dir=$(server_dir kab-demak.lan postgres)
    chown postgres: "$dir"
    chmod 700 "$dir"
    in_host kab-demak.lan "${AS_POSTGRES[@]}" "$bin/initdb" --pgdata="$dir/data" --encoding=UTF8 --locale=C.UTF-8 \
        --auth=trust >"$LOG_DIR/kab-demak.lan/initdb.log" 2>&1 || {
        show_tail "$LOG_DIR/kab-demak.lan/initdb.log"
        die "PostgreSQL's initdb failed on kab-demak.lan"
    }
    fill_in "$SCENARIO_DIR/postgresql.conf" "@DIR@=$dir" "@LISTEN@=10.44.1.10" >>"$dir/data/postgresql.conf"
    # The LAN of the province may replicate; the lab has no secrets to keep, so it asks for no password.
    printf 'host replication all 10.33.1.0/24 trust\n' >>"$dir/data/pg_hba.conf"
    run_program kab-demak.lan postgres "${AS_POSTGRES[@]}" "$bin/postgres" -D "$dir/data"
}

# start_prometheus: with the shipped configuration and rules, but looking every second.
start_prometheus() {
    local dir shipped=$PROJECT_DIR/configs/monitoring
    dir=$(server_dir pusat.lan prometheus)
    fill_in "$shipped/prometheus.yml" "interval: 15s=interval: 1s" "scrape_timeout: 10s=scrape_timeout: 1s" \
        "refresh_interval: 60s=refresh_interval: 1s" "127.0.0.1:9587=10.10.2.10:9587" >"$dir/prometheus.yml"
    cp -r -- "$shipped/rules" "$dir/"
    mkdir -p -- "$dir/data"
    chown -R prometheus: "$dir"
    run_program pusat.lan prometheus setpriv --reuid=prometheus --regid=prometheus --clear-groups env HOME=/ \
        prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
        --web.listen-address=127.0.0.1:9090 --log.level=warn
}

AS_POSTGRES=(setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/)

# postgres_bin: the newest PostgreSQL of this machine; Debian 12 has 15.
postgres_bin() {
    local bins
    mapfile -t bins < <(compgen -G '/usr/lib/postgresql/*/bin' | sort -V)
    printf '%s' "${bins[-1]}"
}
