//! SIGKILL at every step of applying a view and of writing files: the old view or the new one, never a mixture.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;
use serde_json::Value;

const HOST: &str = "kab-demak.gw";
const AGENT: &str = "pnsbox-agent";
const OLD: &str = "/etc/pnsbox/policy.toml";
const NEW: &str = "/etc/pnsbox/without-a-link.toml";
const STATE: &str = "/var/lib/pnsbox/state.json";

/// Every step, and how often it passes before the view of the change comes.
const STEPS: [(&str, u32); 11] = [
    ("host_before_filter", 1),
    ("host_filter_replaced", 1),
    ("host_addresses_set", 1),
    ("host_peers_set", 1),
    ("host_routes_set", 1),
    ("view_applied", 1),
    ("state_before_write", 0),
    ("state_written", 0),
    ("state_synced", 0),
    ("state_renamed", 0),
    ("state_durable", 0),
];

pub(crate) fn killed_at_any_step_it_has_the_old_view_or_the_new(lab: &Lab) -> Result<()> {
    // Without the last link of the policy a peer, its routes and its rules go.
    let cut = format!("sed '/^# The regency reads through/,$d' {OLD} >{NEW}");
    lab.run("pusat.controller", &["sh", "-c", &cut])?;
    let mut here = Policy { lab, old: true };
    let with_old = Seen::read(lab)?;
    here.change()?;
    here.in_force_everywhere()?;
    let with_new = Seen::read(lab)?;
    ensure!(
        with_old.host != with_new.host,
        "the change changes the host"
    );
    let mut kept = 0;
    for (step, passes) in STEPS {
        let (before, after) = match here.old {
            true => (&with_old, &with_new),
            false => (&with_new, &with_old),
        };
        let seen = here.kill_at(step, passes)?;
        ensure!(
            seen.host == before.host || seen.host == after.host,
            "killed at {step}, a mixture:\n{}\nbefore:\n{}\nafter:\n{}",
            seen.host,
            before.host,
            after.host
        );
        kept += usize::from(seen.host == before.host);
    }
    println!(
        "    killed at {} steps: the old view after {kept}, the new one after {}",
        STEPS.len(),
        STEPS.len() - kept
    );
    if !here.old {
        here.change()?;
        here.in_force_everywhere()?;
    }
    lab.stop_program(HOST, AGENT, "TERM")?;
    lab.start_program(HOST, AGENT)?;
    here.in_force_everywhere()
}

pub(crate) fn killed_while_it_makes_its_keys_it_makes_them_whole(lab: &Lab) -> Result<()> {
    let run = |dir: &str, failpoints: &str| {
        let config = format!(
            "mkdir -p /etc/pnsbox/{dir} && printf 'state_dir = \"/var/lib/pnsbox/{dir}\"\\nsocket = \"/run/pnsbox/{dir}.sock\"\\n[http]\\nport = 9798\\n[wireguard]\\nport = 51999\\n' >/etc/pnsbox/{dir}/agent.toml && FAILPOINTS='{failpoints}' exec timeout -s INT 2 pnsbox-agent run --config /etc/pnsbox/{dir}/agent.toml"
        );
        lab.output("isp", &["sh", "-c", &config])
    };
    let own = ["key_before_write", "key_synced", "key_renamed"].map(|step| (step, 2));
    let agency = [
        "agency_key_before_write",
        "agency_key_synced",
        "agency_key_renamed",
    ];
    for (step, times) in own.into_iter().chain(agency.map(|step| (step, 1))) {
        for passes in 0..times {
            let dir = format!("{step}-{passes}");
            run(&dir, &format!("{step}={passes}*off->return"))?;
            let first = keys(lab, &dir)?;
            run(&dir, "")?;
            let second = keys(lab, &dir)?;
            for (name, key) in &second {
                ensure!(key.len() == 45, "{step}: {name} is a key: {key:?}");
            }
            ensure!(
                second.len() == 3,
                "{step}: its two keys and the agency's, nothing else: {second:?}"
            );
            for pair in first.iter().filter(|(name, _)| name.ends_with(".key")) {
                ensure!(second.contains(pair), "{step}: a key that was there stays");
            }
        }
    }
    Ok(())
}

/// Files of a state directory with what is in them.
fn keys(lab: &Lab, dir: &str) -> Result<Vec<(String, String)>> {
    let path = format!("/var/lib/pnsbox/{dir}");
    let names = lab.run("isp", &["ls", "-A", &path])?;
    names
        .lines()
        .map(|name| {
            let text = lab.run("isp", &["cat", &format!("{path}/{name}")])?;
            Ok((name.to_owned(), text))
        })
        .collect()
}

