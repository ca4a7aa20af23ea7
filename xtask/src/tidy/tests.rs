//! Each house rule on a file that breaks it, and on one that looks as if it did.

use super::*;

/// What is wrong with a file of this content.
fn check(path: &str, text: &str) -> Vec<String> {
    faults(&Source { path: path.into(), text: text.into() })
}

#[track_caller]
fn assert_tidy(path: &str, text: &str) {
    assert_eq!(check(path, text), Vec::<String>::new());
}

#[track_caller]
fn assert_fault(path: &str, text: &str, expected: &str) {
    let faults = check(path, text);
    assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
}

#[test]
fn a_file_opens_with_what_it_is_for() {
    assert_tidy("xtask/src/demo.rs", "//! Shows.\nfn f() {}\n");
    assert_fault("xtask/src/demo.rs", "fn f() {}\n", "xtask/src/demo.rs:1: does not open");
}

#[test]
fn a_long_file_is_to_be_split_unless_a_program_wrote_it() {
    let lines = "fn f() {}\n".repeat(MAX_LINES);
    assert_fault("a/src/long.rs", &format!("//! Long.\n{lines}"), "a/src/long.rs:501: is longer");
    assert_tidy("a/src/long.rs", &format!("{GENERATED} a program.\n{lines}"));
}

#[test]
fn only_the_kernel_side_names_aya() {
    let text = "//! Loads.\nuse aya::Ebpf;\n";
    assert_tidy("leaktrace/src/kernel/load.rs", text);
    assert_fault("leaktrace/src/cli/mod.rs", text, "leaktrace/src/cli/mod.rs:2: names `aya`");
    assert_tidy(
        "leaktrace/src/cli/mod.rs",
        "//! Does not know aya.\nconst NAME: &str = \"aya\";\n",
    );
}

#[test]
fn shared_types_name_aya_where_they_are_plain_data() {
    assert_tidy(
        "leaktrace-common/src/event.rs",
        "//! Events.\nunsafe impl aya::Pod for Event {}\n",
    );
    assert_eq!(
        check("leaktrace-common/src/event.rs", "//! Events.\nunsafe fn f() {}\nuse aya::Pod;\n")
            .len(),
        2
    );
}

#[test]
fn what_counts_and_judges_does_not_know_the_kernel() {
    let text = "//! Counts what the kernel sends.\nuse crate::kernel::Ring;\n";
    assert_fault(
        "leaktrace/src/aggregator/mod.rs",
        text,
        "leaktrace/src/aggregator/mod.rs:2: names `kernel`",
    );
    assert_fault(
        "leaktrace/src/detector/trend.rs",
        text,
        "leaktrace/src/detector/trend.rs:2: names `kernel`",
    );
    assert_tidy("leaktrace/src/cli/mod.rs", text);
}

#[test]
fn unsafe_code_stays_on_the_kernel_side() {
    // Where it may be, clippy asks for the SAFETY comment; where it may not, none helps.
    let text = "//! Reads.\n#![deny(unsafe_code)]\nfn f() { unsafe { g() } }\n";
    assert_tidy("leaktrace-ebpf/src/target.rs", text);
    assert_tidy("leaktrace/src/kernel/ring.rs", text);
    assert_fault("leaktrace/src/target/mod.rs", text, "leaktrace/src/target/mod.rs:3: is unsafe");
}

#[test]
fn a_module_is_named_after_its_subject() {
    assert_fault("leaktrace/src/utils.rs", "//! Various.\n", "leaktrace/src/utils.rs:1: `utils`");
    assert_fault("leaktrace/src/misc/a.rs", "//! Various.\n", "leaktrace/src/misc/a.rs:1: `misc`");
    assert_tidy("leaktrace-common/src/lib.rs", "//! Shared.\n");
}

#[test]
fn a_reminder_names_its_issue() {
    let mark = ["TO", "DO"].concat();
    assert!(has_bare_reminder(&format!("// {mark}: later")));
    assert!(has_bare_reminder(&format!("// {mark}(me): later")));
    assert!(!has_bare_reminder(&format!("// {mark}(#12): later")));
    assert!(!has_bare_reminder("a mastodon's METODOS"));
}

#[test]
fn a_home_directory_is_not_named() {
    let home = ["/ho", "me/"].concat();
    assert!(has_home_path(&format!("open(\"{home}ann/x\")")));
    assert!(has_home_path(&["/ro", "ot/.pyenv"].concat()));
    assert!(!has_home_path("/proc/1/root/usr/bin"));
    assert!(!has_home_path("/proc/{pid}/root/usr/bin and /proc/PID/root/etc"));
}
