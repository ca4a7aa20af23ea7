//! The flags as they are typed, and what becomes of them.

use super::*;

fn parse_line(line: &str) -> Result<Command, clap::Error> {
    parse(line.split(' ').map(OsString::from))
}

#[test]
fn a_pid_alone_is_short_for_trace() {
    for line in ["leaktrace --pid 12", "leaktrace trace --pid 12 --exact"] {
        let Command::Trace(options) = parse_line(line).unwrap() else { panic!("{line}") };
        assert!(matches!(options.target, Subject::Running(Wanted::Pid(pid)) if pid.get() == 12));
        assert_eq!((options.duration, options.gate), (None, true));
        assert_eq!(options.report.top, 20);
    }
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for line in [
        "leaktrace",
        "leaktrace --pid 0",
        "leaktrace --pid x",
        "leaktrace --pid 1 --budget 0",
        "leaktrace --pid 1 --budget 101%",
        "leaktrace --pid 1 --budget 1 --exact",
        "leaktrace --pid 1 --duration 3parsecs",
        "leaktrace --pid 1 --fail-on stable",
        "leaktrace doctor",
        "leaktrace --pid 1 --unit shop",
        "leaktrace doctor --pid 1 --name x",
        "leaktrace trace --unit shop --container 0123abcd",
        "leaktrace --name (",
        "leaktrace --name ",
        "leaktrace --container 012",
        "leaktrace --container shop",
        "leaktrace trace --pid 1 -- python3",
        "leaktrace trace --",
        "leaktrace trace python3",
        "leaktrace ps --pid 1",
        "leaktrace ps --format xml",
    ] {
        let error = parse_line(line).unwrap_err();
        assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}: {error}");
    }
}

#[test]
fn a_target_is_named_by_what_is_known_of_it() {
    for (line, expected) in [
        ("leaktrace --unit shop.service", "--unit shop.service"),
        ("leaktrace trace --container 0123ABCD", "--container 0123abcd"),
        ("leaktrace --name gunicorn.*shop --duration 1s", "--name gunicorn.*shop"),
    ] {
        let Command::Trace(options) = parse_line(line).unwrap() else { panic!("{line}") };
        let Subject::Running(Wanted::Selected(selector)) = options.target else { panic!("{line}") };
        assert_eq!(selector.to_string(), expected);
    }
    let doctor = parse_line("leaktrace doctor --unit shop").unwrap();
    assert!(matches!(doctor, Command::Doctor { target: Wanted::Selected(_) }));
}

#[test]
fn what_follows_two_dashes_is_a_command_as_it_stands() {
    for line in [
        "leaktrace trace --top 3 -- python3 -m shop --pid 1",
        "leaktrace -- python3 -m shop --pid 1",
    ] {
        let Command::Trace(options) = parse_line(line).unwrap() else { panic!("{line}") };
        let Subject::Started(command) = options.target else { panic!("{line}") };
        assert_eq!(command, ["python3", "-m", "shop", "--pid", "1"]);
    }
}

#[test]
fn a_budget_is_a_percentage_with_or_without_its_sign() {
    for (flag, percent) in
        [("--budget 1%", Some(1.0)), ("--budget 0.5", Some(0.5)), ("--exact", None)]
    {
        let line = format!("leaktrace --pid 1 {flag}");
        let Command::Trace(options) = parse_line(&line).unwrap() else { panic!("{line}") };
        assert_eq!(options.budget_pct, percent, "{line}");
    }
}

#[test]
fn the_definition_of_the_flags_is_consistent() {
    use clap::CommandFactory as _;
    Typed::command().debug_assert();
}
