//! A plain WireGuard device from the operator's side: what is printed where, and what its gateway is told.

use std::process::Output;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pnsbox_proto::address::device_v6;
use pnsbox_proto::agency::DeviceClaim;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::message::ToAgent;
use pnsbox_proto::view::{ExternalRecord, Record};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::program::{Place, Serving};
use crate::signing;
use crate::support::{Agent, Disk, connect, joining};

struct World {
    place: Place,
    _serving: Serving,
    gateway: Agent,
    disk: Disk,
    /// The network's root.
    root: IdentityKey,
    /// Number of the last document of the agency.
    claims: u64,
    _folder: tempfile::TempDir,
}

impl World {
    /// A controller, and a gateway of kab-demak with a public endpoint if it is `public`.
    async fn new(public: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::found(folder.path());
        let serving = place.serve("info");
        text(&place.run(&["agency", "add", "kab-demak", "--prefix", "10.44.0.0/16"]));
        let anchor = text(&place.run(&["invite", "kab-demak"]));
        let anchor: pnsbox_proto::anchor::Anchor = anchor.trim().parse().unwrap();
        let mut disk = Disk::default();
        let mut gateway = connect(place.agents_at, 1, &disk).await;
        gateway
            .say(&joining(
                1,
                Some(&anchor.node.agency()),
                anchor.token,
                "10.44.1.0/24",
                public,
            ))
            .await;
        assert!(matches!(gateway.hear().await, ToAgent::Joined { .. }));
        gateway.take_view(&mut disk).await;
        gateway.sign(&mut disk).await;
        let root = gateway.root_key;
        Self {
            place,
            _serving: serving,
            gateway,
            disk,
            root,
            claims: 100,
            _folder: folder,
        }
    }

    fn run(&self, arguments: &[&str]) -> String {
        text(&self.place.run(arguments))
    }

    /// What the gateway is told, once its agency has claimed what is new.
    async fn told_when_claimed(&mut self) -> Option<ExternalRecord> {
        assert_eq!(self.told().await, None, "nobody has claimed it");
        self.claims += 1;
        self.gateway.claim_devices(&self.disk, self.claims).await;
        self.told().await
    }

    async fn told(&mut self) -> Option<ExternalRecord> {
        let records = self.gateway.take_view(&mut self.disk).await;
        records.into_iter().find_map(|record| match record {
            Record::External(external) => Some(external),
            _ => None,
        })
    }
}

/// What the agency says of the device.
fn claim(record: &ExternalRecord) -> DeviceClaim {
    let key = signing::public(&"kab-demak".parse().unwrap());
    record.claim.open(&key).unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn value<'a>(configuration: &'a str, key: &str) -> &'a str {
    let mut lines = configuration.lines();
    lines
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))
        .unwrap_or_else(|| panic!("no {key} in {configuration}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_printed_is_what_the_gateway_is_told() {
    let mut world = World::new(Some("[2001:db8::30]:51820")).await;
    let added = world
        .place
        .run(&["external", "add", "laptop-budi", "--agency", "kab-demak"]);
    let configuration = text(&added);
    let explained = String::from_utf8_lossy(&added.stderr).into_owned();
    assert!(explained.contains("the only time"), "{explained}");
    assert!(
        !explained.contains('\u{2588}'),
        "no code where nobody looks"
    );
    let told = claim(&world.told_when_claimed().await.unwrap());
    assert_eq!(told.device.as_str(), "kab-demak/laptop-budi");
    let secret: [u8; 32] = STANDARD
        .decode(value(&configuration, "PrivateKey"))
        .unwrap()
        .try_into()
        .unwrap();
    let public = PublicKey::from(&StaticSecret::from(secret));
    assert_eq!(told.wireguard.as_bytes(), public.as_bytes());
    let v6 = device_v6(&world.root, &told.wireguard);
    let address = format!("{}/32, {v6}/128", told.overlay_v4);
    assert_eq!(value(&configuration, "Address"), address);
    assert_eq!(value(&configuration, "Endpoint"), "[2001:db8::30]:51820");
    assert!(value(&configuration, "AllowedIPs").starts_with("100.127.0.1/32, fd"));

    // Again, without the key; as JSON; in the list.
    let shown = world.run(&["external", "show", "kab-demak/laptop-budi"]);
    let key = format!("PrivateKey = {}", value(&configuration, "PrivateKey"));
    let placeholder = "# The device's own private key belongs here:\n# PrivateKey = ";
    assert_eq!(shown, configuration.replace(&key, placeholder));
    let listed = world.run(&["external", "list", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["schema"], "pnsbox.externals/1");
    assert_eq!(listed["externals"][0]["gateway"], "kab-demak/gw1");
    assert!(
        world
            .run(&["external", "list"])
            .contains("kab-demak/laptop-budi")
    );

    world.run(&["external", "remove", "kab-demak/laptop-budi"]);
    assert_eq!(world.told().await, None);
    assert!(
        world
            .run(&["external", "list"])
            .contains("no device is added")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_may_bring_its_own_key_and_a_code_is_shown_on_request() {
    let mut world = World::new(Some("203.0.113.30:51820")).await;
    let public = PublicKey::from(&StaticSecret::from([7; 32]));
    let key = STANDARD.encode(public.as_bytes());
    let add = ["external", "add", "router", "--agency", "kab-demak"];
    let own = [&add[..], &["--public-key", &key, "--json"]].concat();
    let answer: serde_json::Value = serde_json::from_str(&world.run(&own)).unwrap();
    assert_eq!(answer["schema"], "pnsbox.external/1");
    assert_eq!(answer["external"]["wireguard"], key);
    let configuration = answer["configuration"].as_str().unwrap();
    assert!(
        configuration.contains("\n# PrivateKey = \n"),
        "{configuration}"
    );
    let told = claim(&world.told_when_claimed().await.unwrap());
    assert_eq!(told.wireguard.as_bytes(), public.as_bytes());

    let with_code = [&add[..2], &["phone", "--agency", "kab-demak", "--qr"]].concat();
    let shown = world.place.run(&with_code);
    assert!(String::from_utf8_lossy(&shown.stderr).contains('\u{2588}'));
    assert!(text(&shown).ends_with("PersistentKeepalive = 25\n"));
    world.told_when_claimed().await.unwrap();

    for (arguments, reason) in [
        (&own[..], "already"),
        (&["external", "remove", "kab-demak/x"][..], "is no device"),
        (
            &["external", "add", "Laptop", "--agency", "kab-demak"][..],
            "is not a node name",
        ),
    ] {
        let refused = world.place.run(arguments);
        assert_eq!(refused.status.code(), Some(65), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(reason), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agency_without_a_public_endpoint_is_told_what_to_do() {
    let world = World::new(None).await;
    let refused = world
        .place
        .run(&["external", "add", "laptop", "--agency", "kab-demak"]);
    assert_eq!(refused.status.code(), Some(65), "{refused:?}");
    assert_eq!(refused.stdout, b"", "no key that is good for nothing");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("join --public"), "{said}");
}
