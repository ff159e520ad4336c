//! Counts tests in the output of the runners we use, so that a run without tests cannot look like a success.

use std::ops::AddAssign;

/// The number of tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Tests that are marked to be skipped.
    pub(crate) ignored: u64,
}

impl Totals {
    /// Reads one line of a runner's output. Most lines contain no totals.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
            self.ignored += number_before(result, " ignored");
        }
        // Node's runner, with both of its reporters: "# pass 3" and "ℹ pass 3".
        let mut words = line.split_whitespace();
        if let (Some("#" | "ℹ"), Some(what), Some(count), None) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let count = count.parse().unwrap_or(0);
            match what {
                "pass" => self.passed += count,
                "fail" => self.failed += count,
                "skipped" | "todo" => self.ignored += count,
                _ => {}
            }
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Returns the number right before `word`, or zero.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().filter(|before| before.len() < text.len()).unwrap_or_default();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(output: &str) -> Totals {
        let mut totals = Totals::default();
        output.lines().for_each(|line| totals.read(line));
        totals
    }

    #[test]
    fn cargo_test_is_counted() {
        let output = "running 14 tests\ntest result: ok. 12 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.03s\n\
                      test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.00s";
        assert_eq!(count(output), Totals { passed: 15, failed: 1, ignored: 2 });
    }

    #[test]
    fn both_of_nodes_reporters_are_counted() {
        assert_eq!(
            count("# tests 4\n# pass 3\n# fail 1\n# skipped 0"),
            Totals { passed: 3, failed: 1, ignored: 0 }
        );
        assert_eq!(
            count("ℹ tests 4\nℹ pass 2\nℹ fail 0\nℹ skipped 2"),
            Totals { passed: 2, failed: 0, ignored: 2 }
        );
    }

    #[test]
    fn other_lines_are_ignored() {
        assert_eq!(count("# pass the salt\ntest result: none\n3 passed\n# pass 3 more"), Totals::default());
    }
}
