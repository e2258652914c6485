//! A real controller over loopback: real QUIC sessions, a real store, commands over its socket.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use pnsbox_controller::config::{self, Config};
use pnsbox_controller::serve::{self, Opened};
use pnsbox_controller::store::Store;
use pnsbox_controller::{keys, operator};
use pnsbox_controller_core::audit::Origin;
use pnsbox_controller_core::controller::{Founding, Keys};
use pnsbox_controller_core::fleet::FleetStatus;
use pnsbox_controller_core::operator::{Answer, Refusal, Request};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRequest, ToAgent, ToController, Token, ViewOutcome};
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::{Manifest, Record, SignedView};
use pnsbox_proto::{CONTROL_ALPN, PROTOCOL_VERSION};
use pnsbox_transport::limits::{self, KeepAlive};
use pnsbox_transport::{AnyKey, FramedReceiver, FramedSender, client_config, peer_key};
use quinn::{Connection, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::signing;

/// The annotated example, which must be a policy.
pub(crate) const EXAMPLE: &str = include_str!("../../../configs/policy.toml");

/// Longest wait for anything: a loaded machine is slow, a defect takes for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing must come.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

pub(crate) struct Running {
    config: Config,
    pub(crate) agents_at: SocketAddr,
    pub(crate) http_at: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

/// A box with a session.
pub(crate) struct Agent {
    pub(crate) root: Digest,
    pub(crate) root_key: IdentityKey,
    pub(crate) controller: IdentityKey,
    pub(crate) connection: Connection,
    pub(crate) _endpoint: Endpoint,
    pub(crate) sender: FramedSender<ToController>,
    pub(crate) receiver: FramedReceiver<ToAgent>,
}

/// What a box has on disk.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) digest: Option<Digest>,
    pub(crate) version: u64,
    pub(crate) records: BTreeMap<Digest, String>,
}

pub(crate) fn found(folder: &Path) -> Config {
    let config = Config {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        state_dir: folder.join("state"),
        socket: folder.join("run/controller.sock"),
        http_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..Config::default()
    };
    keys::private_dir(&config.state_dir).unwrap();
    let root = keys::load_or_make(&config.state_dir.join(keys::ROOT_KEY)).unwrap();
    let own = Keys {
        controller: keys::load_or_make(&config.state_dir.join(keys::CONTROLLER_KEY)).unwrap(),
        admission: keys::load_or_make(&config.state_dir.join(keys::ADMISSION_KEY)).unwrap(),
    };
    let founding = Founding {
        name: "pns".parse().unwrap(),
        addresses: vec!["203.0.113.10:443".parse().unwrap()],
        pool: "100.127.0.0/16".parse().unwrap(),
    };
    let first = founding.transaction(&root, &own, &Origin::here("test"), UnixTime(1_795_392_000));
    Store::open(&config.state_dir, Duration::ZERO)
        .unwrap()
        .transact(&first)
        .unwrap();
    // The controller does not need the root key to run.
    std::fs::remove_file(config.state_dir.join(keys::ROOT_KEY)).unwrap();
    config
}

pub(crate) async fn start(config: &Config) -> Running {
    let opened: Opened = serve::open(config).unwrap();
    let (agents_at, http_at) = (opened.agents_at().unwrap()[0], opened.http_at().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(opened.run(async move { drop(stopped.await) }));
    Running {
        config: config.clone(),
        agents_at,
        http_at,
        stop,
        task,
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        let config = self.config.clone();
        tokio::task::spawn_blocking(move || operator::ask(&config, &request))
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn add(&self, name: &str, prefix: &str) {
        let (name, prefixes) = (name.parse().unwrap(), vec![prefix.parse().unwrap()]);
        self.ask(Request::AgencyAdd {
            name,
            prefixes,
            class: None,
            region: None,
        })
        .await
        .unwrap();
    }

    pub(crate) async fn invite(&self, agency: &str) -> Anchor {
        let agency = agency.parse().unwrap();
        match self
            .ask(Request::Invite {
                agency,
                node: "gw1".to_owned(),
                expires_in_s: 3600,
            })
            .await
        {
            Ok(Answer::Invited { anchor, .. }) => anchor.parse().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn apply(&self, policy: &str) {
        let policy = config::table(Path::new("policy.toml"), policy).unwrap();
        match self.ask(Request::Apply { policy }).await {
            Ok(Answer::Difference { applied: true, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn status(&self) -> FleetStatus {
        match self.ask(Request::Status).await {
            Ok(Answer::Status { fleet }) => *fleet,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http_at).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// Metrics follow within a second.
    pub(crate) async fn page_shows(&self, line: &str) {
        let begun = Instant::now();
        loop {
            let page = self.page("/metrics").await;
            // A metric's help may say the same words as its value.
            if page.lines().any(|shown| shown.starts_with(line)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{line} not in {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Dials and greets as the box whose key is made of `seed`.
    pub(crate) async fn connect(&self, seed: u8, disk: &Disk) -> Agent {
        connect(self.agents_at, seed, disk).await
    }

    pub(crate) async fn join(
        &self,
        seed: u8,
        agency: &str,
        lan: &str,
        public: Option<&str>,
    ) -> (Agent, Disk) {
        let anchor = self.invite(agency).await;
        let mut disk = Disk::default();
        let mut agent = self.connect(seed, &disk).await;
        assert_eq!(
            agent.root, anchor.root,
            "the controller proves the root of the anchor"
        );
        let agency = anchor.node.agency();
        let request = joining(seed, Some(&agency), anchor.token, lan, public);
        agent.say(&request).await;
        let joined = agent.hear().await;
        assert!(
            matches!(&joined, ToAgent::Joined { node, .. } if *node == anchor.node),
            "{joined:?}"
        );
        agent.take_view(&mut disk).await;
        agent.sign(&mut disk).await;
        (agent, disk)
    }
}

/// Dials the controller at `to` and greets as the box whose key is made of `seed`.
pub(crate) async fn connect(to: SocketAddr, seed: u8, disk: &Disk) -> Agent {
    let endpoint = dial::endpoint(Ipv4Addr::LOCALHOST, seed);
    let connection = endpoint.connect(to, "pnsbox").unwrap().await.unwrap();
    let (send, receive) = connection.open_bi().await.unwrap();
    let mut agent = Agent {
        root: Digest([0; 32]),
        root_key: IdentityKey([0; 32]),
        controller: peer_key(&connection).unwrap(),
        connection,
        _endpoint: endpoint,
        sender: FramedSender::new(send),
        receiver: FramedReceiver::new(receive),
    };
    let software = "0.1.0".to_owned();
    agent
        .say(&ToController::Hello {
            protocol: PROTOCOL_VERSION,
            software,
            view: disk.digest,
            audit: None,
            run: None,
        })
        .await;
    let ToAgent::Welcome {
        root,
        certificate,
        observed,
        ..
    } = agent.hear().await
    else {
        panic!("welcome comes first")
    };
    // What an agent judges before it says anything secret.
    let certificate: ControllerCertificate = certificate.open(&root).unwrap();
    assert_eq!(certificate.controller, agent.controller);
    assert_eq!(certificate.network.as_str(), "pns");
    assert_eq!(observed.ip(), Ipv4Addr::LOCALHOST);
    (agent.root, agent.root_key) = (root.fingerprint(), root);
    agent
}

impl Agent {
    pub(crate) async fn say(&mut self, message: &ToController) {
        self.sender.send(message).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> ToAgent {
        tokio::time::timeout(PATIENCE, self.receiver.receive())
            .await
            .expect("an answer in time")
            .unwrap()
    }

    /// Waits for the end of the session; returns what was said about it.
    pub(crate) async fn ended(&mut self) -> String {
        let connection = self.connection.clone();
        tokio::time::timeout(PATIENCE, connection.closed())
            .await
            .expect("an end in time")
            .to_string()
    }

    pub(crate) async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(QUIET, self.receiver.receive()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Verifies, applies and acknowledges the next view; returns the records that came.
    pub(crate) async fn take_view(&mut self, disk: &mut Disk) -> Vec<Record> {
        let ToAgent::View(view) = self.hear().await else {
            panic!("a view")
        };
        let came = disk.apply(&view, &self.controller);
        let (version, digest) = (disk.version, disk.digest.unwrap());
        self.say(&ToController::ViewOutcome {
            version,
            digest,
            outcome: ViewOutcome::Applied,
            quarantined: vec![],
        })
        .await;
        came
    }
}

impl Disk {
    pub(crate) fn apply(&mut self, view: &SignedView, controller: &IdentityKey) -> Vec<Record> {
        let manifest: Manifest = view.manifest.open(controller).unwrap();
        assert!(manifest.version > self.version);
        self.records.extend(
            view.records
                .iter()
                .map(|text| (Digest::of(text.as_bytes()), text.clone())),
        );
        assert!(
            manifest
                .records
                .iter()
                .all(|entry| self.records.contains_key(&entry.sha256)),
            "nothing is missing"
        );
        self.version = manifest.version;
        self.digest = Some(view.manifest.payload_digest());
        view.records
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect()
    }
}

/// Of a box that cannot sign for its agency.
pub(crate) fn request(seed: u8, token: Token, lan: &str, public: Option<&str>) -> ToController {
    joining(seed, None, token, lan, public)
}

pub(crate) fn joining(
    seed: u8,
    agency: Option<&AgencyName>,
    token: Token,
    lan: &str,
    public: Option<&str>,
) -> ToController {
    ToController::Join(JoinRequest {
        token,
        agency: agency.map(signing::public),
        wireguard: WireguardKey([seed; 32]),
        prefixes: vec![lan.parse().unwrap()],
        public_endpoint: public.map(|public| public.parse().unwrap()),
        second_endpoint: None,
    })
}

pub(crate) fn ids(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::id).collect()
}

/// Endpoints as agents have them.
pub(crate) mod dial {
    use super::*;

    /// One at the address `from`, with the key that is made of `seed`.
    pub(crate) fn endpoint(from: Ipv4Addr, seed: u8) -> Endpoint {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let mut endpoint = Endpoint::client((from, 0).into()).unwrap();
        let mut client = client_config(&key, Arc::new(AnyKey), CONTROL_ALPN).unwrap();
        client.transport_config(limits::transport(
            Duration::from_secs(30),
            KeepAlive::Every(Duration::from_secs(5)),
        ));
        endpoint.set_default_client_config(client);
        endpoint
    }
}
