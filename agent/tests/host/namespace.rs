//! A network namespace that lives as long as its value, entered by a thread of its own.

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace with only `lo`, which is up.
pub(crate) struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    /// Thread id; `ip link ... netns TID` takes it.
    pub(crate) tid: i32,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests need root: they make network namespaces and TUN interfaces"
        );
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("these tests need CAP_SYS_ADMIN for network namespaces");
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let tid = started.recv().unwrap();
        let namespace = Self {
            jobs: Some(jobs),
            thread: Some(thread),
            tid,
        };
        namespace.sh("ip link set lo up");
        namespace
    }

    /// Runs `job` inside and returns what it returns; a panic inside is a panic here.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            done.send(outcome).unwrap();
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs an async test inside, on one thread, so that everything it starts is inside too.
    pub(crate) fn run_async<F: Future<Output = ()>>(
        &self,
        test: impl FnOnce() -> F + Send + 'static,
    ) {
        self.run(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(test());
        });
    }

    /// Runs a command line inside; it must succeed. Returns its standard output.
    pub(crate) fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Runs a command line in the namespace of the calling thread; it must succeed.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{line}\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs a command line and parses what it prints.
pub(crate) fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(&sh(line)).unwrap_or_else(|e| panic!("{line}: {e}"))
}
