//! Whoever holds the controller, with all its keys and its store, gains nothing at a real box, and is found out.
//!
//! `PNSBOX_TABLE=1` prints what was tried and how the box reported it. What a box lets through is read from its kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ed25519_dalek::SigningKey;
use pnsbox_proto::agency::{AgencyDocument, LinkConsent};
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::Digest;
use pnsbox_proto::message::{ToController, ViewOutcome};
use pnsbox_proto::view::{AuditHead, PeerPath};
use pnsbox_tests::captured::access::Access;
use pnsbox_tests::captured::attacks::{self, Attack, Attacker, Reported};
use pnsbox_tests::captured::{Captured, agency_key, now, public, read, records};
use pnsbox_tests::lab::Lab;

use crate::trial::reaches;

const VICTIM: &str = "kab-demak.gw";
const OPERATOR: &str = "pusat.controller";
const OTHER: &str = "prov-jateng.gw";
const OTHER_NODE: &str = "prov-jateng/gw1";
const AGENT: &str = "pnsbox-agent";
/// An address of the ISP's that no box has.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 99)), 51820);
/// What a box made of a view shows at once; a slow machine takes longer.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

pub(crate) fn a_captured_controller_gains_nothing(lab: &Lab) -> Result<()> {
    // As narrow as the policy, so that there is something to go beyond.
    for with in ["prov-jateng", "kota-malang"] {
        lab.run(VICTIM, &["pnsbox", "consent", "grant", with])?;
    }
    // So that there is a list of who is shut out.
    let reason = ["--reason", "an exercise"];
    let words = ["pnsbox-controller", "quarantine", "kota-malang/gw1"];
    lab.run(OPERATOR, &[&words[..], &reason].concat())?;
    lab.run(OPERATOR, &["pnsbox-controller", "release", words[2]])?;
    all_is_well(lab)?;
    for host in [VICTIM, OTHER] {
        let keep = "cp -a /var/lib/pnsbox /etc/pnsbox/before";
        lab.run(host, &["sh", "-c", keep])?;
    }
    let outcome = capture(lab);
    // What it was told must not stay: the views of the real controller have lower numbers.
    for host in [VICTIM, OTHER] {
        lab.stop_program(host, AGENT, "KILL")?;
        let back = "cd /var/lib/pnsbox && find . -mindepth 1 -delete && cp -a /etc/pnsbox/before/. . && rm -r /etc/pnsbox/before";
        lab.run(host, &["sh", "-c", back])?;
        lab.start_program(host, AGENT)?;
    }
    outcome?;
    all_is_well(lab)?;
    for with in ["prov-jateng", "kota-malang"] {
        lab.run(VICTIM, &["pnsbox", "consent", "grant", with, "--any"])?;
    }
    // Peers heard of the revocation, and rightly go on believing it: a newer consent is needed, and the same is none.
    let grant = ["pnsbox", "consent", "grant", "kab-demak"];
    lab.run(OTHER, &grant)?;
    lab.run(OTHER, &[&grant[..], &["--any"]].concat())?;
    all_is_well(lab)
}

fn all_is_well(lab: &Lab) -> Result<()> {
    lab.wait("all is well", Duration::from_secs(40), |lab| {
        let well = Access::of(lab, VICTIM)?.conditions.is_empty();
        Ok(well && reaches(lab)?)
    })?;
    Ok(())
}

fn capture(lab: &Lab) -> Result<()> {
    let victim: NodeName = "kab-demak/gw1".parse()?;
    let complicit = agency_key(lab, "kota-malang.gw")?;
    let mut captured = Captured::seize(lab)?;
    captured.serve()?;
    captured.await_box(&victim)?;
    let mut attacker = Attacker::new(captured, victim, complicit)?;
    let outcome = attack(lab, &mut attacker);
    attacker.captured.release(lab)?;
    outcome
}

