//! Sites of the same line as one row, and long stacks.

use super::words::{assert_golden, plain};
use super::*;
use unicode_width::UnicodeWidthStr as _;

fn place(file: &str, line: u32, function: &str) -> Frame {
    Frame { function: function.to_owned(), file: file.to_owned(), line: Some(line), package: None }
}

fn site(like: &Site, verdict: &'static str, bytes_per_s: f64, stack: Vec<Frame>) -> Site {
    let growth = Growth { estimate: bytes_per_s, low: bytes_per_s * 0.9, high: bytes_per_s * 1.1 };
    Site { verdict, growth_bytes_per_s: Some(growth), stack, ..like.clone() }
}

/// Two lines leak, one of them over three sites, one of these in a recursion; three lines grow.
fn busy() -> Report {
    let mut report = leaking();
    let (like, stable) = (report.sites[0].clone(), report.sites[1].clone());
    let main = place("/srv/shop/app.py", 210, "main");
    let keep = place("/srv/shop/audit.py", 42, "Trail.keep");
    let walk = place("/srv/shop/tree.py", 8, "Node.walk");
    let mut recursive = vec![keep.clone()];
    recursive.extend(std::iter::repeat_n(walk.clone(), 121));
    recursive.push(main.clone());
    let mut deep = vec![place("/srv/shop/plans.py", 19, "Plan.split")];
    deep.extend((1..=80).map(|n| place("/srv/shop/steps.py", n, "step")));
    deep.push(main.clone());
    let grown = |n| vec![place("/srv/shop/cache.py", n, "Cache.get"), main.clone()];
    let mut sites = vec![
        site(&like, "leaking", 9000.0, recursive),
        site(&like, "leaking", 5000.0, deep),
        site(&like, "leaking", 4000.0, vec![keep.clone(), walk.clone(), walk, main.clone()]),
        site(&like, "growing", 900.0, grown(1)),
        site(&like, "growing", 800.0, vec![keep.clone(), main.clone()]),
        site(&like, "growing", 700.0, grown(2)),
        site(&like, "growing", 600.0, grown(3)),
        site(&like, "stable", -1e9, vec![keep, main]),
        site(&stable, "stable", 100.0, stable.stack.clone()),
        site(&stable, "stable", 90.0, vec![place("/srv/shop/late.py", 5, "late")]),
    ];
    for (n, site) in sites.iter_mut().enumerate() {
        site.id = format!("{n:016x}");
        if site.verdict == "growing" {
            site.evidence = vec!["slows down: 3.0 blocks/s in the last third, 9.0 before".into()];
        }
    }
    (sites[4].domain, sites[4].live_blocks) = ("raw", 1);
    (sites[7].live_bytes, sites[7].live_blocks) = (0, 0);
    sites[9].judged = false;
    report.sites = sites;
    report
}

#[test]
fn the_text_of_many_sites_is_the_golden_one() {
    assert_golden("busy-80.txt", &text_of(&busy(), plain(80)));
    assert_golden("busy-160.txt", &text_of(&busy(), plain(160)));
}

#[test]
fn a_line_has_one_row_with_the_worst_verdict_and_the_sums() {
    let text = text_of(&busy(), plain(100));
    let rows: Vec<_> = text.lines().filter(|row| row.ends_with(":42 Trail.keep")).collect();
    // The heading and the frames follow the row; 13,800 bytes/s are 47.4 MiB/h: the noise of what is stable is left out.
    assert_eq!(
        rows[0],
        "leaking  +47.4 MiB  2.11 MiB  12,001      4  /srv/shop/audit.py:42 Trail.keep"
    );
    assert!(text.starts_with("LEAK: /srv/shop/audit.py:42 Trail.keep leaks 47.4 MiB/h"), "{text}");
    assert_eq!(text.matches("\nleaking  +").count(), 2, "{text}");
}

#[test]
fn rows_come_worst_first_by_what_their_sites_add_up_to() {
    let mut report = busy();
    let mut path = report.sites[6].clone();
    path.stack.push(place("/srv/shop/other.py", 3, "other"));
    path.growth_bytes_per_s = report.sites[3].growth_bytes_per_s;
    report.sites.insert(7, path);
    let text = text_of(&report, plain(100));
    let at = |row: &str| text.find(row).unwrap();
    // 600 + 900 bytes/s together are more than 900.
    assert!(at("cache.py:3") < at("cache.py:1") && at("cache.py:1") < at("cache.py:2"), "{text}");
}

#[test]
fn the_stacks_are_of_as_many_leaking_lines_as_possible() {
    let text = text_of(&busy(), plain(200));
    let shown: Vec<_> = text.lines().filter(|line| line.contains("(site ")).collect();
    let ids: Vec<_> =
        shown.iter().map(|line| &line[line.find("(site ").unwrap() + 21..][..1]).collect();
    // Both of the first line, one of the second, then the first two that grow and do not leak.
    assert_eq!(ids, ["0", "2", "1", "3", "5"], "{shown:#?}");
    assert!(text.contains("\n    (2 more sites at this line, see --format json)\n"), "{text}");
}

#[test]
fn doubts_are_told_beside_a_leak_but_not_those_of_its_own_line() {
    let text = text_of(&busy(), plain(200));
    assert_eq!(text.matches("  - slows down: 3.0 blocks/s").count(), 2, "{text}");
    assert!(!text.contains("growing /srv/shop/audit.py:42"), "{text}");
}

#[test]
fn recursion_is_folded_and_the_middle_of_a_long_stack_is_left_out() {
    let text = text_of(&busy(), plain(80));
    assert!(
        text.contains("tree.py:8 Node.walk\n    ... the same frame 120 more times\n    /srv"),
        "{text}"
    );
    // Of 82 frames 30 are shown.
    assert!(text.contains("steps.py:19 step\n    ... 52 frames left out ...\n"), "{text}");
    assert!(text.contains("\n    /srv/shop/steps.py:72 step\n"), "{text}");
    // Twice is shorter than a line that says so.
    assert!(text.contains("tree.py:8 Node.walk\n    /srv/shop/tree.py:8 Node.walk\n"), "{text}");
}

#[test]
fn no_row_of_many_sites_is_wider_than_the_terminal() {
    for width in [80, 160] {
        let text = text_of(&busy(), plain(width));
        let table = text.lines().skip_while(|line| !line.starts_with("VERDICT"));
        for line in table.take_while(|line| !line.is_empty()) {
            assert!(line.width() <= width, "{line}");
        }
    }
}

#[test]
fn colours_change_nothing_but_colours() {
    let coloured = text_of(&busy(), TextOptions { colour: true, ..plain(80) });
    let bare = ["\x1b[1;31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"]
        .iter()
        .fold(coloured, |text, code| text.replace(code, ""));
    assert_eq!(bare, text_of(&busy(), plain(80)));
}
