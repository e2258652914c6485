//! What the network's root says while it is offline: an operator's command signs it elsewhere and hands it in.

use pnsbox_proto::agency::Succession;
use pnsbox_proto::certificate::AdmissionCertificate;
use pnsbox_proto::envelope::Envelope;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::key::IdentityKey;
use pnsbox_proto::time::UnixTime;

use super::{Controller, Now, documents};
use crate::audit::Origin;
use crate::image::Deed;
use crate::operator::{Answer, Refusal};
use crate::plan;

impl Controller {
    /// What the root needs to know to sign for this network.
    pub(super) fn root_work(&self, agency: Option<&AgencyName>) -> Answer {
        let registry = &self.image.registry;
        let network = &registry.network;
        let agency = agency.and_then(|agency| registry.agencies.get(agency)?.key.as_ref());
        Answer::RootWork {
            network: network.name.clone(),
            root: network.root,
            admission: IdentityKey(self.admission.verifying_key().to_bytes()),
            ends: network
                .admission_certificate()
                .map_or(UnixTime(0), |c| c.ends),
            agency: agency.map(|key| key.key),
        }
    }

    /// The root lets the admission key admit for longer.
    pub(super) fn renew_admission(
        &mut self,
        envelope: Envelope,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let network = &self.image.registry.network;
        let certificate: AdmissionCertificate = envelope
            .open(&network.root)
            .map_err(|error| Refusal::because(error.to_string()))?;
        let own = IdentityKey(self.admission.verifying_key().to_bytes());
        if certificate.network != network.name || certificate.admission != own {
            return Err(Refusal::because(format!(
                "the certificate is of network {} and key {}, not of {} and {}",
                certificate.network,
                certificate.admission.fingerprint(),
                network.name,
                own.fingerprint()
            )));
        }
        let ends = certificate.ends;
        let mut draft = self.image.draft();
        draft.registry.network.admission = envelope;
        let what = format!("admission renew until {ends}");
        let deed = Deed {
            by,
            what: &what,
            when: now.wall,
        };
        self.image.commit(draft, Some(&[].into()), deed, &self.key);
        Ok(Answer::AdmissionRenewed { ends })
    }

    /// The root puts another key in the place of one that an agency lost.
    pub(super) fn succeed(
        &mut self,
        envelope: Envelope,
        by: &Origin,
        now: Now,
    ) -> Result<Answer, Refusal> {
        let network = self.image.registry.network.clone();
        let said: Succession = serde_json::from_str(&envelope.payload)
            .map_err(|error| Refusal::because(error.to_string()))?;
        let agency = said.agency;
        let mut draft = self.image.draft();
        let known = draft.registry.agencies.get_mut(&agency);
        let known = known.and_then(|known| known.key.as_mut()).ok_or_else(|| {
            Refusal::because(format!(
                "{agency} has no key that could be replaced: the first box that joins brings one"
            ))
        })?;
        let succession =
            documents::succession(&envelope, &known.key, &network.root, &network.name, &agency)
                .map_err(Refusal::because)?;
        known.key = succession.key;
        known.successions.push(envelope);
        draft.registry.forget_signed(&agency);
        let what = format!(
            "agency {agency} has the key {} under the root",
            succession.key.fingerprint()
        );
        let deed = Deed {
            by,
            what: &what,
            when: now.wall,
        };
        let scope =
            plan::touched_by_signing(&draft.registry, draft.policies(), &[agency.clone()].into());
        let touched = self.image.commit(draft, Some(&scope), deed, &self.key);
        self.image.forget_statement(&agency);
        self.push(&touched.iter().cloned().collect(), now);
        Ok(Answer::AgencyKeyReplaced {
            agency,
            key: succession.key,
        })
    }
}
