//! Many boxes and many strangers at once: one anchor is used once, and one address keeps no other out.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pnsbox_controller::store::Store;
use pnsbox_controller_core::audit::Trail;
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_proto::message::{JoinRefusal, ToAgent, Token};
use tokio::task::JoinSet;

use crate::support::{Disk, PATIENCE, dial, found, request, start};

/// Sessions that one address tries to hold; the controller takes a third of 1,024 from it.
const GREEDY: u16 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn one_anchor_used_by_a_hundred_keys_at_once_makes_one_node() {
    let folder = tempfile::tempdir().unwrap();
    let config = found(folder.path());
    let running = Arc::new(start(&config).await);
    running.add("kab-demak", "10.44.0.0/16").await;
    let anchor = running.invite("kab-demak").await;
    let mut tries = JoinSet::new();
    for seed in 1..=100 {
        let (running, token) = (Arc::clone(&running), anchor.token.clone());
        tries.spawn(async move {
            let mut agent = running.connect(seed, &Disk::default()).await;
            agent.say(&request(seed, token, "10.44.1.0/24", None)).await;
            agent.hear().await
        });
    }
    let (mut joined, mut spent) = (0, 0);
    for answer in tries.join_all().await {
        match answer {
            ToAgent::Joined { node, .. } => {
                assert_eq!(node, anchor.node);
                joined += 1;
            }
            ToAgent::JoinRefused {
                reason: reason @ JoinRefusal::Spent { .. },
            } => {
                assert!(reason.to_string().contains("now kab-demak/gw1"), "{reason}");
                spent += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((joined, spent), (1, 99));
    running
        .page_shows("pnsbox_controller_joins_refused_total{reason=\"spent\"} 99")
        .await;
    running.page_shows("pnsbox_controller_joins_total 1").await;
    Arc::into_inner(running).unwrap().stop().await;

    let store = Store::open(&config.state_dir, PATIENCE).unwrap();
    assert_eq!(store.list("node/").unwrap().len(), 1);
    let deeds = store.list("audit/").unwrap();
    let texts: Vec<&str> = deeds.iter().filter_map(|e| e.value.as_deref()).collect();
    Trail::verify(texts.iter().copied()).unwrap();
    let joins = texts
        .iter()
        .filter(|text| text.contains("\"join with key "));
    assert_eq!(joins.count(), 1, "{texts:?}");
    // At rest there is the token's digest, and the token nowhere.
    let token = String::from(anchor.token.clone());
    let all = store.list("").unwrap();
    assert!(
        all.iter()
            .any(|e| e.key == format!("token/{}", anchor.token.digest()))
    );
    assert!(
        all.iter()
            .all(|e| !format!("{}{:?}", e.key, e.value).contains(&token))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_counted_and_the_session_ends_and_an_expired_anchor_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let mut stranger = running.connect(9, &Disk::default()).await;
    let wrong = |n: u8| request(9, Token([n; 16]), "10.44.1.0/24", None);
    for n in 1..=8 {
        stranger.say(&wrong(n)).await;
        let reason = JoinRefusal::UnknownToken;
        assert_eq!(stranger.hear().await, ToAgent::JoinRefused { reason });
    }
    stranger.say(&wrong(9)).await;
    let ended = stranger.ended().await;
    assert!(
        ended.contains("too many refused requests to join"),
        "{ended}"
    );
    running
        .page_shows("pnsbox_controller_joins_refused_total{reason=\"unknown_token\"} 9")
        .await;

    let agency = "kab-demak".parse().unwrap();
    let invite = Request::Invite {
        agency,
        node: "gw1".to_owned(),
        expires_in_s: 1,
    };
    let Ok(Answer::Invited { anchor, .. }) = running.ask(invite).await else {
        panic!("an anchor")
    };
    let anchor: pnsbox_proto::anchor::Anchor = anchor.parse().unwrap();
    // The real clock: what is tested is that the program asks it.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let mut late = running.connect(10, &Disk::default()).await;
    late.say(&request(10, anchor.token, "10.44.1.0/24", None))
        .await;
    let ToAgent::JoinRefused { reason } = late.hear().await else {
        panic!("a refusal")
    };
    assert!(reason.to_string().contains("the anchor expired at"));
    running
        .page_shows("pnsbox_controller_joins_refused_total{reason=\"expired\"} 1")
        .await;
    assert_eq!(
        running.status().await.nodes,
        [],
        "an invitation that ended is nobody's"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_with_many_sessions_keeps_no_other_from_joining_or_reconnecting() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    running.add("kab-kudus", "10.45.0.0/16").await;
    let (first, first_disk) = running.join(1, "kab-demak", "10.44.1.0/24", None).await;
    drop(first);

    let (to, from) = (running.agents_at, Ipv4Addr::new(127, 0, 0, 2));
    let mut tries = JoinSet::new();
    let keep = dial::endpoint(from, 99);
    for _ in 0..GREEDY {
        let endpoint = keep.clone();
        tries.spawn(async move { endpoint.connect(to, "pnsbox").unwrap().await.ok() });
    }
    let sessions: Vec<_> = tries.join_all().await.into_iter().flatten().collect();
    // A TLS 1.3 client believes itself connected early; the handshake under way holds the place.
    println!("one address holds {} of {GREEDY} sessions", sessions.len());
    assert!(
        sessions.len() <= 345 && sessions.len() >= 100,
        "{}",
        sessions.len()
    );

    let begun = Instant::now();
    let mut first = running.connect(1, &first_disk).await;
    first.hears_nothing().await;
    let (_second, _) = running.join(2, "kab-kudus", "10.45.1.0/24", None).await;
    println!("another reconnects and joins in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let refused = keep.connect(to, "pnsbox").unwrap().await.unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
    running.stop().await;
}
