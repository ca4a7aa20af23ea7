//! What goes wrong is said in one line, with the exit code of the contract, and leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use leaktrace::cpython::version::OLDEST_MINOR;
use leaktrace_tests::{
    Ended, Target, Tracer, can_trace, debian_python, leaktrace, old_pythons, pythons,
};
use rustix::process::Signal;
use tempfile::TempDir;

/// A user without any privileges.
const NOBODY: u32 = 65534;

const ERROR: i32 = 1;
const USAGE: i32 = 2;
const MATCHED: i32 = 10;

/// A process that is ended with its value.
struct Other(Child);

impl Other {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn target() -> Target {
    let python = debian_python().or_else(|| pythons().pop()).expect("a CPython is here");
    Target::start(&python, "busy.py", &[])
}

/// Asserts that `command` fails with one line on stderr and nothing on stdout; returns the line.
fn refused(command: Command, code: i32) -> String {
    let shown = format!("{command:?}");
    let ended = Tracer::spawn_command(command).ended();
    assert_eq!(ended.status.code(), Some(code), "{shown}: {ended:?}");
    assert_eq!(ended.printed, "", "{shown}");
    one_line(&ended, &shown)
}

fn one_line(ended: &Ended, shown: &str) -> String {
    assert_eq!(ended.said.lines().count(), 1, "{shown}: {ended:?}");
    assert!(ended.said.starts_with("leaktrace: "), "{shown}: {ended:?}");
    ended.said.trim_end().to_owned()
}

/// Asserts that neither tracing nor the doctor will have anything to do with `pid`; returns what the former says.
fn not_traced(pid: u32, expected: &str) {
    let pid = pid.to_string();
    for arguments in [&["--pid", &pid, "--duration", "1s"][..], &["doctor", "--pid", &pid]] {
        let line = refused(leaktrace(arguments), ERROR);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_pid_that_is_none_is_refused() {
    not_traced(4_194_304, "no such process");
    not_traced(u32::MAX, "no such process");
}

#[test]
fn a_program_that_is_not_python_is_refused() {
    let sleep = Other::start(Command::new("sleep").arg("60"));
    not_traced(sleep.0.id(), "not CPython");
}

#[test]
fn a_thread_of_the_kernel_is_refused() {
    let parent = fs::read_to_string("/proc/2/stat").unwrap_or_default();
    if !parent.starts_with("2 (kthreadd)") {
        eprintln!("skipped: no kernel threads can be seen here");
        return;
    }
    not_traced(2, "kernel thread");
}

#[test]
fn a_process_that_has_ended_is_refused() {
    let ended = Other::start(&mut Command::new("true"));
    let stat = format!("/proc/{}/stat", ended.0.id());
    while !fs::read_to_string(&stat).expect("it was not waited for").contains(") Z ") {
        std::thread::yield_now();
    }
    not_traced(ended.0.id(), "zombie");
}

#[test]
fn a_version_that_is_not_supported_is_refused_by_the_name_of_those_that_are() {
    for python in old_pythons() {
        let mut command = Command::new(&python.path);
        let old = Other::start(command.args(["-c", "import time; time.sleep(60)"]));
        not_traced(old.0.id(), &python.version);
        not_traced(old.0.id(), &format!("leaktrace reads 3.{OLDEST_MINOR} and later"));
    }
}

/// The program where everybody may run it.
fn for_everybody() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("leaktrace");
    fs::copy(leaktrace(&[]).get_program(), &program).expect("it can be copied");
    for path in [folder.path(), &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    (folder, program)
}

#[test]
fn without_privileges_it_says_what_is_missing() {
    if !can_trace() {
        return;
    }
    let (_folder, program) = for_everybody();
    let others = target();
    let own = Other::start(
        Command::new("/usr/bin/python3")
            .uid(NOBODY)
            .gid(NOBODY)
            .args(["-c", "import time; time.sleep(60)"]),
    );
    for pid in [others.pid, own.0.id()] {
        for arguments in [&["--duration", "1s"][..], &[]] {
            let mut command = Command::new(&program);
            if arguments.is_empty() {
                command.arg("doctor");
            }
            command.args(["--pid", &pid.to_string()]).args(arguments).uid(NOBODY).gid(NOBODY);
            let line = refused(command, ERROR);
            eprintln!("{line}");
            assert!(line.contains("root") || line.contains("sudo"), "{line}");
        }
    }
}

#[test]
fn what_makes_no_sense_on_the_command_line_is_one_line() {
    for arguments in [
        "",
        "--pid x",
        "--pid 0",
        "--pid 1 --duration 3parsecs",
        "--pid 1 --budget 0",
        "--pid 1 --budget 1% --exact",
        "--pid 1 --budget-total 1%",
        "--pid 1 --follow --exact --budget-total 1%",
        "--pid 1 --fail-on stable",
        "--pid 1 --bogus",
        "doctor",
        "bogus",
        "--pid 1 --format xml",
        "--pid 1 --pid 2",
        "--pid 1 --max-memory 1parsec",
    ] {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        refused(leaktrace(&arguments), USAGE);
    }
}

/// A leaktrace that writes its report to FOLDER/report.json on a file system of its own; what it left there follows
/// on stderr, one line for each file, after `left:`.
fn on_own_file_system(options: &str, folder: &Path, pid: u32) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg(format!(
        "mount -t tmpfs -o {options} none '{folder}' && '{program}' --pid {pid} --duration 1s --format json \
         --output '{folder}/report.json'; code=$?; echo left: $(ls -A '{folder}') >&2; exit $code",
        folder = folder.display(),
        program = leaktrace(&[]).get_program().display(),
    ));
    command
}

#[test]
fn a_place_for_the_report_that_cannot_be_written_is_refused_before_anything_is_touched() {
    if !can_trace() {
        return;
    }
    let target = target();
    let pid = target.pid.to_string();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let directory = folder.path().to_str().expect("its name is text");
    let missing = format!("{directory}/none/report.json");
    for output in [directory, &missing] {
        let line = refused(leaktrace(&["--pid", &pid, "--output", output]), ERROR);
        eprintln!("{line}");
        assert!(line.contains(output), "{line}");
    }
    let ended = Tracer::spawn_command(on_own_file_system("ro", folder.path(), target.pid)).ended();
    assert_eq!((ended.status.code(), &*ended.printed), (Some(ERROR), ""), "{ended:?}");
    let lines: Vec<&str> = ended.said.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("Read-only file system"), "{lines:?}");
    assert_eq!(lines[1], "left:");
}

#[test]
fn a_report_that_does_not_fit_goes_to_stdout_and_leaves_no_file() {
    if !can_trace() {
        return;
    }
    let target = target();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let full = on_own_file_system("size=4k", folder.path(), target.pid);
    let ended = Tracer::spawn_command(full).ended();
    assert_eq!(ended.status.code(), Some(ERROR), "{ended:?}");
    assert_eq!(ended.report().0["session"]["end"], "duration");
    let complaints: Vec<&str> =
        ended.said.lines().filter(|line| line.starts_with("leaktrace: ")).collect();
    assert!(complaints.len() == 1 && complaints[0].contains("No space left"), "{complaints:?}");
    assert_eq!(ended.said.lines().last(), Some("left:"), "{ended:?}");
}

#[test]
fn a_device_for_the_report_stays_a_device() {
    if !can_trace() {
        return;
    }
    let target = target();
    for (device, code, printed) in [("/dev/full", ERROR, true), ("/dev/null", 0, false)] {
        let tracer = Tracer::spawn(target.pid, &["--duration", "500ms", "--output", device]);
        let ended = tracer.ended();
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert_eq!(!ended.printed.is_empty(), printed, "{ended:?}");
        let kind = fs::metadata(device).expect("it is there").file_type();
        assert!(!kind.is_file(), "{device} was replaced");
    }
}

#[test]
fn a_report_in_a_file_is_whole_and_for_its_owner_only() {
    if !can_trace() {
        return;
    }
    let target = target();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("report.json");
    fs::write(&path, "an older one").expect("it can be written");
    let output = path.to_str().expect("its name is text");
    let ended = Tracer::spawn(target.pid, &["--duration", "1s", "--output", output]).ended();
    assert_eq!((ended.status.code(), &*ended.printed), (Some(0), ""), "{ended:?}");
    let report = fs::read_to_string(&path).expect("it is there");
    let report: serde_json::Value = serde_json::from_str(&report).expect("it is whole");
    assert_eq!(report["schema"], "leaktrace.report/1");
    assert_eq!(report["session"]["end"], "duration");
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 1);
}

