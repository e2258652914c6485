//! What people write: `agent.toml` with its drop-ins, `controller.toml`, `policy.toml`.
//! What is accepted keeps its rules; every mistake is one line, with the file in front.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use arbitrary::Unstructured;
use pnsbox_agent::config::Config as AgentConfig;
use pnsbox_controller::config::{Config as ControllerConfig, table, with_file};
use pnsbox_controller_core::policy::{self, Policy, PrefixChoice};
use pnsbox_controller_core::registry::{Agency, Network, Node, Registry};
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::service::Audience;
use pnsbox_proto::time::UnixTime;

use super::below;
use super::network::{self, CONTROLLER, HUB, ME, ROOT, known};

/// Stands between a file and the next.
const NEXT_FILE: &[u8] = b"\n#---\n";

/// Throws `data` at the three parsers.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let kind = below(&mut bytes, 3);
    let text = bytes.take_rest();
    match kind {
        0 => agent(text),
        1 => controller(&String::from_utf8_lossy(text)),
        _ => operator(&String::from_utf8_lossy(text)),
    }
}

/// Every mistake is one line that begins with a file, and says a rule.
fn each_is_one_line<'a>(lines: impl Iterator<Item = &'a str>, file: &str) {
    let mut count = 0;
    for line in lines {
        count += 1;
        assert!(
            !line.chars().any(char::is_control),
            "a mistake is more than one line: {line:?}"
        );
        let rest = line
            .strip_prefix(file)
            .unwrap_or_else(|| panic!("{line:?} does not begin with {file}"));
        assert!(rest.contains(": "), "{line:?} has no rule");
        assert!(line.len() <= MAX_LINE, "{} bytes in one line", line.len());
    }
    assert!(count > 0, "refused without a reason");
}

fn agent(text: &[u8]) {
    let directory = tempfile::tempdir_in(temporary()).expect("a temporary directory can be made");
    let main = directory.path().join("agent.toml");
    let drop_ins = directory.path().join("agent.d");
    let mut files = split(text);
    write(&main, files.next().unwrap_or_default());
    std::fs::create_dir(&drop_ins).expect("a new directory is empty");
    for (number, text) in files.take(3).enumerate() {
        write(&drop_ins.join(format!("{number}.toml")), text);
    }
    let loaded = AgentConfig::load(&main);
    let place = directory.path().display().to_string();
    match loaded {
        Ok(config) => keeps_its_rules(&config),
        Err(errors) => each_is_one_line(errors.lines().iter().map(String::as_str), &place),
    }
}

fn keeps_its_rules(config: &AgentConfig) {
    assert!(config.state_dir.is_absolute() && config.socket.is_absolute());
    assert!((1280..=1500).contains(&config.mtu));
    assert!(config.wireguard_port != 0 && config.link_port != 0 && config.http_port != 0);
    assert_ne!(config.wireguard_port, config.link_port);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    assert!(config.interface.chars().all(plain) && config.interface.len() <= 15);
    let names: BTreeSet<&str> = config
        .services
        .iter()
        .map(|s| s.core.name.as_str())
        .collect();
    assert_eq!(
        names.len(),
        config.services.len(),
        "two services have one name"
    );
    for service in &config.services {
        assert!(service.core.endpoint.port() != 0 && service.core.failures > 0);
        assert_ne!(service.core.audience, Audience::Only(Vec::new()));
        assert!(!service.check.interval.is_zero() && !service.check.timeout.is_zero());
    }
}

fn controller(text: &str) {
    match ControllerConfig::parse(Path::new(FILE), text) {
        Ok(config) => {
            assert!(!config.listen.is_empty());
            assert!(config.state_dir.is_absolute() && config.socket.is_absolute());
        }
        Err(mistakes) => each_is_one_line(mistakes.0.iter().map(String::as_str), FILE),
    }
}

