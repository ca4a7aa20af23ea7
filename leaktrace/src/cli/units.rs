//! Durations, sizes and percentages as people type them.

use std::time::Duration;

/// Seconds of the longest duration.
const LONGEST_S: f64 = 10.0 * 366.0 * 86_400.0;

/// `500ms`, `30s`, `10m`, `12h`, `2d`; a bare number is seconds.
///
/// # Errors
/// A sentence for the user.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(format!("`{unit}` is no unit of time; there are ms, s, m, h and d")),
    };
    let seconds = positive(number)? * factor;
    if seconds > LONGEST_S {
        return Err("more than ten years".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// `64MiB`, `1.5GiB`, `4096`.
///
/// # Errors
/// A sentence for the user.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor = match unit {
        "" | "B" => 1u64,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("`{unit}` is no unit of size; there are KiB, MiB and GiB")),
    };
    Ok((positive(number)? * factor as f64) as u64)
}

/// `1%`, `0.5`, in percent.
///
/// # Errors
/// A sentence for the user.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = positive(text.strip_suffix('%').unwrap_or(text))?;
    if number > 100.0 { Err("more than 100 %".to_owned()) } else { Ok(number) }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

fn positive(number: &str) -> Result<f64, String> {
    match number.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(format!("`{number}` is not a positive number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_or_are_seconds() {
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("12h"), Ok(Duration::from_secs(43_200)));
        for text in
            ["", "s", "-1s", "0", "1w", "1e400d", "999999999999999999999d", "199999999999999d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("1.5GiB"), Ok(3 << 29));
        assert!(size("1GB").is_err());
    }

    #[test]
    fn percentages_may_carry_their_sign() {
        assert_eq!(percent("1%"), Ok(1.0));
        assert_eq!(percent("0.5"), Ok(0.5));
        assert!(percent("101%").is_err());
    }
}
