//! What a stranger or a node can say wrongly on its session: it ends with a reason, and nobody else notices.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use pnsbox_proto::health::{Condition, ConditionCode, HealthReport};
use pnsbox_proto::message::{ToController, Token};
use pnsbox_proto::time::UnixTime;
use quinn::{Connection, RecvStream, SendStream};

use crate::program::Place;
use crate::random::Random;
use crate::support::{PATIENCE, Running, dial, found, request, start};

const HELLO: &str = "{\"type\":\"hello\",\"protocol\":1,\"software\":\"0\",\"view\":null}";

/// A connection whose stream takes any bytes.
async fn stranger(to: std::net::SocketAddr) -> (Connection, SendStream, RecvStream) {
    // On a loaded machine a handshake may not end in time; that is not what is tested here.
    for _ in 0..3 {
        let endpoint = dial::endpoint(Ipv4Addr::LOCALHOST, 77);
        if let Ok(connection) = endpoint.connect(to, "pnsbox").unwrap().await
            && let Ok((send, receive)) = connection.open_bi().await
        {
            return (connection, send, receive);
        }
    }
    panic!("no session with {to}")
}

fn frame(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    [&length.to_be_bytes(), text].concat()
}

async fn reason(connection: &Connection) -> String {
    let closed = tokio::time::timeout(PATIENCE, connection.closed());
    closed.await.expect("an end in time").to_string()
}

/// Says `bytes`; the session ends with a reason that contains `expected`.
async fn refused(running: &Running, bytes: &[u8], expected: &str) {
    let (connection, mut send, _receive) = stranger(running.agents_at).await;
    // It may end before all of it is taken.
    drop(send.write_all(bytes).await);
    let reason = reason(&connection).await;
    let begin = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    assert!(reason.contains(expected), "{begin:?} ended with {reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_end_their_session_with_a_reason_and_disturb_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let (mut agent, _) = running.join(1, "kab-demak", "10.44.1.0/24", None).await;

    refused(
        &running,
        &[0xff; 4],
        "a frame of 4294967295 bytes is longer than 4194304",
    )
    .await;
    refused(
        &running,
        &(1_u32 << 20).to_be_bytes(),
        "a message of 1048576 bytes is longer than the 16384 that are taken here",
    )
    .await;
    for (text, expected) in [
        ("", "a frame cannot be read: EOF"),
        ("{", "a frame cannot be read: EOF"),
        ("[]", "a frame cannot be read"),
        ("null", "a frame cannot be read"),
        ("{\"type\":\"reboot\"}", "unknown variant `reboot`"),
        ("{\"type\":\"hello\"}", "missing field `protocol`"),
        (
            "{\"type\":\"hello\",\"protocol\":9,\"software\":\"0\",\"view\":null}",
            "protocol 9 is not spoken here, only 1",
        ),
        (
            "{\"type\":\"services\",\"services\":[]}",
            "hello must come first",
        ),
    ] {
        refused(&running, &frame(text.as_bytes()), expected).await;
    }
    let deep = "[".repeat(10_000);
    refused(&running, &frame(deep.as_bytes()), "a frame cannot be read").await;
    let twice = [frame(HELLO.as_bytes()), frame(HELLO.as_bytes())].concat();
    // A second hello of a box that has not joined.
    refused(&running, &twice, "this box has not joined").await;
    let join = serde_json::to_vec(&request(77, Token([1; 16]), "10.44.9.0/24", None)).unwrap();
    refused(&running, &frame(&join), "hello must come first").await;
    let services = b"{\"type\":\"services\",\"services\":[]}";
    let unjoined = [frame(HELLO.as_bytes()), frame(services)].concat();
    refused(&running, &unjoined, "this box has not joined").await;
    let mut random = Random(5);
    for _ in 0..50 {
        let size = random.below(4_000);
        let bytes = random.bytes(size);
        refused(&running, &frame(&bytes), "a frame cannot be read").await;
    }

    // Cut short: the stream ends within a frame.
    let (connection, mut send, _receive) = stranger(running.agents_at).await;
    send.write_all(&frame(HELLO.as_bytes())[..20])
        .await
        .unwrap();
    send.finish().unwrap();
    let reason = reason(&connection).await;
    assert!(reason.contains("the connection was lost"), "{reason}");

    // The box that was there all the time is there, and may say much.
    agent.hears_nothing().await;
    agent.say(&large_report()).await;
    let begun = Instant::now();
    let told = loop {
        let fleet = running.status().await;
        if let [node] = &fleet.nodes[..]
            && let Some(report) = &node.report
        {
            break report.conditions.len();
        }
        assert!(begun.elapsed() < PATIENCE, "{fleet:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(told, 256, "what a node says is bounded too");
    running.stop().await;
}

/// Nearly as large as a frame may be.
fn large_report() -> ToController {
    let condition = Condition {
        code: ConditionCode::PeerDown,
        message: "x".repeat(1_000),
    };
    ToController::Health(HealthReport {
        started: UnixTime(1_795_392_000),
        software: "0".to_owned(),
        view_applied: 1,
        peers: vec![],
        services: vec![],
        conditions: vec![condition; 900],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_messages_is_slowed_down_and_costs_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let serving = place.serve("info");
    let before = serving.peak_mib();
    let mut floods = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let to = place.agents_at;
        floods.spawn(async move {
            let mut said = 0_u64;
            for _ in 0..20 {
                let (connection, mut send, _receive) = stranger(to).await;
                // The first is good, the rest ends the session; meanwhile 16 MiB are pressed in.
                let join =
                    serde_json::to_vec(&request(77, Token([1; 16]), "10.44.9.0/24", None)).unwrap();
                let many = frame(&join).repeat(200);
                let flood = async {
                    send.write_all(&frame(HELLO.as_bytes())).await?;
                    loop {
                        send.write_all(&many).await?;
                    }
                    #[expect(unreachable_code, reason = "names the error's type")]
                    Ok::<(), quinn::WriteError>(())
                };
                drop(tokio::time::timeout(Duration::from_secs(5), flood).await);
                let reason = reason(&connection).await;
                assert!(
                    reason.contains("too many refused requests")
                        || reason.contains("messages are taken too slowly"),
                    "{reason}"
                );
                said += 1;
            }
            said
        });
    }
    assert_eq!(floods.join_all().await.iter().sum::<u64>(), 400);
    // A frame that is announced and never comes, from many sessions at once.
    let mut held = Vec::new();
    for _ in 0..100 {
        let (connection, mut send, receive) = stranger(place.agents_at).await;
        send.write_all(&16_000_u32.to_be_bytes()).await.unwrap();
        send.write_all(&[b'['; 15_000]).await.unwrap();
        held.push((connection, send, receive));
    }
    let peak = serving.peak_mib();
    println!("memory {before} MiB before, {peak} MiB at most");
    assert!(peak < before + 64, "{before} MiB became {peak} MiB");
    let answer = place.run(&["status", "--json"]);
    assert!(answer.status.success(), "{answer:?}");
    assert!(!place.logged().contains("panicked"), "{}", place.logged());
}
