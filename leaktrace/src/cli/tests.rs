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
        "leaktrace --pid 1 --budget-total 1",
        "leaktrace --pid 1 --follow --budget-total 0",
        "leaktrace --pid 1 --follow --budget-total 1 --exact",
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

/// What a process may be made to pay, and all of them together.
fn budgets(flags: &str) -> (Option<f64>, Option<f64>) {
    let Command::Trace(options) = parse_line(flags).unwrap() else { panic!("{flags}") };
    (options.budget_pct, options.budget_total_pct)
}

#[test]
fn a_running_process_loses_one_percent_unless_something_else_is_said() {
    for (flags, percent) in [
        ("", Some(DEFAULT_BUDGET_PCT)),
        (" --follow", Some(1.0)),
        (" --budget 5%", Some(5.0)),
        (" --budget 0.5", Some(0.5)),
        (" --exact", None),
    ] {
        assert_eq!(budgets(&format!("leaktrace --pid 1{flags}")), (percent, None), "{flags}");
    }
}

#[test]
fn a_command_is_traced_exactly_unless_a_budget_is_asked_for() {
    for (flags, percents) in [
        ("", (None, None)),
        (" --exact", (None, None)),
        (" --budget 2%", (Some(2.0), None)),
        (" --follow --budget-total 3%", (Some(1.0), Some(3.0))),
    ] {
        assert_eq!(budgets(&format!("leaktrace{flags} -- python3 x.py")), percents, "{flags}");
    }
}

#[test]
fn a_total_is_for_processes_that_are_traced_together_within_a_budget() {
    assert_eq!(budgets("leaktrace --pid 1 --follow --budget-total 2"), (Some(1.0), Some(2.0)));
    let both = "leaktrace --pid 1 --follow --budget 0.5% --budget-total 2%";
    assert_eq!(budgets(both), (Some(0.5), Some(2.0)));
}

#[test]
fn the_help_names_the_default_budget() {
    use clap::CommandFactory as _;
    let help = Typed::command().render_help().to_string();
    assert!(help.contains(&format!("[default: {DEFAULT_BUDGET_PCT}%]")), "{help}");
}

#[test]
fn the_definition_of_the_flags_is_consistent() {
    use clap::CommandFactory as _;
    Typed::command().debug_assert();
}
