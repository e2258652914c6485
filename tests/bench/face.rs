//! The face of `scripts/bench.sh` that others script against: the shape of its JSON. No number is judged here.
//! Needs root, iperf3 and ethtool, as the script does.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[test]
fn the_json_of_the_tunnel_benchmark_has_its_shape() {
    let said = bench(&["--system", "veth", "--case", "tcp-1,tcp-bidir-segmented"]);
    assert_eq!(said["bench"], "tunnel");
    for key in ["kernel", "cpu", "cores", "load_before", "load_after"] {
        assert!(!said["machine"][key].is_null(), "machine.{key}: {said}");
    }
    let runs = said["runs"].as_array().unwrap();
    let throughputs: Vec<&Value> = runs
        .iter()
        .filter(|run| run["metric"] == "throughput")
        .collect();
    let cases: Vec<_> = throughputs.iter().map(|run| &run["case"]).collect();
    assert_eq!(cases, ["tcp-1", "tcp-bidir-segmented"], "{said}");
    for run in runs {
        assert_eq!(run["system"], "veth");
        assert!(run["unit"].is_string(), "{run}");
        assert_eq!(run["n"], 1);
        let [low, median, high] = ["min", "median", "max"].map(|key| run[key].as_f64().unwrap());
        assert!(low > 0.0 && low <= median && median <= high, "{run}");
    }
}

#[test]
fn an_unknown_case_is_named_with_those_that_are_known() {
    let output = script(&["--system", "veth", "--case", "tcp-9"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(
        said.contains("'tcp-9'") && said.contains("hub-1000"),
        "{said}"
    );
}

fn bench(arguments: &[&str]) -> Value {
    let output = script(arguments)
        .output()
        .expect("scripts/bench.sh can be run");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("only JSON on standard output")
}

fn script(arguments: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(root.join("scripts/bench.sh"));
    command.args(["tunnel", "--runs", "1", "--seconds", "1", "--json"]);
    command.args(arguments);
    command
}
