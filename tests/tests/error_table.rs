//! The table in docs/errors.md holds what leaktrace really says: `LEAKTRACE_BLESS=1` writes it anew.
//!
//! What this host cannot be brought to is said by the error's own value.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use leaktrace::cpython::debug_offsets::DebugOffsetsError;
use leaktrace::cpython::version::{Version, VersionError};
use leaktrace::kernel::KernelError;
use leaktrace::session::SessionError;
use leaktrace::target::module::ModuleError;
use leaktrace_tests::{Target, Tracer, can_trace, debian_python, leaktrace, pythons};

/// A user without any privileges.
const NOBODY: u32 = 65534;

/// What the rows stand between in the document.
const MARKS: (&str, &str) = ("<!-- begin: what the tests saw -->\n", "<!-- end -->\n");

/// What was asked for, what was said, and the exit code.
type Row = (&'static str, String, i32);

/// The one complaint of a leaktrace with these arguments. `names` are replaced in it: they differ from run to run.
fn said(mut command: Command, names: &[(&str, &str)]) -> (String, i32) {
    let output = command.stdin(Stdio::null()).output().expect("leaktrace starts");
    let text = String::from_utf8(output.stderr).expect("it is text");
    let complaints: Vec<&str> =
        text.lines().filter(|line| line.starts_with("leaktrace: ")).collect();
    assert_eq!(complaints.len(), 1, "{command:?}: {text}");
    let mut line = complaints[0].to_owned();
    for (name, general) in names {
        line = line.replace(name, general);
    }
    (without_count(&line), output.status.code().expect("it exits"))
}

/// How many processes cannot be looked into is the host's matter.
fn without_count(line: &str) -> String {
    match (line.find(" ("), line.find("; root may)")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &line[..start], &line[end + "; root may)".len()..])
        }
        _ => line.to_owned(),
    }
}

fn row(asked: &'static str, arguments: &[&str], names: &[(&str, &str)]) -> Row {
    let (line, code) = said(leaktrace(arguments), names);
    (asked, line, code)
}

/// What makes no sense on the command line.
fn of_usage() -> Vec<Row> {
    vec![
        row("no target", &[], &[]),
        row("two selectors", &["--pid", "1", "--unit", "shop"], &[]),
        row("a broken pattern", &["--name", "("], &[]),
        row("too few digits of a container's id", &["--container", "012"], &[]),
        row("`--budget-total` without `--follow`", &["--pid", "1", "--budget-total", "1%"], &[]),
        row("`--exact` with `--budget`", &["--pid", "1", "--exact", "--budget", "1%"], &[]),
    ]
}

/// What is no target.
fn of_targets() -> Vec<Row> {
    let mut sleep =
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("it starts");
    let pid = sleep.id().to_string();
    let rows = vec![
        row("a pid that is none", &["--pid", "4194304"], &[("4194304", "PID")]),
        row(
            "a program that is no Python",
            &["--pid", &pid],
            &[(&pid, "PID"), ("/usr/bin/", "/bin/")],
        ),
        row("a unit without a Python", &["--unit", "none.service"], &[]),
        row("a command that is no Python", &["trace", "--", "true"], &[]),
        row("a command that is not there", &["trace", "--", "/none"], &[]),
    ];
    sleep.kill().expect("it runs");
    sleep.wait().expect("it can be waited for");
    rows
}

