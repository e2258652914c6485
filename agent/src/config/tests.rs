//! What an admin writes, and what is said about mistakes.

use std::fs;

use super::*;

#[test]
fn a_missing_file_is_all_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        Config::load(&dir.path().join("agent.toml")).unwrap(),
        Config::default()
    );
}

#[test]
fn the_shipped_file_shows_the_defaults() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/agent.toml");
    assert_eq!(Config::load(&shipped).unwrap(), Config::default());
}

#[test]
fn the_examples_of_the_shipped_file_are_right() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/agent.toml");
    // Commented settings are written '#key' without a space, prose '# word'.
    let text = fs::read_to_string(shipped).unwrap();
    let open: String = text
        .lines()
        .map(|l| {
            l.strip_prefix('#')
                .filter(|l| !l.starts_with(' '))
                .unwrap_or(l)
                .to_owned()
                + "\n"
        })
        .collect();
    let config = load(&open);
    assert_eq!(config.services.len(), 2);
    assert_eq!(
        Config {
            services: Vec::new(),
            ..config
        },
        Config::default()
    );
}

#[test]
fn five_mistakes_are_five_lines_with_file_key_value_and_rule() {
    let text = r#"
state_dir = "var/lib"
[wireguard]
mtu = 9100
prot = 51820
[[service]]
name = "arsip"
kind = "files"
endpoint = "10.33.1.10:445"
[[service]]
name = "Portal"
kind = "http"
endpoint = "10.33.1.10"
"#;
    let (dir, errors) = mistakes(text);
    let file = dir.path().join("agent.toml").display().to_string();
    let expected = [
        format!("{file}: state_dir = \"var/lib\": {ABSOLUTE_PATH}"),
        format!("{file}: [wireguard] mtu = 9100: {MTU}"),
        format!(
            "{file}: [wireguard] prot = 51820: is not a known key here; known: core, dscp, interface, mtu, port"
        ),
        format!("{file}: [service.2] name = \"Portal\": {NAME}"),
        format!("{file}: [service.2] endpoint = \"10.33.1.10\": {ENDPOINT}"),
    ];
    assert_eq!(errors.lines(), expected);
}

#[test]
fn a_mistake_is_one_line_whatever_was_written() {
    let text = "\"a\\nb\" = \"c\\u001b[2J\"\nlog.level = '''\nlo\nud'''\n[http]\nport = \"X\"\n";
    let text = text.replace('X', &"x".repeat(100_000));
    let (_dir, errors) = mistakes(&text);
    assert_eq!(errors.lines().len(), 3, "{errors}");
    for line in errors.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.len() < 1000, "{} bytes", line.len());
    }
}

#[test]
fn each_rule_refuses() {
    for (text, expected) in [
        ("state_dir = 5", "state_dir = 5: must be an absolute path"),
        (
            "[wireguard]\ninterface = \"a b\"",
            "[wireguard] interface = \"a b\": must be 1 to 15",
        ),
        (
            "[wireguard]\ninterface = \"pns0\\\" accept\"",
            "must be 1 to 15",
        ),
        (
            "[wireguard]\nport = 0",
            "[wireguard] port = 0: must be a port",
        ),
        (
            "[wireguard]\nport = \"51820\"",
            "[wireguard] port = \"51820\": must be a port",
        ),
        (
            "[wireguard]\ncore = \"kernel\"",
            "core = \"kernel\": must be native or boringtun",
        ),
        (
            "[wireguard]\ndscp = \"ef\"",
            "dscp = \"ef\": must be none, map or copy",
        ),
        (
            "[wireguard]\nmtu = 1279",
            "mtu = 1279: must be between 1280 and 1500",
        ),
        (
            "[link]\nport = 51820",
            "[link] port = 51820: must not be the port of [wireguard]",
        ),
        (
            "[http]\nport = 70000",
            "[http] port = 70000: must be a port",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "[log] level = \"loud\": must be one of",
        ),
        ("http = 9586", "http = 9586: must be a table"),
        (
            "lan = \"10.0.0.0/8\"",
            "lan = \"10.0.0.0/8\": is not a known key",
        ),
        ("[dns]\nport = 53", "dns: is not a known key"),
        (
            "[service]\nname = \"a\"",
            "service: must be written with two brackets",
        ),
        ("x = [", "agent.toml:1:"),
    ] {
        check(text, expected);
    }
}

