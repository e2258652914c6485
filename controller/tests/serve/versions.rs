//! `history`, `diff` and `rollback`, as an operator types them.

use serde_json::Value;

use crate::program::Place;

const FIRST: &str = "relays = []\n\n[[link]]\nbetween = [\"a1\", \"a2\"]\n\n[[link.open]]\nat = \"a1\"\nprefix = \"lan\"\nallow = [\"tcp/445\"]\n";

fn said(place: &Place, arguments: &[&str]) -> String {
    let output = place.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_policy_that_was_in_force_is_listed_printed_compared_and_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    for (agency, prefix) in [("a1", "10.1.0.0/16"), ("a2", "10.2.0.0/16")] {
        said(&place, &["agency", "add", agency, "--prefix", prefix]);
    }
    assert!(said(&place, &["history"]).contains("nothing is open"));
    let file = folder.path().join("policy.toml");
    let path = file.to_str().unwrap();
    for policy in [FIRST, &FIRST.replace("tcp/445", "icmp"), ""] {
        std::fs::write(&file, policy).unwrap();
        said(&place, &["apply", path]);
    }
    let screen = said(&place, &["history"]);
    let lines: Vec<&str> = screen.lines().collect();
    assert_eq!(lines.len(), 4, "{screen}");
    assert!(lines[1].starts_with("3 *"), "the newest first: {screen}");
    assert!(lines[3].ends_with("+ link a1 - a2 and 1 more"), "{screen}");

    // What is printed is a policy file: applied, it changes nothing against the version that it is.
    std::fs::write(&file, said(&place, &["history", "--version", "1"])).unwrap();
    let planned = said(&place, &["plan", path]);
    assert!(
        planned.contains("+ link a1 - a2: a2 may reach a1 lan: tcp/445"),
        "{planned}"
    );
    assert_eq!(said(&place, &["rollback", "1", "--dry-run"]), planned);
    said(&place, &["rollback", "1"]);
    assert!(said(&place, &["plan", path]).contains("no change"));
    let changes = said(&place, &["diff", "2"]);
    assert_eq!(
        changes,
        "- link a1 - a2: a2 may reach a1 lan: icmp\n+ link a1 - a2: a2 may reach a1 lan: tcp/445\n"
    );
    assert_eq!(
        said(&place, &["diff", "1", "4"]),
        "versions 1 and 4 say the same\n"
    );

    let versions: Value = serde_json::from_str(&said(&place, &["history", "--json"])).unwrap();
    assert_eq!(versions["versions"][3]["restores"], 1);
    let unknown = place.run(&["rollback", "9"]);
    assert_eq!(unknown.status.code(), Some(65), "{unknown:?}");
}
