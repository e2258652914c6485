# Which Debian packages the scripts need, each with the command or file that shows it is there.
# Sourced after install.sh.
# shellcheck shell=bash disable=SC2034  # read by those who source this

# What the hosts of a lab run.
LAB_PACKAGES=(
    iproute2:ip nftables:nft procps:sysctl iputils-ping:ping tcpdump:tcpdump curl:curl jq:jq python3:python3
    util-linux:setpriv samba:smbd smbclient:smbclient nginx:nginx
    prometheus:prometheus
    'postgresql-15:/usr/lib/postgresql/*/bin/initdb'
)

# What the tests set against our programs.
TEST_PACKAGES=(
    wireguard-go:wireguard-go wireguard-tools:wg
    ethtool:ethtool iperf3:iperf3 faketime:faketime
    mmdebstrap:mmdebstrap systemd:systemd-analyze
    strace:strace
)

# What scripts/bench.sh measures with.
BENCH_PACKAGES=(
    iproute2:ip iputils-ping:ping python3:python3 iperf3:iperf3 ethtool:ethtool wireguard-tools:wg nftables:nft
)

# What it compares with.
BENCH_COMPETITOR_PACKAGES=(wireguard-go:wireguard-go)
