//! The text for people. The golden files are read by people too: `LEAKTRACE_BLESS=1 cargo test` writes them anew.

use super::*;
use std::path::Path;
use unicode_width::UnicodeWidthStr as _;

pub(super) const fn plain(width: usize) -> TextOptions {
    TextOptions { width, colour: false, top: 20 }
}

pub(super) fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/tests/golden").join(name);
    if std::env::var_os("LEAKTRACE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert!(text == golden, "{name} differs; it is now:\n{text}");
}

#[test]
fn the_text_of_a_leak_is_the_golden_one() {
    assert_golden("leaking-80.txt", &text_of(&leaking(), plain(80)));
    assert_golden("leaking-160.txt", &text_of(&leaking(), plain(160)));
}

#[test]
fn the_text_of_a_healthy_process_is_the_golden_one() {
    assert_golden("healthy-80.txt", &text_of(&healthy(), plain(80)));
    assert_golden("healthy-160.txt", &text_of(&healthy(), plain(160)));
}

#[test]
fn the_text_of_a_short_trace_is_the_golden_one() {
    assert_golden("second-80.txt", &text_of(&report_of(&shop(1, true), 1), plain(80)));
    assert_golden("short-80.txt", &text_of(&report_of(&shop(4, true), 4), plain(80)));
}

#[test]
fn the_text_of_growth_without_proof_is_the_golden_one() {
    let mut report = leaking();
    report.sites[0].verdict = "growing";
    report.sites[0].evidence =
        vec!["the frees of this domain cannot be seen in this Python".into()];
    assert_golden("growing-80.txt", &text_of(&report, plain(80)));
}

#[test]
fn the_text_of_an_idle_process_is_the_golden_one() {
    let options = Options { max_memory: 1 << 26, started_at_ns: 0, raw_free_seen: true };
    let idle = report_of(&Aggregator::new(options), 10);
    assert_golden("idle-80.txt", &text_of(&idle, plain(80)));
}

#[test]
fn the_first_line_names_the_leak() {
    let text = text_of(&leaking(), plain(1000));
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("LEAK: /srv/shop/handlers/orders/remember_orders.py:42 "), "{first}");
}

#[test]
fn no_row_of_the_table_is_wider_than_the_terminal() {
    for width in [80, 100, 160] {
        let text = text_of(&leaking(), plain(width));
        let table = text.lines().skip_while(|line| !line.starts_with("VERDICT"));
        for line in table.take_while(|line| !line.is_empty()) {
            assert!(line.width() <= width, "{line}");
        }
    }
}

#[test]
fn colours_come_only_where_they_are_asked_for() {
    assert!(!text_of(&leaking(), plain(80)).contains('\x1b'));
    let coloured = text_of(&leaking(), TextOptions { colour: true, ..plain(80) });
    assert!(coloured.contains("\x1b[1;31mleaking"));
    assert!(!coloured.contains("\x1b[31mred"), "a name must not reach the terminal as it is");
}

#[test]
fn only_the_top_rows_are_shown_and_the_rest_is_counted() {
    let text = text_of(&leaking(), TextOptions { top: 2, ..plain(80) });
    assert!(text.contains("... and 3 more lines (--top "), "{text}");
    let text = text_of(&leaking(), TextOptions { top: 0, ..plain(80) });
    assert!(text.contains("\n... and 5 more lines (--top "), "{text}");
    assert!(!text.contains("VERDICT"), "{text}");
}

#[test]
fn any_width_will_do() {
    for width in 0..200 {
        text_of(&leaking(), plain(width));
    }
}
