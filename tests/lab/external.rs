//! A laptop with nothing of ours on it: Debian's WireGuard and the configuration that was printed, as it is.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::{Background, Lab, root};
use serde_json::Value;

const POLICY: &str = "/etc/pnsbox/policy.toml";
const OPENED: &str = "/etc/pnsbox/external.toml";
const DEVICE: &str = "prov-jateng/laptop-budi";
/// On the laptop; its name is the interface's.
const CONFIGURATION: &str = "/etc/pnsbox/wg0.conf";

/// Two ports at the gateway's own agency, one of which nobody serves elsewhere; PostgreSQL and one more at
/// kab-demak, whose link opens only the former to prov-jateng.
const OPENINGS: &str = r#"
[[external]]
device = "prov-jateng/laptop-budi"
[[external.open]]
at = "prov-jateng"
prefix = "lan"
allow = ["icmp", "tcp/9001"]
[[external.open]]
at = "kab-demak"
prefix = "lan"
allow = ["icmp", "tcp/5432", "tcp/9001"]
"#;

pub(crate) fn a_plain_wireguard_device_is_served_and_moves_and_is_cut(lab: &Lab) -> Result<()> {
    let append = format!("cat {POLICY} - >{OPENED} <<'END'{OPENINGS}END");
    lab.run("pusat.controller", &["sh", "-c", &append])?;
    operator(lab, &["apply", OPENED])?;
    let printed = operator(
        lab,
        &["external", "add", "laptop-budi", "--agency", "prov-jateng"],
    )?;
    let write = format!("umask 077; cat >{CONFIGURATION} <<'END'\n{printed}END");
    lab.run("laptop", &["bash", "-c", &write])?;
    let stripped = lab.run("laptop", &["wg-quick", "strip", CONFIGURATION])?;
    ensure!(
        stripped.contains("PrivateKey") && !stripped.contains("MTU"),
        "{stripped}"
    );
    ensure!(external(lab)?.is_null(), "its agency has not approved it");
    lab.wait("its agency approves it", Duration::from_secs(5), |lab| {
        let approve = ["pnsbox", "node", "approve", DEVICE];
        Ok(lab.output("prov-jateng.gw", &approve)?.status.success())
    })?;
    // What is not there yet is no trouble.
    lab.wait("its gateway knows it", Duration::from_secs(5), |lab| {
        Ok(external(lab)?["up"] == false)
    })?;

    let laptop = Laptop { lab };
    let implementation = "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go";
    lab.run(
        "laptop",
        &["env", implementation, "wg-quick", "up", CONFIGURATION],
    )?;
    let _echoes = [
        echo(lab, "prov-jateng.lan", "9001")?,
        echo(lab, "prov-jateng.lan", "9002")?,
        echo(lab, "kab-demak.lan", "9001")?,
        echo(lab, "laptop", "9003")?,
    ];
    let address = overlay(&printed)?;
    laptop.reaches_what_is_opened()?;
    is_reached_by_its_own_lan_only(lab, &address)?;
    laptop.moves_in_the_middle_of_a_transfer()?;
    the_key_is_not_at_the_controller(lab, &printed)?;
    laptop.is_cut_when_removed()?;
    operator(lab, &["apply", POLICY])?;
    Ok(())
}

/// Down when dropped.
struct Laptop<'a> {
    lab: &'a Lab,
}

impl Drop for Laptop<'_> {
    fn drop(&mut self) {
        // If it is not up, the test has said why.
        drop(
            self.lab
                .output("laptop", &["wg-quick", "down", CONFIGURATION]),
        );
    }
}

