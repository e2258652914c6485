//! What agents say in words, made harmless: it ends on an operator's terminal, and one box of thousands may be a thief's.

use pnsbox_proto::health::HealthReport;

/// Characters of one sentence.
const MAX_CHARS: usize = 400;
/// Sentences, peers or services of one report; a hub has one peer for each node of the network.
const MAX_LINES: usize = 256;
const MAX_PEERS: usize = 8192;

/// One line without control characters.
pub(super) fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MAX_CHARS).map(plain).collect()
}

/// Several.
pub(super) fn lines(texts: Vec<String>) -> Vec<String> {
    texts
        .iter()
        .take(MAX_LINES)
        .map(|text| line(text))
        .collect()
}

/// A report whose words are lines and whose lists are bounded.
pub(super) fn report(mut report: HealthReport) -> HealthReport {
    report.software = line(&report.software);
    report.peers.truncate(MAX_PEERS);
    report.services.truncate(MAX_LINES);
    report.conditions.truncate(MAX_LINES);
    for condition in &mut report.conditions {
        condition.message = line(&condition.message);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_cannot_drive_a_terminal_or_fill_it() {
        assert_eq!(line("a\n\u{1b}[2Jb\u{9b}c"), "a  [2Jb c");
        assert_eq!(line(&"x".repeat(10_000)).len(), MAX_CHARS);
        assert_eq!(lines(vec!["y".into(); 10_000]).len(), MAX_LINES);
    }
}
