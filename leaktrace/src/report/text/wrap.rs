//! Text of any length in lines of a given width.

use std::io::{self, Write};
use unicode_width::UnicodeWidthStr as _;

/// What stands before the first line and before those that follow.
type Indents = (&'static str, &'static str);

/// No indent.
pub(in crate::report) const FLUSH: Indents = ("", "");

/// Below a heading: what goes on is indented further.
pub(super) const ITEM: Indents = ("  ", "    ");

/// Breaks lines between words; a word that is longer than the line stays whole, so that paths can be copied.
///
/// # Errors
/// What the writer says.
pub(in crate::report) fn wrap(
    out: &mut impl Write,
    text: &str,
    width: usize,
    (first, next): Indents,
) -> io::Result<()> {
    let (mut line, mut is_empty) = (first.to_owned(), true);
    for word in text.split(' ') {
        if !is_empty && line.width() + 1 + word.width() > width {
            writeln!(out, "{line}")?;
            next.clone_into(&mut line);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    writeln!(out, "{line}")
}
