//! What `leaktrace doctor` finds in a process.

use crate::leaktrace;

/// What was left behind in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// An open gate, which is closed now.
    OpenGate,
    /// None in the process itself, but open gates in children, which are closed now.
    OpenGateInChildren,
}

/// Has the doctor look at `pid`.
///
/// # Panics
/// It fails, or says something that no test knows.
#[must_use]
pub fn doctor(pid: u32) -> Found {
    let output =
        leaktrace(&["doctor", "--pid", &pid.to_string()]).output().expect("leaktrace starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "doctor ended with {}: {complaint}", output.status);
    assert_eq!(said.lines().count(), 1, "{said}");
    if said.contains("no gate left open") && !said.contains("copies") {
        return if said.contains("; closed one in") {
            Found::OpenGateInChildren
        } else {
            Found::Nothing
        };
    }
    assert!(said.contains("closed a gate") || said.contains("copies"), "{said}");
    Found::OpenGate
}
