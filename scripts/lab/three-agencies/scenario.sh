# Three agencies and the ministry behind local ISPs. Sourced by lab.sh.
#
#                 isp: bridge 203.0.113.1/24, drops private addresses, as an ISP does
#      .10 |            .20 |           .30 |            .40 (SNAT) |          .50 (SNAT, fully-random) |
#  pusat.controller   pusat.gw     prov-jateng.gw       kab-demak.gw            kota-malang.gw
#  10.10.2.10 ---- 10.10.2.1
#                     10.10.1.1      10.33.1.1       100.64.1.2  10.44.1.1   100.64.2.2  10.55.1.1
#                     pusat.lan    prov-jateng.lan      kab-demak.lan           kota-malang.lan
#                  (Prometheus)
#
# laptop, a plain WireGuard device on the road: 100.64.3.2 behind .60 (SNAT), later 100.64.4.2 behind .61 (fully-random)
#
# shellcheck shell=bash disable=SC2034  # the variables are read by lab.sh

SCENARIO_HOSTS=(
    isp pusat.controller pusat.gw pusat.lan prov-jateng.gw prov-jateng.lan
    kab-demak.gw kab-demak.lan kota-malang.gw kota-malang.lan laptop
)
SCENARIO_CONTROLLER_HOST=pusat.controller
SCENARIO_CONTROLLER_ADDRESS=203.0.113.10:443

# name, registered prefixes, LANs, public addresses of its WireGuard (none behind NAT); each a list with commas
SCENARIO_AGENCIES=(
    'pusat 10.10.0.0/16 10.10.1.0/24 203.0.113.20:51820'
    'prov-jateng 10.33.0.0/16 10.33.1.0/24 203.0.113.30:51820'
    'kab-demak 10.44.0.0/16 10.44.1.0/24'
    'kota-malang 10.55.0.0/16 10.55.1.0/24'
)

# Which agency must see which service before the lab counts as up.
SCENARIO_SERVICES_SEEN=(
    pusat:prov-jateng/arsip kab-demak:prov-jateng/arsip kota-malang:prov-jateng/arsip
    pusat:prov-jateng/portal kab-demak:prov-jateng/portal kota-malang:prov-jateng/portal
    prov-jateng:kab-demak/simpeg-db
    kab-demak:kota-malang/cache prov-jateng:kota-malang/cache
)

# shellcheck source=scripts/lab/three-agencies/servers.sh
source "$SCENARIO_DIR/servers.sh"

scenario_network() {
    configure_host isp <<<'link add br0 type bridge'
    # Where the machine has br_netfilter, bridged packets would go through the rules for routed ones.
    # shellcheck disable=SC2016 # expanded by the shell inside the host
    in_host isp sh -c 'for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$f" ] || echo 0 >"$f"; done'
    public_site pusat-ctl pusat.controller eth0 203.0.113.10
    public_site pusat pusat.gw wan0 203.0.113.20
    public_site prov-jateng prov-jateng.gw wan0 203.0.113.30
    nat_site kab-demak 100.64.1
    nat_site kota-malang 100.64.2
    roaming_site
    # The ISP answers for the addresses that it translates to.
    configure_host isp <<'END'
address add 203.0.113.1/24 dev br0
address add 203.0.113.40/32 dev br0
address add 203.0.113.50/32 dev br0
address add 203.0.113.60/32 dev br0
address add 203.0.113.61/32 dev br0
link set br0 up
END
    make_router isp
    in_host isp nft -f - <"$SCENARIO_DIR/isp.nft"
    lan pusat 10.10.1
    ministry_inside
    lan prov-jateng 10.33.1
    lan kab-demak 10.44.1
    lan kota-malang 10.55.1
}

# public_site PORT HOST INTERFACE ADDRESS: on the ISP's bridge, with a public address.
public_site() {
    link_hosts isp "$1" "$2" "$3"
    configure_host isp <<<"link set $1 master br0"
    configure_host "$2" <<END
address add $4/24 dev $3
route add default via 203.0.113.1
END
}

# nat_site AGENCY NETWORK: behind the ISP's NAT.
nat_site() {
    link_hosts isp "$1" "$1.gw" wan0
    configure_host isp <<<"address add $2.1/24 dev $1"
    configure_host "$1.gw" <<END
address add $2.2/24 dev wan0
route add default via $2.1
END
}

# roaming_site: a host with two ways out, of which it uses the first.
roaming_site() {
    link_hosts isp laptop laptop wan0
    link_hosts isp laptop-mobile laptop wan1
    configure_host isp <<'END'
address add 100.64.3.1/24 dev laptop
address add 100.64.4.1/24 dev laptop-mobile
END
    configure_host laptop <<'END'
address add 100.64.3.2/24 dev wan0
address add 100.64.4.2/24 dev wan1
route add default via 100.64.3.1
END
}

# lan AGENCY NETWORK
lan() {
    link_hosts "$1.gw" lan0 "$1.lan" eth0
    configure_host "$1.gw" <<<"address add $2.1/24 dev lan0"
    make_router "$1.gw"
    configure_host "$1.lan" <<END
address add $2.10/24 dev eth0
route add default via $2.1
END
}

# ministry_inside: the controller's second leg, where the ministry's own Prometheus reads /metrics and /sd, and
# the way of that Prometheus to the agents, which answer the box of a peer but not a host of its LAN.
ministry_inside() {
    link_hosts pusat.gw srv0 pusat.controller eth1
    configure_host pusat.gw <<<'address add 10.10.2.1/24 dev srv0'
    configure_host pusat.controller <<'END'
address add 10.10.2.10/24 dev eth1
route add 10.10.1.0/24 via 10.10.2.1
END
    in_host pusat.controller nft -f - <"$SCENARIO_DIR/controller.nft"
    in_host pusat.gw nft -f - <"$SCENARIO_DIR/monitoring.nft"
}
