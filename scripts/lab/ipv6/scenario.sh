# Uplinks of both versions of IP: a hub with both, a box with IPv6 only, a box with IPv4 only behind NAT.
# LANs have both. Sourced by lab.sh.
#
#            isp: bridge 203.0.113.1/24 and 2001:db8:0:1::1/64
#      .10, ::10 |       .30, ::30 |      routed, stateful |      SNAT to .50, fully-random |
#  pusat.controller   prov-jateng.gw        kab-demak.gw              kota-malang.gw
#                                     2001:db8:0:40::2                   100.64.2.2
#                    10.33.1.1, fd33:1::1   10.44.1.1, fd44:1::1     10.55.1.1, fd55:1::1
#                    prov-jateng.lan        kab-demak.lan            kota-malang.lan
#
# shellcheck shell=bash disable=SC2034  # the variables are read by lab.sh

SCENARIO_HOSTS=(
    isp pusat.controller prov-jateng.gw prov-jateng.lan kab-demak.gw kab-demak.lan kota-malang.gw kota-malang.lan
)
SCENARIO_CONTROLLER_HOST=pusat.controller
SCENARIO_CONTROLLER_ADDRESS="203.0.113.10:443,[2001:db8:0:1::10]:443"

# The last prefix of kota-malang is not registered for it.
SCENARIO_AGENCIES=(
    'prov-jateng 10.33.0.0/16,fd33::/16 10.33.1.0/24,fd33:1::/64 203.0.113.30:51820,[2001:db8:0:1::30]:51820'
    'kab-demak 10.44.0.0/16,fd44::/16 10.44.1.0/24,fd44:1::/64'
    'kota-malang 10.55.0.0/16,fd55::/16 10.55.1.0/24,fd55:1::/64,fd99:1::/64'
)

SCENARIO_SERVICES_SEEN=(kab-demak:prov-jateng/portal kota-malang:prov-jateng/portal)

scenario_network() {
    configure_host isp <<<'link add br0 type bridge'
    # shellcheck disable=SC2016 # expanded by the shell inside the host
    in_host isp sh -c 'for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$f" ] || echo 0 >"$f"; done'
    both_versions pusat-ctl pusat.controller eth0 10
    both_versions prov-jateng prov-jateng.gw wan0 30
    link_hosts isp kab-demak kab-demak.gw wan0
    link_hosts isp kota-malang kota-malang.gw wan0
    configure_host isp <<'END'
address add 203.0.113.1/24 dev br0
address add 203.0.113.50/32 dev br0
address add 2001:db8:0:1::1/64 dev br0 nodad
address add 2001:db8:0:40::1/64 dev kab-demak nodad
address add 100.64.2.1/24 dev kota-malang
link set br0 up
END
    configure_host kab-demak.gw <<'END'
address add 2001:db8:0:40::2/64 dev wan0 nodad
route add default via 2001:db8:0:40::1
END
    configure_host kota-malang.gw <<'END'
address add 100.64.2.2/24 dev wan0
route add default via 100.64.2.1
END
    make_router isp
    in_host isp nft -f - <"$SCENARIO_DIR/isp.nft"
    lan prov-jateng 33
    lan kab-demak 44
    lan kota-malang 55
}

# both_versions PORT HOST INTERFACE NUMBER: on the ISP's bridge.
both_versions() {
    link_hosts isp "$1" "$2" "$3"
    configure_host isp <<<"link set $1 master br0"
    configure_host "$2" <<END
address add 203.0.113.$4/24 dev $3
address add 2001:db8:0:1::$4/64 dev $3 nodad
route add default via 203.0.113.1
route add default via 2001:db8:0:1::1
END
}

# lan AGENCY NUMBER
lan() {
    link_hosts "$1.gw" lan0 "$1.lan" eth0
    configure_host "$1.gw" <<END
address add 10.$2.1.1/24 dev lan0
address add fd$2:1::1/64 dev lan0 nodad
END
    make_router "$1.gw"
    configure_host "$1.lan" <<END
address add 10.$2.1.10/24 dev eth0
address add fd$2:1::10/64 dev eth0 nodad
route add default via 10.$2.1.1
route add default via fd$2:1::1
END
}

scenario_servers() {
    run_program prov-jateng.lan portal python3 -m http.server --bind fd33:1::10 8080
    await_program prov-jateng.lan portal 10 in_host prov-jateng.lan curl -sfg 'http://[fd33:1::10]:8080/'
}

scenario_late_servers() { :; }
