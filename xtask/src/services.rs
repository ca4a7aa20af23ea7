//! What real services run, in a virtual environment below the target directory: end-to-end tests trace it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell;

/// The folder of the environment, in the target directory; `leaktrace_tests::services` knows it, too.
const FOLDER: &str = "services";

/// A prefork server, a task queue with a prefork pool, a memory profiler, greenlets with an event loop of their own, an
/// event loop for asyncio, and the compiler of compiled modules.
const PACKAGES: &[&str] =
    &["gunicorn==23.*", "celery==5.*", "memray==1.*", "gevent==26.*", "uvloop==0.*", "cython==3.*"];

/// Fails where a package is missing or broken.
const IMPORT: &str = "import gunicorn, celery, memray, gevent, uvloop, Cython";

/// The system's own interpreter where there is one: others on the path may be any.
pub(crate) fn python() -> &'static str {
    const SYSTEM: &str = "/usr/bin/python3";
    if Path::new(SYSTEM).is_file() { SYSTEM } else { "python3" }
}

/// Makes the environment, unless it is there with these packages.
///
/// # Errors
/// They cannot be installed.
pub(crate) fn install() -> Result<()> {
    let folder = shell::target_directory()?.join(FOLDER);
    let made_of = format!("{} {}\n", python(), PACKAGES.join(" "));
    let note = folder.join("made-of.txt");
    let own_python = folder.join("bin/python");
    let imports = || shell::capture(Command::new(&own_python).args(["-c", IMPORT]));
    if fs::read_to_string(&note).is_ok_and(|text| text == made_of) && imports().is_ok() {
        return Ok(());
    }
    let mut venv = Command::new(python());
    venv.args(["-m", "venv", "--clear"]).arg(&folder);
    let mut pip = Command::new(&own_python);
    // Nothing is built here: a package without a wheel for this interpreter is said to be missing at once.
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    ]);
    pip.args(PACKAGES);
    for command in [&mut venv, &mut pip] {
        println!("set-up: {}", shell::shown(command));
        shell::run(command).with_context(|| {
            format!("cannot install {} from PyPI, for tests to trace", PACKAGES.join(", "))
        })?;
    }
    imports().context("what was installed cannot be imported")?;
    fs::write(&note, made_of).with_context(|| format!("cannot write `{}`", note.display()))
}
