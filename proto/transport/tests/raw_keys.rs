//! Real QUIC over loopback: whose key is accepted, and when it is judged.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::SigningKey;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::LinkMessage;
use pnsbox_transport::limits::{self, KeepAlive};
use pnsbox_transport::{
    AnyKey, FramedReceiver, FramedSender, KeyPolicy, OnlyKey, client_config, peer_key,
    server_config,
};
use quinn::Endpoint;

const ALPN: &[u8] = b"test/1";

fn key(seed: u8) -> (SigningKey, IdentityKey) {
    let key = SigningKey::from_bytes(&[seed; 32]);
    let public = IdentityKey(key.verifying_key().to_bytes());
    (key, public)
}

#[derive(Debug)]
struct Members(Mutex<BTreeSet<IdentityKey>>);

impl KeyPolicy for Members {
    fn accepts(&self, key: &IdentityKey) -> bool {
        self.0.lock().unwrap().contains(key)
    }
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn server(secret: &SigningKey, policy: Arc<dyn KeyPolicy>) -> Endpoint {
    let mut config = server_config(secret, policy, ALPN).unwrap();
    config.transport_config(limits::transport(Duration::from_secs(5), KeepAlive::Never));
    limits::listener(&mut config);
    Endpoint::server(config, loopback()).unwrap()
}

fn client(secret: &SigningKey, expected: IdentityKey) -> Endpoint {
    let mut endpoint = Endpoint::client(loopback()).unwrap();
    let mut config = client_config(secret, Arc::new(OnlyKey(expected)), ALPN).unwrap();
    config.transport_config(limits::transport(Duration::from_secs(5), KeepAlive::Never));
    endpoint.set_default_client_config(config);
    endpoint
}

async fn dial(from: &Endpoint, to: &Endpoint) -> Result<quinn::Connection, quinn::ConnectionError> {
    from.connect(to.local_addr().unwrap(), "pnsbox")
        .unwrap()
        .await
}

fn hello(node: &str) -> LinkMessage {
    LinkMessage::Hello {
        protocol: 1,
        node: node.parse().unwrap(),
    }
}

#[tokio::test]
async fn both_sides_learn_the_key_that_was_proved() {
    let ((a_secret, a), (b_secret, b)) = (key(1), key(2));
    let listener = server(&a_secret, Arc::new(AnyKey));
    let dialler = client(&b_secret, a);
    let accept = async { listener.accept().await.unwrap().await.unwrap() };
    let (dialled, accepted) = tokio::join!(dial(&dialler, &listener), accept);
    let dialled = dialled.unwrap();
    assert_eq!(peer_key(&dialled), Some(a));
    assert_eq!(peer_key(&accepted), Some(b));

    let (send, _receive) = dialled.open_bi().await.unwrap();
    FramedSender::new(send)
        .send(&hello("kab-demak/gw1"))
        .await
        .unwrap();
    let (_send, receive) = accepted.accept_bi().await.unwrap();
    let received: LinkMessage = FramedReceiver::new(receive).receive().await.unwrap();
    assert_eq!(received, hello("kab-demak/gw1"));
}

#[tokio::test]
async fn a_server_with_another_key_is_refused_by_the_client() {
    let ((a_secret, _), (b_secret, _), (_, other)) = (key(1), key(2), key(3));
    let listener = server(&a_secret, Arc::new(AnyKey));
    let dialler = client(&b_secret, other);
    let accept = async { listener.accept().await.unwrap().await };
    let (dialled, accepted) = tokio::join!(dial(&dialler, &listener), accept);
    assert!(
        matches!(dialled, Err(quinn::ConnectionError::TransportError(_))),
        "{dialled:?}"
    );
    assert!(accepted.is_err());
}

#[tokio::test]
async fn a_key_revoked_between_two_connections_is_refused_the_second_time() {
    let ((a_secret, a), (b_secret, b)) = (key(1), key(2));
    let members = Arc::new(Members(Mutex::new([b].into())));
    let listener = server(&a_secret, members.clone());
    let dialler = client(&b_secret, a);
    let accept = || async { listener.accept().await.unwrap().await };

    let (dialled, accepted) = tokio::join!(dial(&dialler, &listener), accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());

    members.0.lock().unwrap().clear();
    let (second, refused) = tokio::join!(dial(&dialler, &listener), accept());
    assert!(refused.is_err(), "the server judges each connection anew");
    // A TLS 1.3 client may believe itself connected until the refusal arrives.
    if let Ok(second) = second {
        assert!(matches!(
            second.closed().await,
            quinn::ConnectionError::ConnectionClosed(_)
        ));
    }

    accepted.close(1u32.into(), b"revoked");
    assert!(matches!(
        dialled.closed().await,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
}

#[tokio::test]
async fn a_second_stream_and_an_endless_frame_are_refused() {
    let ((a_secret, a), (b_secret, _)) = (key(1), key(2));
    let listener = server(&a_secret, Arc::new(AnyKey));
    let dialler = client(&b_secret, a);
    let accept = async { listener.accept().await.unwrap().await.unwrap() };
    let (dialled, accepted) = tokio::join!(dial(&dialler, &listener), accept);
    let dialled = dialled.unwrap();

    let (mut send, _receive) = dialled.open_bi().await.unwrap();
    send.write_all(&[0xff; 8]).await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(200), dialled.open_bi()).await;
    assert!(second.is_err(), "the limit of one stream holds");

    let (_send, receive) = accepted.accept_bi().await.unwrap();
    let error = FramedReceiver::<LinkMessage>::new(receive)
        .receive()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
