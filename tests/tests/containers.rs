//! Targets in other namespaces, in a chroot, or whose files are not any more what they were: leaktrace looks at what
//! is mapped, not at what a path says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use leaktrace_tests::{
    Found, Python, Target, Tracer, can_trace, debian_python, doctor, pythons, workload,
};
use tempfile::TempDir;

fn any_python() -> Python {
    debian_python().or_else(|| pythons().pop()).expect("a CPython is here")
}

/// Asserts that the target can be traced to the end, and that its functions are named.
fn assert_traced(mut target: Target) {
    let tracer = Tracer::start(target.pid, &[]);
    let before = target.ask("check");
    loop {
        let now = target.ask("check");
        assert_eq!(now["mismatches"].as_array().map(Vec::len), Some(0), "{now}");
        if (0..3).all(|thread| now["rounds"][thread].as_u64() > before["rounds"][thread].as_u64()) {
            break;
        }
    }
    let report = tracer.stop();
    assert!(report.number("/session/allocations_seen") > 1000.0);
    for function in ["documents", "resized", "large"] {
        assert!(report.sites().any(|site| site.has_function(function)), "no site in {function}");
    }
    assert_eq!(doctor(target.pid), Found::Nothing);
}

/// The process that the one with this pid has started.
fn child_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).expect("it lives");
    children.split_whitespace().next().expect("it has a child").parse().expect("it is a pid")
}

#[test]
fn a_target_in_namespaces_of_its_own_is_traced() {
    if !can_trace() {
        return;
    }
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--mount-proc",
            "--kill-child",
            "--uts",
            "--ipc",
        ]);
        command.arg(&python.path).arg(workload("busy.py"));
        let mut target = Target::start_command(command);
        target.pid = child_of(target.pid);
        assert_traced(target);
    }
}

#[test]
fn a_target_in_a_chroot_is_traced() {
    if !can_trace() {
        return;
    }
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]).arg(format!(
            "mount --rbind / '{root}' && exec chroot '{root}' '{python}' '{script}'",
            root = folder.path().display(),
            python = python.path.display(),
            script = workload("busy.py").display(),
        ));
        assert_traced(Target::start_command(command));
    }
}

/// A copy of an interpreter, with its shared library if it has one.
struct Copied {
    folder: TempDir,
    python: Python,
}

impl Copied {
    fn of(python: &Python) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("python3");
        let original = python.path.canonicalize().expect("it is there");
        fs::copy(&original, &path).expect("it can be copied");
        for file in fs::read_dir(library_folder(&original)).into_iter().flatten().flatten() {
            let name = file.file_name();
            if name.to_string_lossy().starts_with("libpython3.") {
                fs::copy(file.path(), folder.path().join(name)).expect("it can be copied");
            }
        }
        Self { folder, python: Python { path, ..python.clone() } }
    }

    fn start(&self, original: &Python) -> Target {
        let original = original.path.canonicalize().expect("it is there");
        let home = original.parent().and_then(Path::parent).expect("it lies in a bin folder");
        let folder = self.folder.path().to_str().expect("its name is text");
        let home = home.to_str().expect("its name is text");
        let environment = [("LD_LIBRARY_PATH", folder), ("PYTHONHOME", home)];
        Target::start_with(&self.python, "busy.py", &[], &environment)
    }

    /// Does something with each file of the copy.
    fn for_each_file(&self, change: impl Fn(&Path)) {
        for file in fs::read_dir(self.folder.path()).expect("it is there").flatten() {
            change(&file.path());
        }
    }
}

fn library_folder(program: &Path) -> std::path::PathBuf {
    program.parent().and_then(Path::parent).expect("it lies in a bin folder").join("lib")
}

#[test]
fn a_target_whose_program_was_deleted_is_traced() {
    if !can_trace() {
        return;
    }
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let copied = Copied::of(&python);
        let target = copied.start(&python);
        copied.for_each_file(|path| fs::remove_file(path).expect("it is ours"));
        assert_traced(target);
    }
}

#[test]
fn a_target_whose_program_was_replaced_is_traced_by_what_is_mapped() {
    if !can_trace() {
        return;
    }
    for python in [Some(any_python()), pythons().pop()].into_iter().flatten() {
        let copied = Copied::of(&python);
        // As an upgrade does, and as somebody does who wants another file to be read: by a link to one.
        for (what, other) in [("a file", None), ("a link", Some("/etc/passwd"))] {
            let target = copied.start(&python);
            let kept = tempfile::tempdir().expect("a folder can be made");
            copied.for_each_file(|path| {
                let aside = kept.path().join(path.file_name().expect("it has a name"));
                fs::copy(path, aside).expect("it can be copied");
                fs::remove_file(path).expect("it is ours");
                match other {
                    None => fs::write(path, "not an interpreter").expect("it can be written"),
                    Some(other) => symlink(other, path).expect("it can be made"),
                }
            });
            eprintln!("{} replaced by {what}", python.version);
            assert_traced(target);
            copied.for_each_file(|path| {
                fs::remove_file(path).expect("it is ours");
                let aside = kept.path().join(path.file_name().expect("it has a name"));
                fs::copy(aside, path).expect("it can be copied");
            });
        }
    }
}
