//! What a virtual machine wrote on its console -> what ran in it, and whether that is all that should have run.

use std::collections::BTreeMap;

/// What the console says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The kernel that ran.
    pub(super) release: String,
    /// Tests that passed.
    pub(super) passed: u64,
    /// For each program the most instructions that the verifier walked through.
    pub(super) verified: BTreeMap<String, u64>,
    /// What was counted: expected and seen.
    pub(super) counts: Vec<Count>,
    /// Single facts, by name.
    pub(super) facts: BTreeMap<String, String>,
    /// What is wrong, in words.
    pub(super) faults: Vec<String>,
}

/// Something that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) of: String,
    pub(super) expected: u64,
    pub(super) seen: u64,
}

impl Outcome {
    /// Reads a console, on which `expected` tests and `commands` commands should have ended well.
    pub(super) fn read(console: &str, expected: u64, commands: usize) -> Self {
        let mut outcome = Self::default();
        let (mut ended, mut end) = (0, false);
        for line in console.lines() {
            if line.contains("skipped: ") {
                outcome.faults.push(format!("a test did not run: {}", line.trim()));
            }
            if let Some(rest) = line.split_once("test result: ").map(|(_, rest)| rest) {
                outcome.passed += passed_in(rest);
            }
            let Some((_, fact)) = line.split_once("@@ ") else { continue };
            ended += usize::from(fact.starts_with("ended 0 "));
            end |= fact.trim() == "end";
            outcome.take(fact.trim());
        }
        if !end {
            outcome.faults.push("the machine did not come to its end".to_owned());
        }
        if ended != commands {
            outcome.faults.push(format!("{ended} of {commands} commands ended well"));
        }
        if outcome.passed != expected {
            outcome.faults.push(format!("{} of {expected} tests passed", outcome.passed));
        }
        outcome
    }

    /// Takes what stands behind the marker of a line.
    fn take(&mut self, fact: &str) {
        let words: Vec<&str> = fact.split_whitespace().collect();
        match words[..] {
            ["end"] | ["ended", "0", ..] => {}
            ["ended", status, ..] => {
                self.faults.push(format!("`{}` ended with {status}", words[2..].join(" ")));
            }
            ["complaint", ..] => {
                self.faults.push(format!("the kernel said: {}", words[1..].join(" ")));
            }
            ["release", release] => release.clone_into(&mut self.release),
            ["verified", name, count] if !name.starts_with("aya_") => {
                let most = self.verified.entry(name.to_owned()).or_default();
                *most = count.parse().unwrap_or(0).max(*most);
            }
            ["verified", ..] => {}
            ["count", of, expected, seen] => match expected.parse().ok().zip(seen.parse().ok()) {
                Some((expected, seen)) => {
                    self.counts.push(Count { of: of.to_owned(), expected, seen });
                }
                None => self.faults.push(format!("cannot read `{fact}`")),
            },
            [name, value] => {
                self.facts.insert(name.to_owned(), value.to_owned());
            }
            _ => self.faults.push(format!("cannot read `{fact}`")),
        }
    }

    /// A fact, or a dash.
    pub(super) fn fact(&self, name: &str) -> &str {
        self.facts.get(name).map_or("-", String::as_str)
    }
}

/// The count in `ok. 12 passed; 0 failed; ..`; 0 where a test failed.
fn passed_in(result: &str) -> u64 {
    let count = result.strip_prefix("ok. ").and_then(|rest| rest.split_once(" passed"));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\r\n@@ release 6.1.0-56\r\n@@ verified aya_name_check 2\r\n@@ verified obj_free 90\r\n\
        @@ verified obj_free 120\r\ntest a ... \r\n@@ count c.calls 8 8\r\n@@ attach perf-event+link\r\nok\r\n\
        test result: ok. 2 passed; 0 failed; 1 ignored\r\n\r\n@@ ended 0 /tests/kernels\r\n@@ end\r\n";

    #[test]
    fn a_console_with_all_tests_and_an_end_has_no_fault() {
        let outcome = Outcome::read(GOOD, 2, 1);
        assert_eq!(outcome.faults, [""; 0]);
        assert_eq!(outcome.release, "6.1.0-56");
        assert_eq!(outcome.verified, BTreeMap::from([("obj_free".to_owned(), 120)]));
        assert_eq!(outcome.counts[0], Count { of: "c.calls".to_owned(), expected: 8, seen: 8 });
        assert_eq!(outcome.fact("attach"), "perf-event+link");
    }

    #[test]
    fn a_panic_a_missing_test_a_skip_and_a_complaint_are_faults() {
        let cut = GOOD.split("test result").next().unwrap();
        assert_eq!(Outcome::read(cut, 2, 1).faults.len(), 3);
        assert_eq!(Outcome::read(GOOD, 3, 1).faults, ["2 of 3 tests passed"]);
        let skipped = GOOD.replace("test a", "skipped: root false");
        assert!(Outcome::read(&skipped, 2, 1).faults[0].contains("did not run"));
        let complaint = format!("@@ complaint [ 1.0] WARNING: CPU: 0\r\n{GOOD}");
        assert_eq!(Outcome::read(&complaint, 2, 1).faults.len(), 1);
        let failed = GOOD.replace("ended 0", "ended 101");
        assert_eq!(Outcome::read(&failed, 2, 1).faults.len(), 2);
    }
}
