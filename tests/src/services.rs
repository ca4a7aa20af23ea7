//! The virtual environment with what real services run, which `cargo xtask test` makes. `LEAKTRACE_SERVICES` names the
//! interpreter of another one.

use crate::Python;

/// Its interpreter. `None` where it is not there, which whoever runs the tests is told.
///
/// # Panics
/// It is not there where the tests must run, or what is named is no Python.
#[must_use]
pub fn services_python() -> Option<Python> {
    if let Some(python) = std::env::var_os("LEAKTRACE_SERVICES") {
        return Some(Python::at(python).expect("`LEAKTRACE_SERVICES` names a Python"));
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let target = test.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let found = Python::at(target.join("services/bin/python"));
    let required = std::env::var("LEAKTRACE_E2E").is_ok_and(|value| value == "required");
    assert!(
        found.is_some() || !required,
        "the services are missing: `cargo xtask test` installs them"
    );
    if found.is_none() {
        #[expect(clippy::print_stderr, reason = "whoever runs the tests must see what did not run")]
        {
            eprintln!("skipped: the services are missing, `cargo xtask test` installs them");
        }
    }
    found
}
