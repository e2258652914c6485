//! From bytes to what happens to an agent: right and wrong words of controllers, peers and the host.

use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use pnsbox_agent_core::event::{ConnectionId, Input, JoinCommand, ServiceConfig, TunnelState};
use pnsbox_proto::agency::AgencyDocument;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, WireguardKey};
use pnsbox_proto::message::{JoinRefusal, LinkMessage, ToAgent};
use pnsbox_proto::probe::Probe;
use pnsbox_proto::service::{Audience, ServiceKind};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{AuditHead, SignedView};

use super::{Link, World};
use crate::fuzz::documents::facts;
use crate::fuzz::network::{self, CONTROLLER, FAR, HUB, ME, NEAR, NODES, ROOT, STRANGER, known};
use crate::fuzz::{below, byte, chunk, chunked, frames, short};

impl World {
    pub(super) fn input(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        match below(bytes, 20) {
            0 => self.join(bytes),
            1 => Input::ControlUp {
                key: network::public([CONTROLLER, STRANGER][below(bytes, 2)]),
            },
            2 => Self::control(welcome(bytes)),
            3 => Self::control(joined(bytes)),
            4 => {
                let view = self.view(bytes);
                Self::control(ToAgent::View(view))
            }
            5 => Self::control(match self.asked.take() {
                Some(view) => ToAgent::Checked { view },
                None => ToAgent::JoinRefused {
                    reason: JoinRefusal::UnknownToken,
                },
            }),
            6 => Input::ControlDown {
                reason: words(bytes),
            },
            7 => self.host_applied(bytes),
            8 => self.link_up(bytes),
            9 => Input::Link {
                connection: self.connection(bytes),
                message: link_message(bytes),
            },
            10 => Input::Probe {
                connection: self.connection(bytes),
                probe: Probe {
                    echo: byte(bytes) & 1 == 1,
                    sequence: byte(bytes).into(),
                    sent_us: short(bytes).into(),
                },
            },
            11 => Input::LinkDown {
                connection: self.connection(bytes),
                reason: words(bytes),
            },
            12 => Input::LinkFailed {
                node: node(bytes),
                reason: words(bytes),
            },
            13 => Input::Check {
                service: known(
                    ["kab-demak/arsip", "kab-demak/data", "xx/nothing"][below(bytes, 3)],
                ),
                result: if byte(bytes) & 1 == 0 {
                    Ok(())
                } else {
                    Err(words(bytes))
                },
            },
            14 => tunnels(bytes),
            15 => Input::HostFacts(facts(bytes)),
            16 => {
                self.now.monotonic += Duration::from_millis(u64::from(byte(bytes)) * 250);
                // The wall clock may jump, back as well.
                self.now.wall = UnixTime(u64::from(short(bytes)));
                Input::Timeout
            }
            18 => {
                let (documents, quarantine) = (vec![document(bytes)], None);
                Self::control(ToAgent::Documents {
                    documents,
                    quarantine,
                })
            }
            19 => Input::Link {
                connection: self.connection(bytes),
                message: gossip(bytes),
            },
            _ => match frames::message(bytes, &[]) {
                Some(message) => Self::control(message),
                None => Input::Timeout,
            },
        }
    }

    fn control(message: ToAgent) -> Input {
        Input::Control(Box::new(message))
    }

    fn join(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let mut anchor = network::anchor();
        match below(bytes, 3) {
            1 => anchor.root = network::public(STRANGER).fingerprint(),
            2 => anchor.network = known("lain"),
            _ => {}
        }
        Input::Join(JoinCommand {
            anchor,
            prefixes: vec![known("10.44.1.0/24")],
            public_endpoint: None,
            second_endpoint: None,
        })
    }

    fn view(&mut self, bytes: &mut Unstructured<'_>) -> SignedView {
        let (version, records, kind) = (byte(bytes), byte(bytes), byte(bytes));
        let missing = if kind & 1 == 0 { 0 } else { byte(bytes) };
        let signer = if kind & 6 == 6 { STRANGER } else { CONTROLLER };
        view_of(version.into(), records, missing, signer)
    }

    fn host_applied(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let generation = match below(bytes, 4) {
            0 => u64::from(byte(bytes)),
            _ => self.generation,
        };
        let result = if byte(bytes) & 3 == 3 {
            Err(words(bytes))
        } else {
            Ok(())
        };
        Input::HostApplied { generation, result }
    }

