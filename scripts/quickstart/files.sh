# Files: 100 MB from a Samba share, byte for byte. Sourced by quickstart.sh.
# shellcheck shell=bash disable=SC2034,SC2153  # variables are shared between the files of quickstart.sh

files_job() {
    local marker file=arsip-2026.bin wanted got started seconds
    marker=$(new_marker FILES)
    make_archive "$marker" "$DATA_DIR/prov-jateng.lan/arsip/$file"
    wanted=$(checksum "$DATA_DIR/prov-jateng.lan/arsip/$file")
    service kab-demak prov-jateng/arsip
    start_captures kab-demak.lan
    started=$(now_ms)
    in_lab kab-demak.lan smbclient --configfile=/dev/null --no-pass --port "$PORT" --timeout 60 "//$HOST/arsip" \
        --command "get $file $WORK_DIR/$file" >"$LOG_DIR/kab-demak.lan/smbclient.log" 2>&1 ||
        fail "smbclient could not fetch //$HOST/arsip/$file" "$LOG_DIR/kab-demak.lan/smbclient.log"
    seconds=$(seconds_since "$started")
    got=$(checksum "$WORK_DIR/$file")
    [[ $got == "$wanted" ]] || fail "SHA-256 differs: share has $wanted, kab-demak.lan got $got"
    check_captures "$marker"
    rm -f -- "${WORK_DIR:?}/$file"
    add_row files "100 MB" "SHA-256 equal; $SEEN" "$seconds"
}

checksum() { sha256sum -- "$1" | cut -d ' ' -f 1; }

# make_archive MARKER FILE: random, with the marker at every megabyte: one of them may straddle two packets.
make_archive() {
    local part
    for ((part = 0; part < 100; part++)); do
        printf '%-64s' "$1"
        head -c $((1000000 - 64)) /dev/urandom
    done >"$2"
    chmod 644 "$2"
}
