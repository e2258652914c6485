//! A real controller over loopback: real QUIC sessions, a real store, commands over its socket.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first thing that is not as it should be"
)]

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
use pnsbox_controller_core::controller::Founding;
use pnsbox_controller_core::fleet::{FleetStatus, NodeState};
use pnsbox_controller_core::operator::{Answer, Refusal, Request};
use pnsbox_proto::anchor::Anchor;
use pnsbox_proto::certificate::ControllerCertificate;
use pnsbox_proto::key::{Digest, IdentityKey, WireguardKey};
use pnsbox_proto::message::{JoinRefusal, JoinRequest, ToAgent, ToController, Token, ViewOutcome};
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

/// The annotated example, which must be a policy.
const EXAMPLE: &str = include_str!("../../configs/policy.toml");

/// Longest wait for anything: a loaded machine is slow, a defect takes for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long nothing must come.
const QUIET: Duration = Duration::from_millis(300);

struct Running {
    config: Config,
    agents_at: SocketAddr,
    http_at: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// A box with a session.
struct Agent {
    root: Digest,
    controller: IdentityKey,
    _connection: Connection,
    _endpoint: Endpoint,
    sender: FramedSender<ToController>,
    receiver: FramedReceiver<ToAgent>,
}

/// What a box has on disk.
#[derive(Default)]
struct Disk {
    digest: Option<Digest>,
    version: u64,
    records: BTreeMap<Digest, String>,
}

fn found(folder: &Path) -> Config {
    let config = Config {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        state_dir: folder.join("state"),
        socket: folder.join("run/controller.sock"),
        http_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        ..Config::default()
    };
    keys::private_dir(&config.state_dir).unwrap();
    let root = keys::load_or_make(&config.state_dir.join(keys::ROOT_KEY)).unwrap();
    let controller = keys::load_or_make(&config.state_dir.join(keys::CONTROLLER_KEY)).unwrap();
    let founding = Founding {
        name: "pns".parse().unwrap(),
        addresses: vec!["203.0.113.10:443".parse().unwrap()],
        pool: "100.127.0.0/16".parse().unwrap(),
    };
    let first = founding.transaction(&root, &controller, "test", UnixTime(1_795_392_000));
    Store::open(&config.state_dir, Duration::ZERO)
        .unwrap()
        .transact(&first)
        .unwrap();
    // The controller does not need the root key to run.
    std::fs::remove_file(config.state_dir.join(keys::ROOT_KEY)).unwrap();
    config
}

async fn start(config: &Config) -> Running {
    let opened: Opened = serve::open(config).await.unwrap();
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
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }

