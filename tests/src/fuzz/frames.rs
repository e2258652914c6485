//! What comes over a stream or as a probe: frames, messages, names, keys. What can be read must survive being written.

use std::fmt::{Debug, Display};
use std::pin::pin;
use std::str::FromStr;
use std::task::{Context, Poll, Waker};

use arbitrary::Unstructured;
use pnsbox_proto::access::Allow;
use pnsbox_proto::frame::{self, FrameError, HEADER_BYTES, MAX_FRAME_BYTES};
use pnsbox_proto::id::{AgencyName, NetworkName, NodeName, ServiceName};
use pnsbox_proto::key::{Digest, IdentityKey, Signature, WireguardKey};
use pnsbox_proto::message::{JoinRefusal, LinkMessage, ToAgent, ToController, ViewOutcome};
use pnsbox_proto::probe::{PROBE_BYTES, Probe};
use pnsbox_proto::service::{Audience, ServiceKind};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::AuditHead;
use pnsbox_transport::{FramedError, FramedReceiver};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::network::{self, HUB, ME, known};
use super::{below, byte};

/// Throws `data` at the readers.
pub fn run(data: &[u8]) {
    let mut bytes = Unstructured::new(data);
    let kind = below(&mut bytes, 6);
    let rest = bytes.take_rest();
    match kind {
        0 => stream::<ToController>(rest),
        1 => stream::<ToAgent>(rest),
        2 => stream::<LinkMessage>(rest),
        3 => header(rest),
        4 => probe(rest),
        _ => words(rest),
    }
}

/// Receives until the bytes end. Each message that is understood is understood again after it was written.
fn stream<M: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let mut receiver = FramedReceiver::<M, &[u8]>::new(bytes);
    let mut left = bytes;
    loop {
        let received = at_once(receiver.receive());
        let Some((header, rest)) = left.split_first_chunk::<HEADER_BYTES>() else {
            assert!(matches!(received, Err(FramedError::Read(_))));
            return;
        };
        let length = u32::from_be_bytes(*header) as usize;
        if length > MAX_FRAME_BYTES {
            let refused =
                matches!(received, Err(FramedError::Frame(FrameError::TooLong(n))) if n == length);
            assert!(refused, "a frame of {length} bytes is read");
            return;
        }
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            assert!(
                matches!(received, Err(FramedError::Read(_))),
                "half a frame is a message"
            );
            return;
        };
        left = rest;
        match received {
            Ok(message) => written_and_read_again(&message),
            Err(FramedError::Frame(FrameError::Malformed(_))) => {
                assert!(serde_json::from_slice::<M>(payload).is_err());
            }
            Err(other) => panic!("a whole frame of {length} bytes: {other}"),
        }
    }
}

fn written_and_read_again<M: Serialize + DeserializeOwned + Debug>(message: &M) {
    let Ok(frame) = frame::encode(message) else {
        return;
    };
    let (header, payload) = frame
        .split_first_chunk()
        .expect("a frame begins with its length");
    assert_eq!(frame::payload_length(*header).ok(), Some(payload.len()));
    let again: M = frame::decode(payload).expect("what we wrote can be read");
    // Fractions of health may lose their last bit when they are read, so the texts are compared without them.
    assert_eq!(without_fractions(message), without_fractions(&again));
}

fn without_fractions(message: &impl Serialize) -> serde_json::Value {
    let mut value = serde_json::to_value(message).expect("messages are plain structs");
    drop_fractions(&mut value);
    value
}

fn drop_fractions(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) if number.is_f64() => *value = serde_json::Value::Null,
        serde_json::Value::Array(values) => values.iter_mut().for_each(drop_fractions),
        serde_json::Value::Object(values) => values.values_mut().for_each(drop_fractions),
        _ => {}
    }
}

fn header(bytes: &[u8]) {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return;
    };
    match frame::payload_length(*header) {
        Ok(length) => {
            assert!(length <= MAX_FRAME_BYTES);
            assert_eq!(length, u32::from_be_bytes(*header) as usize);
        }
        Err(error) => assert!(matches!(error, FrameError::TooLong(n) if n > MAX_FRAME_BYTES)),
    }
}

fn probe(bytes: &[u8]) {
    match Probe::decode(bytes) {
        Some(probe) => assert_eq!(probe.encode(), bytes),
        None => assert!(bytes.len() != PROBE_BYTES || bytes[0] > 1),
    }
}

/// Names and keys: whatever is accepted has one text, without anything that a shell, a terminal or a path would heed.
fn words(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let harmless = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '/');
    for name in [
        same::<NetworkName>(text),
        same::<AgencyName>(text),
        same::<NodeName>(text),
        same::<ServiceName>(text),
    ] {
        assert!(name.chars().all(harmless) && name.len() <= 80, "{name:?}");
        assert!(name.matches('/').count() <= 1, "{name:?}");
    }
    if let Ok(node) = text.parse::<NodeName>() {
        let label = text.rsplit('/').next().unwrap_or_default();
        assert_eq!(NodeName::new(&node.agency(), label).ok(), Some(node));
    }
    same::<ServiceKind>(text);
    for key in [
        text.parse::<IdentityKey>().map(|k| k.to_string()),
        text.parse::<WireguardKey>().map(|k| k.to_string()),
        text.parse::<Signature>().map(|k| k.to_string()),
    ]
    .into_iter()
    .flatten()
    {
        assert_eq!(key, text, "a key has one text");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(allow) = text.parse::<Allow>() {
        assert_eq!(allow.to_string().parse::<Allow>().ok(), Some(allow));
    }
    let seconds = bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    assert!(!UnixTime(seconds).to_string().is_empty());
}

