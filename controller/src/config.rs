//! `controller.toml`: parsed once, every mistake at once. A missing file means the defaults.
//!
//! The operator's policy is another file, read when it is planned or applied: see [`crate::cli`].

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use pnsbox_controller_core::reader::{MAX_CHARS, Mistake, Reader};
use pnsbox_proto::text::one_line;
use pnsbox_proto::{CONTROL_PORT, CONTROLLER_HTTP_PORT};
use serde_json::Value;

/// A configuration without mistakes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// UDP addresses for agents.
    pub listen: Vec<SocketAddr>,
    /// Store and keys.
    pub state_dir: PathBuf,
    /// Where commands ask.
    pub socket: PathBuf,
    /// TCP address of `/metrics` and `/sd`.
    pub http_listen: SocketAddr,
    /// Least severe level that is logged.
    pub log_level: String,
}

/// What is wrong with a file of the operator's, one line each.
#[derive(Debug, thiserror::Error)]
pub struct FileMistakes(pub Vec<String>);

impl fmt::Display for FileMistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, CONTROL_PORT).into()],
            state_dir: "/var/lib/pnsbox-controller".into(),
            socket: "/run/pnsbox-controller/controller.sock".into(),
            http_listen: (Ipv4Addr::LOCALHOST, CONTROLLER_HTTP_PORT).into(),
            log_level: "info".to_owned(),
        }
    }
}

impl Config {
    /// Reads a file; one that does not exist means the defaults.
    pub fn load(path: &Path) -> Result<Self, FileMistakes> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(FileMistakes(vec![format!(
                "{}: cannot be read: {error}",
                path.display()
            )])),
        }
    }

    /// Parses the text of the file at `path`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, FileMistakes> {
        let file = table(path, text)?;
        let defaults = Self::default();
        let mut mistakes = Vec::new();
        let found = &mut mistakes;
        let mut top = Reader::top(&file);
        let rule = "must be a list of ADDR:PORT, for example [\"[::]:443\"]";
        let listen = top.texts(found, "listen", rule, |text| {
            text.parse::<SocketAddr>().ok()
        });
        if listen.as_ref().is_some_and(Vec::is_empty)
            && top
                .written("listen")
                .is_some_and(|v| *v == Value::Array(vec![]))
        {
            found.push(top.mistake(
                "listen",
                top.written("listen"),
                "must name at least one address",
            ));
        }
        let state_dir = top.value(found, "state_dir", "must be an absolute path", absolute);
        let socket = top.value(found, "socket", "must be an absolute path", absolute);
        let mut http = top.table(found, "http");
        let rule = "must be ADDR:PORT, for example \"127.0.0.1:9587\"";
        let http_listen = http.value(found, "listen", rule, |value| value.as_str()?.parse().ok());
        http.finish(found);
        let mut log = top.table(found, "log");
        let rule = "must be error, warn, info, debug or trace";
        let log_level = log.value(found, "level", rule, |value| {
            let level = value.as_str()?;
            ["error", "warn", "info", "debug", "trace"]
                .contains(&level)
                .then(|| level.to_owned())
        });
        log.finish(found);
        top.finish(found);
        if !mistakes.is_empty() {
            return Err(with_file(path, &mistakes));
        }
        Ok(Self {
            listen: listen.unwrap_or(defaults.listen),
            state_dir: state_dir.unwrap_or(defaults.state_dir),
            socket: socket.unwrap_or(defaults.socket),
            http_listen: http_listen.unwrap_or(defaults.http_listen),
            log_level: log_level.unwrap_or(defaults.log_level),
        })
    }
}

/// The table of a TOML text; a mistake says `FILE:LINE:COLUMN`.
pub fn table(path: &Path, text: &str) -> Result<Value, FileMistakes> {
    toml::from_str(text).map_err(|error| {
        let before = text
            .get(..error.span().map_or(0, |span| span.start))
            .unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .map_or(0, |line| line.chars().count())
            + 1;
        let what = one_line(&error.message().replace('\n', ", "), MAX_CHARS);
        FileMistakes(vec![format!("{}:{line}:{column}: {what}", path.display())])
    })
}

/// Mistakes as lines that begin with the file.
pub fn with_file(path: &Path, mistakes: &[Mistake]) -> FileMistakes {
    FileMistakes(
        mistakes
            .iter()
            .map(|mistake| format!("{}: {mistake}", path.display()))
            .collect(),
    )
}

fn absolute(value: &Value) -> Option<PathBuf> {
    let path = PathBuf::from(value.as_str()?);
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../configs/controller.toml");

    #[test]
    fn the_annotated_example_says_the_defaults() {
        assert_eq!(
            Config::parse(Path::new("controller.toml"), EXAMPLE).unwrap(),
            Config::default()
        );
        let keys = toml::from_str::<toml::Table>(EXAMPLE).unwrap();
        for key in ["listen", "state_dir", "socket", "http", "log"] {
            assert!(keys.contains_key(key), "{key} is explained");
        }
    }

    #[test]
    fn every_mistake_is_named_at_once() {
        let text = "listen = [\"443\"]\nstate_dir = \"here\"\nsokcet = \"/x\"\n\
                    [http]\nlisten = 9587\n[log]\nlevel = \"loud\"\n";
        let lines = Config::parse(Path::new("c.toml"), text)
            .unwrap_err()
            .to_string();
        for line in [
            "c.toml: listen = \"443\": must be a list of ADDR:PORT",
            "c.toml: state_dir = \"here\": must be an absolute path",
            "c.toml: sokcet = \"/x\": is not a key here; keys are",
            "c.toml: [http] listen = 9587: must be ADDR:PORT",
            "c.toml: [log] level = \"loud\": must be error",
        ] {
            assert!(lines.contains(line), "{line}\nin\n{lines}");
        }
        assert_eq!(lines.lines().count(), 5, "{lines}");
    }

    #[test]
    fn a_mistake_is_one_line_whatever_was_written() {
        let text = "\"a\\nb\" = 1\n\"c\\u009b\" = 2\nstate_dir = \"\\u009b[2J\"\n";
        let lines = Config::parse(Path::new("c.toml"), text).unwrap_err().0;
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in lines {
            assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_place() {
        let lines = Config::parse(Path::new("c.toml"), "[http]\nlisten = = 1\n")
            .unwrap_err()
            .to_string();
        assert!(lines.starts_with("c.toml:2:10: "), "{lines}");
    }
}
