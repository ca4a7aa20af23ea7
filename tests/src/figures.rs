//! What tests measured, for whoever asked for them.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::Python;

/// Adds a line of JSON to the file that `LEAKTRACE_FIGURES` names, if it is set: what `test` measured on `python`.
///
/// # Panics
/// The file cannot be written.
pub fn record(test: &str, python: &Python, figures: Value) {
    let Some(file) = std::env::var_os("LEAKTRACE_FIGURES") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(file).expect("it can be made");
    let line = json!({ "test": test, "python": python.version, "figures": figures });
    writeln!(file, "{line}").expect("as above");
}

/// How much of `key` came a second between two answers of a workload, which tell the time as `at_s`.
///
/// # Panics
/// One of them lacks it.
#[must_use]
pub fn rate_between(before: &Value, after: &Value, key: &str) -> f64 {
    let number = |count: &Value, key: &str| count[key].as_f64().expect("it counts");
    let of = |key: &str| number(after, key) - number(before, key);
    of(key) / of("at_s")
}
