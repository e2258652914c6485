//! Boxes whose wall clock is wrong or is set: the real agent under Debian's faketime, which lies to it about the wall clock only.
//!
//! While it lies, and again once it tells the truth, traffic must cross. Only the box with the fault may begin handshakes:
//! so they are its timestamps that are judged, by peers that remember those before.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use pnsbox_tests::lab::Lab;

/// Behind NAT: it begins.
const EDGE: Site = Site {
    host: "kab-demak.gw",
    lan: "kab-demak.lan",
    lan_address: "10.44.1.10",
    node: "kab-demak/gw1",
    outside: "203.0.113.40",
};
/// With a public address, where others begin.
const HUB: Site = Site {
    host: "prov-jateng.gw",
    lan: "prov-jateng.lan",
    lan_address: "10.33.1.10",
    node: "prov-jateng/gw1",
    outside: "203.0.113.30",
};
const MINISTRY: Site = Site {
    host: "pusat.gw",
    lan: "pusat.lan",
    lan_address: "10.10.1.10",
    node: "pusat/gw1",
    outside: "203.0.113.20",
};
const AGENT: &str = "pnsbox-agent";
/// What faketime adds to the time.
const OFFSET: &str = "/etc/pnsbox/clock-offset";
/// A folder with an agent that believes what is there.
const LIED_TO: &str = "/etc/pnsbox/lied-to";
/// The promise.
const LIMIT: Duration = Duration::from_secs(30);

const HOUR: i64 = 3600;
const YEAR: i64 = 31_556_952;

pub(crate) fn no_fault_of_the_clock_keeps_a_box_out(lab: &Lab) -> Result<()> {
    for (host, to) in [(&HUB, &EDGE), (&MINISTRY, &EDGE), (&MINISTRY, &HUB)] {
        answers_only(lab, host, to)?;
    }
    let edge = &Faulty::new(lab, &EDGE, &HUB)?;
    let hub = &Faulty::new(lab, &HUB, &MINISTRY)?;
    for faulty in [edge, hub] {
        faulty.boot(0)?;
        faulty.reaches()?;
    }
    let table = cases(edge, hub);
    println!("{table}");
    for host in [&HUB, &MINISTRY] {
        lab.run(host.host, &["nft", "delete", "table", "inet", "answers"])?;
    }
    if std::env::var_os("PNSBOX_LONG").is_some() {
        edge.renews_its_sessions(-10 * YEAR)?;
    }
    edge.restore()?;
    hub.restore()?;
    let failed = table.0.iter().filter(|row| !row.holds()).count();
    ensure!(failed == 0, "{failed} cases failed");
    Ok(())
}

/// Those that leave timestamps far in the future come last: after them, any clock is one that is behind.
fn cases(edge: &Faulty<'_>, hub: &Faulty<'_>) -> Table {
    let mut table = Table(Vec::new());
    let one = [edge];
    table.case("boot at 1970", &one, || edge.boot(at_1970()));
    table.case("boot 2 years behind", &one, || edge.boot(-2 * YEAR));
    table.case("boot 40 s behind the last handshake", &one, || {
        edge.boot(-40)
    });
    table.case("three reboots at 1970", &one, || {
        for _ in 0..2 {
            edge.boot(at_1970())?;
            edge.reaches()?;
        }
        edge.boot(at_1970())
    });
    table.case("step back 1 hour", &one, || edge.step(-HOUR));
    table.case("step forward 1 hour", &one, || edge.step(HOUR));
    table.case("step back 10 years", &one, || edge.step(-10 * YEAR));
    table.case("the public side boots at 1970", &[hub], || {
        hub.boot(at_1970())
    });
    table.case("step forward 10 years and back", &one, || {
        edge.step(10 * YEAR)
    });
    table.case("boot 10 years ahead", &one, || edge.boot(10 * YEAR));
    table.case("2 years behind, the other 10 ahead", &[hub, edge], || {
        edge.boot(-2 * YEAR)?;
        edge.reaches()?;
        hub.boot(10 * YEAR)?;
        // Its session is gone with the hub, which it would notice after 15 s.
        edge.step(-2 * YEAR)
    });
    table
}

/// A gateway and its LAN.
struct Site {
    host: &'static str,
    lan: &'static str,
    lan_address: &'static str,
    node: &'static str,
    outside: &'static str,
}

/// A box whose agent believes what is in [`OFFSET`].
struct Faulty<'a> {
    lab: &'a Lab,
    site: &'static Site,
    /// Whom it must reach: one that begins no handshake with it.
    peer: &'static Site,
    /// In front of the PATH is an agent that is lied to.
    environment: String,
}