#[test]
fn each_rule_of_a_service_refuses() {
    for (text, expected) in [
        (
            "[[service]]\nkind = \"files\"\nendpoint = \"10.0.0.1:1\"",
            "[service.1] name: is missing",
        ),
        (
            &service("kind = \"ftp\""),
            "[service.1] kind = \"ftp\": must be one of",
        ),
        (
            &service("audience = []"),
            "[service.1] audience = []: must be",
        ),
        (
            &service("audience = [\"Kab\"]"),
            "audience = [\"Kab\"]: must be",
        ),
        (
            &service("endpoint = \"127.0.0.1:445\""),
            "endpoint = \"127.0.0.1:445\": must be ADDR:PORT",
        ),
        (&service("priority = -1"), "priority = -1: must be"),
        (
            &service("check = { kind = \"http\" }"),
            "[service.1.check] path: is missing",
        ),
        (
            &service("check = { path = \"/\" }"),
            "[service.1.check] path = \"/\": must be left out",
        ),
        (
            &service("check = { interval = \"1\" }"),
            "[service.1.check] interval = \"1\": must be",
        ),
        (
            &service("check = { timeout = \"2h\" }"),
            "[service.1.check] timeout = \"2h\": must be",
        ),
        (
            &service("check = { failures = 0 }"),
            "[service.1.check] failures = 0: must be",
        ),
        (
            &(service("") + &service("")),
            "[service.2] name = \"a\": must not be the name of another",
        ),
    ] {
        check(text, expected);
    }
}

#[test]
fn a_service_is_read_whole() {
    let config = load(
        r#"
[[service]]
name = "portal"
kind = "http"
endpoint = "[fd00::10]:8080"
audience = ["kab-demak", "kota-malang"]
priority = 7
check = { kind = "http", path = "/healthz", interval = "2s", timeout = "500ms", failures = 3 }
"#,
    );
    let Service { core, check } = &config.services[0];
    assert_eq!(
        (core.name.as_str(), core.kind, core.priority, core.failures),
        ("portal", ServiceKind::Http, 7, 3)
    );
    let agencies = ["kab-demak", "kota-malang"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    assert_eq!(core.audience, Audience::Only(agencies));
    assert_eq!(
        check.probe,
        CheckProbe::Http {
            path: "/healthz".into()
        }
    );
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_secs(2), Duration::from_millis(500))
    );
}

#[test]
fn drop_ins_merge_in_order_and_mistakes_name_their_file() {
    let dir = tempfile::tempdir().unwrap();
    let (main, drop_in) = (dir.path().join("agent.toml"), dir.path().join("agent.d"));
    fs::create_dir(&drop_in).unwrap();
    fs::write(
        &main,
        "[wireguard]\nport = 1000\nmtu = 1400\ncore = \"boringtun\"\ndscp = \"map\"\n".to_owned()
            + &service(""),
    )
    .unwrap();
    fs::write(drop_in.join("20-b.toml"), "[wireguard]\nport = 3000\n").unwrap();
    fs::write(
        drop_in.join("10-a.toml"),
        "[wireguard]\nport = 2000\n".to_owned() + &service("name = \"b\""),
    )
    .unwrap();
    fs::write(drop_in.join("ignored.toml.bak"), "nonsense").unwrap();
    let config = Config::load(&main).unwrap();
    assert_eq!((config.wireguard_port, config.mtu), (3000, 1400));
    assert_eq!(config.core, ProtocolCore::Boringtun);
    assert_eq!(config.dscp, DscpPolicy::Map);
    let names: Vec<_> = config
        .services
        .iter()
        .map(|s| s.core.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);

    fs::write(drop_in.join("20-b.toml"), "[wireguard]\nport = 0\n").unwrap();
    fs::write(drop_in.join("30-c.toml"), service("kind = 1")).unwrap();
    let lines = Config::load(&main).unwrap_err().lines();
    assert!(
        lines[0].contains("20-b.toml: [wireguard] port = 0"),
        "{lines:#?}"
    );
    assert!(
        lines[1].contains("30-c.toml: [service.1] name = \"a\": must not"),
        "{lines:#?}"
    );
    assert!(
        lines[2].contains("30-c.toml: [service.1] kind = 1"),
        "{lines:#?}"
    );
}

/// A service that is right, but for `line`, which replaces the line of the same key.
fn service(line: &str) -> String {
    let key = line.split(' ').next().unwrap_or_default();
    let lines = [
        "name = \"a\"",
        "kind = \"files\"",
        "endpoint = \"10.33.1.10:445\"",
    ];
    let kept = lines
        .iter()
        .filter(|l| key.is_empty() || !l.starts_with(key));
    let body: Vec<&str> = kept.copied().chain([line]).collect();
    format!("[[service]]\n{}\n", body.join("\n"))
}

fn load(text: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    Config::load(&path).unwrap()
}

fn mistakes(text: &str) -> (tempfile::TempDir, ConfigErrors) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text).unwrap();
    let errors = Config::load(&path).unwrap_err();
    (dir, errors)
}

/// `text` has one mistake, whose line contains `expected`.
fn check(text: &str, expected: &str) {
    let (_dir, errors) = mistakes(text);
    let lines = errors.lines();
    assert_eq!(lines.len(), 1, "{text}\n{lines:#?}");
    assert!(lines[0].contains(expected), "{text}\n{}", lines[0]);
}