#[test]
fn a_trace_ends_by_itself_or_by_a_signal_and_says_which() {
    if !can_trace() {
        return;
    }
    let target = target();
    let report = Tracer::start(target.pid, &["--duration", "1s"]).report();
    assert_eq!(report.0["session"]["end"], "duration");
    let duration = report.number("/session/duration_s");
    assert!((1.0..3.0).contains(&duration), "{duration}");
    let tracer = Tracer::start(target.pid, &["--duration", "1h"]);
    let start = Instant::now();
    tracer.signal(Signal::INT);
    assert_eq!(tracer.report().0["session"]["end"], "signal");
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn a_leak_that_was_asked_for_is_exit_code_ten_and_its_names_are_harmless() {
    if !can_trace() {
        return;
    }
    let python = debian_python().or_else(|| pythons().pop()).expect("a CPython is here");
    let target = Target::start(&python, "leak.py", &["arg\u{1b}[2J\u{9b}31m\n"]);
    let pid = target.pid.to_string();
    for (format, fail_on) in [("text", "leaking"), ("json", "growing")] {
        let mut command = leaktrace(&["--pid", &pid, "--duration", "10s", "--format", format]);
        command.args(["--fail-on", fail_on, "--cmdline", "full"]);
        let ended = Tracer::spawn_command(command).ended();
        assert_eq!(ended.status.code(), Some(MATCHED), "{ended:?}");
        let all = ended.printed + &ended.said;
        assert!(all.contains("evil") && all.contains("owned"), "{all}");
        // JSON is for programs, and escapes what it must.
        let harmful = |c: char| if format == "json" { c < ' ' } else { c.is_control() };
        assert_eq!(all.chars().find(|&c| harmful(c) && c != '\n'), None, "{all:?}");
    }
    assert!(target.finish().success());
}

#[test]
fn what_matches_no_verdict_is_exit_code_zero() {
    if !can_trace() {
        return;
    }
    let target = target();
    let ended = Tracer::spawn(target.pid, &["--duration", "1s", "--fail-on", "leaking"]).ended();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}
