//! Anchors, names and prefixes: what a box may claim, and how fast it is in.
//!
//! The newcomers run in the lab's `isp` host, which has the private directories of every lab host.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::{Background, Lab};

const CONTROLLER: &str = "pusat.controller";
const BOX: &str = "isp";

/// An unjoined agent with keys of its own.
struct Newcomer<'a> {
    lab: &'a Lab,
    socket: String,
    _agent: Background,
}

impl<'a> Newcomer<'a> {
    fn start(lab: &'a Lab, name: &str, number: u16) -> Result<Self> {
        let (folder, socket) = (
            format!("/var/lib/pnsbox/{name}"),
            format!("/run/pnsbox/{name}.sock"),
        );
        let config = format!(
            "state_dir = \"{folder}\"\nsocket = \"{socket}\"\n[wireguard]\ninterface = \"pnst{number}\"\nport = {}\n[http]\nport = {}\n",
            52000 + number,
            9700 + number
        );
        let file = format!("/etc/pnsbox/{name}/agent.toml");
        let write = format!("mkdir -p /etc/pnsbox/{name} && cat > {file} <<'E'\n{config}E\n");
        lab.run(BOX, &["sh", "-c", &write])?;
        let run = format!("exec pnsbox-agent run --config {file} 2>/run/pnsbox/{name}.log");
        let agent = lab.spawn(BOX, &["timeout", "120", "sh", "-c", &run])?;
        lab.wait("the new agent answers", Duration::from_secs(10), |lab| {
            Ok(lab
                .output(BOX, &["pnsbox", "--socket", &socket, "status"])?
                .status
                .success())
        })
        .or_else(|error| {
            let log = lab.run(BOX, &["cat", &format!("/run/pnsbox/{name}.log")])?;
            Err(error.context(log))
        })?;
        Ok(Self {
            lab,
            socket,
            _agent: agent,
        })
    }