impl Laptop<'_> {
    fn reaches_what_is_opened(&self) -> Result<()> {
        let lab = self.lab;
        lab.wait("the first ping", Duration::from_secs(10), |lab| {
            pings(lab, "laptop", "10.33.1.10")
        })?;
        let gateway = lab.status("prov-jateng.gw")?["overlay"].take();
        let gateway = gateway.as_array().context("overlay addresses")?;
        for to in gateway
            .iter()
            .filter_map(Value::as_str)
            .chain(["10.44.1.10"])
        {
            ensure!(pings(lab, "laptop", to)?, "{to} answers");
        }
        for (to, port) in [("10.33.1.10", "9001"), ("10.44.1.10", "5432")] {
            ensure!(tcp(lab, "laptop", to, port)?, "{to} {port} is open");
        }
        let own = gateway[0].as_str().context("an address")?;
        for (to, port) in [
            ("10.33.1.10", "9002"),
            ("10.44.1.10", "9001"),
            (own, "9586"),
        ] {
            ensure!(!tcp(lab, "laptop", to, port)?, "{to} {port} is closed");
        }
        // Its link opens echo to the agency, and nothing to the device. The laptop itself would not send it there.
        let public_key = lab.run("laptop", &["wg", "show", "wg0", "peers"])?;
        let allowed = lab.run("laptop", &["wg", "show", "wg0", "allowed-ips"])?;
        let (_, allowed) = allowed
            .trim()
            .split_once('\t')
            .context("allowed prefixes")?;
        let more = format!("{},10.10.1.0/24", allowed.replace(' ', ","));
        let widen = [
            "wg",
            "set",
            "wg0",
            "peer",
            public_key.trim(),
            "allowed-ips",
            &more,
        ];
        lab.run("laptop", &widen)?;
        lab.run(
            "laptop",
            &["ip", "route", "add", "10.10.1.0/24", "dev", "wg0"],
        )?;
        ensure!(
            !pings(lab, "laptop", "10.10.1.10")?,
            "pusat opens nothing to it"
        );
        let external = external(lab)?;
        ensure!(
            external["up"] == true
                && external["endpoint"]
                    .as_str()
                    .is_some_and(|e| e.starts_with("203.0.113.60:")),
            "{external}"
        );
        let shown = lab.run("prov-jateng.gw", &["pnsbox", "peers"])?;
        ensure!(shown.contains(DEVICE), "{shown}");
        Ok(())
    }

    fn moves_in_the_middle_of_a_transfer(&self) -> Result<()> {
        let long = std::env::var_os("PNSBOX_LONG").is_some();
        // With PNSBOX_LONG past REKEY_AFTER_TIME, 120 s (WireGuard whitepaper section 6.1).
        let seconds = if long { "150" } else { "8" };
        let before = self.handshake()?;
        let tool = root().join("tests/lab/tools/echo.py");
        let tool = tool.to_string_lossy();
        let talk = ["python3", &tool, "talk", "10.33.1.10", "9001", seconds];
        let talking = self.lab.spawn("laptop", &talk)?;
        std::thread::sleep(Duration::from_secs(2));
        // From a wire to a telephone: other interface, other address, other NAT. wireguard-go answers from where it
        // heard last, so nothing may come over the wire after it looked for another way.
        let move_away = "ip link set wan0 down && ip route replace default via 100.64.4.1";
        self.lab.run("laptop", &["sh", "-c", move_away])?;
        self.lab
            .wait("seen elsewhere", Duration::from_secs(6), |lab| {
                let endpoint = external(lab)?["endpoint"].take();
                Ok(endpoint
                    .as_str()
                    .is_some_and(|e| e.starts_with("203.0.113.61:")))
            })?;
        let said = talking.finish()?;
        let (echoes, longest) = said.trim().split_once(' ').with_context(|| said.clone())?;
        println!("    {echoes} echoes in {seconds} s with a move, longest wait {longest} s");
        let (echoes, longest): (u32, f64) = (echoes.parse()?, longest.parse()?);
        ensure!(longest < 5.0, "one echo took {longest} s");
        ensure!(echoes > if long { 3_000 } else { 50 }, "{echoes} echoes");
        ensure!(!long || self.handshake()? > before, "a new key after 120 s");
        Ok(())
    }

    /// Of the laptop's peer, in seconds since 1970.
    fn handshake(&self) -> Result<u64> {
        let shown = self
            .lab
            .run("laptop", &["wg", "show", "wg0", "latest-handshakes"])?;
        Ok(shown
            .split_whitespace()
            .nth(1)
            .context("a handshake")?
            .parse()?)
    }

    fn is_cut_when_removed(&self) -> Result<()> {
        operator(self.lab, &["external", "remove", DEVICE])?;
        let took = self.lab.wait("it is gone", Duration::from_secs(2), |lab| {
            Ok(external(lab)?.is_null())
        })?;
        println!(
            "    gone from its gateway after {:.2} s",
            took.as_secs_f64()
        );
        for (to, port) in [("10.33.1.10", "9001"), ("10.44.1.10", "5432")] {
            ensure!(!pings(self.lab, "laptop", to)?, "{to} does not answer");
            ensure!(!tcp(self.lab, "laptop", to, port)?, "{to} {port} is cut");
        }
        Ok(())
    }
}

