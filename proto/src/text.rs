//! Text from outside on its way to a terminal or a log.

/// The beginning of `text` as part of one line: control characters as escapes, at most `chars` of it, `…` for the rest.
pub fn one_line(text: &str, chars: usize) -> String {
    let mut line = String::new();
    for c in text.chars().take(chars) {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    if text.chars().nth(chars).is_some() {
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_line_or_drive_a_terminal_is_escaped_and_what_is_long_is_cut() {
        assert_eq!(one_line("kab-demak", 9), "kab-demak");
        assert_eq!(one_line("kab-demak/gw1", 9), "kab-demak…");
        assert_eq!(
            one_line("a\nb\u{1b}[2J\u{85}", 80),
            "a\\nb\\u{1b}[2J\\u{85}"
        );
    }
}
