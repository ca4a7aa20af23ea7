//! The plan of a run and its raw data -> what is missing, and why.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::bench::environment::Environment;
use crate::bench::folder::Folder;
use crate::bench::records::{Fault, Kind};

/// What is said of what nothing went wrong with: it was not asked for, or the time was over.
const NOT_YET: &str = "not measured yet";

/// The part of the summary on what is not in it.
///
/// # Errors
/// The raw data cannot be read.
pub(super) fn section(folder: &Folder, environment: &Environment) -> Result<String> {
    let faults = folder.faults()?.records;
    let settings = &environment.settings;
    let mut text = "\n## Left out\n\n".to_owned();
    let before = text.len();
    for workload in &environment.plan.workloads {
        let pairs = folder.pairs(&workload.name)?.records;
        let count = |kind| pairs.iter().filter(|pair| pair.kind == kind).count();
        let why = why(&faults, &workload.name, None);
        let mut missing = Missing::default();
        missing.add("pairs", count(Kind::Traced), settings.pairs, why);
        missing.add("null pairs", count(Kind::Null), settings.null_pairs, why);
        for (tool, _) in environment.plan.tools.iter().filter(|_| workload.peers) {
            let runs = folder.runs(&workload.name, tool)?.records.len();
            let why = self::why(&faults, &workload.name, Some(tool));
            missing.add(tool, runs, settings.rounds, why);
        }
        for (why, what) in missing.0 {
            text += &format!("- {}: {}: {why}\n", workload.name, what.join(", "));
        }
    }
    if text.len() == before {
        text += "Nothing.\n";
    }
    Ok(text)
}

/// What is missing of a workload, by the reason.
#[derive(Debug, Default)]
struct Missing<'a>(BTreeMap<&'a str, Vec<String>>);

impl<'a> Missing<'a> {
    /// Looks whether all of something is there.
    fn add(&mut self, what: &str, there: usize, wanted: u32, why: &'a str) {
        if there < wanted as usize {
            self.0.entry(why).or_default().push(format!("{what} ({there} of {wanted})"));
        }
    }
}

/// What went wrong last.
fn why<'a>(faults: &'a [Fault], workload: &str, tool: Option<&str>) -> &'a str {
    let mut last = faults.iter().rev();
    let fault = last.find(|fault| fault.workload == workload && fault.tool.as_deref() == tool);
    fault.map_or(NOT_YET, |fault| &fault.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_went_wrong_last() {
        let fault = |tool: Option<&str>, why: &str| Fault {
            workload: "json".into(),
            tool: tool.map(str::to_owned),
            why: why.into(),
        };
        let faults = [fault(None, "one"), fault(Some("memray"), "two"), fault(None, "three")];
        assert_eq!(why(&faults, "json", None), "three");
        assert_eq!(why(&faults, "json", Some("memray")), "two");
        assert_eq!(why(&faults, "http", None), NOT_YET);
        let mut missing = Missing::default();
        missing.add("a", 3, 3, "w");
        missing.add("b", 2, 3, "w");
        missing.add("c", 0, 3, "w");
        assert_eq!(
            missing.0,
            BTreeMap::from([("w", vec!["b (2 of 3)".into(), "c (0 of 3)".into()])])
        );
    }
}
