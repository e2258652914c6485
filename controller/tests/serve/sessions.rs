//! Sessions: joining, views, deltas, commands beside them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use pnsbox_controller::config::Config;
use pnsbox_controller::{operator, serve};
use pnsbox_controller_core::fleet::NodeState;
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_proto::view::Record;

use crate::support::{EXAMPLE, found, ids, start};

#[tokio::test(flavor = "multi_thread")]
async fn boxes_join_get_views_and_deltas_and_nobody_gets_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let config = found(folder.path());
    let running = start(&config).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    running.add("prov-jateng", "10.33.0.0/16").await;
    running.apply(EXAMPLE).await;

    let (mut first, mut first_disk) = running.join(1, "kab-demak", "10.44.1.0/24", None).await;
    let (mut second, mut second_disk) = running
        .join(2, "prov-jateng", "10.33.1.0/24", Some("203.0.113.30:51820"))
        .await;
    // What policy would open now; then the other agency signs.
    let delta = first.take_view(&mut first_disk).await;
    assert_eq!(ids(&delta), ["proposal prov-jateng"]);
    let delta = first.take_view(&mut first_disk).await;
    assert_eq!(
        ids(&delta),
        [
            "agency prov-jateng",
            "link prov-jateng",
            "peer prov-jateng/gw1"
        ],
        "only what the first lacks"
    );
    let Record::Peer(peer) = &delta[2] else {
        panic!("{delta:?}")
    };
    assert_eq!(peer.prefixes, ["10.33.1.0/24".parse().unwrap()]);
    second.hears_nothing().await;

    // A change of policy is heard at once, by whom it concerns.
    let begun = Instant::now();
    running.apply(&EXAMPLE.replace("tcp/445", "tcp/446")).await;
    let delta = first.take_view(&mut first_disk).await;
    assert_eq!(ids(&delta), ["link prov-jateng"]);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    println!("a change was heard after {:?}", begun.elapsed());
    assert_eq!(
        ids(&second.take_view(&mut second_disk).await),
        ["link kab-demak"]
    );

    let sd = running.page("/sd").await;
    assert!(
        sd.contains("100.127.0.1:9586")
            && sd.contains("\"__meta_pnsbox_node\":\"prov-jateng/gw1\""),
        "{sd}"
    );
    running
        .page_shows("pnsbox_controller_nodes{state=\"online\"} 2")
        .await;
    running.page_shows("pnsbox_controller_joins_total 2").await;

    // The controller goes and comes back: both still have their views.
    running.stop().await;
    let running = start(&config).await;
    let stopped = running.status().await;
    assert!(
        stopped
            .nodes
            .iter()
            .all(|node| node.state == NodeState::Offline && node.last_seen.is_some())
    );
    let mut first = running.connect(1, &first_disk).await;
    let mut second = running.connect(2, &second_disk).await;
    first.hears_nothing().await;
    second.hears_nothing().await;
    let fleet = running.status().await;
    assert!(
        fleet
            .nodes
            .iter()
            .all(|node| node.state == NodeState::Online && node.view_bytes_sent == 0)
    );
    assert!(
        fleet
            .nodes
            .iter()
            .all(|node| node.view_applied == node.view_wanted)
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_without_a_serving_controller_and_two_cannot_serve() {
    let folder = tempfile::tempdir().unwrap();
    let config = found(folder.path());
    let list = || {
        let config = config.clone();
        tokio::task::spawn_blocking(move || operator::ask(&config, &Request::AgencyList))
    };
    assert!(
        matches!(list().await.unwrap().unwrap(), Ok(Answer::Agencies { agencies }) if agencies.is_empty())
    );
    let running = start(&config).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let second = operator::open(&config, Duration::from_millis(50)).unwrap_err();
    assert!(
        second.to_string().contains("in use by another"),
        "{second:#}"
    );
    running.stop().await;
    assert!(
        matches!(list().await.unwrap().unwrap(), Ok(Answer::Agencies { agencies }) if agencies.len() == 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let other = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let taken = other.local_addr().unwrap();
    let config = Config {
        listen: vec![taken],
        ..found(folder.path())
    };
    let error = format!("{:#}", serve::open(&config).unwrap_err());
    assert!(
        error.contains(&taken.to_string()) && error.contains("in use"),
        "{error}"
    );
}
