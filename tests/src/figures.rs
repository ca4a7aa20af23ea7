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
