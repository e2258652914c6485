//! What an agent leaves on the host: nothing when it stops, one of each after a crash.

use std::time::Duration;

use anyhow::{Result, ensure};
use pnsbox_tests::lab::Lab;

const HOST: &str = "kab-demak.gw";

pub(crate) fn a_second_agent_and_a_port_in_use_are_named(lab: &Lab) -> Result<()> {
    let second = lab.output(HOST, &["timeout", "10", "pnsbox-agent", "run"])?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        !second.status.success() && said.contains("another agent"),
        "{said}"
    );

    // A port that another program holds: the message names it and the key to change.
    let hold = "import socket,time\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\ns.bind(('::',51820))\ntime.sleep(60)";
    let _holder = lab.spawn("isp", &["timeout", "60", "python3", "-c", hold])?;
    lab.run("isp", &["sh", "-c", "mkdir -p /etc/pnsbox/held && printf 'state_dir = \"/var/lib/pnsbox/held\"\\nsocket = \"/run/pnsbox/held.sock\"\\n[http]\\nport = 9799\\n' > /etc/pnsbox/held/agent.toml"])?;
    let _agent = lab.spawn(
        "isp",
        &[
            "sh",
            "-c",
            "exec timeout 60 pnsbox-agent run --config /etc/pnsbox/held/agent.toml",
        ],
    )?;
    let socket = ["pnsbox", "--socket", "/run/pnsbox/held.sock"];
    lab.wait("it answers", Duration::from_secs(10), |lab| {
        Ok(lab
            .output("isp", &[&socket[..], &["status"]].concat())?
            .status
            .success())
    })?;
    lab.run(
        "pusat.controller",
        &[
            "pnsbox-controller",
            "agency",
            "add",
            "kab-batang",
            "--prefix",
            "10.75.0.0/16",
        ],
    )?;
    let anchor = lab.run(
        "pusat.controller",
        &["pnsbox-controller", "invite", "kab-batang"],
    )?;
    lab.run(
        "isp",
        &[&socket[..], &["join", anchor.trim(), "--no-lan"]].concat(),
    )?;
    let mut screen = String::new();
    lab.wait("the port is named", Duration::from_secs(10), |lab| {
        screen = lab.run("isp", &[&socket[..], &["status"]].concat())?;
        Ok(screen.contains("51820"))
    })?;
    ensure!(screen.contains("view_refused"), "{screen}");
    Ok(())
}

pub(crate) fn stopping_leaves_nothing_and_a_crash_leaves_one_of_each(lab: &Lab) -> Result<()> {
    let one_of_each = counts(lab)?;
    ensure!(
        one_of_each == (1, 1, 1),
        "interface, rule and table of a running agent: {one_of_each:?}"
    );
    let routes = lab.run(HOST, &["ip", "route", "show", "table", "5182"])?;
    ensure!(routes.lines().count() > 3, "{routes}");

    lab.stop_program(HOST, "pnsbox-agent", "TERM")?;
    let left = counts(lab)?;
    ensure!(left == (0, 0, 0), "left after a stop: {left:?}");
    let left = lab.output(HOST, &["ip", "route", "show", "table", "5182"])?;
    ensure!(
        left.stdout.is_empty(),
        "routes are left: {}",
        String::from_utf8_lossy(&left.stdout)
    );
    let sockets = lab.run(HOST, &["ls", "/run/wireguard", "/run/pnsbox"])?;
    ensure!(!sockets.contains(".sock"), "left after a stop: {sockets}");
    lab.start_program(HOST, "pnsbox-agent")?;
    back(lab)?;

    lab.stop_program(HOST, "pnsbox-agent", "KILL")?;
    lab.start_program(HOST, "pnsbox-agent")?;
    back(lab)?;
    ensure!(
        counts(lab)? == one_of_each,
        "after a crash and a start: {:?}",
        counts(lab)?
    );
    let again = lab.run(HOST, &["ip", "route", "show", "table", "5182"])?;
    // What a path carries is found out again, a little later.
    ensure!(
        destinations(&again) == destinations(&routes),
        "routes before and after:\n{routes}\n{again}"
    );
    Ok(())
}

pub(crate) fn a_hundred_restarts_leave_one_of_each(lab: &Lab) -> Result<()> {
    let before = Footprint::read(lab)?;
    let begun = std::time::Instant::now();
    for round in 0..100 {
        let signal = if round % 2 == 0 { "KILL" } else { "TERM" };
        lab.stop_program(HOST, "pnsbox-agent", signal)?;
        lab.start_program(HOST, "pnsbox-agent")?;
        lab.wait("it answers", Duration::from_secs(10), |lab| {
            Ok(lab.status(HOST)?["view_applied"].as_u64() > Some(0))
        })?;
    }
    println!(
        "    100 restarts took {:.0} s",
        begun.elapsed().as_secs_f64()
    );
    back(lab)?;
    let after = Footprint::read(lab)?;
    ensure!(after == before, "before {before:?}\nafter {after:?}");
    Ok(())
}

/// Everything of ours on a host.
#[derive(Debug, PartialEq)]
struct Footprint {
    counts: (usize, usize, usize),
    routes: Vec<String>,
    sockets: usize,
    files: String,
}

impl Footprint {
    fn read(lab: &Lab) -> Result<Self> {
        let routes = lab.run(HOST, &["ip", "route", "show", "table", "5182"])?;
        let sockets = lab.run(HOST, &["ss", "-Hlntu"])?;
        let files = "ls -A /var/lib/pnsbox /run/pnsbox; ls /dev/shm | wc -l";
        Ok(Self {
            counts: counts(lab)?,
            routes: destinations(&routes)
                .into_iter()
                .map(str::to_owned)
                .collect(),
            sockets: sockets.lines().count(),
            files: lab.run(HOST, &["sh", "-c", files])?,
        })
    }
}

fn back(lab: &Lab) -> Result<()> {
    let took = lab.wait("the tunnel is back", Duration::from_secs(20), |lab| {
        Ok(lab
            .output(
                "kab-demak.lan",
                &["ping", "-nc", "1", "-W", "1", "10.33.1.10"],
            )?
            .status
            .success())
    })?;
    println!("    the tunnel was back after {:.2} s", took.as_secs_f64());
    Ok(())
}

/// Interfaces, rules and tables that are ours.
fn counts(lab: &Lab) -> Result<(usize, usize, usize)> {
    let lines = |words: &[&str], word: &str| -> Result<usize> {
        Ok(lab
            .run(HOST, words)?
            .lines()
            .filter(|line| line.contains(word))
            .count())
    };
    Ok((
        lines(&["ip", "-o", "link"], ": pns0")?,
        lines(&["ip", "rule"], "5182:")?,
        lines(&["nft", "list", "tables"], "inet pnsbox")?,
    ))
}

fn destinations(routes: &str) -> Vec<&str> {
    let lines = routes
        .lines()
        .map(|line| line.split(" mtu ").next().unwrap_or(line));
    let mut lines: Vec<&str> = lines.map(str::trim).collect();
    lines.sort_unstable();
    lines
}
