//! The first sentence, the note on free lists and how it was traced, in every case.

use super::words::plain;
use super::*;

fn first_line(report: &Report) -> String {
    text_of(report, plain(10_000)).lines().next().unwrap().to_owned()
}

/// A report on so many lines, none of which grows, seen for long enough or not.
fn quiet(judged: &[bool]) -> Report {
    let mut report = healthy();
    let site = report.sites[0].clone();
    report.sites = judged
        .iter()
        .zip(1..)
        .map(|(&judged, line)| {
            let mut site = site.clone();
            site.judged = judged;
            site.stack[0].line = Some(line);
            site
        })
        .collect();
    report
}

#[test]
fn a_trace_that_is_too_short_says_so_and_shows_no_growth() {
    for seconds in [1, 2, 4] {
        for is_leaking in [true, false] {
            let report = report_of(&shop(seconds, is_leaking), seconds);
            let line = first_line(&report);
            assert!(line.starts_with("Too short to tell: in "), "{line}");
            assert!(line.ends_with(" Trace for a minute or longer."), "{line}");
            let text = text_of(&report, plain(100));
            assert!(
                !text.contains("B/h") && !text.contains("  +") && !text.contains("\nstable"),
                "{text}"
            );
            assert!(!text.contains("(site "), "its doubts would not help: {text}");
        }
    }
    assert!(
        first_line(&report_of(&shop(6, false), 6)).starts_with("No leak found in 6.0 s: of 5 ")
    );
}

#[test]
fn an_hour_with_too_few_points_is_too_short_as_well() {
    let mut report = quiet(&[false]);
    report.session.duration_s = 3600.0;
    let expected = "Too short to tell: in 1 h 0 min the one line that allocates was not seen for \
                    long enough to judge it. Trace for longer.";
    assert_eq!(first_line(&report), expected);
}

#[test]
fn a_site_is_judged_by_its_own_time_not_by_that_of_the_trace() {
    // The reader of settings allocates once at the start; nothing but the snapshot's end makes its time.
    let long = report_of(&shop(1, false), 60);
    assert!(long.sites.iter().all(|site| site.judged));
    let short = report_of(&shop(1, false), 4);
    assert!(!short.sites.iter().any(|site| site.judged));
}

#[test]
fn lines_are_counted_in_grammatical_sentences() {
    for (judged, expected) in [
        (&[true][..], "the one line that allocates does not keep growing."),
        (&[true, true], "of 2 lines that allocate, none keeps growing."),
        (
            &[true, false],
            "of 2 lines that allocate, none keeps growing; one was seen too briefly to judge.",
        ),
        (&[false, true, false], "none keeps growing; 2 were seen too briefly to judge."),
        (
            &[false, false],
            "none of 2 lines that allocate was seen for long enough to judge it. Trace for longer.",
        ),
    ] {
        let line = first_line(&quiet(judged));
        assert!(line.ends_with(expected), "{line}");
    }
}

#[test]
fn growth_without_proof_is_told_in_grammatical_sentences() {
    for (growing, lines, expected) in [
        (
            1,
            1,
            "the one line that allocates grows, without enough evidence to call it a leak. It is /srv",
        ),
        (1, 3, "one of 3 lines that allocate grows, without"),
        (
            2,
            3,
            "2 of 3 lines that allocate grow, without enough evidence to call it a leak. The fastest is",
        ),
    ] {
        let mut report = quiet(&vec![true; lines]);
        report.sites[..growing].iter_mut().for_each(|site| site.verdict = "growing");
        let line = first_line(&report);
        assert!(line.starts_with("No leak proved in 60 s: ") && line.contains(expected), "{line}");
    }
}

#[test]
fn nothing_allocated_is_said_as_far_as_it_can_be_seen() {
    let mut report = quiet(&[]);
    report.session.allocations_seen = 0;
    assert!(first_line(&report).starts_with("Nothing was allocated in 60 s: "));
    report.session.coverage_pct = Some(20.0);
    assert!(
        first_line(&report).starts_with("Nothing was allocated in 60 s, as far as can be seen")
    );
    report.session.allocations_seen = 7;
    assert!(first_line(&report).starts_with("Cannot tell: none of 7 allocations in 60 s could"));
}

#[test]
fn free_lists_are_explained_where_more_than_one_line_leaks() {
    let note = "note: objects that CPython recycles through free lists (dict, list, float, tuple) ";
    let mut report = leaking();
    assert!(!text_of(&report, plain(1000)).contains(note));
    let mut same_line = report.sites[0].clone();
    same_line.domain = "raw";
    report.sites.insert(1, same_line);
    assert!(!text_of(&report, plain(1000)).contains(note), "two sites, but one line");
    report.sites[2].verdict = "leaking";
    let text = text_of(&report, plain(1000));
    assert!(text.lines().last().unwrap().starts_with(note), "{text}");
    assert!(text.contains(" One more line leaks.\n"), "{text}");
}

fn traced(report: &Report) -> String {
    let text = text_of(report, plain(1000));
    text.lines().find(|line| line.starts_with("Traced: ")).unwrap().to_owned()
}

#[test]
fn the_report_says_how_it_was_traced() {
    let mut report = healthy();
    report.target.cmdline = Some(vec!["/usr/bin/python3".into(), "app.py".into()]);
    report.session.overhead_pct = Some(6.14);
    assert_eq!(
        traced(&report),
        "Traced: process 4711 (/usr/bin/python3), CPython 3.11.2, exact mode, gate nop, coverage 100 %, \
         estimated overhead 6.1 %. It ended when the time was over."
    );
    report.target.cmdline = Some(vec!["gunicorn: master [app]".into()]);
    report.session.overhead_pct = Some(0.01);
    report.session.coverage_pct = Some(99.99);
    report.session.gate = "off";
    let line = traced(&report);
    for part in ["(gunicorn),", "overhead under 0.1 %", "coverage 99.9 %", "no gate"] {
        assert!(line.contains(part), "{line}");
    }
    report.target.cmdline = None;
    assert!(traced(&report).starts_with("Traced: process 4711, CPython"), "--cmdline none");
}

#[test]
fn the_report_says_why_it_ended() {
    for (end, expected) in [
        (End::Duration, "the time was over."),
        (End::Signal, "by Ctrl-C or another signal."),
        (End::TargetExited, "the process exited."),
        (End::TargetExec, "the process became another program (exec)."),
        (End::Lost, "the process could no longer be traced."),
    ] {
        let mut report = healthy();
        report.session.end = end.name();
        let line = traced(&report);
        assert!(line.ends_with(expected), "{line}");
    }
}
