//! Two nodes' links over loopback: a key that leaves the view loses its connection and gets no other.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_agent::eventloop::{EVENTS, Event};
use pnsbox_agent::links::Links;
use pnsbox_agent_core::event::Input;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::LinkMessage;
use tokio::sync::mpsc;

struct Node {
    links: Links,
    key: IdentityKey,
    events: mpsc::Receiver<Event>,
}

fn node(seed: u8) -> Node {
    let secret = SigningKey::from_bytes(&[seed; 32]);
    let key = IdentityKey(secret.verifying_key().to_bytes());
    let (sender, events) = mpsc::channel(EVENTS);
    let mut links = Links::new(secret, 0, sender);
    links.listen(Some(IpAddr::V4(Ipv4Addr::LOCALHOST))).unwrap();
    Node { links, key, events }
}

impl Node {
    async fn next(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(5), self.events.recv())
            .await
            .expect("an event")
            .unwrap()
    }

    /// Takes the next connection in and returns its number.
    async fn opened(&mut self) -> u64 {
        match self.next().await {
            Event::NewLink(new) => match self.links.open(*new) {
                Input::LinkUp { connection, .. } => connection,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn dial(&self, other: &Self) {
        let address = other.links.local_address().unwrap();
        self.links
            .dial("prov-jateng/gw1".parse().unwrap(), other.key, address);
    }
}

fn hello() -> LinkMessage {
    LinkMessage::Hello {
        protocol: 1,
        node: "kab-demak/gw1".parse().unwrap(),
    }
}

#[tokio::test]
async fn a_revoked_key_is_closed_and_refused() {
    let (mut a, mut b) = (node(1), node(2));
    b.links.accept_keys(vec![a.key]);

    a.dial(&b);
    let at_a = a.opened().await;
    a.links.send(at_a, hello());
    let at_b = b.opened().await;
    match b.next().await {
        Event::Core(input) => assert_eq!(
            *input,
            Input::Link {
                connection: at_b,
                message: hello()
            }
        ),
        other => panic!("{other:?}"),
    }

    b.links.accept_keys(Vec::new());
    b.links.close(at_b, "its key left the view");
    match a.next().await {
        Event::Core(input) => match *input {
            Input::LinkDown { connection, reason } => {
                assert_eq!(connection, at_a);
                assert!(!reason.is_empty());
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }

    a.dial(&b);
    match a.next().await {
        Event::Core(input) => assert!(matches!(*input, Input::LinkFailed { .. }), "{input:?}"),
        // TLS 1.3 lets the dialler believe itself connected until the refusal arrives.
        Event::NewLink(new) => {
            a.links.open(*new);
            let down = a.next().await;
            assert!(matches!(down, Event::Core(input) if matches!(*input, Input::LinkDown { .. })));
        }
        other => panic!("{other:?}"),
    }
    while let Ok(event) = b.events.try_recv() {
        assert!(
            !matches!(event, Event::NewLink(_)),
            "the revoked key got a second link"
        );
    }
}

#[tokio::test]
async fn a_peer_with_another_key_than_the_view_says_is_refused_by_the_dialler() {
    let (mut a, b) = (node(1), node(2));
    b.links.accept_keys(vec![a.key]);
    let stranger = IdentityKey([9; 32]);
    a.links.dial(
        "prov-jateng/gw1".parse().unwrap(),
        stranger,
        b.links.local_address().unwrap(),
    );
    match a.next().await {
        Event::Core(input) => assert!(matches!(*input, Input::LinkFailed { .. }), "{input:?}"),
        other => panic!("{other:?}"),
    }
}