/// The policy in force, and the way between the two.
struct Policy<'a> {
    lab: &'a Lab,
    old: bool,
}

impl Policy<'_> {
    fn change(&mut self) -> Result<()> {
        self.old = !self.old;
        let policy = if self.old { OLD } else { NEW };
        self.lab
            .run("pusat.controller", &["pnsbox-controller", "apply", policy])?;
        Ok(())
    }

    /// The box has what the controller planned for it.
    fn in_force_everywhere(&self) -> Result<()> {
        self.lab.wait(
            "the newest view is in force",
            Duration::from_secs(40),
            |lab| {
                let status = lab.json(
                    "pusat.controller",
                    &["pnsbox-controller", "status", "--json"],
                )?;
                let nodes = status["nodes"].as_array().context("nodes")?;
                let node = nodes.iter().find(|n| n["node"] == "kab-demak/gw1");
                let node = node.context("the box is listed")?;
                let newest = node["view_wanted"].as_u64().context("view_wanted")?;
                let status = lab.status(HOST)?;
                Ok(status["view_applied"] == newest
                    && status["on_trial"] == false
                    && status["controller"]["connected"] == true)
            },
        )?;
        Ok(())
    }

    /// Kills the agent at `step` of a change; returns what it makes of its disk when it comes back alone.
    fn kill_at(&mut self, step: &str, passes: u32) -> Result<Seen> {
        let lab = self.lab;
        lab.stop_program(HOST, AGENT, "TERM")?;
        let failpoint = format!("FAILPOINTS={step}={passes}*off->return");
        lab.start_program_with(HOST, AGENT, &[&failpoint])?;
        self.in_force_everywhere()
            .with_context(|| format!("{step} with {passes} passes: it lives until the change"))?;
        self.change()?;
        lab.wait("the step kills it", Duration::from_secs(10), |lab| {
            Ok(lab.pid(HOST, AGENT).is_err())
        })
        .with_context(|| format!("{step} is passed more than {passes} times"))?;

        lab.run(HOST, &["nft", "-f", "/etc/pnsbox/no-controller.nft"])
            .or_else(|_| no_controller(lab))?;
        lab.start_program(HOST, AGENT)?;
        lab.wait(
            "the saved view is in force",
            Duration::from_secs(10),
            |lab| Ok(lab.status(HOST)?["view_applied"].as_u64() > Some(0)),
        )?;
        let seen = Seen::read(lab)?;
        lab.run(HOST, &["nft", "delete", "table", "inet", "no_controller"])?;
        let left = lab.run(
            HOST,
            &[
                "sh",
                "-c",
                "ls -A /var/lib/pnsbox | grep -v -e key$ -e ^state.json$ -e ^handshakes.json$ || true",
            ],
        )?;
        ensure!(
            left.is_empty(),
            "{step}: left in the state directory: {left}"
        );
        self.in_force_everywhere()?;
        Ok(seen)
    }
}

/// Keeps the controller's voice out, so that what is seen comes from the disk.
fn no_controller(lab: &Lab) -> Result<String> {
    let rules = "table inet no_controller { chain output { type filter hook output priority 0; udp dport 443 drop; }; }";
    let write = format!(
        "echo '{rules}' >/etc/pnsbox/no-controller.nft && nft -f /etc/pnsbox/no-controller.nft"
    );
    lab.run(HOST, &["sh", "-c", &write])
}

/// What a view made of the host.
struct Seen {
    host: String,
}

impl Seen {
    fn read(lab: &Lab) -> Result<Self> {
        let state: Value = serde_json::from_str(&lab.run(HOST, &["cat", STATE])?)
            .context("the state on disk is whole")?;
        let records = state["state"]["view"]["view"]["records"]
            .as_array()
            .context("records on disk")?;
        let status = lab.status(HOST)?;
        let peers = status["peers"].as_array().context("peers")?;
        let peers: Vec<&str> = peers.iter().filter_map(|p| p["node"].as_str()).collect();
        let filter = lab.run(HOST, &["nft", "-s", "list", "table", "inet", "pnsbox"])?;
        let routes = lab.run(HOST, &["ip", "route", "show", "table", "5182"])?;
        // MTUs of routes come from probes, not from the view.
        let mut routes: Vec<&str> = routes
            .lines()
            .map(|route| route.split(" mtu ").next().unwrap_or_default().trim())
            .collect();
        routes.sort_unstable();
        let rules = lab.run(HOST, &["ip", "rule", "show", "priority", "5182"])?;
        let host = format!(
            "{} records on disk\n{peers:?}\n{routes:#?}\n{rules}{filter}",
            records.len()
        );
        Ok(Self { host })
    }
}