    fn link_up(&mut self, bytes: &mut Unstructured<'_>) -> Input {
        let number = [33, 55, 66, STRANGER][below(bytes, 4)];
        self.opened += 1;
        let peer = NODES.into_iter().find(|(_, n)| *n == number);
        let link = Link {
            peer: peer.map(|(name, _)| name),
            greeted: false,
        };
        self.connections.insert(self.opened, link);
        Input::LinkUp {
            connection: self.opened,
            key: network::public(number),
            dialled: byte(bytes) & 1 == 1,
        }
    }

    fn connection(&self, bytes: &mut Unstructured<'_>) -> ConnectionId {
        // The last ones are those of which something can be expected.
        self.opened.saturating_sub(u64::from(byte(bytes)) % 4)
    }
}

pub(super) fn service(name: &str, audience: Audience) -> ServiceConfig {
    ServiceConfig {
        name: name.into(),
        kind: ServiceKind::Tcp,
        endpoint: SocketAddr::from(([10, 44, 1, 10], 5432)),
        audience,
        priority: 100,
        failures: 2,
    }
}

/// A view with the records whose bits are set, without those whose bits are missing. The highest bit is for one
/// that cannot be read, so the device has no bit of its own: it comes with the peer before it.
pub(super) fn view_of(version: u64, records: u8, missing: u8, signer: u8) -> SignedView {
    let all = network::records();
    let chosen = all
        .iter()
        .enumerate()
        .filter(|(i, _)| records & (1 << i.min(&6)) != 0);
    let mut texts: Vec<_> = chosen.map(|(_, record)| network::text(record)).collect();
    if records & 0x80 != 0 {
        texts.push(("peer poison".into(), "{}".into()));
    }
    let sent = |i: usize| i >= 8 || missing & (1 << i) == 0;
    network::view(("pns", &known(ME)), version, &texts, signer, sent)
}

/// What an agency says of how far it is, by its own key or another's.
fn document(bytes: &mut Unstructured<'_>) -> AgencyDocument {
    let node = below(bytes, NODES.len());
    let own = NODES[node].1 + 100;
    let signer = [own, own, own, CONTROLLER, STRANGER][below(bytes, 5)];
    let (sequence, void) = (u64::from(byte(bytes)), byte(bytes) & 1 == 1);
    network::document(node, signer, sequence, void).1
}

fn gossip(bytes: &mut Unstructured<'_>) -> LinkMessage {
    match below(bytes, 3) {
        0 => LinkMessage::Known {
            statements: NODES
                .iter()
                .map(|(name, _)| (known::<NodeName>(name).agency(), byte(bytes).into()))
                .collect(),
            quarantine: byte(bytes).into(),
        },
        1 => LinkMessage::Trail {
            audit: AuditHead {
                entries: byte(bytes).into(),
                digest: Digest([byte(bytes); 32]),
            },
        },
        _ => LinkMessage::Documents {
            documents: vec![document(bytes)],
            quarantine: None,
        },
    }
}

fn welcome(bytes: &mut Unstructured<'_>) -> ToAgent {
    let (root, certificate) = match below(bytes, 5) {
        0 | 1 => (ROOT, network::certificate(ROOT, CONTROLLER, "pns")),
        2 => (STRANGER, network::certificate(STRANGER, CONTROLLER, "pns")),
        3 => (ROOT, network::certificate(STRANGER, CONTROLLER, "pns")),
        _ => (ROOT, network::certificate(ROOT, CONTROLLER, "lain")),
    };
    ToAgent::Welcome {
        root: network::public(root),
        certificate,
        observed: network::controller_address(),
        now: UnixTime(1000),
        node: [Some(known(ME)), None, Some(known(HUB))][below(bytes, 3)].clone(),
    }
}

fn joined(bytes: &mut Unstructured<'_>) -> ToAgent {
    ToAgent::Joined {
        network: known(["pns", "lain"][below(bytes, 2)]),
        node: known(ME),
        controllers: vec![network::controller_address()],
    }
}

fn link_message(bytes: &mut Unstructured<'_>) -> LinkMessage {
    match below(bytes, 4) {
        0 | 1 => LinkMessage::Hello {
            protocol: 1,
            node: node(bytes),
        },
        2 => {
            let mut services = Vec::new();
            for _ in 0..below(bytes, 4) {
                let audience = match below(bytes, 3) {
                    0 => Audience::All,
                    1 => Audience::Only(vec![known("kab-demak")]),
                    _ => Audience::Only(Vec::new()),
                };
                services.push(network::service(node(bytes).as_str(), audience));
            }
            LinkMessage::Services { services }
        }
        _ => frames::message(bytes, &[]).unwrap_or(LinkMessage::Services {
            services: Vec::new(),
        }),
    }
}

