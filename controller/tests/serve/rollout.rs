//! `apply --canary`, `rollout status` and `rollout halt`, as an operator types them, with two boxes online.

use std::io::{BufRead as _, BufReader};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::health::HealthReport;
use pnsbox_proto::message::{ToAgent, ToController, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::Manifest;
use serde_json::Value;

use crate::program::Place;
use crate::support::{Agent, Disk, connect, request};

const POLICY: &str = "relays = []\n\n[[link]]\nbetween = [\"a1\", \"a2\"]\n\n[[link.open]]\nat = \"a1\"\nprefix = \"lan\"\nallow = [\"tcp/445\"]\n";

fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn join(place: &Place, seed: u8, agency: &str, lan: &str) -> (Agent, Disk) {
    let invited: Value = serde_json::from_str(&said(place, &["invite", agency, "--json"])).unwrap();
    let anchor: Anchor = invited["anchor"].as_str().unwrap().parse().unwrap();
    let mut disk = Disk::default();
    let mut agent = connect(place.agents_at, seed, &disk).await;
    agent.say(&request(seed, anchor.token, lan, None)).await;
    let joined = agent.hear().await;
    assert!(matches!(joined, ToAgent::Joined { .. }), "{joined:?}");
    agent.take_view(&mut disk).await;
    (agent, disk)
}

/// Takes views, or takes them back, and says how it is, until its session ends.
async fn live((mut agent, mut disk): (Agent, Disk), takes_back: Arc<AtomicBool>) {
    loop {
        let heard =
            tokio::time::timeout(Duration::from_millis(200), agent.receiver.receive()).await;
        match heard {
            Err(_) => {
                let report = HealthReport {
                    started: UnixTime(0),
                    software: "0.1.0".to_owned(),
                    view_applied: disk.version,
                    peers: vec![],
                    services: vec![],
                    conditions: vec![],
                };
                if agent
                    .sender
                    .send(&ToController::Health(report))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Ok(Ok(ToAgent::View(view))) => {
                let manifest: Manifest = view.manifest.open(&agent.controller).unwrap();
                let outcome = match takes_back.load(Ordering::SeqCst) {
                    false => {
                        disk.apply(&view, &agent.controller);
                        ViewOutcome::Applied
                    }
                    true => ViewOutcome::RolledBack {
                        reason: "nothing was heard from a2/gw1".to_owned(),
                    },
                };
                let said = ToController::ViewOutcome {
                    version: manifest.version,
                    digest: view.manifest.payload_digest(),
                    outcome,
                    quarantined: vec![],
                };
                agent.say(&said).await;
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return,
        }
    }
}

async fn run(place: &Arc<Place>, arguments: &[&str]) -> Output {
    let (place, arguments): (_, Vec<String>) = (
        Arc::clone(place),
        arguments.iter().map(|&a| a.to_owned()).collect(),
    );
    let typed = move || place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(typed).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_goes_out_in_waves_is_followed_halted_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let place = Arc::new(Place::found(folder.path()));
    let file = folder.path().join("policy.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, POLICY).unwrap();
    for (agency, prefix) in [("a1", "10.1.0.0/16"), ("a2", "10.2.0.0/16")] {
        said(&place, &["agency", "add", agency, "--prefix", prefix]);
    }
    let _serving = place.serve("info");
    let takes_back = Arc::new(AtomicBool::new(false));
    for (seed, agency, lan) in [(1, "a1", "10.1.1.0/24"), (2, "a2", "10.2.1.0/24")] {
        let member = join(&place, seed, agency, lan).await;
        tokio::spawn(live(member, Arc::clone(&takes_back)));
    }
    goes_through(&place, path).await;
    takes_back.store(true, Ordering::SeqCst);
    std::fs::write(&file, POLICY.replace("tcp/445", "icmp")).unwrap();
    is_halted(&place, path).await;
    takes_back.store(false, Ordering::SeqCst);
    is_left_alone_and_taken_back(&place, path);
}

async fn goes_through(place: &Arc<Place>, path: &str) {
    let plan = said(place, &["plan", path, "--canary", "50%"]);
    assert!(
        plan.contains("would touch 2 of 2 nodes (100 %), 2 of them online, in 2 agencies"),
        "{plan}"
    );
    let waves: Vec<&str> = plan
        .lines()
        .filter(|line| line.starts_with("wave "))
        .collect();
    assert_eq!(waves.len(), 2, "{plan}");
    assert!(said(place, &["rollout", "status"]).contains("no policy was rolled out"));

    let rolled = run(place, &["apply", path, "--canary", "50%", "--watch", "1s"]).await;
    assert!(rolled.status.success(), "{rolled:?}");
    let text = String::from_utf8(rolled.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = [
        "wave 1 of 2: to 1 node: ",
        "wave 1 of 2: applied, watched for 1 s",
        "wave 2 of 2: to 1 node: ",
        "wave 2 of 2: applied, watched for 1 s",
        "done: policy version 1 is in force, 2 nodes have it",
    ];
    assert_eq!(lines.len(), expected.len(), "{text}");
    assert!(
        lines
            .iter()
            .zip(expected)
            .all(|(line, begin)| line.starts_with(begin)),
        "{text}"
    );
}

async fn is_halted(place: &Arc<Place>, path: &str) {
    let halted = run(place, &["apply", path, "--canary", "1%", "--json"]).await;
    assert_eq!(halted.status.code(), Some(65), "{halted:?}");
    let last = String::from_utf8(halted.stdout).unwrap();
    let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["schema"], &last["rollout"]["state"]),
        (&"pnsbox.rollout/1".into(), &"halted".into())
    );
    let why = String::from_utf8(halted.stderr).unwrap();
    assert!(
        why.starts_with("halted in wave 1 of 2: policy version 2 is taken back")
            && why.contains("nothing was heard from a2/gw1"),
        "{why}"
    );
    let screen = said(place, &["status"]);
    assert!(
        screen.contains("rollout of policy version 2: halted in wave 1 of 2"),
        "{screen}"
    );
    assert!(said(place, &["history"]).contains("1 *"));
    let trail = said(place, &["audit", "show"]);
    assert!(
        trail.contains("halt the rollout of policy version 2 in wave 1 of 2: "),
        "{trail}"
    );
}

fn is_left_alone_and_taken_back(place: &Place, path: &str) {
    let mut follower = place.command(&["apply", path, "--canary", "1%", "--watch", "1h"]);
    let mut follower = follower
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(follower.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    assert!(first.starts_with("wave 1 of 2"), "{first}");
    kill(Pid::from_raw(follower.id().cast_signed()), Signal::SIGINT).unwrap();
    let left = follower.wait_with_output().unwrap();
    assert_eq!(left.status.code(), Some(130), "{left:?}");
    assert!(
        String::from_utf8_lossy(&left.stderr).contains("the rollout goes on"),
        "{left:?}"
    );
    assert!(said(place, &["rollout", "status"]).contains("wave 1 of 2"));
    let refused = place.run(&["apply", path]);
    assert_eq!(refused.status.code(), Some(65), "{refused:?}");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("pnsbox-controller rollout halt"),
        "{refused:?}"
    );
    said(place, &["rollout", "halt"]);
    assert!(said(place, &["rollout", "status"]).contains("stopped by uid"));
    said(place, &["apply", path]);
    assert!(
        !said(place, &["status"]).contains("rollout of"),
        "another policy came"
    );
    let usage = place.run(&["apply", path, "--watch", "1s"]);
    assert_eq!(
        usage.status.code(),
        Some(64),
        "--watch needs --canary: {usage:?}"
    );
}
