//! What is recorded: a network is made, two boxes join it and take views, their agencies sign and change keys, and
//! everything is stopped and started again.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{Context as _, Result, anyhow};
use pnsbox_tests::cuts::recorder::Recorder;
use serde_json::Value;

/// A log of strace, and the folder whose state directories it is about.
pub(crate) struct Recording {
    pub(crate) log: String,
    pub(crate) log_at: PathBuf,
    pub(crate) disk: PathBuf,
}

/// The recording, made once.
pub(crate) fn recording() -> Result<&'static Recording> {
    static MADE: LazyLock<Result<Recording>> = LazyLock::new(make);
    MADE.as_ref().map_err(|error| anyhow!("{error:#}"))
}

/// Where the world of a recording is. Gone after it, but its log names it.
const FOLDER: &str = "/tmp/pnsbox-cuts";

fn make() -> Result<Recording> {
    let disk = Path::new(FOLDER).join("disk");
    if let Some(log_at) = std::env::var_os("PNSBOX_CUTS_LOG").map(PathBuf::from) {
        let log = std::fs::read_to_string(&log_at)?;
        return Ok(Recording { log, log_at, disk });
    }
    let log_at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuts.log");
    let mut world = World::start(&log_at)?;
    world.found()?;
    world.enrol()?;
    world.change()?;
    world.sign()?;
    world.govern()?;
    world.stop_and_start()?;
    let log = world.recorder.finish()?;
    Ok(Recording { log, log_at, disk })
}

/// Both boxes stand in one room with the controller: `kab-a` behind the address that the other dials.
struct World {
    recorder: Recorder,
}

const SETTING: &str = "
C='pnsbox-controller --config controller.toml'
A='pnsbox --socket run/agent.sock'
B='pnsbox --socket run/peer.sock'
ip link set lo up
unshare --net sleep infinity & PEER=$!
until [ $(readlink /proc/$PEER/ns/net) != $(readlink /proc/$$/ns/net) ]; do sleep 0.01; done
ip link add a0 type veth peer name b0 netns $PEER
ip address add 10.9.0.1/24 dev a0 && ip link set a0 up
AT_PEER=\"nsenter --target $PEER --net\"
$AT_PEER ip link set lo up
$AT_PEER ip address add 10.9.0.2/24 dev b0 && $AT_PEER ip link set b0 up && $AT_PEER ip route add default via 10.9.0.1
";

const CONTROLLER: &str = r#"listen = ["10.9.0.1:443"]
state_dir = "/tmp/pnsbox-cuts/disk/controller"
socket = "/tmp/pnsbox-cuts/run/controller.sock"
"#;

const AGENT: &str = r#"state_dir = "/tmp/pnsbox-cuts/disk/agent"
socket = "/tmp/pnsbox-cuts/run/agent.sock"
"#;

const PEER: &str = r#"state_dir = "/tmp/pnsbox-cuts/peer"
socket = "/tmp/pnsbox-cuts/run/peer.sock"
[wireguard]
interface = "pns1"
"#;

const LINKED: &str = "[[link]]\nbetween = [\"kab-a\", \"kab-b\"]\n";

impl World {
    fn start(log: &Path) -> Result<Self> {
        let mut recorder = Recorder::start(log, &crate::programs()?)?;
        // A file system of this recording alone, below a name that every recording has.
        recorder.run(&format!(
            "mkdir -p {FOLDER} /run/wireguard && mount -t tmpfs cuts {FOLDER} && mount -t tmpfs cuts /run/wireguard"
        ))?;
        recorder.run(&format!(
            "mkdir -p {FOLDER}/disk {FOLDER}/run {FOLDER}/peer"
        ))?;
        let files = [
            ("controller.toml", CONTROLLER),
            ("agent.toml", AGENT),
            ("peer.toml", PEER),
            ("linked.toml", LINKED),
            ("apart.toml", ""),
        ];
        for (name, text) in files {
            recorder.run(&format!("cat >{FOLDER}/{name} <<'END'\n{text}END"))?;
        }
        recorder.run(&format!("cd {FOLDER}"))?;
        recorder.run(SETTING)?;
        Ok(Self { recorder })
    }

    /// A network, its agencies and the way in, each command with the store to itself.
    fn found(&mut self) -> Result<()> {
        self.deed("init --network pns --address 10.9.0.1:443")?;
        for part in ["root.key", "controller.key", "admission.key", "store"] {
            self.recorder.tell(&format!("controller {part}"))?;
        }
        self.deed("agency add kab-a --prefix 10.44.0.0/16")?;
        self.deed("agency add kab-b --prefix 10.45.0.0/16")?;
        Ok(())
    }

    /// The controller serves, and both boxes join.
    fn enrol(&mut self) -> Result<()> {
        self.serve()?;
        self.start_agent()?;
        self.recorder
            .run("$AT_PEER pnsbox-agent run --config peer.toml 2>run/peer.log & PEER_AGENT=$!")?;
        self.recorder.wait("$B status --json", |_| true)?;
        for (node, more) in [("A", "--public 10.9.0.1:51820"), ("B", "")] {
            let agency = format!("kab-{}", node.to_lowercase());
            let anchor = self.deed(&format!("invite {agency}"))?;
            let anchor = anchor.trim();
            self.recorder
                .run(&format!("${node} join {anchor} --no-lan {more}"))?;
            if node == "A" {
                self.told_agent(&[
                    "identity.key",
                    "wireguard.key",
                    "agency.key",
                    "joined=kab-a/gw1",
                ])?;
            }
        }
        self.audited()?;
        Ok(())
    }

