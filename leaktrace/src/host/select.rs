//! Picks the one process that a user means by its unit, its container or its name.

use std::fmt;

use regex_lite::Regex;

use super::{Host, PythonProcess};
use crate::report::{self, Cmdline};

/// Matches that an error names; of the others it tells the number.
const NAMED: usize = 8;

/// Characters of a command line that an error quotes.
const QUOTED: usize = 40;

/// Parents that are followed upwards: pid namespaces nest 32 deep, shells and supervisors less.
const MAX_DEPTH: usize = 64;

/// What a user says of the process that is meant.
#[derive(Clone, Debug)]
pub enum Selector {
    /// Its systemd unit; `.service` may be left out.
    Unit(String),
    /// The first digits of its container's id.
    Container(String),
    /// A pattern that its command line or its name contains.
    Name(Regex),
}

/// The process that was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its pid.
    pub pid: u32,
    /// Matching processes below it, which are taken along.
    pub below: usize,
}

/// Why there is not one process that was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nothing matches.
    #[error(
        "no CPython process matches `{selector}`{}; `leaktrace ps` lists those that run", unseen(.hidden)
    )]
    Nothing {
        /// What was asked for.
        selector: String,
        /// Processes that could not be looked into.
        hidden: usize,
    },
    /// Several match.
    #[error("{count} processes match `{selector}`: {matches}; choose one with --pid{}", tree(.root))]
    Several {
        /// What was asked for.
        selector: String,
        /// How many match.
        count: usize,
        /// The first of them.
        matches: String,
        /// The one that all others descend from.
        root: Option<u32>,
    },
}

impl fmt::Display for Selector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => write!(formatter, "--unit {}", unit.escape_debug()),
            Self::Container(id) => write!(formatter, "--container {id}"),
            Self::Name(pattern) => write!(formatter, "--name {}", pattern.as_str().escape_debug()),
        }
    }
}

impl Selector {
    /// Whether `process` may be meant.
    #[must_use]
    pub fn matches(&self, process: &PythonProcess) -> bool {
        let placement = &process.placement;
        match self {
            Self::Unit(wanted) => placement.unit.as_ref().is_some_and(|unit| {
                unit == wanted || unit.strip_suffix(".service") == Some(wanted)
            }),
            Self::Container(start) => {
                placement.container.as_ref().is_some_and(|it| it.id.starts_with(start.as_str()))
            }
            Self::Name(pattern) => {
                pattern.is_match(&process.entry.name)
                    || pattern.is_match(&process.cmdline.join(" "))
            }
        }
    }
}

/// The one process that `selector` means. Where the matches form one tree and `whole_tree` is wanted, that is its root.
///
/// # Errors
/// [`SelectError`] where none or several match.
pub fn choose(host: &Host, selector: &Selector, whole_tree: bool) -> Result<Chosen, SelectError> {
    let matching: Vec<&PythonProcess> =
        host.pythons.iter().filter(|process| selector.matches(process)).collect();
    match matching[..] {
        [] => Err(SelectError::Nothing { selector: selector.to_string(), hidden: host.hidden }),
        [one] => Ok(Chosen { pid: one.pid, below: 0 }),
        _ => match root(host, &matching) {
            Some(pid) if whole_tree => Ok(Chosen { pid, below: matching.len() - 1 }),
            root => Err(SelectError::Several {
                selector: selector.to_string(),
                count: matching.len(),
                matches: listed(&matching),
                root,
            }),
        },
    }
}

/// The process that all others of `matching` descend from.
fn root(host: &Host, matching: &[&PythonProcess]) -> Option<u32> {
    let descends = |from: u32, to: u32| {
        std::iter::successors(Some(from), |pid| host.parents.get(pid).copied())
            .take(MAX_DEPTH)
            .any(|pid| pid == to)
    };
    let is_root = |root: u32| matching.iter().all(|other| descends(other.pid, root));
    matching.iter().map(|process| process.pid).find(|&pid| is_root(pid))
}

