//! Reports on several processes: what tracing cost them together.

use std::time::{Duration, SystemTime};

use super::*;

/// A process whose tracing began so many seconds after that of the first, and what it cost.
fn process(start_s: u64, duration_s: f64, overhead_pct: Option<f64>) -> FollowedProcess {
    let mut report = report_of(&shop(10, true), 10);
    (report.session.duration_s, report.session.overhead_pct) = (duration_s, overhead_pct);
    report.session.overhead_s = overhead_pct.map(|percent| percent / 100.0 * duration_s);
    let started_at = SystemTime::UNIX_EPOCH + Duration::from_secs(start_s);
    FollowedProcess { report, started_at, lived_on: true }
}

fn words(report: &FollowReport) -> String {
    let mut text = Vec::new();
    follow_text(report, TextOptions { width: 100, colour: false, top: 3 }, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn what_each_process_cost_adds_up_over_the_whole_time() {
    let processes = vec![process(0, 100.0, Some(0.5)), process(50, 50.0, Some(1.0))];
    let report = build_follow(processes, Some(2.0), Vec::new());
    assert_eq!((report.budget_total_pct, report.overhead_total_pct), (Some(2.0), Some(1.0)));
    let text = words(&report);
    assert!(text.contains("All together: budget 2 %, estimated overhead 1 %."), "{text}");
}

#[test]
fn what_is_not_known_of_one_process_is_not_known_of_all() {
    let processes = vec![process(0, 10.0, Some(0.5)), process(0, 10.0, None)];
    let report = build_follow(processes, Some(2.0), Vec::new());
    assert_eq!(report.overhead_total_pct, None);
    assert!(!words(&report).contains("All together"));
    assert_eq!(build_follow(Vec::new(), None, Vec::new()).overhead_total_pct, None);
}
