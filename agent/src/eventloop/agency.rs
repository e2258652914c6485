//! The agency's key: backed up, brought here, replaced. On disk before anything is signed with it.

use ed25519_dalek::SigningKey;
use pnsbox_agent_core::agency::{AgencyAnswer, AgencyCommand};
use pnsbox_proto::key::IdentityKey;
use tracing::info;

use super::EventLoop;
use crate::admin::{KeyAnswer, KeyCommand, SecretText};
use crate::keys::agency::{self as keys, Backup};

impl EventLoop {
    /// Answers when what follows is on disk and on its way.
    pub(super) async fn agency(&mut self, command: AgencyCommand) -> Result<AgencyAnswer, String> {
        let now = self.now();
        let answer = self.agent.agency(command, now);
        self.drain().await;
        answer
    }

    pub(super) async fn agency_key(&mut self, command: KeyCommand) -> Result<KeyAnswer, String> {
        let now = self.now();
        let answer = match command {
            KeyCommand::Backup => {
                let key = self.agent.agency_key()?;
                return Ok(KeyAnswer::Backup(SecretText::from(
                    Backup::of(key).expose().to_string(),
                )));
            }
            KeyCommand::Restore { line } => {
                let backup: Backup = line
                    .expose()
                    .parse()
                    .map_err(|e: keys::NoBackup| e.to_string())?;
                let key = backup.into_key();
                self.keep(&key)?;
                let shown = public(&key);
                self.agent.add_agency_key(key, now);
                info!(key = %shown, "a key of the agency was brought here");
                let lines = vec![format!("this box can sign with the key {shown}")];
                AgencyAnswer::Signed { lines }
            }
            KeyCommand::Rotate => {
                self.agent.agency_key()?;
                let next = self.make()?;
                self.agent.rotate_agency_key(next, now)?
            }
            KeyCommand::New => {
                let key = self.make()?;
                let shown = public(&key);
                self.agent.add_agency_key(key, now);
                let lines = vec![shown.to_string()];
                AgencyAnswer::Signed { lines }
            }
        };
        self.drain().await;
        Ok(KeyAnswer::Done(answer))
    }

    fn make(&self) -> Result<SigningKey, String> {
        let state_dir = &self.config.state_dir;
        let known = keys::load_or_create(state_dir).map_err(in_full)?;
        keys::add_new(state_dir, &known).map_err(in_full)
    }

    fn keep(&self, key: &SigningKey) -> Result<(), String> {
        let state_dir = &self.config.state_dir;
        let known = keys::load_or_create(state_dir).map_err(in_full)?;
        keys::add(state_dir, &known, key).map_err(in_full)
    }
}

fn in_full(error: crate::keys::KeysError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn public(key: &SigningKey) -> IdentityKey {
    IdentityKey(key.verifying_key().to_bytes())
}