fn listed(matching: &[&PythonProcess]) -> String {
    let mut names: Vec<String> =
        matching.iter().take(NAMED).map(|process| named(process)).collect();
    if let Some(more) = matching.len().checked_sub(NAMED).filter(|&more| more > 0) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// `1234 (python3 app.py)`, without secrets and control characters.
fn named(process: &PythonProcess) -> String {
    let arguments = report::cmdline(&process.cmdline, Cmdline::Redacted).unwrap_or_default();
    let whole = match arguments.is_empty() {
        true => process.entry.name.clone(),
        false => arguments.join(" "),
    };
    let mut quoted: String = whole.chars().take(QUOTED).collect();
    if quoted.len() < whole.len() {
        quoted.push('…');
    }
    format!("{} ({})", process.pid, report::escaped(&quoted))
}

fn unseen(count: &usize) -> String {
    match *count {
        0 => String::new(),
        count => format!(" ({count} processes could not be looked into; root may)"),
    }
}

fn tree(root: &Option<u32>) -> String {
    root.map_or_else(String::new, |pid| format!("; all others descend from {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Container, Placement};
    use crate::target::process::Entry;

    fn python(pid: u32, unit: &str, cmdline: &[&str]) -> PythonProcess {
        PythonProcess {
            pid,
            entry: Entry { name: "python3".into(), parent: 1, user: 0, rss: 0 },
            version: None,
            placement: Placement {
                unit: Some(unit.to_owned()),
                container: Some(Container { id: format!("{pid}abc").repeat(8), runtime: None }),
                pod: None,
            },
            cgroup: None,
            cmdline: cmdline.iter().map(|&argument| argument.to_owned()).collect(),
            obstacle: None,
        }
    }

    /// A shop of three processes, of which one does not descend from the master in shape of a shell in between.
    fn host() -> Host {
        Host {
            pythons: vec![
                python(10, "shop.service", &["python3", "-m", "gunicorn", "shop:app"]),
                python(12, "shop.service", &["python3", "-m", "gunicorn", "--token", "x\u{1b}"]),
                python(20, "cron.service", &["python3", "tidy.py"]),
            ],
            parents: [(10, 1), (11, 10), (12, 11), (20, 1)].into(),
            hidden: 2,
            refusal: None,
        }
    }

    fn by_name(pattern: &str) -> Selector {
        Selector::Name(Regex::new(pattern).unwrap())
    }

    #[test]
    fn one_match_is_the_one() {
        let chosen = |selector| choose(&host(), &selector, false).unwrap();
        let tidy = Chosen { pid: 20, below: 0 };
        assert_eq!(chosen(Selector::Unit("cron".into())), tidy);
        assert_eq!(chosen(Selector::Unit("cron.service".into())), tidy);
        assert_eq!(chosen(Selector::Container("20ab".into())), tidy);
        assert_eq!(chosen(by_name("tidy\\.py$")), tidy);
        assert_eq!(chosen(by_name("^python3 tidy")), tidy);
    }

    #[test]
    fn none_is_an_error_that_says_how_many_could_not_be_seen() {
        for selector in [Selector::Unit("shop.serv".into()), by_name("django")] {
            let error = choose(&host(), &selector, true).unwrap_err().to_string();
            assert!(error.starts_with("no CPython process matches `--"), "{error}");
            assert!(error.contains("2 processes could not be looked into"), "{error}");
        }
    }

    #[test]
    fn several_are_listed_without_their_secrets() {
        let error = choose(&host(), &by_name("gunicorn"), false).unwrap_err().to_string();
        assert_eq!(
            error,
            "2 processes match `--name gunicorn`: 10 (python3 -m gunicorn shop:app), 12 (python3 -m gunicorn --token \
             ***); choose one with --pid; all others descend from 10"
        );
    }

    #[test]
    fn a_long_list_ends_with_a_number() {
        let many = (1..=11).map(|pid| python(pid, "a.service", &["python3", &"x".repeat(99)]));
        let host = Host { pythons: many.collect(), ..Host::default() };
        let error = choose(&host, &Selector::Unit("a".into()), true).unwrap_err().to_string();
        assert!(
            error.contains("11 processes match") && error.contains(", 3 more; choose"),
            "{error}"
        );
        assert!(error.contains("…)") && !error.contains(&"x".repeat(41)), "{error}");
    }

    #[test]
    fn of_one_tree_the_root_is_taken_where_all_are_wanted() {
        let chosen = choose(&host(), &by_name("gunicorn"), true);
        assert_eq!(chosen, Ok(Chosen { pid: 10, below: 1 }));
        let apart = choose(&host(), &by_name("python3"), true);
        assert!(matches!(apart, Err(SelectError::Several { root: None, .. })), "{apart:?}");
    }

    #[test]
    fn a_loop_of_parents_ends() {
        let mut host = host();
        host.parents.insert(10, 12);
        assert!(choose(&host, &by_name("python3"), true).is_err());
    }
}