fn attack(lab: &Lab, attacker: &mut Attacker) -> Result<()> {
    let begun = Instant::now();
    let mut table = Table::default();
    withhold(lab, attacker, &mut table)?;
    let before = honest(lab, attacker)?;
    for attack in attacks::all() {
        let seen = try_one(lab, attacker, &attack, &before);
        table.row(attack.name, attack.never, seen);
    }
    let seen = two_histories(lab, attacker);
    table.row(
        "two boxes told different histories of equal length",
        "neither notices",
        seen,
    );
    let seen = wrong_endpoints(lab, attacker);
    table.row(
        "the endpoints of two peers swapped, the third's a dead one",
        "the box is cut off for longer than 60 s",
        seen,
    );
    table.row(
        "a revocation withheld for a minute",
        "nobody notices",
        is_behind(lab),
    );
    let seen = another_certificate(lab, attacker, &before);
    table.row(
        "another controller key, certified by the admission key",
        "it is taken for the controller",
        seen,
    );
    table.print();
    println!(
        "    {} attacks in {:.0} s",
        table.rows.len(),
        begun.elapsed().as_secs_f64()
    );
    table.judge()
}

/// A view of what is honest is in force: what the box lets through then.
fn honest(lab: &Lab, attacker: &mut Attacker) -> Result<Access> {
    let victim = attacker.victim.clone();
    let view = attacker.captured.view(&victim, &attacker.honest);
    let outcome = attacker.captured.push(&victim, view)?;
    ensure!(
        matches!(outcome, ViewOutcome::Applied | ViewOutcome::OnTrial),
        "what is honest is refused: {outcome:?}"
    );
    Access::of(lab, VICTIM)
}

/// One attack, and afterwards what is honest again.
fn try_one(lab: &Lab, attacker: &mut Attacker, attack: &Attack, before: &Access) -> Result<String> {
    let lies = Access::of(lab, VICTIM)?.distrusted();
    let victim = attacker.victim.clone();
    let blow = attack.blow(attacker)?;
    let (documents, quarantine) = blow.told;
    if !documents.is_empty() || quarantine.is_some() {
        attacker.captured.tell(&victim, documents, quarantine)?;
    }
    attacker.captured.push(&victim, blow.view)?;
    let begun = Instant::now();
    let seen = loop {
        let access = Access::of(lab, VICTIM)?;
        let gained: Vec<&str> = access
            .gained(before)
            .filter(|grant| !blow.may.iter().any(|may| grant.starts_with(may)))
            .collect();
        ensure!(gained.is_empty(), "gained {gained:?}");
        match reported(&access, attack.reported, lies) {
            Some(said) => break said,
            None if begun.elapsed() < SHOWN_WITHIN => {}
            None => bail!("not reported: {:?}", access.conditions),
        }
    };
    let after = honest(lab, attacker)?;
    let changed: BTreeSet<_> = after.grants.symmetric_difference(&before.grants).collect();
    ensure!(
        changed.is_empty(),
        "afterwards other than before: {changed:?}"
    );
    Ok(seen)
}

/// What the box says of an attack, if it does.
fn reported(access: &Access, wanted: Reported, lies_before: u64) -> Option<String> {
    match wanted {
        Reported::Distrusted(what) => {
            access.says("controller_distrusted", what)?;
            (access.distrusted() > lies_before).then(|| format!("controller_distrusted: …{what}…"))
        }
        Reported::Refused(what) => {
            access.says("record_refused", what)?;
            Some(format!("record_refused: …{what}…"))
        }
        Reported::Not(why) => (access.distrusted() == lies_before).then(|| format!("not: {why}")),
    }
}