fn is_reached_by_its_own_lan_only(lab: &Lab, address: &str) -> Result<()> {
    ensure!(
        pings(lab, "prov-jateng.lan", address)?,
        "its own LAN pings it"
    );
    ensure!(
        tcp(lab, "prov-jateng.lan", address, "9003")?,
        "and connects"
    );
    for other in ["kab-demak.lan", "pusat.lan"] {
        ensure!(!pings(lab, other, address)?, "{other} does not ping it");
        ensure!(
            !tcp(lab, other, address, "9003")?,
            "{other} does not connect"
        );
    }
    Ok(())
}

fn the_key_is_not_at_the_controller(lab: &Lab, printed: &str) -> Result<()> {
    let mut lines = printed.lines();
    let key = lines.find_map(|line| line.strip_prefix("PrivateKey = "));
    let key = key.context("a private key")?;
    let state = "/var/lib/pnsbox-controller";
    let search = |what: &str| lab.output("pusat.controller", &["grep", "-rqaF", what, state]);
    ensure!(search(DEVICE)?.status.success(), "the search works");
    ensure!(
        search(key)?.status.code() == Some(1),
        "the store holds the private key"
    );
    let log = lab.log("pusat.controller", "pnsbox-controller")?;
    ensure!(log.contains("external add"), "the log tells of devices");
    ensure!(!log.contains(key), "the log holds the private key");
    Ok(())
}

/// The device as its gateway shows it; null if it does not.
fn external(lab: &Lab) -> Result<Value> {
    let peers = lab.json("prov-jateng.gw", &["pnsbox", "peers", "--json"])?;
    Ok(peers["externals"][0].clone())
}

fn operator(lab: &Lab, words: &[&str]) -> Result<String> {
    let words = [&["pnsbox-controller"], words].concat();
    lab.run("pusat.controller", &words)
}

fn overlay(configuration: &str) -> Result<String> {
    let mut lines = configuration.lines();
    let line = lines.find_map(|line| line.strip_prefix("Address = "));
    let (v4, _) = line
        .context("addresses")?
        .split_once('/')
        .context("a length")?;
    Ok(v4.to_owned())
}

fn echo(lab: &Lab, host: &str, port: &str) -> Result<Background> {
    let tool = root().join("tests/lab/tools/echo.py");
    let echo = lab.spawn(
        host,
        &[
            "timeout",
            "300",
            "python3",
            &tool.to_string_lossy(),
            "serve",
            port,
        ],
    )?;
    lab.wait("the echo listens", Duration::from_secs(5), |lab| {
        tcp(lab, host, "127.0.0.1", port)
    })?;
    Ok(echo)
}

fn pings(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    let ping = ["ping", "-nqc", "1", "-W", "1", to];
    Ok(lab.output(from, &ping)?.status.success())
}

fn tcp(lab: &Lab, from: &str, to: &str, port: &str) -> Result<bool> {
    let connect = format!("exec 3<>/dev/tcp/{to}/{port}");
    let connect = ["timeout", "2", "bash", "-c", &connect];
    Ok(lab.output(from, &connect)?.status.success())
}