impl<'a> Faulty<'a> {
    fn new(lab: &'a Lab, site: &'static Site, peer: &'static Site) -> Result<Self> {
        // Not by start-program: the programs that lead to the agent run as another user, who must not be lied to.
        let write = format!(
            r#"set -e
mkdir -p {LIED_TO}
cat >{LIED_TO}/pnsbox-agent <<END
#!/bin/sh
export LD_PRELOAD=$(ls /usr/lib/*/faketime/libfaketimeMT.so.1)
export FAKETIME_TIMESTAMP_FILE={OFFSET} FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
exec $(command -v pnsbox-agent) "\$@"
END
chmod 755 {LIED_TO}/pnsbox-agent
echo "PATH={LIED_TO}:$PATH""#
        );
        let path = lab.run(site.host, &["sh", "-c", &write])?;
        Ok(Self {
            lab,
            site,
            peer,
            environment: path.trim().to_owned(),
        })
    }

    fn set_clock(&self, offset: i64) -> Result<()> {
        let write = format!("echo {offset:+} >{OFFSET}.new && mv {OFFSET}.new {OFFSET}");
        self.lab.run(self.site.host, &["sh", "-c", &write])?;
        Ok(())
    }

    /// The power goes; then the clock says something else.
    fn boot(&self, offset: i64) -> Result<()> {
        self.end("KILL")?;
        self.set_clock(offset)?;
        self.lab
            .start_program_with(self.site.host, AGENT, &[&self.environment])
    }

    /// Ends the agent, and what faketime shared with nobody.
    fn end(&self, signal: &str) -> Result<()> {
        let pid = self.lab.pid(self.site.host, AGENT)?;
        self.lab.stop_program(self.site.host, AGENT, signal)?;
        let forget = format!("rm -f /dev/shm/faketime_shm_{pid} /dev/shm/sem.faketime_sem_{pid}");
        self.lab.run(self.site.host, &["sh", "-c", &forget])?;
        Ok(())
    }

    /// As the lab has it.
    fn restore(&self) -> Result<()> {
        self.end("TERM")?;
        self.lab.start_program(self.site.host, AGENT)?;
        self.lab.wait("a session", Duration::from_secs(40), |lab| {
            Ok(lab.status(self.site.host)?["controller"]["connected"] == true)
        })?;
        Ok(())
    }

    /// The clock is set while the agent runs. Without its interface it needs new sessions, of the same key.
    fn step(&self, offset: i64) -> Result<()> {
        self.set_clock(offset)?;
        self.lab
            .run(self.site.host, &["ip", "link", "del", "pns0"])?;
        Ok(())
    }

    /// How long until traffic crosses, and the box says so itself.
    fn reaches(&self) -> Result<Duration> {
        let ping = ["ping", "-nc", "1", "-W", "0.5", self.peer.lan_address];
        self.lab.wait("traffic crosses", LIMIT, |lab| {
            Ok(lab.output(self.site.lan, &ping)?.status.success()
                && is_up(lab, self.site, self.peer)?)
        })
    }

    /// Past REJECT_AFTER_TIME, 180 s (WireGuard whitepaper section 6.1): nothing of before the step is left.
    fn renews_its_sessions(&self, offset: i64) -> Result<()> {
        self.set_clock(offset)?;
        let ping = ["ping", "-nq", "-i", "0.1", "-c", "2000", "-W", "2"];
        let words = [&ping[..], &[self.peer.lan_address]].concat();
        let said = self.lab.run(self.site.lan, &words)?;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        println!("    a step of {offset} s, and 200 s of traffic without a loss");
        self.set_clock(0)
    }
}

fn is_up(lab: &Lab, site: &Site, peer: &Site) -> Result<bool> {
    let status = lab.status(site.host)?;
    let peers = status["peers"].as_array().context("peers")?;
    let peer = peers.iter().find(|p| p["node"] == peer.node);
    Ok(peer.context("the peer is listed")?["up"] == true)
}

/// The offset that makes it half a minute after 1970.
fn at_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    30 - i64::try_from(now).unwrap_or_default()
}

/// `host` begins no handshake with `to`.
fn answers_only(lab: &Lab, host: &Site, to: &Site) -> Result<()> {
    // Behind eight bytes of UDP header: 1 is an initiation (WireGuard whitepaper section 5.4.2).
    let rule = format!("ip daddr {} udp sport 51820 @th,64,8 1 drop", to.outside);
    let table = format!(
        "table inet answers {{ chain output {{ type filter hook output priority 0; {rule}; }}; }}"
    );
    lab.run(
        host.host,
        &["sh", "-c", &format!("echo '{table}' | nft -f -")],
    )?;
    Ok(())
}

/// What was seen, case by case.
struct Table(Vec<Row>);

struct Row {
    case: &'static str,
    wrong: Result<Duration>,
    sane: Result<Duration>,
}

impl Row {
    fn holds(&self) -> bool {
        self.wrong.is_ok() && self.sane.is_ok()
    }
}

impl Table {
    /// The fault, and how long until traffic crosses all the same; then until it does once the clocks are right.
    fn case(
        &mut self,
        case: &'static str,
        boxes: &[&Faulty<'_>],
        fault: impl FnOnce() -> Result<()>,
    ) {
        let wrong = fault().and_then(|()| cross(boxes));
        let set = boxes.iter().try_for_each(|faulty| faulty.step(0));
        let sane = set.and_then(|()| cross(boxes));
        self.0.push(Row { case, wrong, sane });
    }
}

/// How long until all of them are heard.
fn cross(boxes: &[&Faulty<'_>]) -> Result<Duration> {
    let begun = Instant::now();
    for faulty in boxes {
        faulty.reaches()?;
    }
    Ok(begun.elapsed())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = |took: &Result<Duration>| match took {
            Ok(took) => format!("{:.1} s", took.as_secs_f64()),
            Err(error) => format!("{error:#}"),
        };
        writeln!(
            f,
            "    {:<44} | limit | wrong  | set right",
            "case, crosses after"
        )?;
        for Row { case, wrong, sane } in &self.0 {
            let (wrong, sane) = (seen(wrong), seen(sane));
            let limit = LIMIT.as_secs();
            writeln!(f, "    {case:<44} | {limit:>3} s | {wrong:<6} | {sane}")?;
        }
        Ok(())
    }
}