    fn pnsbox<'w>(&'w self, words: &[&'w str]) -> Vec<&'w str> {
        [&["pnsbox", "--socket", &self.socket], words].concat()
    }

    fn refused(&self, anchor: &str) -> Result<String> {
        let said = self
            .lab
            .output(BOX, &self.pnsbox(&["join", anchor, "--no-lan"]))?;
        ensure!(!said.status.success(), "{anchor} is refused");
        Ok(String::from_utf8_lossy(&said.stderr).into_owned())
    }
}

fn invite(lab: &Lab, words: &[&str]) -> Result<String> {
    let words = [&["pnsbox-controller", "invite"], words].concat();
    Ok(lab.run(CONTROLLER, &words)?.trim().to_owned())
}

fn register(lab: &Lab, agency: &str, prefix: &str) -> Result<String> {
    lab.run(
        CONTROLLER,
        &[
            "pnsbox-controller",
            "agency",
            "add",
            agency,
            "--prefix",
            prefix,
        ],
    )
}

pub(crate) fn anchors_that_are_no_good_are_named(lab: &Lab) -> Result<()> {
    register(lab, "kab-kudus", "10.71.0.0/16")?;
    let newcomer = Newcomer::start(lab, "kudus", 1)?;
    let status = lab.run(BOX, &newcomer.pnsbox(&["status"]))?;
    ensure!(status.contains("not joined"), "{status}");

    let good = invite(lab, &["kab-kudus"])?;
    ensure!(
        good.starts_with("pns1.") && good.lines().count() == 1,
        "{good}"
    );
    let damaged = newcomer.refused(&good[..good.len() - 1])?;
    ensure!(damaged.contains("damaged"), "{damaged}");
    let nonsense = newcomer.refused("hello")?;
    ensure!(nonsense.contains("pns1."), "{nonsense}");

    let expired = invite(lab, &["kab-kudus", "--node", "gw2", "--expires", "1s"])?;
    std::thread::sleep(Duration::from_millis(2100));
    let late = newcomer.refused(&expired)?;
    ensure!(late.contains("expired"), "{late}");

    let (_other, foreign) = another_network(lab)?;
    // Forged: an anchor of the other network that names our controller's address.
    let forge = "import sys,json,base64,hashlib\nb=sys.argv[1].strip().split('.')[1]\n\
                 j=json.loads(base64.urlsafe_b64decode(b+'='*(-len(b)%4)))\nj['controllers']=['203.0.113.10:443']\n\
                 n=base64.urlsafe_b64encode(json.dumps(j).encode()).decode().rstrip('=')\n\
                 print('pns1.'+n+'.'+hashlib.sha256(n.encode()).hexdigest()[:8])";
    let forged = lab.run(BOX, &["python3", "-c", forge, &foreign])?;
    let caught = newcomer.refused(forged.trim())?;
    ensure!(
        caught.contains("root"),
        "the controller cannot prove the anchor's root: {caught}"
    );

    lab.run(BOX, &newcomer.pnsbox(&["join", &good, "--no-lan"]))?;
    let twice = newcomer.refused(foreign.trim())?;
    ensure!(
        twice.contains("kab-kudus/gw1") && twice.contains("pns"),
        "already of another network: {twice}"
    );

    // One host has one agent.
    drop(newcomer);
    let second = Newcomer::start(lab, "thief", 2)?;
    let spent = second.refused(&good)?;
    ensure!(
        spent.contains("already used") && spent.contains("kab-kudus/gw1"),
        "{spent}"
    );
    Ok(())
}

/// Another network's controller, on another port of the same host, and an anchor of it: it leads there, and ours do not.
fn another_network(lab: &Lab) -> Result<(Background, String)> {
    let other = "--config=/etc/pnsbox/other.toml";
    let setup = "mkdir -p /var/lib/pnsbox-controller/other && cat > /etc/pnsbox/other.toml <<'E'\n\
                 state_dir = \"/var/lib/pnsbox-controller/other\"\nsocket = \"/run/pnsbox-controller/other.sock\"\n\
                 listen = [\"203.0.113.10:4443\"]\n[http]\nlisten = \"127.0.0.1:9687\"\nE\n";
    lab.run(CONTROLLER, &["sh", "-c", setup])?;
    let controller = |words: &[&str]| {
        let words = [&["pnsbox-controller", other], words].concat();
        lab.run(CONTROLLER, &words)
    };
    controller(&[
        "init",
        "--network",
        "lain",
        "--address",
        "203.0.113.10:4443",
    ])?;
    controller(&["agency", "add", "kab-kudus", "--prefix", "10.71.0.0/16"])?;
    let foreign = controller(&["invite", "kab-kudus"])?;
    let serving = lab.spawn(
        CONTROLLER,
        &["timeout", "60", "pnsbox-controller", other, "serve"],
    )?;
    lab.wait(
        "the other controller serves",
        Duration::from_secs(10),
        |lab| {
            Ok(lab
                .output(CONTROLLER, &["pnsbox-controller", other, "status"])?
                .status
                .success())
        },
    )?;
    Ok((serving, foreign))
}

pub(crate) fn names_and_prefixes_that_are_taken_are_named(lab: &Lab) -> Result<()> {
    let refused = |words: &[&str]| -> Result<String> {
        let words = [&["pnsbox-controller"], words].concat();
        let output = lab.output(CONTROLLER, &words)?;
        ensure!(!output.status.success(), "{words:?} is refused");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let agency = refused(&["agency", "add", "kab-demak", "--prefix", "10.99.0.0/16"])?;
    ensure!(agency.contains("kab-demak"), "{agency}");
    let prefix = refused(&["agency", "add", "kab-pati", "--prefix", "10.44.7.0/24"])?;
    ensure!(
        prefix.contains("10.44.0.0/16") && prefix.contains("kab-demak"),
        "{prefix}"
    );
    let node = refused(&["invite", "kab-demak", "--node", "gw1"])?;
    ensure!(node.contains("kab-demak/gw1"), "{node}");
    let unknown = refused(&["invite", "kab-rembang"])?;
    ensure!(
        unknown.contains("kab-rembang") && unknown.contains("agency add"),
        "{unknown}"
    );
    let network = refused(&["init", "--network", "pns", "--address", "203.0.113.10:443"])?;
    ensure!(network.contains("pns"), "{network}");
    Ok(())
}

pub(crate) fn an_overlapping_prefix_is_held_back_and_shown(lab: &Lab) -> Result<()> {
    register(lab, "kab-jepara", "10.72.0.0/16")?;
    let newcomer = Newcomer::start(lab, "jepara", 3)?;
    let anchor = invite(lab, &["kab-jepara"])?;
    lab.run(
        BOX,
        &newcomer.pnsbox(&[
            "join",
            &anchor,
            "--lan",
            "10.44.1.0/24",
            "--lan",
            "10.72.1.0/24",
        ]),
    )?;
    let mut screen = String::new();
    lab.wait("the box shows it", Duration::from_secs(5), |lab| {
        screen = lab.run(BOX, &newcomer.pnsbox(&["status"]))?;
        Ok(screen.contains("prefix_held"))
    })?;
    for word in [
        "10.44.1.0/24",
        "kab-demak",
        "kab-jepara",
        "--lan",
        "10.72.1.0/24",
    ] {
        ensure!(
            screen.contains(word),
            "{word} on the box's screen:\n{screen}"
        );
    }
    let fleet = lab.run(CONTROLLER, &["pnsbox-controller", "status"])?;
    for word in ["10.44.1.0/24", "kab-demak", "kab-jepara", "--lan"] {
        ensure!(
            fleet.contains(word),
            "{word} on the operator's screen:\n{fleet}"
        );
    }
    let ping = lab.output(
        "prov-jateng.lan",
        &["ping", "-nc", "2", "-W", "2", "10.44.1.10"],
    )?;
    ensure!(ping.status.success(), "the holder keeps its prefix");
    Ok(())
}

pub(crate) fn a_box_joins_within_ten_seconds(lab: &Lab) -> Result<()> {
    register(lab, "kab-blora", "10.73.0.0/16")?;
    let newcomer = Newcomer::start(lab, "blora", 4)?;
    let policy = "cp /etc/pnsbox/policy.toml /etc/pnsbox/blora.toml && cat >> /etc/pnsbox/blora.toml <<'E'\n\
                  [[link]]\nbetween = [\"kab-blora\", \"prov-jateng\"]\n[[link.open]]\nat = \"prov-jateng\"\n\
                  prefix = \"lan\"\nallow = [\"icmp\"]\nE\n";
    lab.run(CONTROLLER, &["sh", "-c", policy])?;
    lab.run(
        CONTROLLER,
        &["pnsbox-controller", "apply", "/etc/pnsbox/blora.toml"],
    )?;
    let anchor = invite(lab, &["kab-blora"])?;
    // A LAN of its own behind the newcomer: an address on loopback is enough to speak from.
    lab.run(
        BOX,
        &["ip", "address", "replace", "10.73.1.1/32", "dev", "lo"],
    )?;
    let begun = Instant::now();
    lab.run(
        BOX,
        &newcomer.pnsbox(&["join", &anchor, "--lan", "10.73.1.0/24"]),
    )?;
    // Both agencies say that they want the link; one of them saw it proposed before the other joined.
    lab.run(
        "prov-jateng.gw",
        &["pnsbox", "consent", "grant", "kab-blora"],
    )?;
    lab.wait("its own consent", Duration::from_secs(5), |lab| {
        let grant = newcomer.pnsbox(&["consent", "grant", "prov-jateng"]);
        Ok(lab.output(BOX, &grant)?.status.success())
    })?;
    let reached = lab.wait(
        "the first packet between LANs",
        Duration::from_secs(10),
        |lab| {
            let ping = [
                "ping",
                "-nc",
                "1",
                "-W",
                "1",
                "-I",
                "10.73.1.1",
                "10.33.1.10",
            ];
            Ok(lab.output(BOX, &ping)?.status.success())
        },
    );
    let took = begun.elapsed();
    let back = lab.run(
        CONTROLLER,
        &["pnsbox-controller", "apply", "/etc/pnsbox/policy.toml"],
    );
    lab.run(BOX, &["ip", "address", "del", "10.73.1.1/32", "dev", "lo"])?;
    reached.context("joined, and a packet passed")?;
    back?;
    ensure!(
        took < Duration::from_secs(10),
        "{took:?} from the command to the first packet"
    );
    println!(
        "    joined, and a packet passed, after {:.2} s",
        took.as_secs_f64()
    );
    Ok(())
}
