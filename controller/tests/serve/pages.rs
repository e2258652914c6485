//! The HTTP port: held by an attacker, fed with garbage, and read by Prometheus.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};

use crate::program::Place;
use crate::random::Random;
use crate::support::{found, start};

const ATTACKERS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
    Ipv4Addr::new(127, 0, 0, 4),
    Ipv4Addr::new(127, 0, 0, 5),
];
const HELD_PER_ATTACKER: usize = 2_500;
const REQUESTS: usize = 200;

/// Prometheus, somewhere else.
const OPERATOR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

fn dial(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5))?;
    Ok(socket.into())
}

fn page(from: Ipv4Addr, to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = dial(from, to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn allow_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(hard > 11_000, "this test holds 10,000 sockets");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Holds sockets: idle ones, headers and bodies that never end, answers that are not read. Replaces those that end.
fn attack(from: Ipv4Addr, to: SocketAddr, held: &AtomicUsize, over: &AtomicBool) {
    let begin = |kind: usize| -> std::io::Result<TcpStream> {
        let mut stream = dial(from, to)?;
        stream.set_nonblocking(true)?;
        match kind % 4 {
            0 => {}
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ")?,
            2 => stream.write_all(b"GET /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n")?,
            _ => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")?,
        }
        Ok(stream)
    };
    let mut streams: Vec<TcpStream> = Vec::new();
    while streams.len() < HELD_PER_ATTACKER && !over.load(Ordering::Relaxed) {
        if let Ok(stream) = begin(streams.len()) {
            streams.push(stream);
            held.fetch_add(1, Ordering::Relaxed);
        }
    }
    while !over.load(Ordering::Relaxed) {
        for (kind, stream) in streams.iter_mut().enumerate() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            if (kind % 4 == 1 || kind % 4 == 2)
                && stream.write_all(b"x").is_err()
                && let Ok(again) = begin(kind)
            {
                *stream = again;
            }
        }
    }
}

#[test]
fn ten_thousand_held_connections_keep_nobody_else_out() {
    allow_descriptors();
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let serving = place.serve("info");
    let (before, to) = (serving.peak_mib(), place.http_at);
    let (held, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (mut times, mut descriptors) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        for from in ATTACKERS {
            let (held, over) = (&held, &over);
            scope.spawn(move || attack(from, to, held, over));
        }
        let begun = Instant::now();
        let all = ATTACKERS.len() * HELD_PER_ATTACKER;
        while held.load(Ordering::Relaxed) < all && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for number in 0..REQUESTS {
            let path = ["/metrics", "/sd"][number % 2];
            let begun = Instant::now();
            let answer = page(OPERATOR, to, path);
            times.push((
                begun.elapsed(),
                answer.is_ok_and(|text| text.starts_with("HTTP/1.1 200 OK\r\n")),
            ));
            descriptors = descriptors.max(serving.descriptors());
        }
        over.store(true, Ordering::Relaxed);
    });
    let failed = times.iter().filter(|(_, answered)| !answered).count();
    times.sort();
    let p99 = times[REQUESTS * 99 / 100].0;
    let peak = serving.peak_mib();
    println!(
        "{} sockets held; p50 {:?}, p99 {p99:?}, worst {:?}, {failed} failed; \
         memory {before} MiB before, {peak} MiB at most; {descriptors} descriptors at most",
        held.load(Ordering::Relaxed),
        times[REQUESTS / 2].0,
        times[REQUESTS - 1].0,
    );
    assert_eq!(held.load(Ordering::Relaxed), 10_000);
    assert_eq!(failed, 0);
    assert!(p99 < Duration::from_secs(1), "{p99:?}");
    assert!(peak < before + 64, "{before} MiB became {peak} MiB");
    assert!(descriptors < 400, "{descriptors}");
}

#[test]
fn random_bytes_get_what_http_demands_and_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::found(folder.path());
    let serving = place.serve("info");
    let mut random = Random(20_261_123);
    for _ in 0..500 {
        let mut stream = dial(Ipv4Addr::LOCALHOST, place.http_at).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let size = random.below(2_000);
        // The program may end the connection before the last byte.
        drop(stream.write_all(&random.bytes(size)));
        drop(stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    let text = page(Ipv4Addr::LOCALHOST, place.http_at, "/metrics").unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert!(
        page(Ipv4Addr::LOCALHOST, place.http_at, "/x")
            .unwrap()
            .starts_with("HTTP/1.1 404")
    );
    assert!(!place.logged().contains("panicked"), "{}", place.logged());
    drop(serving);
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_finds_every_node_with_labels() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(&found(folder.path())).await;
    running.add("kab-demak", "10.44.0.0/16").await;
    let (_agent, _) = running.join(1, "kab-demak", "10.44.1.0/24", None).await;
    let answer = running.page("/sd").await.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 200") && answer.contains("content-type: application/json"),
        "{answer}"
    );

    let file = folder.path().join("prometheus.yml");
    let text = format!(
        "scrape_configs:\n  - job_name: pnsbox\n    http_sd_configs:\n      - url: http://{}/sd\n",
        running.http_at
    );
    std::fs::write(&file, text).unwrap();
    let promtool = tokio::process::Command::new("promtool")
        .args(["check", "service-discovery", "--timeout=3s"])
        .args([&file, std::path::Path::new("pnsbox")])
        .output();
    let said = promtool.await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{said:?}");
    for label in [
        "\"__address__\": \"100.127.0.1:9586\"",
        "\"__meta_pnsbox_network\": \"pns\"",
        "\"__meta_pnsbox_agency\": \"kab-demak\"",
        "\"__meta_pnsbox_node\": \"kab-demak/gw1\"",
    ] {
        assert!(text.contains(label), "{label} not in {text}");
    }
    running.stop().await;
}