fn operator(text: &str) {
    let file = Path::new(FILE);
    let table = match table(file, text) {
        Ok(table) => table,
        Err(mistakes) => return each_is_one_line(mistakes.0.iter().map(String::as_str), FILE),
    };
    match policy::parse(&table, &REGISTRY) {
        Ok(parsed) => {
            opens_only_what_is_registered(&parsed.policy);
            let text = serde_json::to_string(&parsed.policy).expect("a policy is a plain struct");
            let again: Policy = serde_json::from_str(&text).expect("what is stored can be read");
            assert_eq!(again, parsed.policy);
        }
        Err(mistakes) => {
            let lines = with_file(file, &mistakes).0;
            each_is_one_line(lines.iter().map(String::as_str), FILE);
        }
    }
}

fn opens_only_what_is_registered(policy: &Policy) {
    let agencies = &REGISTRY.agencies;
    let pairs: BTreeSet<_> = policy.links.iter().map(|link| &link.between).collect();
    assert_eq!(pairs.len(), policy.links.len(), "a pair has two links");
    for link in &policy.links {
        let [a, b] = &link.between;
        assert!(a < b && agencies.contains_key(a) && agencies.contains_key(b));
        for opening in &link.openings {
            assert!(link.between.contains(&opening.at) && !opening.allow.is_empty());
            let PrefixChoice::Within(within) = opening.prefix else {
                continue;
            };
            let accepted = policy.accepted.iter();
            let accepted = accepted.filter(|a| a.node.agency() == opening.at);
            let mut own = agencies[&opening.at]
                .prefixes
                .iter()
                .chain(accepted.map(|a| &a.prefix));
            assert!(
                own.any(|prefix| prefix.contains(&within)),
                "{within} is opened by {}",
                opening.at
            );
        }
    }
    for accepted in &policy.accepted {
        let others = agencies
            .iter()
            .filter(|(name, _)| **name != accepted.node.agency());
        for held in others.flat_map(|(_, agency)| &agency.prefixes) {
            let apart = !held.contains(&accepted.prefix) && !accepted.prefix.contains(held);
            assert!(
                apart,
                "{} is accepted, {held} is another's",
                accepted.prefix
            );
        }
    }
}

fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text
            .windows(NEXT_FILE.len())
            .position(|window| window == NEXT_FILE);
        rest = end.map(|end| &text[end + NEXT_FILE.len()..]);
        Some(end.map_or(text, |end| &text[..end]))
    })
}

/// Where agent files are written: in memory, if the machine has such a place.
fn temporary() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

fn write(path: &Path, text: &[u8]) {
    std::fs::write(path, text).expect("the temporary directory can be written");
}

/// A mistake may repeat the value, but not a whole file of it.
const MAX_LINE: usize = 4096;

/// A file that need not exist.
const FILE: &str = "/etc/pnsbox/some.toml";

/// Three agencies; two have joined, one of them with a public address.
static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let mut registry = Registry::new(Network {
        name: network::network(),
        root: network::public(ROOT),
        controller: network::public(CONTROLLER),
        certificate: network::certificate(ROOT, CONTROLLER, "pns"),
        admission: network::certificate(ROOT, CONTROLLER, "pns"),
        addresses: vec![network::controller_address()],
        pool: known("100.127.0.0/16"),
        created: UnixTime(1),
    });
    for (name, prefix) in [
        ("kab-demak", "10.44.0.0/16"),
        ("prov-jateng", "10.33.0.0/16"),
        ("kota-malang", "10.55.0.0/16"),
    ] {
        let agency = Agency {
            prefixes: vec![known(prefix)],
            class: None,
            region: None,
            added: UnixTime(1),
            key: None,
            keepers: BTreeSet::new(),
        };
        registry.agencies.insert(known(name), agency);
    }
    for (order, (name, number, public_endpoint)) in [
        (ME, 44, None),
        (HUB, 33, Some(network::controller_address())),
    ]
    .into_iter()
    .enumerate()
    {
        let claimed = vec![known(&format!("10.{number}.1.0/24")), known("10.9.0.0/24")];
        let node = Node {
            identity: network::public(number),
            wireguard: WireguardKey([number; 32]),
            overlay_v4: [100, 127, 0, number].into(),
            public_endpoint,
            second_endpoint: None,
            active: claimed.clone(),
            claimed,
            joined: UnixTime(1),
            order: order as u64,
            claim: None,
        };
        registry.nodes.insert(known(name), node);
    }
    registry
});

