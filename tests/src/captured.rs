//! A controller in the wrong hands: all its keys and its store, at its address, against the real boxes of a lab.
//!
//! It speaks the control protocol as the real one does and signs what it likes. It has neither the root's key nor those
//! of agencies that do not play along. What must not come of that is judged by [`access`], on the box itself.

pub mod access;
pub mod attacks;
pub mod records;
mod serving;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use pnsbox_controller::keys;
use pnsbox_controller::store::Store;
use pnsbox_controller_core::controller::Keys;
use pnsbox_controller_core::registry::{Network, Node};
use pnsbox_controller_core::view::{NodeView, texts};
use pnsbox_proto::agency::{AgencyDocument, QuarantineList, SignedQuarantine};
use pnsbox_proto::envelope::{Document, Envelope};
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::{Digest, IdentityKey};
use pnsbox_proto::message::{ToAgent, ToController, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{Manifest, Record, RecordEntry, SignedView};
use serde::de::DeserializeOwned;

use crate::lab::Lab;
use serving::{Face, Server};

const HOST: &str = "pusat.controller";
const PROGRAM: &str = "pnsbox-controller";
/// A box answers a view in milliseconds; a slow machine takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What was stolen, and the conversations that are led with it.
#[derive(Debug)]
pub struct Captured {
    keys: Keys,
    network: Network,
    nodes: BTreeMap<NodeName, Node>,
    views: BTreeMap<NodeName, NodeView>,
    shut_out: Option<SignedQuarantine>,
    namespace: PathBuf,
    /// The namespace lives as long as somebody holds it.
    _held: File,
    server: Option<Server>,
    /// Manifests of the views that boxes were sent last.
    sent: BTreeMap<NodeName, Manifest>,
    /// All that boxes said and nobody asked for yet.
    said: Vec<(NodeName, ToController)>,
}

impl Captured {
    /// Stops the real controller and takes what it has. It does not serve yet.
    pub fn seize(lab: &Lab) -> Result<Self> {
        let process = PathBuf::from("/proc").join(lab.pid(HOST, PROGRAM)?.to_string());
        let held = File::open(process.join("ns/net"))?;
        let namespace = path_of(&held);
        let state = File::open(process.join("root/var/lib/pnsbox-controller"))?;
        lab.stop_program(HOST, PROGRAM, "TERM")?;
        let loot = tempfile::tempdir()?;
        for file in std::fs::read_dir(path_of(&state))? {
            let file = file?;
            if file.file_type()?.is_file() {
                std::fs::copy(file.path(), loot.path().join(file.file_name()))?;
            }
        }
        let keys = keys::load_all(loot.path())?;
        let entries = Store::read(loot.path(), "")?;
        let mut values = BTreeMap::new();
        for entry in entries {
            values.extend(entry.value.map(|value| (entry.key, value)));
        }
        let views: BTreeMap<NodeName, NodeView> = named(&values, "view/")?;
        let network: Network = parse(&values, "network")?.context("the store names no network")?;
        let controller = public(&keys.controller);
        let mut sent = BTreeMap::new();
        for (node, view) in &views {
            sent.insert(node.clone(), view.manifest.open(&controller)?);
        }
        Ok(Self {
            nodes: named(&values, "node/")?,
            shut_out: parse(&values, "quarantine-list")?,
            keys,
            network,
            views,
            namespace,
            _held: held,
            server: None,
            sent,
            said: Vec::new(),
        })
    }

    /// Gives the address back and starts the real controller.
    pub fn release(mut self, lab: &Lab) -> Result<()> {
        self.server = None;
        lab.start_program(HOST, PROGRAM)
    }

    /// Serves in the controller's place with all that it had.
    pub fn serve(&mut self) -> Result<()> {
        let certificate = self.network.certificate.clone();
        self.serve_as(self.keys.controller.clone(), certificate)
    }

    /// Serves with another key, which `certificate` is to bear out.
    pub fn serve_as(&mut self, key: SigningKey, certificate: Envelope) -> Result<()> {
        // First the address has to be free.
        self.server = None;
        let nodes = self.nodes.iter();
        let face = Face {
            key,
            certificate,
            root: self.network.root,
            nodes: nodes
                .map(|(name, node)| (node.identity, name.clone()))
                .collect(),
            address: SocketAddr::from(([0, 0, 0, 0], self.network.addresses[0].port())),
        };
        self.server = Some(Server::start(&self.namespace, face)?);
        Ok(())
    }

    /// What the real controller had for a box.
    pub fn honest(&self, node: &NodeName) -> Result<Vec<Record>> {
        let view = self.views.get(node).context("it has a view")?;
        let records = view.records.iter();
        records
            .map(|record| Ok(serde_json::from_str(&record.text)?))
            .collect()
    }

    /// The view of a box as the real controller signed it.
    pub fn old_view(&self, node: &NodeName) -> Result<SignedView> {
        Ok(self.views.get(node).context("it has a view")?.delta(None))
    }

    /// The next view of a box.
    pub fn view(&self, node: &NodeName, records: &[Record]) -> SignedView {
        self.view_with(node, records, &self.keys.controller, |_| {})
    }

    /// The same, signed by this key after its manifest was changed.
    pub fn view_with(
        &self,
        node: &NodeName,
        records: &[Record],
        signer: &SigningKey,
        change: impl FnOnce(&mut Manifest),
    ) -> SignedView {
        let texts = texts(records);
        let entries = texts.iter().map(|record| RecordEntry {
            id: record.id.clone(),
            sha256: record.sha256,
        });
        let mut manifest = self.sent[node].clone();
        manifest.version += 1;
        manifest.records = entries.collect();
        change(&mut manifest);
        SignedView {
            manifest: Envelope::sign(&manifest, signer),
            records: texts.into_iter().map(|record| record.text).collect(),
        }
    }

    /// Sends a view; returns what the box made of it at first.
    pub fn push(&mut self, node: &NodeName, view: SignedView) -> Result<ViewOutcome> {
        let digest = view.manifest.payload_digest();
        self.forget_outcomes(digest);
        let manifest: Option<Manifest> = view.manifest.open(&public(&self.keys.controller)).ok();
        self.send(node, ToAgent::View(view))?;
        let outcome = self.outcome(node, digest, |_| true)?;
        let is_in_force = matches!(outcome, ViewOutcome::Applied | ViewOutcome::OnTrial);
        if let Some(manifest) = manifest.filter(|_| is_in_force) {
            self.sent.insert(node.clone(), manifest);
        }
        Ok(outcome)
    }

    /// What a box said of a view before it is sent again is no answer.
    fn forget_outcomes(&mut self, of: Digest) {
        if let Some(server) = &self.server {
            self.said
                .extend(std::iter::from_fn(|| server.hear(Duration::ZERO)));
        }
        self.said.retain(|(_, message)| {
            !matches!(message, ToController::ViewOutcome { digest, .. } if *digest == of)
        });
    }

    /// Waits for an outcome of a view.
    pub fn outcome(
        &mut self,
        node: &NodeName,
        of: Digest,
        wanted: impl Fn(&ViewOutcome) -> bool,
    ) -> Result<ViewOutcome> {
        self.heard(node, Duration::from_secs(60), |message| match message {
            ToController::ViewOutcome {
                digest, outcome, ..
            } if *digest == of && wanted(outcome) => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Sends what agencies signed, or who is shut out.
    pub fn tell(
        &self,
        node: &NodeName,
        documents: Vec<AgencyDocument>,
        quarantine: Option<SignedQuarantine>,
    ) -> Result<()> {
        let message = ToAgent::Documents {
            documents,
            quarantine,
        };
        self.send(node, message)
    }

    /// Waits until a box says something in particular, or finds that it has.
    pub fn heard<T>(
        &mut self,
        node: &NodeName,
        limit: Duration,
        wanted: impl Fn(&ToController) -> Option<T>,
    ) -> Result<T> {
        let begun = Instant::now();
        loop {
            let found = self
                .said
                .iter()
                .enumerate()
                .find_map(|(at, (by, message))| {
                    let found = wanted(message).filter(|_| by == node)?;
                    Some((at, found))
                });
            if let Some((at, found)) = found {
                self.said.remove(at);
                return Ok(found);
            }
            let server = self.server.as_ref().context("nobody serves")?;
            match server.hear(limit.saturating_sub(begun.elapsed())) {
                Some(heard) => self.said.push(heard),
                None => bail!("{node} did not say it in {limit:?}"),
            }
        }
    }

    /// Waits until a box has dialled.
    pub fn await_box(&mut self, node: &NodeName) -> Result<()> {
        self.heard(node, Duration::from_secs(40), |message| {
            matches!(message, ToController::Hello { .. }).then_some(())
        })
    }

    fn send(&self, node: &NodeName, message: ToAgent) -> Result<()> {
        let server = self.server.as_ref().context("nobody serves")?;
        let begun = Instant::now();
        while !server.send(node, &message) {
            ensure!(begun.elapsed() < ANSWER_WITHIN, "{node} does not dial");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The stolen keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The network.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A list of who is shut out, with its certificate.
    pub fn quarantine(&self, list: &QuarantineList, signer: &SigningKey) -> SignedQuarantine {
        SignedQuarantine {
            certificate: self.network.certificate.clone(),
            list: Envelope::sign(list, signer),
        }
    }

    /// The longest audit trail that a box was shown.
    pub fn audit_entries(&self) -> u64 {
        let entries = self.sent.values().map(|manifest| manifest.audit.entries);
        entries.max().unwrap_or(0)
    }

    /// Number of the newest list of who is shut out.
    pub fn quarantine_sequence(&self) -> u64 {
        let signed = self.shut_out.as_ref();
        let list = signed.and_then(|s| {
            s.list
                .open::<QuarantineList>(&public(&self.keys.controller))
                .ok()
        });
        list.map_or(0, |list| list.sequence)
    }
}

/// The key of an agency that plays along, as its box has it.
pub fn agency_key(lab: &Lab, host: &str) -> Result<SigningKey> {
    let file = lab.run(host, &["cat", "/var/lib/pnsbox/agency.key"])?;
    let newest = file.lines().last().context("agency.key is empty")?;
    let seed: [u8; 32] = STANDARD
        .decode(newest)?
        .try_into()
        .map_err(|_| anyhow::anyhow!("{host}: agency.key is no key"))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Where a file that is held open is found, also when its name is in another namespace.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The public half.
pub fn public(key: &SigningKey) -> IdentityKey {
    IdentityKey(key.verifying_key().to_bytes())
}

/// A document, whoever signed it.
pub fn read<D: Document>(envelope: &Envelope) -> Result<D> {
    Ok(serde_json::from_str(&envelope.payload)?)
}

/// This machine's clock.
pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}

fn parse<T: DeserializeOwned>(values: &BTreeMap<String, String>, key: &str) -> Result<Option<T>> {
    let value = values.get(key).map(|value| serde_json::from_str(value));
    value
        .transpose()
        .with_context(|| format!("the store's {key}"))
}

fn named<T: DeserializeOwned>(
    values: &BTreeMap<String, String>,
    kind: &str,
) -> Result<BTreeMap<NodeName, T>> {
    let of_kind = values
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(kind)?, value)));
    of_kind
        .map(|(name, value)| Ok((name.parse()?, serde_json::from_str(value)?)))
        .collect()
}
