//! Installing: the units' hardening, and `scripts/install.sh` in a fresh Debian 12.
//! Needs root, `mmdebstrap`, `systemd-analyze` and `/dev/net/tun`; without them the tests fail and say so.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

#[test]
fn units_are_hardened() -> Result<()> {
    // Tenths of systemd's exposure level: what is left to the agent is the network of the host and CAP_NET_ADMIN.
    for (unit, threshold) in [("pnsbox-agent", 20), ("pnsbox-controller", 12)] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true"])
            .arg(format!("--threshold={threshold}"))
            .arg(root().join(format!("systemd/{unit}.service")))
            .output()
            .context("systemd-analyze is in Debian's package systemd")?;
        ensure!(
            output.status.success(),
            "{unit}.service is more exposed than {threshold} tenths:\n{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}

#[test]
fn a_fresh_debian_is_installed_joined_and_left_as_it_was() -> Result<()> {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["--propagation", "private", "bash"])
        .arg(root().join("tests/install/fresh.sh"))
        .args([place.path(), root(), &programs()?])
        .output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Where this build's programs are: two folders above the test itself.
fn programs() -> Result<std::path::PathBuf> {
    let test = std::env::current_exe()?;
    let programs = test.ancestors().nth(2).context("a test is in deps")?;
    ensure!(
        programs.join("pnsbox-agent").exists(),
        "no programs in {}: run 'cargo build --workspace' first",
        programs.display()
    );
    Ok(programs.to_owned())
}
