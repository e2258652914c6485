//! Plain WireGuard devices: admitted, listed and removed by an operator, without a session of their own.

use std::net::IpAddr;

use ipnet::IpNet;
use pnsbox_proto::id::NodeName;
use pnsbox_proto::key::WireguardKey;
use pnsbox_proto::time::UnixTime;
use tracing::info;

use super::{Controller, Now};
use crate::audit::Origin;
use crate::image::{Deed, Draft};
use crate::operator::{Answer, ExternalLine, Refusal};
use crate::plan::{address as pool, external};
use crate::registry::{External, Registry};
use pnsbox_proto::address;

impl Controller {
    pub(super) fn add_external(
        &mut self,
        device: NodeName,
        wireguard: WireguardKey,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let registry = &self.image.registry;
        judge_name(registry, &device, now.wall).map_err(Refusal::because)?;
        judge_key(registry, &wireguard).map_err(Refusal::because)?;
        let gateway = external::gateway(registry, &device)
            .cloned()
            .ok_or_else(|| Refusal::because(no_gateway(&device)))?;
        let overlay_v4 =
            pool::next_v4(registry.network.pool, &registry.taken_v4()).ok_or_else(|| {
                Refusal::because(format!(
                    "no address is left in the overlay pool {}; remove devices that nobody uses",
                    registry.network.pool
                ))
            })?;
        let external = External {
            wireguard,
            overlay_v4,
            gateway: gateway.clone(),
            claim: None,
            added: now.wall,
        };
        let what =
            format!("external add {device} with key {wireguard} at {overlay_v4} behind {gateway}");
        let mut draft = self.image.draft();
        draft.registry.externals.insert(device.clone(), external);
        self.change_externals(draft, &gateway, &what, by, now);
        Ok(Answer::ExternalAdded {
            external: self.line(&device)?,
        })
    }

    pub(super) fn externals(&self) -> Answer {
        let devices = self.image.registry.externals.keys();
        Answer::Externals {
            externals: devices
                .filter_map(|device| self.line(device).ok())
                .collect(),
        }
    }

    pub(super) fn external(&self, device: &NodeName) -> Result<Answer, Refusal> {
        let external = self.line(device)?;
        Ok(Answer::External { external })
    }

    pub(super) fn remove_external(
        &mut self,
        device: NodeName,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let mut draft = self.image.draft();
        let removed = draft.registry.externals.remove(&device);
        let removed = removed.ok_or_else(|| unknown(&device))?;
        let what = format!("external remove {device} with key {}", removed.wireguard);
        self.change_externals(draft, &removed.gateway, &what, by, now);
        Ok(Answer::ExternalRemoved { device })
    }

    fn change_externals(
        &mut self,
        draft: Draft,
        gateway: &NodeName,
        what: &str,
        by: &Origin,
        now: Now,
    ) {
        let scope = external::touched(&draft.registry, draft.policies(), gateway);
        let when = now.wall;
        let deed = Deed { by, what, when };
        let touched = self.image.commit(draft, Some(&scope), deed, &self.key);
        info!(%gateway, views = touched.len(), what, "devices changed");
        self.push(&touched.into_iter().collect(), now);
    }

    fn line(&self, device: &NodeName) -> Result<ExternalLine, Refusal> {
        let registry = &self.image.registry;
        let known = registry.externals.get(device);
        let known = known.ok_or_else(|| unknown(device))?;
        let gateway = registry.nodes.get(&known.gateway);
        let (gateway, endpoint) = gateway
            .and_then(|node| Some((node, node.public_endpoint?)))
            .ok_or_else(|| Refusal::because(no_gateway(device)))?;
        let root = &registry.network.root;
        let overlay = [
            IpAddr::from(gateway.overlay_v4),
            address::node_v6(root, &gateway.identity).into(),
        ];
        let reach = external::reach(registry, self.image.policies(), device, known);
        let overlay = overlay.into_iter().map(IpNet::from);
        Ok(ExternalLine {
            device: device.clone(),
            wireguard: known.wireguard,
            overlay_v4: known.overlay_v4,
            overlay_v6: address::device_v6(root, &known.wireguard),
            gateway: known.gateway.clone(),
            gateway_wireguard: gateway.wireguard,
            endpoint,
            second_endpoint: gateway.second_endpoint,
            allowed_prefixes: overlay.chain(reach.prefixes()).collect(),
            added: known.added,
        })
    }
}

fn judge_name(registry: &Registry, device: &NodeName, now: UnixTime) -> Result<(), String> {
    let agency = device.agency();
    if !registry.agencies.contains_key(&agency) {
        return Err(format!(
            "agency {agency} is not registered; add it first: pnsbox-controller agency add {agency} --prefix PREFIX"
        ));
    }
    if registry.nodes.contains_key(device) {
        return Err(format!("{device} is a node; choose another name"));
    }
    if registry.externals.contains_key(device) {
        return Err(format!(
            "{device} is already added; choose another name, or remove it first: pnsbox-controller external remove {device}"
        ));
    }
    let mut invitations = registry.invitations.values();
    if invitations.any(|i| i.node == *device && i.spent.is_none() && i.expires > now) {
        return Err(format!(
            "{device} is invited as a node; choose another name"
        ));
    }
    Ok(())
}

fn judge_key(registry: &Registry, key: &WireguardKey) -> Result<(), String> {
    // With a key of low order every secret key gives the same shared secret, zero (RFC 7748 section 6.1).
    if x25519_dalek::x25519([1; 32], *key.as_bytes()) == [0; 32] {
        return Err(format!(
            "--public-key {key}: is zero or of low order, so that anybody could read the tunnel; make one with 'wg genkey | wg pubkey'"
        ));
    }
    match registry.holder_of(key) {
        Some(other) => Err(format!(
            "--public-key {key}: is already that of {other}; give each device a key of its own"
        )),
        None => Ok(()),
    }
}

fn no_gateway(device: &NodeName) -> String {
    let agency = device.agency();
    format!(
        "{agency} has no node with a public endpoint, which a plain WireGuard device must dial; \
         give {agency} one: 'pnsbox-controller invite {agency}' with another --node, \
         and on that box 'pnsbox join --public ADDRESS:PORT'"
    )
}

fn unknown(device: &NodeName) -> Refusal {
    Refusal::because(format!(
        "{device} is no device; see: pnsbox-controller external list"
    ))
}