    /// Both agencies consent: a peer comes and is seen at an address. It goes, and comes again.
    fn change(&mut self) -> Result<()> {
        self.deed("apply linked.toml")?;
        self.recorder.wait("$A consent grant kab-b", |_| true)?;
        self.told_agent(&["signed"])?;
        self.recorder.wait("$B consent grant kab-a", |_| true)?;
        self.linked()?;
        // A handshake has used a timestamp, so its reservation is on disk.
        self.told_agent(&["handshakes.json"])?;
        self.deed("apply apart.toml")?;
        self.applied()?;
        self.deed("apply linked.toml")?;
        self.linked()
    }

    /// What an agency can do with its key.
    fn sign(&mut self) -> Result<()> {
        self.deed("external add laptop --agency kab-a")?;
        self.recorder
            .wait("$A node approve kab-a/laptop", |_| true)?;
        self.told_agent(&["signed"])?;
        for command in ["rotate", "new-key", "rotate"] {
            self.recorder.run(&format!("$A agency {command}"))?;
            self.told_agent(&["agency.key", "signed"])?;
        }
        self.recorder
            .run("$B agency backup >run/line && $A agency restore <run/line")?;
        self.told_agent(&["agency.key"])?;
        self.recorder.run("$A consent revoke kab-b")?;
        self.told_agent(&["signed"])?;
        self.recorder.run("$A consent grant kab-b")?;
        self.told_agent(&["signed"])?;
        self.linked()
    }

    /// What an operator does beside policies: waves, back, the root's word, a box shut out.
    fn govern(&mut self) -> Result<()> {
        for command in [
            "apply apart.toml --canary 50% --watch 1s",
            "rollback 1",
            "admission renew --root-key disk/controller/root.key",
            "quarantine kab-b/gw1 --reason cut",
            "release kab-b/gw1",
        ] {
            self.deed(command)?;
            self.applied()?;
        }
        Ok(())
    }

    /// A clean end of both, commands meanwhile, and a start from what is on disk.
    fn stop_and_start(&mut self) -> Result<()> {
        self.recorder
            .run("kill $AGENT $SERVE; wait $AGENT; wait $SERVE")?;
        self.deed("agency add kab-c --prefix 10.46.0.0/16")?;
        self.serve()?;
        self.start_agent()?;
        self.recorder.wait("$A status --json", |said| {
            json(said).is_ok_and(|status| status["status"]["controller"]["connected"] == true)
        })?;
        self.deed("apply apart.toml")?;
        self.applied()?;
        self.recorder
            .run("kill $AGENT $SERVE $PEER_AGENT $PEER; wait")?;
        Ok(())
    }

    fn linked(&mut self) -> Result<()> {
        self.applied()?;
        let seen = "grep -q 10.9.0.2:51820 disk/agent/state.json";
        self.recorder.wait(seen, |_| true)?;
        Ok(())
    }

    fn told_agent(&mut self, parts: &[&str]) -> Result<()> {
        let mut parts = parts.iter();
        parts.try_for_each(|part| self.recorder.tell(&format!("agent {part}")))
    }

    fn serve(&mut self) -> Result<()> {
        self.recorder.run("$C serve 2>run/serve.log & SERVE=$!")?;
        self.recorder
            .wait("test -S run/controller.sock", |_| true)?;
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        self.recorder
            .run("pnsbox-agent run --config agent.toml 2>run/agent.log & AGENT=$!")?;
        self.recorder.wait("$A status --json", |_| true)?;
        Ok(())
    }

    /// A command of the controller's, and the audit trail that shows it.
    fn deed(&mut self, command: &str) -> Result<String> {
        let said = self.recorder.run(&format!("$C {command} 2>run/said"))?;
        self.audited()?;
        Ok(said)
    }

    fn audited(&mut self) -> Result<()> {
        let verified = json(&self.recorder.run("$C audit verify --json")?)?;
        let entries = verified["entries"].as_u64().context("entries")?;
        self.recorder.tell(&format!("controller audit={entries}"))
    }

    /// The box has applied what the controller wants of it, and the controller has heard that.
    fn applied(&mut self) -> Result<()> {
        let said = self.recorder.wait("$C status --json", |said| {
            node(said).is_ok_and(|node| {
                node["view_wanted"].is_u64() && node["view_applied"] == node["view_wanted"]
            })
        })?;
        let version = node(&said)?["view_applied"].as_u64().context("a version")?;
        self.recorder.tell(&format!("agent view={version}"))
    }
}

fn json(said: &str) -> Result<Value> {
    Ok(serde_json::from_str(said)?)
}

fn node(said: &str) -> Result<Value> {
    let status = json(said)?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let node = nodes.iter().find(|node| node["node"] == "kab-a/gw1");
    node.cloned().context("the box is listed")
}
