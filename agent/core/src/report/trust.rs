//! What is to be said of whom this box believes: a controller that shows what nobody signed, or less than peers know;
//! agencies that were not heard of for long; what the agency's admin has yet to sign.

use std::time::Duration;

use pnsbox_proto::health::ConditionCode;
use pnsbox_proto::id::AgencyName;
use pnsbox_proto::time::UnixTime;
use pnsbox_proto::view::MemberKind;

use crate::agent::Agent;
use crate::event::Now;
use crate::trust::Trust;
use crate::view::View;

/// A statement is signed anew every 10 minutes; what was revoked since an older one may not be known here.
const STALE: Duration = Duration::from_secs(1800);

impl Agent {
    pub(super) fn trust_conditions(&self, now: Now, add: &mut impl FnMut(ConditionCode, String)) {
        if let Some((when, what)) = &self.distrust.last {
            let times = self.distrust.times;
            add(
                ConditionCode::ControllerDistrusted,
                format!(
                    "the controller sent what is not believed, {times} times, last at {when}: {what}; \
                     nothing of it is in force: tell the operator another way than through the network"
                ),
            );
        }
        let said = self.force.newest().map(|view| &view.accepted);
        let concerns = |agency: &AgencyName| {
            said.is_some_and(|view| {
                view.links.contains_key(agency) || view.proposals.contains_key(agency)
            })
        };
        let withheld = self.distrust.withheld(now.monotonic);
        // Of others it tells nothing, whatever peers do.
        for (agency, ahead) in withheld.filter(|(agency, _)| concerns(agency)) {
            add(
                ConditionCode::ControllerBehind,
                format!(
                    "{} knew statement {} of {agency}, and the controller has not told of it: \
                     it withholds it, or does not reach {agency}",
                    ahead.peer, ahead.sequence
                ),
            );
        }
        let (Some(trust), Some(view)) = (&self.trust, self.force.view()) else {
            return;
        };
        for refused in view.refused.iter().filter(|refused| refused.may_pass) {
            add(
                ConditionCode::RecordRefused,
                format!("{} is left out: {}", refused.id, refused.reason),
            );
        }
        stale(trust, view, now.wall, add);
        unsigned(trust, view, now.wall, add);
    }
}

fn stale(trust: &Trust, view: &View, now: UnixTime, add: &mut impl FnMut(ConditionCode, String)) {
    for agency in view.links.keys() {
        let Some(pinned) = trust.pinned(agency) else {
            continue;
        };
        let said = pinned
            .statement()
            .map_or(UnixTime(0), |statement| statement.issued);
        let age = said.age(now).max(pinned.heard.age(now));
        if !trust.clock_is_confirmed() || age < STALE {
            continue;
        }
        let since = if said == UnixTime(0) {
            "ever".to_owned()
        } else {
            format!("since {}", said.min(pinned.heard))
        };
        add(
            ConditionCode::StatementStale,
            format!("{agency} was not heard of {since}: what it revoked since is not known here"),
        );
    }
}

fn unsigned(
    trust: &Trust,
    view: &View,
    now: UnixTime,
    add: &mut impl FnMut(ConditionCode, String),
) {
    let own = trust.own_agency();
    let said = &view.accepted;
    for with in said.links.keys() {
        for (agency, other) in [(&own, with), (with, &own)] {
            let consent = trust
                .pinned(agency)
                .and_then(|pinned| pinned.consent(other));
            if let Some((consent, false)) = consent
                && consent.has_ended(now)
                && !trust.clock_is_confirmed()
            {
                add(
                    ConditionCode::ConsentEnded,
                    format!(
                        "the consent of {agency} with {other} would have ended by this box's clock, \
                         which nobody confirms: it goes on"
                    ),
                );
            }
        }
    }
    for line in crate::agent::consents(trust, view, now) {
        let word = match line.ours {
            crate::agency::ConsentState::Granted => continue,
            crate::agency::ConsentState::Partly => "more of a link",
            crate::agency::ConsentState::Missing => "a link",
        };
        add(
            ConditionCode::ConsentMissing,
            format!(
                "the operator's policy wants {word} with {}: see 'pnsbox consent list', then 'pnsbox consent grant {}'",
                line.with, line.with
            ),
        );
    }
    for member in said
        .members
        .values()
        .filter(|member| !trust.is_claimed(member))
    {
        let what = match member.what {
            MemberKind::Box { .. } => "box",
            MemberKind::Device { .. } => "device",
        };
        add(
            ConditionCode::NotApproved,
            format!(
                "{} joined as a {what} of {own}, which has not approved it: on the box with the agency's key, \
                 see 'pnsbox node list', then 'pnsbox node approve {}'",
                member.name, member.name
            ),
        );
    }
}
