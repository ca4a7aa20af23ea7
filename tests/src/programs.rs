//! The C programs that tests need, out of `programs`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The built program `programs/NAME.c`: in the folder that `LEAKTRACE_PROGRAMS` names, or else made with the C compiler.
///
/// # Panics
/// It cannot be built.
#[must_use]
pub fn c_program(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("LEAKTRACE_PROGRAMS") {
        return Path::new(&folder).join(name);
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let program = test.with_file_name(name);
    // Whoever else builds it at the same time is not disturbed.
    let unfinished = test.with_file_name(format!("{name}.{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(name);
    let status = Command::new("gcc")
        .args(["-O2", "-pthread", "-o"])
        .arg(&unfinished)
        .arg(source.with_extension("c"))
        .status()
        .expect("gcc is there");
    assert!(status.success(), "`{name}` does not build");
    std::fs::rename(unfinished, &program).expect("it was just made");
    program
}