fn tunnels(bytes: &mut Unstructured<'_>) -> Input {
    let mut tunnels = Vec::new();
    for _ in 0..below(bytes, 5) {
        tunnels.push(TunnelState {
            key: WireguardKey([[33, 55, 66, 9][below(bytes, 4)]; 32]),
            endpoint: (byte(bytes) & 1 == 0).then(network::controller_address),
            path_mtu: (byte(bytes) & 1 == 0).then_some(1280),
            last_handshake: (byte(bytes) & 1 == 0)
                .then(|| Duration::from_secs(short(bytes).into())),
            rx_bytes: short(bytes).into(),
            tx_bytes: u64::MAX - u64::from(byte(bytes)),
        });
    }
    Input::Tunnels(tunnels)
}

fn node(bytes: &mut Unstructured<'_>) -> NodeName {
    known([HUB, FAR, ME, NEAR, "xx/y"][below(bytes, 5)])
}

fn words(bytes: &mut Unstructured<'_>) -> String {
    String::from_utf8_lossy(chunk(bytes)).into_owned()
}

/// A box that joins and gets its views; one that comes back; links, services, and what goes wrong with each.
pub fn seeds() -> Vec<Vec<u8>> {
    let online: &[u8] = &[1, 0, 2, 0, 0];
    let joins: &[u8] = &[0, 0, 1, 0, 2, 0, 1, 3, 0];
    let view = |version: u8| [&[4, version, 0x7f, 0][..], &[7, 1, 0]].concat();
    let delta =
        |version: u8, missing: u8| [&[4, version, 0x1f, 1, missing][..], &[7, 1, 0]].concat();
    let links: &[u8] = &[
        8, 0, 1, 9, 0, 0, 0, 9, 0, 2, 2, 0, 0, 1, 0, 10, 0, 0, 1, 1, 0, 8, 1, 0, 9, 0, 1, 1,
    ];
    let checks: &[u8] = &[
        13, 0, 0, 13, 1, 0, 16, 8, 0, 4, 13, 1, 1, 0, 0, 13, 1, 1, 0, 0,
    ];
    let away: &[u8] = &[6, 1, 0, b'x', 16, 40, 0, 4];
    let facts: &[u8] = &[15, 2, 100, 127, 0, 1, 24, 10, 33, 1, 1, 24];
    let tunnels: &[u8] = &[14, 2, 0, 0, 0, 9, 9, 9, 9, 9, 1, 2, 1, 0, 9, 9, 9, 9, 9];
    let late: &[u8] = &[16, 200, 0, 4];
    let mut parts: Vec<Vec<u8>> = vec![
        joins.to_vec(),
        [joins, online, &view(1)].concat(),
        [online, &view(6), &view(5), &view(7)].concat(),
        [online, &view(6), &delta(7, 0), &delta(8, 0xff)].concat(),
        [
            online,
            &[4, 6, 0xff, 0, 4, 7, 0x7f, 0, 7, 1, 3, 0, 0, 7, 1, 0][..],
            late,
        ]
        .concat(),
        [online, &[4, 6, 0x7f, 6][..]].concat(),
        [online, &view(6), links, checks].concat(),
        [online, &view(6), links, checks, late, late].concat(),
        [online, &view(6), facts, &view(7), late, facts].concat(),
        [online, &view(6), tunnels, late, tunnels].concat(),
        [online, &view(6), away, online, &view(7)].concat(),
        [&[0, 1], &joins[2..], late].concat(),
        [&[0, 2], &joins[2..], &[5]].concat(),
        [&[1, 1, 2, 3, 0], late, &[1, 0, 2, 4, 0]].concat(),
        [online, &view(6), &[12, 0, 0, 0, 11, 0, 0, 0][..], late].concat(),
    ];
    for message in frames::to_agent() {
        let json = serde_json::to_vec(&message).expect("a plain struct");
        parts.push([online, &[17, 0xff], &chunked(&json)].concat());
    }
    let kinds = |part: &Vec<u8>| [0, 1, 3, 5, 7].map(|kind| [&[kind][..], part].concat());
    parts.iter().flat_map(kinds).collect()
}
