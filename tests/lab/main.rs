//! The lab: real binaries, real servers, three agencies and a ministry behind real NAT, in network namespaces.
//!
//! One lab serves every scenario, one after the other; each leaves it as it found it.
//! Needs root. `--long` (environment `PNSBOX_LONG=1`) waits as long as the real world would.

#![expect(clippy::print_stdout, reason = "a scenario prints what it measured")]

mod away;
mod captured;
mod change;
mod clock;
mod clone;
mod crash;
mod disk;
mod drift;
mod enrolment;
mod external;
mod hostile;
mod ipv6;
mod leftovers;
mod links;
mod monitoring;
mod mtu;
mod quarantine;
mod reach;
mod relay;
mod rollout;
mod secrets;
mod services;
mod trial;
mod uapi;
mod watchdog;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Arguments, Trial};
use pnsbox_tests::lab::Lab;

type Scenario = (&'static str, fn(&Lab) -> Result<()>);

/// In this order: what breaks things comes last.
const SCENARIOS: &[Scenario] = &[
    (
        "lans_reach_each_other_with_their_own_addresses",
        reach::lans_reach_each_other_with_their_own_addresses,
    ),
    (
        "what_policy_does_not_open_stays_closed",
        reach::what_policy_does_not_open_stays_closed,
    ),
    (
        "the_relay_sees_ciphertext_only",
        relay::the_relay_sees_ciphertext_only,
    ),
    (
        "congestion_marks_pass_the_relay_and_classes_do_not",
        relay::congestion_marks_pass_the_relay_and_classes_do_not,
    ),
    (
        "links_are_up_and_measure_the_path",
        links::links_are_up_and_measure_the_path,
    ),
    (
        "both_screens_show_every_node_and_peer",
        links::both_screens_show_every_node_and_peer,
    ),
    (
        "metrics_are_served_to_peers",
        links::metrics_are_served_to_peers,
    ),
    // Before boxes come and go for good: what is watched here is four boxes.
    (
        "monitoring_finds_and_scrapes_every_agent",
        monitoring::monitoring_finds_and_scrapes_every_agent,
    ),
    (
        "monitoring_answers_every_query_of_every_dashboard",
        monitoring::monitoring_answers_every_query_of_every_dashboard,
    ),
    (
        "monitoring_shows_what_is_broken_where_it_promised_to",
        monitoring::monitoring_shows_what_is_broken_where_it_promised_to,
    ),
    (
        "a_service_appears_and_goes_with_its_health",
        services::a_service_appears_and_goes_with_its_health,
    ),
    (
        "a_silent_owner_hides_its_services",
        services::a_silent_owner_hides_its_services,
    ),
    (
        "outside_the_audience_a_service_is_unknown",
        services::outside_the_audience_a_service_is_unknown,
    ),
    (
        "a_change_reaches_whom_it_affects_and_nobody_else",
        change::a_change_reaches_whom_it_affects_and_nobody_else,
    ),
    (
        "a_plain_wireguard_device_is_served_and_moves_and_is_cut",
        external::a_plain_wireguard_device_is_served_and_moves_and_is_cut,
    ),
    (
        "anchors_that_are_no_good_are_named",
        enrolment::anchors_that_are_no_good_are_named,
    ),
    (
        "names_and_prefixes_that_are_taken_are_named",
        enrolment::names_and_prefixes_that_are_taken_are_named,
    ),
    (
        "an_overlapping_prefix_is_held_back_and_shown",
        enrolment::an_overlapping_prefix_is_held_back_and_shown,
    ),
    (
        "a_box_joins_within_ten_seconds",
        enrolment::a_box_joins_within_ten_seconds,
    ),
    (
        "a_path_that_is_narrower_becomes_the_mtu_of_its_routes",
        mtu::a_path_that_is_narrower_becomes_the_mtu_of_its_routes,
    ),
    (
        "both_versions_of_ip_are_the_same_everywhere",
        ipv6::both_versions_of_ip_are_the_same_everywhere,
    ),
    (
        "wg_shows_the_tunnels_and_changes_nothing",
        uapi::wg_shows_the_tunnels_and_changes_nothing,
    ),
    (
        "a_second_agent_and_a_port_in_use_are_named",
        leftovers::a_second_agent_and_a_port_in_use_are_named,
    ),
    (
        "stopping_leaves_nothing_and_a_crash_leaves_one_of_each",
        leftovers::stopping_leaves_nothing_and_a_crash_leaves_one_of_each,
    ),
    (
        "noise_gets_no_answer_and_costs_nothing",
        hostile::noise_gets_no_answer_and_costs_nothing,
    ),
    (
        "the_admin_socket_answers_nonsense_with_a_reason",
        hostile::the_admin_socket_answers_nonsense_with_a_reason,
    ),
    (
        "a_hundred_restarts_leave_one_of_each",
        leftovers::a_hundred_restarts_leave_one_of_each,
    ),
    (
        "keys_and_tokens_are_nowhere_but_in_their_files",
        secrets::keys_and_tokens_are_nowhere_but_in_their_files,
    ),
    (
        "what_another_program_removes_is_put_back_and_counted",
        drift::what_another_program_removes_is_put_back_and_counted,
    ),
    (
        "a_full_or_read_only_disk_stops_nothing",
        disk::a_full_or_read_only_disk_stops_nothing,
    ),
    (
        "a_box_that_has_not_joined_is_ready_and_says_so",
        watchdog::a_box_that_has_not_joined_is_ready_and_says_so,
    ),
    (
        "a_worker_that_hangs_ends_the_watchdog_and_a_restart_brings_the_view_back",
        watchdog::a_worker_that_hangs_ends_the_watchdog_and_a_restart_brings_the_view_back,
    ),
    (
        "a_copy_of_a_box_is_named_within_half_a_minute",
        clone::a_copy_of_a_box_is_named_within_half_a_minute,
    ),
    (
        "who_is_shut_out_is_dropped_by_everybody_within_five_seconds",
        quarantine::who_is_shut_out_is_dropped_by_everybody_within_five_seconds,
    ),
    (
        "a_change_that_cuts_boxes_off_is_taken_back_within_a_minute",
        trial::a_change_that_cuts_boxes_off_is_taken_back_within_a_minute,
    ),
    (
        "a_captured_controller_gains_nothing",
        captured::a_captured_controller_gains_nothing,
    ),
    (
        "no_fault_of_the_clock_keeps_a_box_out",
        clock::no_fault_of_the_clock_keeps_a_box_out,
    ),
    (
        "a_rollout_that_cuts_boxes_off_is_halted_and_a_good_one_goes_through",
        rollout::a_rollout_that_cuts_boxes_off_is_halted_and_a_good_one_goes_through,
    ),
    (
        "killed_while_it_makes_its_keys_it_makes_them_whole",
        crash::killed_while_it_makes_its_keys_it_makes_them_whole,
    ),
    (
        "killed_at_any_step_it_has_the_old_view_or_the_new",
        crash::killed_at_any_step_it_has_the_old_view_or_the_new,
    ),
    (
        "losing_the_controller_changes_nothing",
        away::losing_the_controller_changes_nothing,
    ),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&Err("only listed".into()))).exit();
    }
    let name = format!("t{}", std::process::id());
    let lab = Lab::up(&name)
        .map(Arc::new)
        .map_err(|error| format!("{error:#}"));
    let conclusion = libtest_mimic::run(&arguments, trials(&lab));
    // The trials are gone, so this is the last hold on the lab: it goes down here.
    drop(lab);
    conclusion.exit_code()
}

fn trials(lab: &Result<Arc<Lab>, String>) -> Vec<Trial> {
    let trial = |&(name, scenario): &Scenario| {
        let lab = lab.clone();
        Trial::test(name, move || {
            let lab = lab.as_ref().map_err(|reason| reason.clone())?;
            scenario(lab).map_err(|error| format!("{error:#}").into())
        })
    };
    SCENARIOS.iter().map(trial).collect()
}
