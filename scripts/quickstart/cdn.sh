# CDN: two fetches through the cache, one at the origin. Sourced by quickstart.sh.
# shellcheck shell=bash disable=SC2034,SC2153  # variables are shared between the files of quickstart.sh

cdn_job() {
    local marker page started seconds first second fetches
    marker=$(new_marker CDN)
    page=berita-$RANDOM$RANDOM.html
    # 1 MB of readable text.
    yes "$marker berita Jawa Tengah" | head -c 1000000 >"$DATA_DIR/prov-jateng.lan/portal/$page" || true
    service kab-demak kota-malang/cache
    start_captures kab-demak.lan
    started=$(now_ms)
    first=$(fetch "$page" 1)
    second=$(fetch "$page" 2)
    seconds=$(seconds_since "$started")
    [[ $first == MISS && $second == HIT ]] || fail "X-Cache-Status was '$first', then '$second'; MISS, then HIT was expected"
    cmp -s -- "$WORK_DIR/page-2" "$DATA_DIR/prov-jateng.lan/portal/$page" || fail "the cached page differs from the origin's"
    fetches=$(grep -cF -- "/$page " "$LOG_DIR/prov-jateng.lan/nginx-access.log" || true)
    [[ $fetches == 1 ]] || fail "the origin's log holds $fetches fetches of $page, not 1" "$LOG_DIR/prov-jateng.lan/nginx-access.log"
    check_captures "$marker"
    add_row cdn "2 x 1 MB" "MISS then HIT, 1 fetch at the origin; $SEEN" "$seconds"
}

# fetch PAGE N: prints X-Cache-Status.
fetch() {
    in_lab kab-demak.lan curl -sS --fail --max-time 60 -D "$WORK_DIR/headers-$2" -o "$WORK_DIR/page-$2" "http://$ENDPOINT/$1" ||
        fail "kab-demak.lan could not fetch http://$ENDPOINT/$1"
    sed -nE 's/^X-Cache-Status: ([A-Z]+)\r?$/\1/p' "$WORK_DIR/headers-$2"
}
