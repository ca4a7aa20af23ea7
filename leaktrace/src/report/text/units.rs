//! Numbers as people read them.

/// `1.25 MiB`: three digits, binary units.
#[must_use]
pub(in crate::report) fn bytes(value: f64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (value, 0);
    while value.abs() >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value.abs() {
        _ if unit == 0 => 0,
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    // No minus before a zero.
    let value = if value.abs() < 0.5 && unit == 0 { 0.0 } else { value };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// `12,345`.
#[must_use]
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 block`, `12,345 blocks`.
#[must_use]
pub(super) fn counted(value: u64, noun: &str) -> String {
    let plural = if value == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(value))
}

/// `4.0 s`, `60 s`, `12 min 30 s`, `3 h 20 min`, `2 d 4 h`.
#[must_use]
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{whole} s"),
        120..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// `6.1 %`, `100 %`: cut, not rounded, so that only the whole is called 100.
#[must_use]
pub(super) fn percent(value: f64) -> String {
    let tenths = (value * 10.0 + 1e-6).floor() as u64;
    match (tenths, tenths % 10) {
        (0, _) if value > 0.0 => "under 0.1 %".to_owned(),
        (_, 0) => format!("{} %", tenths / 10),
        (_, digit) => format!("{}.{digit} %", tenths / 10),
    }
}

/// Names come from the target: control characters, and those that turn the direction of text, are shown as escapes.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}