/// The text of what `text` parses to; empty if it does not.
fn same<T: FromStr + Display>(text: &str) -> String {
    let Ok(value) = text.parse::<T>() else {
        return String::new();
    };
    let shown = value.to_string();
    assert_eq!(shown, text, "it is shown as it was written");
    shown
}

/// The result of a future that never waits.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("reading bytes in memory waits"),
    }
}

/// One message of each kind, framed; a probe; a name, a key.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for message in to_controller() {
        seeds.push(framed(0, &[&message]));
    }
    for message in to_agent() {
        seeds.push(framed(1, &[&message]));
    }
    let hello = LinkMessage::Hello {
        protocol: 1,
        node: known(ME),
    };
    let services = LinkMessage::Services {
        services: vec![network::service(HUB, Audience::All)],
    };
    seeds.push(framed(2, &[&hello, &services]));
    seeds.push(vec![3, 0, 0x10, 0, 0]);
    let probe = Probe {
        echo: true,
        sequence: 7,
        sent_us: 9,
    };
    seeds.push([&[4][..], &probe.encode()].concat());
    for word in [ME, "tcp/8080-8099", "http", &network::public(1).to_string()] {
        seeds.push([&[5], word.as_bytes()].concat());
    }
    for digest in [Digest::of(b"").to_string(), "+f".repeat(32)] {
        seeds.push([&[5], digest.as_bytes()].concat());
    }
    seeds
}

fn framed<M: Serialize>(kind: u8, messages: &[&M]) -> Vec<u8> {
    let mut bytes = vec![kind];
    for message in messages {
        bytes.extend(frame::encode(message).expect("a seed is short"));
    }
    bytes
}

/// One of each kind.
pub(super) fn to_controller() -> Vec<ToController> {
    let digest = Digest([5; 32]);
    let outcome = |outcome| ToController::ViewOutcome {
        version: 3,
        digest,
        outcome,
        quarantined: vec!["peer a".into()],
    };
    let anchor = network::anchor();
    vec![
        ToController::Hello {
            protocol: 1,
            software: "0.1.0".into(),
            view: Some(digest),
            audit: Some(AuditHead { entries: 9, digest }),
            run: Some(u64::MAX),
        },
        ToController::Join(pnsbox_proto::message::JoinRequest {
            token: anchor.token,
            agency: Some(network::agency_public(44)),
            wireguard: WireguardKey([8; 32]),
            prefixes: vec![known("10.44.1.0/24"), known("fd44::/64")],
            public_endpoint: Some(network::controller_address()),
            second_endpoint: None,
        }),
        ToController::Health(network::health("0.1.0")),
        ToController::Services {
            services: vec![network::service(
                ME,
                Audience::Only(vec![known("prov-jateng")]),
            )],
        },
        ToController::Check { view: digest },
        ToController::Documents {
            documents: vec![network::document(0, 144, 9, true).1],
        },
        outcome(ViewOutcome::Applied),
        outcome(ViewOutcome::OnTrial),
        outcome(ViewOutcome::RolledBack {
            reason: "no".into(),
        }),
        outcome(ViewOutcome::Incomplete),
        outcome(ViewOutcome::Refused {
            reason: "no".into(),
        }),
    ]
}

/// One of each kind.
pub(super) fn to_agent() -> Vec<ToAgent> {
    let texts: Vec<_> = network::records().iter().map(network::text).collect();
    let view = network::view(("pns", &known(ME)), 1, &texts, network::CONTROLLER, |_| {
        true
    });
    let refused = |reason| ToAgent::JoinRefused { reason };
    vec![
        ToAgent::Welcome {
            root: network::public(network::ROOT),
            certificate: network::certificate(network::ROOT, network::CONTROLLER, "pns"),
            observed: network::controller_address(),
            now: UnixTime(1000),
            node: Some(known(ME)),
        },
        ToAgent::Joined {
            network: network::network(),
            node: known(ME),
            controllers: vec![network::controller_address()],
        },
        refused(JoinRefusal::UnknownToken),
        refused(JoinRefusal::Spent {
            when: UnixTime(7),
            node: known(ME),
        }),
        refused(JoinRefusal::Invalid {
            reason: "it is".into(),
        }),
        ToAgent::View(view),
        ToAgent::Documents {
            documents: vec![network::document(1, 133, 9, true).1],
            quarantine: None,
        },
        ToAgent::Checked {
            view: Digest([5; 32]),
        },
    ]
}

/// A message as JSON, from the next chunk of bytes or one of `samples`.
pub(super) fn message<M: DeserializeOwned + Clone>(
    bytes: &mut Unstructured<'_>,
    samples: &[M],
) -> Option<M> {
    let chosen = usize::from(byte(bytes));
    match samples.get(chosen) {
        Some(sample) => Some(sample.clone()),
        None => frame::decode(super::chunk(bytes)).ok(),
    }
}
