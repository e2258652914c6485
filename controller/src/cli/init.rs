//! `init`: two keys, one certificate, an empty store, and advice about the root key.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use pnsbox_controller_core::controller::{Founding, Keys};
use pnsbox_controller_core::registry::Network;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;
use serde_json::json;

use super::{InitArgs, exit, mistakes};
use crate::config::Config;
use crate::failpoint;
use crate::keys;
use crate::operator::own_origin;
use crate::store::{FILE, LOCK, Store};

/// Makes the network; returns what to print.
pub(super) fn init(config: &Config, args: InitArgs, json: bool) -> anyhow::Result<String> {
    let founding = Founding {
        name: args.network,
        addresses: args.address,
        pool: args.pool,
    };
    let wrong = founding.mistakes();
    if !wrong.is_empty() {
        return Err(mistakes(wrong));
    }
    keys::private_dir(&config.state_dir)?;
    failpoint::step("init_before_store");
    let mut store = Store::open(&config.state_dir, Duration::from_millis(200))?;
    if let Some(entry) = store.get("network")? {
        let there: Network = serde_json::from_str(entry.value.as_deref().unwrap_or_default())?;
        return Err(mistakes(vec![format!(
            "{} already holds the network {}, made at {}; nothing was changed. \
             For another network choose another state_dir in the configuration",
            config.state_dir.display(),
            there.name,
            there.created
        )]));
    }
    let root_path = args
        .root_key
        .unwrap_or_else(|| config.state_dir.join(keys::ROOT_KEY));
    let controller_path = config.state_dir.join(keys::CONTROLLER_KEY);
    let admission_path = config.state_dir.join(keys::ADMISSION_KEY);
    if root_path == controller_path || root_path == admission_path {
        bail!(
            "--root-key {}: is the place of the controller's own key",
            root_path.display()
        );
    }
    let root = keys::load_or_make(&root_path)?;
    failpoint::step("init_between_keys");
    let controller = keys::load_or_make(&controller_path)?;
    let admission = keys::load_or_make(&admission_path)?;
    let own = Keys {
        controller,
        admission,
    };
    failpoint::step("init_before_network");
    let now = UnixTime::from(SystemTime::now());
    store.transact(&founding.transaction(&root, &own, &own_origin(), now))?;
    drop(store);
    give_to_owner(&config.state_dir)?;

    let fingerprint =
        |key: &ed25519_dalek::SigningKey| IdentityKey(key.verifying_key().to_bytes()).fingerprint();
    let (root, controller) = (fingerprint(&root), fingerprint(&own.controller));
    if json {
        let answer = json!({
            "schema": "pnsbox.init/1",
            "network": founding.name, "addresses": founding.addresses, "pool": founding.pool,
            "root": root, "root_key": root_path, "controller": controller, "controller_key": controller_path,
        });
        return Ok(answer.to_string());
    }
    exit::explain(&advice(&root_path, &controller_path));
    Ok(format!(
        "network {} with the overlay pool {}\nroot key        {root}\ncontroller key  {controller}",
        founding.name, founding.pool
    ))
}

/// What root makes belongs to the owner of the directory: the user that `serve` runs as.
fn give_to_owner(state_dir: &Path) -> anyhow::Result<()> {
    let there = std::fs::metadata(state_dir)?;
    if !nix::unistd::geteuid().is_root() || there.uid() == 0 {
        return Ok(());
    }
    for name in [
        keys::ROOT_KEY,
        keys::CONTROLLER_KEY,
        keys::ADMISSION_KEY,
        FILE,
        LOCK,
    ] {
        let path = state_dir.join(name);
        // Not through a symbolic link: the directory is not root's.
        match lchown(&path, Some(there.uid()), Some(there.gid())) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| {
                    format!(
                        "{} cannot be given to uid {}, as which the controller runs; say: chown -R {}:{} {}",
                        path.display(),
                        there.uid(),
                        there.uid(),
                        there.gid(),
                        state_dir.display()
                    )
                });
            }
            // A root key that was made elsewhere is not here.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn advice(root: &Path, controller: &Path) -> String {
    let (root, controller) = (root.display(), controller.display());
    format!(
        "Take the root key offline now: copy {root} to two media that are kept under lock, then remove it here:\n  \
         shred -u {root}\n\
         The controller does not need it to run. You need it to replace this controller, to let it admit new\n\
         agencies for longer than 90 days, and when an agency has lost its key.\n\
         Whoever has it can speak for every agency.\n\
         Back up {controller} and admission.key beside it as well; without them the root must certify new ones.\n\
         Next: pnsbox-controller serve, agency add, invite."
    )
}
