//! The golden file of instructions that each kernel's verifier walks through: what comes near the verifier's limit, or
//! grows by a twentieth, should be somebody's decision.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::kernels;
use super::outcome::Outcome;
use crate::shell;

/// Growth that is let pass, in percent.
const TOLERANCE_PCT: u64 = 5;

const HEAD: &str = "# Instructions that each kernel's verifier walks through for each BPF program, at most a million.\n\
     # Written by `cargo xtask vm --bless`.\n";

/// For each kernel, by `major.minor`, for each program the instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Golden(BTreeMap<String, BTreeMap<String, u64>>);

impl Golden {
    /// Reads the file; empty where there is none.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn load() -> Result<Self> {
        match fs::read_to_string(path()?) {
            Ok(text) => Self::parse(&text),
            Err(_) => Ok(Self::default()),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map(Self).context("cannot read the golden file of instructions")
    }

    /// Writes the file.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&self) -> Result<()> {
        Ok(fs::write(path()?, self.text())?)
    }

    fn text(&self) -> String {
        let mut kernels: Vec<_> = self.0.iter().collect();
        kernels.sort_by(|(a, _), (b, _)| kernels::compare(a, b));
        let mut text = HEAD.to_owned();
        for (kernel, programs) in kernels {
            text += &format!("\n[\"{kernel}\"]\n");
            for (program, count) in programs {
                text += &format!("{program} = {count}\n");
            }
        }
        text
    }

    /// Takes what a run has shown in place of what there was of that kernel.
    pub(super) fn bless(&mut self, outcome: &Outcome) {
        self.0.insert(minor(&outcome.release), outcome.verified.clone());
    }

    /// What of a run is not as it should be. A kernel of which there are no figures yet has nothing to be held against.
    pub(super) fn faults(&self, outcome: &Outcome) -> Vec<String> {
        let Some(golden) = self.0.get(&minor(&outcome.release)) else { return Vec::new() };
        let mut faults = Vec::new();
        for (program, &now) in &outcome.verified {
            match golden.get(program) {
                Some(&before) if now * 100 > before * (100 + TOLERANCE_PCT) => faults.push(format!(
                    "the verifier walks through {now} instructions of `{program}`, {before} before: more than \
                     {TOLERANCE_PCT} % growth; if that is meant, `cargo xtask vm --bless`"
                )),
                Some(_) => {}
                None => faults.push(format!("`{program}` is new: `cargo xtask vm --bless`")),
            }
        }
        for program in golden.keys().filter(|program| !outcome.verified.contains_key(*program)) {
            faults.push(format!(
                "`{program}` was not loaded; if it is gone, `cargo xtask vm --bless`"
            ));
        }
        faults
    }

    /// Whether there are figures of a run's kernel.
    pub(super) fn knows(&self, outcome: &Outcome) -> bool {
        self.0.contains_key(&minor(&outcome.release))
    }
}

/// `6.12` of `6.12.118+deb13-cloud-amd64`.
fn minor(release: &str) -> String {
    let numbers: Vec<&str> =
        release.split(|character: char| !character.is_ascii_digit()).take(2).collect();
    numbers.join(".")
}

fn path() -> Result<PathBuf> {
    Ok(shell::root()?.join("tests/golden/verified-instructions.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(release: &str, programs: &[(&str, u64)]) -> Outcome {
        let verified = programs.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        Outcome { release: release.to_owned(), verified, ..Outcome::default() }
    }

    #[test]
    fn growth_beyond_the_tolerance_and_other_programs_are_faults_until_they_are_blessed() {
        let mut golden = Golden::default();
        golden.bless(&outcome("6.12.118+deb13-cloud-amd64", &[("a", 1000), ("b", 10)]));
        let now = outcome("6.12.120+deb13-cloud-amd64", &[("a", 1050), ("b", 9)]);
        assert_eq!(golden.faults(&now), [""; 0]);
        let grown = outcome("6.12.120", &[("a", 1051), ("b", 10)]);
        assert!(golden.faults(&grown)[0].contains("1051"));
        let other = outcome("6.12.120", &[("a", 1000), ("c", 1)]);
        assert_eq!(golden.faults(&other).len(), 2);
        golden.bless(&other);
        assert_eq!(golden.faults(&other), [""; 0]);
    }

    #[test]
    fn kernels_are_told_apart_by_major_and_minor_and_written_in_their_order() {
        let mut golden = Golden::default();
        golden.bless(&outcome("6.12.118+deb13", &[("a", 2)]));
        golden.bless(&outcome("6.1.0-56", &[("a", 1)]));
        let text = golden.text();
        assert!(text.find("[\"6.1\"]").unwrap() < text.find("[\"6.12\"]").unwrap(), "{text}");
        assert_eq!(Golden::parse(&text).unwrap(), golden);
        assert!(golden.knows(&outcome("6.12.9", &[])) && !golden.knows(&outcome("6.13.1", &[])));
    }
}