/// The annotated examples, and mistakes of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let agent = include_str!("../../../configs/agent.toml");
    let controller = include_str!("../../../configs/controller.toml");
    let policy = include_str!("../../../configs/policy.toml");
    let service = "[[service]]\nname = \"arsip\"\nkind = \"files\"\nendpoint = \"10.33.1.10:445\"\n\
                   audience = [\"kab-demak\"]\npriority = 7\n\
                   check = { kind = \"http\", path = \"/x\", interval = \"1m\", timeout = \"20ms\", failures = 3 }\n";
    let accept = "[[accept]]\nnode = \"kab-demak/gw1\"\nprefix = \"10.9.0.0/24\"\n\
                  [[link]]\nbetween = [\"kab-demak\", \"prov-jateng\"]\n\
                  [[link.open]]\nat = \"kab-demak\"\nprefix = \"10.9.0.0/25\"\nallow = [\"udp/5060\"]\n";
    let mut seeds = vec![
        [b"\0", agent.replace("\n#", "\n").as_bytes()].concat(),
        [b"\0", agent.as_bytes(), NEXT_FILE, service.as_bytes(), NEXT_FILE, b"[log]\nlevel = \"debug\"\n"].concat(),
        [b"\0", service.as_bytes(), service.as_bytes()].concat(),
        b"\0mtu = 7\n[wireguard]\nport = 51821\nmtu = \"x\"\n[service]\n[http]\nport = 0\n".to_vec(),
        b"\0[[wireguard]]\n[[wireguard]]\nmtu = 1\n\n#---\nwireguard = 5\n".to_vec(),
        b"\0[link]\nport = 51820\n\n#---\nlink = = 4\n\n#---\n\xff\n".to_vec(),
        b"\0\"a\\nb\" = \"c\\nd\"\n".to_vec(),
        b"\0log.level = '''a\nb'''\n".to_vec(),
        [b"\x01", controller.as_bytes()].concat(),
        b"\x01listen = []\nhttp = 5\n[log]\nlevel = \"a\\u001b[2J\"\n\"k\\n\" = 1\n".to_vec(),
        [b"\x02", policy.as_bytes()].concat(),
        [b"\x02", accept.as_bytes()].concat(),
        b"\x02relays = [\"kab-demak/gw1\", \"x\", 5, \"kota-malang/gw1\"]\n[[link]]\nbetween = [\"kab-demak\", \"kab-demak\"]\n[[link.open]]\n".to_vec(),
        b"\x02[[accept]]\nnode = \"prov-jateng/gw1\"\nprefix = \"10.44.0.0/24\"\n[[accept]]\nprefix = \"0.0.0.0/0\"\n".to_vec(),
    ];
    // What each side opens: a part of its own, all that it has, more than that, another's.
    for prefix in [
        "10.44.7.0/24",
        "10.44.0.0/16",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "10.33.0.0/16",
        "lan",
    ] {
        let opened = accept.replace("10.9.0.0/25", prefix);
        seeds.push([b"\x02", opened.as_bytes()].concat());
        let accepted = accept.replace("10.9.0.0/24", prefix);
        seeds.push([b"\x02", accepted.as_bytes()].concat());
    }
    for text in ["listen = 5", "[[link]]\nbetween = 5\nopen = 5\nx = 5"] {
        for kind in 1..3 {
            seeds.push([&[kind], text.as_bytes()].concat());
        }
    }
    seeds
}
