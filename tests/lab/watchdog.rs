//! The watchdog is earned by the data plane: this test is the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use pnsbox_tests::lab::{Lab, root};

const HOST: &str = "kab-demak.gw";
const AGENT: &str = "pnsbox-agent";
/// From a worker that hangs to a box that works again.
const WITHIN: Duration = Duration::from_secs(30);
/// Rounds of 200 ms at least, after which the worker hangs: enough to be ready first.
const ROUNDS: u32 = 15;

pub(crate) fn a_worker_that_hangs_ends_the_watchdog_and_a_restart_brings_the_view_back(
    lab: &Lab,
) -> Result<()> {
    let patience = unit_seconds("WatchdogSec=")?;
    let pause = unit_seconds("RestartSec=")?;
    let dir = tempfile::tempdir()?;
    // The agent runs as its own user.
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    lab.stop_program(HOST, AGENT, "TERM")?;
    for worker in ["worker_packets", "worker_timers"] {
        let path = dir.path().join(worker);
        let manager = Manager::listen(&path)?;
        let notify = format!("NOTIFY_SOCKET={}", path.display());
        let hang = format!("FAILPOINTS={worker}={ROUNDS}*off->pause");
        lab.start_program_with(HOST, AGENT, &[&notify, &hang])?;
        manager.hears("READY=1", Duration::from_secs(10))?;
        manager.hears("WATCHDOG=1", Duration::from_secs(3))?;
        // The last sign of life comes when the worker hangs; none for longer than any ordinary gap.
        manager.falls_silent(Duration::from_secs(4), Duration::from_secs(15))?;
        lab.pid(HOST, AGENT)
            .context("it is alive and useless, which only the watchdog sees")?;

        // What systemd does at WatchdogSec, and what is left of the limit after it.
        lab.stop_program(HOST, AGENT, "KILL")?;
        let begun = Instant::now();
        let path = dir.path().join(format!("{worker}-again"));
        let manager = Manager::listen(&path)?;
        let notify = format!("NOTIFY_SOCKET={}", path.display());
        lab.start_program_with(HOST, AGENT, &[&notify])?;
        manager.hears("READY=1", Duration::from_secs(10))?;
        let restart = begun.elapsed();
        ensure!(
            lab.status(HOST)?["view_applied"].as_u64() > Some(0),
            "ready means that the saved view is in force"
        );
        ensure!(
            patience + pause + restart < WITHIN,
            "{patience:?} of the watchdog, {pause:?} until the restart, {restart:?} to be ready"
        );
        println!(
            "    {worker} hangs: {:.0} s of the watchdog, {:.0} s pause, ready after {:.2} s",
            patience.as_secs_f64(),
            pause.as_secs_f64(),
            restart.as_secs_f64()
        );
        lab.stop_program(HOST, AGENT, "TERM")?;
    }
    lab.start_program(HOST, AGENT)
}

pub(crate) fn a_box_that_has_not_joined_is_ready_and_says_so(lab: &Lab) -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let path = dir.path().join("notify");
    let manager = Manager::listen(&path)?;
    let run = format!(
        "mkdir -p /etc/pnsbox/ready && printf 'state_dir = \"/var/lib/pnsbox/ready\"\\nsocket = \"/run/pnsbox/ready.sock\"\\n[http]\\nport = 9797\\n' >/etc/pnsbox/ready/agent.toml && NOTIFY_SOCKET={} exec timeout -s INT 5 pnsbox-agent run --config /etc/pnsbox/ready/agent.toml",
        path.display()
    );
    let _agent = lab.spawn("isp", &["sh", "-c", &run])?;
    manager.hears("STATUS=not joined", Duration::from_secs(5))?;
    manager.hears("READY=1", Duration::from_secs(5))?;
    manager.hears("WATCHDOG=1", Duration::from_secs(3))
}

/// A setting of the agent's unit, in seconds.
fn unit_seconds(key: &str) -> Result<Duration> {
    let unit = std::fs::read_to_string(root().join("systemd/pnsbox-agent.service"))?;
    let value = unit.lines().find_map(|line| line.strip_prefix(key));
    let value = value.with_context(|| format!("the unit has {key}"))?;
    let seconds: u64 = value.trim_end_matches('s').parse()?;
    Ok(Duration::from_secs(seconds))
}

/// Listens to what a service tells its manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Result<Self> {
        let socket = UnixDatagram::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        Ok(Self(socket))
    }

    /// Waits for a message that begins with `wanted`.
    fn hears(&self, wanted: &str, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let mut heard = Vec::new();
        while let Some(message) = self.next(until)? {
            if message.lines().any(|line| line.starts_with(wanted)) {
                return Ok(());
            }
            heard.push(message);
        }
        bail!("no {wanted} within {limit:?}, only {heard:?}")
    }

    /// Waits until there is no sign of life for `silence`.
    fn falls_silent(&self, silence: Duration, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < limit {
            match self.next(last + silence)? {
                Some(message) if message.contains("WATCHDOG=1") => last = Instant::now(),
                Some(_) => {}
                None => return Ok(()),
            }
        }
        bail!("signs of life for {limit:?}")
    }

    fn next(&self, until: Instant) -> Result<Option<String>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        self.0.set_read_timeout(Some(left))?;
        let mut message = [0; 1024];
        match self.0.recv(&mut message) {
            Ok(length) => Ok(Some(
                String::from_utf8_lossy(&message[..length]).into_owned(),
            )),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
