//! Which frame of a stack names the place to look at.

use super::super::document::{Frame, Site};
use super::super::package;
use super::units::escaped;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The innermost frame of the application's own; where there is none, of an installed package; else the innermost.
#[must_use]
pub(super) fn user_frame(site: &Site) -> Option<&Frame> {
    let mut frames = site.stack.iter();
    let own = frames.clone().find(|frame| frame.package.is_none());
    let installed = |frame: &&Frame| frame.package.as_deref() != Some(package::STDLIB);
    own.or_else(|| frames.clone().find(installed)).or_else(|| frames.next())
}

/// `file:line function`.
#[must_use]
pub(super) fn place(frame: &Frame) -> String {
    let line = frame.line.map_or_else(String::new, |line| format!(":{line}"));
    format!("{}{line} {}", escaped(&frame.file), escaped(&frame.function))
}

/// The place of a site.
#[must_use]
pub(super) fn place_of(site: &Site) -> String {
    user_frame(site).map_or_else(|| "(no Python frame)".to_owned(), place)
}

/// The place of a site in at most `width` columns. Of the file and of the function the ends say most; the function
/// keeps a third at least.
#[must_use]
pub(super) fn fit_place(site: &Site, width: usize) -> String {
    let whole = place_of(site);
    let Some(frame) = user_frame(site).filter(|_| whole.width() > width) else {
        return fit_end(&whole, width);
    };
    let function = escaped(&frame.function);
    let location = &whole[..whole.len() - function.len() - 1];
    let function_room = (width / 3).max(width.saturating_sub(location.width() + 1));
    let function = fit_end(&function, function_room);
    let location = fit_end(location, width.saturating_sub(function.width() + 1));
    format!("{location} {function}")
}

/// A text that is longer than `width` columns without its end: of a command line the beginning says most.
#[must_use]
pub(in crate::report) fn fit_start(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut columns = 1;
    let fits = |c: &char| {
        columns += c.width().unwrap_or(0);
        columns <= width
    };
    let mut kept: String = text.chars().take_while(fits).collect();
    kept.push('…');
    kept
}

fn fit_end(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept: Vec<char> = Vec::new();
    let mut columns = 1;
    for c in text.chars().rev() {
        columns += c.width().unwrap_or(0);
        if columns > width {
            break;
        }
        kept.push(c);
    }
    if width > 0 {
        kept.push('…');
    }
    kept.into_iter().rev().collect()
}