/// prov-jateng takes its consent back, the controller tells nobody, and shows the old one.
fn withhold(lab: &Lab, attacker: &mut Attacker, table: &mut Table) -> Result<()> {
    lab.run(OTHER, &["pnsbox", "consent", "revoke", "kab-demak"])?;
    let told = lab.wait("a peer tells", Duration::from_secs(10), |lab| {
        let said = Access::of(lab, VICTIM)?;
        Ok(said
            .says("record_refused", "prov-jateng has taken its consent back")
            .is_some())
    });
    let told = told.and_then(|told| {
        let access = honest(lab, attacker)?;
        let lan = access
            .grants
            .iter()
            .find(|g| g.ends_with("from 10.33.1.0/24"));
        ensure!(lan.is_none(), "it is open: {lan:?}");
        Ok(format!(
            "record_refused after {:.2} s, from peers",
            told.as_secs_f64()
        ))
    });
    table.row(
        "a revocation withheld, and the old consent shown",
        "the link is open",
        told,
    );
    let grant = ["pnsbox", "consent", "grant", "kab-demak", "--any"];
    lab.run(OTHER, &grant)?;
    let theirs = attacker
        .captured
        .heard(&OTHER_NODE.parse()?, SHOWN_WITHIN, consent)?;
    attacker.consented(&"prov-jateng".parse()?, theirs)
}

/// Peers knew what the controller did not tell.
fn is_behind(lab: &Lab) -> Result<String> {
    lab.wait("it is said", Duration::from_secs(70), |lab| {
        let said = Access::of(lab, VICTIM)?;
        Ok(said.says("controller_behind", "of prov-jateng").is_some())
    })?;
    Ok("controller_behind: …prov-jateng/gw1 knew statement…".to_owned())
}

/// prov-jateng's consent with the victim, in what a box says.
fn consent(message: &ToController) -> Option<Envelope> {
    let ToController::Documents { documents } = message else {
        return None;
    };
    documents.iter().find_map(|document| match document {
        AgencyDocument::Consent(signed) => {
            let consent: LinkConsent = read(signed).ok()?;
            (consent.with.as_str() == "kab-demak").then(|| signed.clone())
        }
        _ => None,
    })
}

/// Serves with a key of its own, which the admission key certified.
fn another_certificate(lab: &Lab, attacker: &mut Attacker, before: &Access) -> Result<String> {
    let captured = &mut attacker.captured;
    let key = SigningKey::from_bytes(&[21; 32]);
    let certificate = ControllerCertificate {
        network: captured.network().name.clone(),
        controller: public(&key),
        issued: now(),
    };
    let certificate = Envelope::sign(&certificate, &captured.keys().admission);
    captured.serve_as(key, certificate)?;
    let wanted = "has no certificate of the root key";
    let mut said = String::new();
    let outcome = lab.wait("it is refused", Duration::from_secs(40), |lab| {
        let access = Access::of(lab, VICTIM)?;
        ensure!(access.gained(before).next().is_none(), "it gained");
        said = format!("{:?}", access.conditions);
        Ok(access.says("controller_away", wanted).is_some())
    });
    attacker.captured.serve()?;
    outcome.with_context(|| said)?;
    attacker.captured.await_box(&attacker.victim.clone())?;
    Ok(format!("controller_away: …{wanted}…"))
}

/// The victim and prov-jateng are shown audit trails of the same length that differ.
fn two_histories(lab: &Lab, attacker: &mut Attacker) -> Result<String> {
    let victim = attacker.victim.clone();
    let other: NodeName = OTHER_NODE.parse()?;
    let captured = &mut attacker.captured;
    let signer = captured.keys().controller.clone();
    let entries = captured.audit_entries() + 10;
    let theirs = captured.honest(&other)?;
    for (node, records, history) in [
        (&victim, &attacker.honest, b"one"),
        (&other, &theirs, b"two"),
    ] {
        let digest = Digest::of(history);
        let view = captured.view_with(node, records, &signer, |manifest| {
            manifest.audit = AuditHead { entries, digest };
        });
        let outcome = captured.push(node, view)?;
        ensure!(
            !matches!(outcome, ViewOutcome::Refused { .. }),
            "{node}: {outcome:?}"
        );
    }
    let wanted = "was shown the audit trail";
    let after = lab.wait("both compare", Duration::from_secs(40), |lab| {
        let mut all = true;
        for host in [VICTIM, OTHER] {
            let said = Access::of(lab, host)?;
            all &= said.says("controller_distrusted", wanted).is_some();
        }
        Ok(all)
    })?;
    Ok(format!(
        "controller_distrusted on both after {:.1} s: …{wanted}…",
        after.as_secs_f64()
    ))
}

