"""Two real agents, joined by a real controller that then stops: the network lives without it.

A box closes itself to its peers but for two ports: UDP of its links and TCP of its metrics. Both are set to
iperf3's port. The agent listens there on its overlay address; iperf3's server takes a LAN address of the box, so
its packets pass the same filter as any others, and nothing is opened, forwarded or switched off for the benchmark.
"""

import json

from world import TUNNEL_MTU, BenchError, wait_until

# iperf3's own.
SERVER_PORT = 5201
NAMES = {"a": "kab-demak", "b": "prov-jateng"}
LANS = {"a": "10.98.1", "b": "10.98.2"}
WIREGUARD_PORT = 51820

AGENT = """
state_dir = "{directory}"
socket = "{directory}/agent.sock"
[wireguard]
interface = "{interface}"
port = {wireguard}
mtu = {mtu}
[link]
port = {port}
[http]
port = {port}
[log]
level = "warn"
"""
CONTROLLER = """
state_dir = "{directory}"
socket = "{directory}/controller.sock"
[log]
level = "warn"
"""
POLICY = """
relays = []
[[link]]
between = ["kab-demak", "prov-jateng"]
"""


class PnsboxPair:
    """What the two agents keep between starts."""

    def __init__(self, world, bin_dir):
        self._ends = (world.a, world.b)
        self._controller_end = world.b
        self._bin = bin_dir
        self._directory = world.directory / "pnsbox"
        self._joined = False
        self._overlay = {}
        self.server_address = f"{LANS['b']}.1"

    def interface(self, end):
        """Its socket lies in /run/wireguard of the machine, so the name holds our PID."""
        return f"{end.world.name.replace('bench-', 'bp')}{end.letter}"

    def overlay(self, end):
        """The box's address in the network."""
        return self._overlay[end.letter]

    def start(self):
        """Starts both agents, which join at their first start. The programs."""
        if not self._joined:
            self._prepare()
        agents = []
        try:
            for end in self._ends:
                agents.append(end.start(
                    "pnsbox", str(self._bin / "pnsbox-agent"), "run", "--config", str(self._home(end) / "agent.toml")))
            for end, agent in zip(self._ends, agents):
                wait_until("an agent answers its CLI", 15, lambda e=end, a=agent: self._status(e, a) is not None)
            if not self._joined:
                self._join()
                self._joined = True
            for end, agent in zip(self._ends, agents):
                wait_until("an agent has its overlay address", 20, lambda e=end, a=agent: self._learn(e, a))
        except BaseException:
            self.stop(agents)
            raise
        return agents

    def stop(self, agents):
        """Stops them; they say goodbye and take their routes along."""
        for agent in agents:
            agent.stop()

    def _home(self, end):
        return self._directory / end.letter

    def _prepare(self):
        for end in self._ends:
            home = self._home(end)
            home.mkdir(parents=True)
            (home / "agent.toml").write_text(AGENT.format(
                directory=home, interface=self.interface(end), wireguard=WIREGUARD_PORT, mtu=TUNNEL_MTU,
                port=SERVER_PORT))
            end.ip("address", "add", f"{LANS[end.letter]}.1/24", "dev", "lo")

    def _join(self):
        """Controller, agencies, policy, two invitations; then the controller is not needed any more."""
        home, end = self._directory / "controller", self._controller_end
        home.mkdir()
        (home / "controller.toml").write_text(CONTROLLER.format(directory=home))
        (home / "policy.toml").write_text(POLICY)
        self._control("init", "--network", "pns", "--address", f"{end.underlay}:443")
        controller = end.start("pnsbox-controller", *self._controller("serve"))
        try:
            wait_until("the controller serves", 15, lambda: serves(controller, home / "controller.sock"))
            for letter, name in NAMES.items():
                self._control("agency", "add", name, "--prefix", f"{LANS[letter]}.0/24")
            self._control("apply", str(home / "policy.toml"))
            for end in self._ends:
                anchor = self._control("invite", NAMES[end.letter]).strip()
                self._cli(end, "join", "-", "--lan", f"{LANS[end.letter]}.0/24", "--public",
                          f"{end.underlay}:{WIREGUARD_PORT}", stdin=anchor)
            for end in self._ends:
                wait_until("the agents know each other", 20, lambda e=end: len(self._peers(e)) == 1)
        finally:
            controller.stop()

    def _controller(self, *arguments):
        config = self._directory / "controller" / "controller.toml"
        return (str(self._bin / "pnsbox-controller"), "--config", str(config), *arguments)

    def _control(self, *arguments):
        return self._controller_end.run(*self._controller(*arguments))

    def _cli(self, end, *arguments, stdin=None):
        socket = str(self._home(end) / "agent.sock")
        return end.run(str(self._bin / "pnsbox"), "--socket", socket, *arguments, stdin=stdin)

    def _status(self, end, agent):
        agent.must_live()
        try:
            return json.loads(self._cli(end, "status", "--json"))
        except BenchError:
            return None

    def _peers(self, end):
        return json.loads(self._cli(end, "peers", "--json"))["peers"]

    def _learn(self, end, agent):
        """Takes the box's IPv4 address from its interface; false while there is none."""
        agent.must_live()
        try:
            shown = json.loads(end.ip("-j", "-4", "address", "show", "dev", self.interface(end)))
        except BenchError:
            return False
        found = [entry["local"] for link in shown for entry in link.get("addr_info", [])]
        if found:
            self._overlay[end.letter] = found[0]
        return bool(found)


def serves(controller, socket):
    """Whether the controller takes commands."""
    controller.must_live()
    return socket.exists()