    async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        let config = self.config.clone();
        tokio::task::spawn_blocking(move || operator::ask(&config, &request))
            .await
            .unwrap()
            .unwrap()
    }

    async fn add(&self, name: &str, prefix: &str) {
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

    async fn invite(&self, agency: &str) -> Anchor {
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

    async fn apply(&self, policy: &str) {
        let policy = config::table(Path::new("policy.toml"), policy).unwrap();
        match self.ask(Request::Apply { policy }).await {
            Ok(Answer::Difference { applied: true, .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    async fn status(&self) -> FleetStatus {
        match self.ask(Request::Status).await {
            Ok(Answer::Status { fleet }) => *fleet,
            other => panic!("{other:?}"),
        }
    }

    async fn page(&self, path: &str) -> String {
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
    async fn page_shows(&self, line: &str) {
        let begun = Instant::now();
        loop {
            let page = self.page("/metrics").await;
            if page.contains(line) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{line} not in {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Dials and greets as the box whose key is made of `seed`.
    async fn connect(&self, seed: u8, disk: &Disk) -> Agent {
        let key = SigningKey::from_bytes(&[seed; 32]);
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let mut client = client_config(&key, Arc::new(AnyKey), CONTROL_ALPN).unwrap();
        client.transport_config(limits::transport(
            Duration::from_secs(30),
            KeepAlive::Every(Duration::from_secs(5)),
        ));
        endpoint.set_default_client_config(client);
        let connection = endpoint
            .connect(self.agents_at, "pnsbox")
            .unwrap()
            .await
            .unwrap();
        let (send, receive) = connection.open_bi().await.unwrap();
        let mut agent = Agent {
            root: Digest([0; 32]),
            controller: peer_key(&connection).unwrap(),
            _connection: connection,
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
        agent.root = root.fingerprint();
        agent
    }

    async fn join(&self, seed: u8, agency: &str, lan: &str, public: Option<&str>) -> (Agent, Disk) {
        let anchor = self.invite(agency).await;
        let mut disk = Disk::default();
        let mut agent = self.connect(seed, &disk).await;
        assert_eq!(
            agent.root, anchor.root,
            "the controller proves the root of the anchor"
        );
        agent.say(&request(seed, anchor.token, lan, public)).await;
        let joined = agent.hear().await;
        assert!(
            matches!(&joined, ToAgent::Joined { node, .. } if *node == anchor.node),
            "{joined:?}"
        );
        agent.take_view(&mut disk).await;
        (agent, disk)
    }
}

impl Agent {
    async fn say(&mut self, message: &ToController) {
        self.sender.send(message).await.unwrap();
    }

    async fn hear(&mut self) -> ToAgent {
        tokio::time::timeout(PATIENCE, self.receiver.receive())
            .await
            .expect("an answer in time")
            .unwrap()
    }

    async fn hears_nothing(&mut self) {
        let heard = tokio::time::timeout(QUIET, self.receiver.receive()).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    /// Verifies, applies and acknowledges the next view; returns the records that came.
    async fn take_view(&mut self, disk: &mut Disk) -> Vec<Record> {
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
    fn apply(&mut self, view: &SignedView, controller: &IdentityKey) -> Vec<Record> {
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

fn request(seed: u8, token: Token, lan: &str, public: Option<&str>) -> ToController {
    ToController::Join(JoinRequest {
        token,
        wireguard: WireguardKey([seed; 32]),
        prefixes: vec![lan.parse().unwrap()],
        public_endpoint: public.map(|public| public.parse().unwrap()),
    })
}

fn ids(records: &[Record]) -> Vec<String> {
    records.iter().map(Record::id).collect()
}

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
    let delta = first.take_view(&mut first_disk).await;
    assert_eq!(
        ids(&delta),
        ["link prov-jateng", "peer prov-jateng/gw1"],
        "only what the first lacks"
    );
    let Record::Peer(peer) = &delta[1] else {
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
        sd.contains("100.127.0.1:9586") && sd.contains("\"node\":\"prov-jateng/gw1\""),
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
async fn tokens_that_are_no_good_are_refused_on_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let mut stranger = running.connect(9, &Disk::default()).await;
    stranger
        .say(&request(9, Token([7; 16]), "10.44.1.0/24", None))
        .await;
    assert_eq!(
        stranger.hear().await,
        ToAgent::JoinRefused {
            reason: JoinRefusal::UnknownToken
        }
    );

    // A hundred boxes try one token at the same time.
    let anchor = running.invite("kab-demak").await;
    let running = Arc::new(running);
    let tries: Vec<_> = (1..=100)
        .map(|seed| {
            let (running, token) = (Arc::clone(&running), anchor.token.clone());
            tokio::spawn(async move {
                let mut agent = running.connect(seed, &Disk::default()).await;
                agent.say(&request(seed, token, "10.44.1.0/24", None)).await;
                agent.hear().await
            })
        })
        .collect();
    let (mut joined, mut spent) = (0, 0);
    for answer in tries {
        match answer.await.unwrap() {
            ToAgent::Joined { .. } => joined += 1,
            ToAgent::JoinRefused {
                reason: JoinRefusal::Spent { .. },
            } => spent += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((joined, spent), (1, 99));
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
    let error = format!("{:#}", serve::open(&config).await.unwrap_err());
    assert!(
        error.contains(&taken.to_string()) && error.contains("in use"),
        "{error}"
    );
}