/// Nobody answers where the controller says that peers are.
fn wrong_endpoints(lab: &Lab, attacker: &mut Attacker) -> Result<String> {
    let victim = attacker.victim.clone();
    let mut all = attacker.honest.clone();
    let one = records::peer(&mut all, OTHER_NODE)?.path.clone();
    let other = &mut records::peer(&mut all, "pusat/gw1")?.path;
    let other = std::mem::replace(other, one);
    records::peer(&mut all, OTHER_NODE)?.path = other;
    records::peer(&mut all, "kota-malang/gw1")?.path = PeerPath::Direct {
        endpoint: NOBODY,
        second: None,
    };
    let history = attacker.captured.audit_entries() + 1;
    let signer = attacker.captured.keys().controller.clone();
    let view = attacker
        .captured
        .view_with(&victim, &all, &signer, |manifest| {
            manifest.audit.entries = history;
        });
    let digest = view.manifest.payload_digest();
    let outcome = attacker.captured.push(&victim, view)?;
    let begun = Instant::now();
    ensure!(outcome == ViewOutcome::OnTrial, "{outcome:?}");
    lab.wait("it is cut off", Duration::from_secs(10), |lab| {
        Ok(!reaches(lab)?)
    })?;
    let is_over = |outcome: &ViewOutcome| *outcome != ViewOutcome::OnTrial;
    let outcome = attacker.captured.outcome(&victim, digest, is_over)?;
    let ViewOutcome::RolledBack { reason } = outcome else {
        bail!("not taken back: {outcome:?}");
    };
    lab.wait("all are reached", Duration::from_secs(15), |lab| {
        let ping = ["ping", "-nc", "1", "-W", "1", "10.33.1.10"];
        let province = lab.output("kab-demak.lan", &ping)?.status.success();
        Ok(province && reaches(lab)?)
    })?;
    let after = begun.elapsed();
    ensure!(after < Duration::from_secs(60), "after {after:?}");
    let said = Access::of(lab, VICTIM)?;
    said.says("view_refused", "was taken back")
        .with_context(|| format!("{:?}", said.conditions))?;
    let seconds = after.as_secs_f64();
    Ok(format!(
        "view_refused: taken back, and all reached, after {seconds:.1} s: {reason}"
    ))
}

/// What was tried, what must not come of it, and what came of it.
#[derive(Default)]
struct Table {
    rows: Vec<(&'static str, &'static str, Result<String>)>,
}

impl Table {
    fn row(&mut self, attack: &'static str, never: &'static str, seen: Result<String>) {
        self.rows.push((attack, never, seen));
    }

    fn print(&self) {
        if std::env::var_os("PNSBOX_TABLE").is_none() {
            return;
        }
        println!("| attack | what must not happen | how it was reported |\n|---|---|---|");
        for (attack, never, seen) in &self.rows {
            match seen {
                Ok(seen) => println!("| {attack} | {never} | {seen} |"),
                Err(error) => println!("| {attack} | {never} | FAILED: {error:#} |"),
            }
        }
    }

    fn judge(&self) -> Result<()> {
        let failed = self.rows.iter().filter_map(|(attack, _, seen)| {
            let error = seen.as_ref().err()?;
            Some(format!("{attack}: {error:#}"))
        });
        let failed: Vec<String> = failed.collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        ensure!(self.rows.len() >= 25, "only {} attacks", self.rows.len());
        Ok(())
    }
}
