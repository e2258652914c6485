//! What needs the root key: it is read here, by the command, signs, and goes no further than this process.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Args as ClapArgs, Subcommand};
use pnsbox_controller_core::controller::certify_admission;
use pnsbox_controller_core::operator::{Answer, Request};
use pnsbox_proto::agency::Succession;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;

use crate::config::Config;
use crate::{keys, operator};

/// What the root says of the admission key.
#[derive(Debug, Subcommand)]
pub(super) enum AdmissionCommand {
    /// Let this controller admit new agencies for another 90 days.
    Renew {
        /// The network's root key.
        #[arg(long, value_name = "PATH")]
        root_key: PathBuf,
    },
}

/// An agency that lost its key.
#[derive(Debug, ClapArgs)]
pub(super) struct ReplaceKeyArgs {
    /// The agency.
    agency: AgencyName,
    /// The public key that it has from now on, as 'pnsbox agency key' shows it on the agency's box.
    #[arg(long, value_name = "KEY")]
    key: IdentityKey,
    /// The network's root key.
    #[arg(long, value_name = "PATH")]
    root_key: PathBuf,
}

/// What to ask the controller with the root's new certificate of the admission key.
pub(super) fn renewal(config: &Config, command: &AdmissionCommand) -> anyhow::Result<Request> {
    let AdmissionCommand::Renew { root_key } = command;
    let (work, root) = prepare(config, None, root_key)?;
    let certificate = certify_admission(&work.network, &root, work.admission, now());
    Ok(Request::AdmissionRenew { certificate })
}

/// What to ask the controller with the root's word for another key of an agency.
pub(super) fn replacement(config: &Config, args: &ReplaceKeyArgs) -> anyhow::Result<Request> {
    let (work, root) = prepare(config, Some(&args.agency), &args.root_key)?;
    let Some(before) = work.agency else {
        bail!(
            "agency {} has no key that could be replaced: the first box that joins brings one",
            args.agency
        );
    };
    if before == args.key {
        bail!(
            "agency {} has that key already; nothing was changed",
            args.agency
        );
    }
    let succession = Succession {
        network: work.network,
        agency: args.agency.clone(),
        before: before.fingerprint(),
        key: args.key,
        issued: now(),
    };
    Ok(Request::AgencySucceed {
        succession: Envelope::sign(&succession, &root),
    })
}

/// What the root has to know of the network.
struct Work {
    network: pnsbox_proto::id::NetworkName,
    admission: IdentityKey,
    agency: Option<IdentityKey>,
}

fn prepare(
    config: &Config,
    agency: Option<&AgencyName>,
    path: &Path,
) -> anyhow::Result<(Work, ed25519_dalek::SigningKey)> {
    let question = Request::RootWork {
        agency: agency.cloned(),
    };
    let answer =
        operator::ask(config, &question)?.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let Answer::RootWork {
        network,
        root,
        admission,
        agency,
        ..
    } = answer
    else {
        bail!("the controller answered something else; are both of the same version?");
    };
    let key = keys::load(path).context("the root key is needed for this")?;
    let found = IdentityKey(key.verifying_key().to_bytes());
    if found != root {
        bail!(
            "{} is the key {}, the root of network {network} is {}",
            path.display(),
            found.fingerprint(),
            root.fingerprint()
        );
    }
    let work = Work {
        network,
        admission,
        agency,
    };
    Ok((work, key))
}

fn now() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