/// What stands in the way of a target that is one.
fn of_a_target() -> Vec<Row> {
    let python = debian_python().or_else(|| pythons().pop()).expect("a CPython is here");
    let mark = format!("mark-{}", std::process::id());
    let targets = [(); 2].map(|()| Target::start(&python, "busy.py", &[&mark]));
    let pids = targets.each_ref().map(|target| target.pid.to_string());
    let mut names = vec![(pids[0].as_str(), "PID"), (pids[1].as_str(), "PID"), (&mark, "NAME")];
    let folder = tempfile::tempdir().expect("a folder can be made");
    let directory = folder.path().display().to_string();
    let missing = format!("{directory}/none/report.json");
    let mut rows = vec![
        row(
            "a directory as `--output`",
            &["--pid", &pids[0], "--output", &directory],
            &[(&directory, "FOLDER")],
        ),
        row(
            "an `--output` in no directory",
            &["--pid", &pids[0], "--output", &missing],
            &[(&directory, "FOLDER")],
        ),
        row(
            "an `--output` that turns out to be full",
            &["--pid", &pids[0], "--duration", "300ms", "--output", "/dev/full"],
            &[],
        ),
    ];
    let (line, code) = said(without_rights(folder.path(), &pids[0]), &names);
    rows.push(("no rights", line, code));
    let tracer = Tracer::start(targets[0].pid, &[]);
    rows.push(row(
        "a process that is traced already",
        &["--pid", &pids[0], "--duration", "1s"],
        &names,
    ));
    drop(tracer.stop());
    rows.push(row(
        "no gate to close between windows, without `--exact`",
        &["--pid", &pids[0], "--no-gate"],
        &names,
    ));
    let (line, code) = said(leaktrace(&["--name", &mark]), &[]);
    let matches = line.split_once("`: ").and_then(|(_, rest)| Some(rest.split_once("; choose")?.0));
    let matches = matches.unwrap_or("").to_owned();
    assert!(pids.iter().all(|pid| matches.contains(pid)), "{line}");
    names.push((&matches, "PID (python3 …), PID (python3 …)"));
    names.reverse();
    let general =
        names.iter().fold(line.clone(), |line, (name, general)| line.replace(name, general));
    rows.push(("a name that means several", general, code));
    rows
}

/// leaktrace for everybody, run by nobody.
fn without_rights(folder: &Path, pid: &str) -> Command {
    use std::os::unix::fs::PermissionsExt as _;
    let program = folder.join("leaktrace");
    fs::copy(leaktrace(&[]).get_program(), &program).expect("it can be copied");
    for path in [folder, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let mut command = Command::new(program);
    command.args(["--pid", pid]).uid(NOBODY).gid(NOBODY);
    command
}

/// What this host cannot be brought to.
fn of_other_hosts() -> Vec<Row> {
    let python2 = Version { major: 2, minor: 7, micro: 18, text: "2.7.18".to_owned() };
    let python35 = Version { major: 3, minor: 5, micro: 10, text: "3.5.10".to_owned() };
    let errors: [(&'static str, String); 10] = [
        (
            "PyPy",
            ModuleError::PyPy { pid: 0, path: "/usr/lib/libpypy3-c.so".to_owned() }.to_string(),
        ),
        ("CPython 2.7", VersionError::TooOld { version: python2 }.to_string()),
        ("CPython 3.5", VersionError::TooOld { version: python35 }.to_string()),
        (
            "a free-threaded build without a table",
            DebugOffsetsError::FreeThreaded { minor: 15 }.to_string(),
        ),
        ("hooks that never settle", SessionError::Restless { pid: 0 }.to_string()),
        ("a machine that is no x86-64", KernelError::Architecture("aarch64").to_string()),
        ("an old kernel", KernelError::TooOld { found: "4.19.0".to_owned() }.to_string()),
        (
            "a kernel without BTF",
            KernelError::NoBtf("No such file or directory".to_owned()).to_string(),
        ),
        ("a kernel without uprobes", KernelError::NoUprobes.to_string()),
        ("a kernel that is locked down", KernelError::Lockdown.to_string()),
    ];
    let rows = errors.into_iter();
    rows.map(|(asked, line)| (asked, format!("leaktrace: {line}").replace("`0`", "`PID`"), 1))
        .collect()
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "| what | what is said on stderr | exit code |\n| --- | --- | --- |\n".to_owned();
    for (asked, line, code) in rows {
        let line = line
            .strip_prefix("leaktrace: ")
            .unwrap_or(line)
            .replace('|', "\\|")
            .replace('<', "\\<");
        text += &format!("| {asked} | {line} | {code} |\n");
    }
    text
}

#[test]
fn the_table_of_errors_is_what_is_said() {
    if !can_trace() {
        return;
    }
    let rows = [of_usage(), of_targets(), of_a_target(), of_other_hosts()].concat();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let document = fs::read_to_string(&file).expect("the document is there");
    let (before, rest) = document.split_once(MARKS.0).expect("the table begins");
    let (written, after) = rest.split_once(MARKS.1).expect("the table ends");
    let seen = table(&rows);
    if std::env::var_os("LEAKTRACE_BLESS").is_some() {
        let text = format!("{before}{}{seen}{}{after}", MARKS.0, MARKS.1);
        fs::write(&file, text).expect("the document can be written");
        return;
    }
    assert_eq!(seen, written, "docs/errors.md differs; LEAKTRACE_BLESS=1 writes it anew");
}
