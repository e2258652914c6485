//! What a captured controller tries on one box, and what must come of it.

mod keys;
mod links;
mod replays;
mod routes;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use ed25519_dalek::SigningKey;
use ipnet::IpNet;
use pnsbox_proto::agency::{
    Admission, AgencyDocument, LinkConsent, NodeClaim, SignedQuarantine, Statement, Subject, Void,
};
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::{IdentityKey, WireguardKey};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{AgencyRecord, PeerPath, PeerRecord, Record, SignedView};

use super::{Captured, now, public, read, records};

/// One attack.
#[derive(Debug)]
pub struct Attack {
    /// What is done.
    pub name: &'static str,
    /// What must not come of it.
    pub never: &'static str,
    /// How the box says that it was tried.
    pub reported: Reported,
    act: fn(&mut Attacker) -> Result<Blow>,
}

/// How a box shows an attack.
#[derive(Debug, Clone, Copy)]
pub enum Reported {
    /// The controller is named a liar, with this in the sentence.
    Distrusted(&'static str),
    /// A record is left out, with this in the sentence.
    Refused(&'static str),
    /// There is nothing to tell: it has no effect at all, or is what a controller may do.
    Not(&'static str),
}

/// What a box is sent.
#[derive(Debug)]
pub struct Blow {
    /// Before the view.
    pub told: (Vec<AgencyDocument>, Option<SignedQuarantine>),
    /// The view.
    pub view: SignedView,
    /// Beginnings of grants that may come of it.
    pub may: Vec<String>,
}

/// Whoever holds the controller, with an agency that plays along and one that he invented.
#[derive(Debug)]
pub struct Attacker {
    /// What he captured.
    pub captured: Captured,
    /// Whom he attacks.
    pub victim: NodeName,
    /// What the victim has when it is not attacked.
    pub honest: Vec<Record>,
    complicit: SigningKey,
    invented: SigningKey,
    sequence: u64,
}

/// The agency that plays along, with its box.
const COMPLICIT: &str = "kota-malang/gw1";
/// The agency that he invented.
const EVIL: &str = "kab-evil";
const EVIL_BOX: &str = "kab-evil/gw1";
const EVIL_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 0, 66);
/// Of its claim there is one, however often it is shown.
const EVIL_SINCE: UnixTime = UnixTime(1_790_000_000);
/// Keys whose private halves nobody needs: they never get as far as a handshake.
const EVIL_WIREGUARD: WireguardKey = WireguardKey([66; 32]);

/// Every attack on a view, in order. Each is followed by what is honest.
pub fn all() -> Vec<Attack> {
    [
        keys::ATTACKS,
        routes::ATTACKS,
        links::ATTACKS,
        replays::ATTACKS,
    ]
    .into_iter()
    .flatten()
    .map(|attack| Attack { ..*attack })
    .collect()
}

impl Attack {
    /// What the attacker sends for it.
    pub fn blow(&self, attacker: &mut Attacker) -> Result<Blow> {
        (self.act)(attacker)
    }
}

impl Attacker {
    /// Ready to attack `victim`, with the key of the agency that plays along.
    pub fn new(captured: Captured, victim: NodeName, complicit: SigningKey) -> Result<Self> {
        let mut honest = captured.honest(&victim)?;
        let claim: NodeClaim = read(&records::peer(&mut honest, COMPLICIT)?.claim)?;
        Ok(Self {
            captured,
            victim,
            honest,
            complicit,
            invented: SigningKey::from_bytes(&[13; 32]),
            sequence: claim.sequence,
        })
    }

    /// The other agency consented anew: what the box had of it is old.
    pub fn consented(&mut self, with: &AgencyName, theirs: Envelope) -> Result<()> {
        records::link(&mut self.honest, with.as_str())?.theirs = theirs;
        Ok(())
    }

    /// A view of these records.
    fn of(&self, records: &[Record]) -> Blow {
        self.sent(self.captured.view(&self.victim, records))
    }

    fn sent(&self, view: SignedView) -> Blow {
        Blow {
            told: (Vec::new(), None),
            view,
            may: Vec::new(),
        }
    }

    /// A claim of the agency that plays along; afterwards its claim is what it was.
    fn complicit_claim(&mut self, change: impl FnOnce(&mut NodeClaim)) -> Result<Envelope> {
        self.sequence += 2;
        let record = records::peer(&mut self.honest, COMPLICIT)?;
        let mut claim: NodeClaim = read(&record.claim)?;
        claim.sequence = self.sequence;
        record.claim = Envelope::sign(&claim, &self.complicit);
        claim.sequence -= 1;
        change(&mut claim);
        Ok(Envelope::sign(&claim, &self.complicit))
    }

    /// The honest records, but for the peer that plays along: it claims more, and the view gives it that.
    fn complicit_prefix(&mut self, prefix: &str) -> Result<Vec<Record>> {
        let prefix: IpNet = prefix.parse()?;
        let claim = self.complicit_claim(|claim| claim.prefixes.push(prefix))?;
        let mut all = self.honest.clone();
        let peer = records::peer(&mut all, COMPLICIT)?;
        peer.claim = claim;
        peer.prefixes.push(prefix);
        Ok(all)
    }

    /// A claim of a box that does not exist.
    fn claim_of(&self, node: &str, prefix: &str, signer: &SigningKey) -> Result<Envelope> {
        let claim = NodeClaim {
            network: self.captured.network().name.clone(),
            node: node.parse()?,
            identity: IdentityKey([66; 32]),
            wireguard: EVIL_WIREGUARD,
            overlay_v4: EVIL_ADDRESS,
            prefixes: vec![prefix.parse()?],
            sequence: 1,
            issued: EVIL_SINCE,
        };
        Ok(Envelope::sign(&claim, signer))
    }

    /// A peer that does not exist.
    fn peer_of(&self, node: &str, prefix: &str, signer: &SigningKey) -> Result<PeerRecord> {
        Ok(PeerRecord {
            node: node.parse()?,
            claim: self.claim_of(node, prefix, signer)?,
            prefixes: vec![prefix.parse()?],
            path: PeerPath::Direct {
                endpoint: SocketAddr::from(([203, 0, 113, 10], 51820)),
                second: None,
            },
            keepalive: false,
            devices: Vec::new(),
        })
    }

    fn evil_peer(&self) -> Result<PeerRecord> {
        self.peer_of(EVIL_BOX, "10.66.1.0/24", &self.invented)
    }

    /// The first key of an agency, signed by `by`.
    fn agency_of(&self, agency: &str, key: &SigningKey, by: &SigningKey) -> Result<AgencyRecord> {
        let admission = Admission {
            network: self.captured.network().name.clone(),
            agency: agency.parse()?,
            key: public(key),
            issued: now(),
        };
        Ok(AgencyRecord {
            agency: agency.parse()?,
            admission: Envelope::sign(&admission, by),
            successions: Vec::new(),
        })
    }

    /// The invented agency, admitted as one should be.
    fn evil_agency(&self) -> Result<Record> {
        let by = &self.captured.keys().admission;
        Ok(Record::Agency(self.agency_of(EVIL, &self.invented, by)?))
    }

    fn consent_of(&self, agency: &str, with: &str, signer: &SigningKey) -> Result<Envelope> {
        let consent = LinkConsent {
            network: self.captured.network().name.clone(),
            agency: agency.parse()?,
            with: with.parse()?,
            opens: None,
            until: None,
            sequence: now().0 + 1,
            issued: now(),
        };
        Ok(Envelope::sign(&consent, signer))
    }

    /// The invented agency says that the claim of its box is void.
    fn evil_takes_back(&self) -> Result<AgencyDocument> {
        let statement = Statement {
            network: self.captured.network().name.clone(),
            agency: EVIL.parse()?,
            sequence: 2,
            issued: now(),
            void: vec![Void {
                subject: Subject::Node(EVIL_BOX.parse()?),
                below: 2,
            }],
        };
        let signed = Envelope::sign(&statement, &self.invented);
        Ok(AgencyDocument::Statement(signed))
    }
}
