//! Stacks as a workload accounts for them and as a report has them.

use std::collections::BTreeMap;

use leaktrace_common::limits::MAX_FRAMES;
use serde_json::Value;

use crate::Report;

/// Characters of a name that leaktrace reads; longer ones end with `…`.
const MAX_CHARS: usize = 4096;

/// A frame: function, file and line.
pub type Frame = (String, String, u64);

/// A stack, innermost frame first, and whether the outermost are missing.
pub type Stack = (Vec<Frame>, bool);

/// How many blocks were made at each stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stacks(pub BTreeMap<Stack, u64>);

impl Stacks {
    /// The account of a workload (`account.py`), cut as leaktrace cuts stacks.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn of_target(account: &Value) -> Self {
        let mut stacks = Self::default();
        for entry in account.as_array().expect("an array of stacks") {
            let frames = entry[0].as_array().expect("a stack is an array");
            let named: Vec<Frame> = frames
                .iter()
                .take(MAX_FRAMES)
                .map(|frame| named(&frame[0], &frame[1], &frame[2]))
                .collect();
            let count = entry[1].as_u64().expect("a number");
            *stacks.0.entry((named, frames.len() > MAX_FRAMES)).or_insert(0) += count;
        }
        stacks
    }

    /// The blocks of a report that are too large for pymalloc: those of an account are.
    ///
    /// # Panics
    /// It is no report.
    #[must_use]
    pub fn of_report(report: &Report) -> Self {
        let mut stacks = Self::default();
        for site in report.sites().filter(|site| site.0["domain"] == "raw") {
            let frames = site.0["stack"].as_array().expect("a stack is an array").iter();
            let named = frames.map(|f| named(&f["function"], &f["file"], &f["line"])).collect();
            let cut = site.0["stack_truncated"] == true;
            *stacks.0.entry((named, cut)).or_insert(0) += site.number("live_blocks") as u64;
        }
        stacks
    }

    /// All blocks.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// How many stacks differ.
    #[must_use]
    pub fn different(&self) -> usize {
        self.0.len()
    }

    /// Blocks at stacks whose outermost frames are missing.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.0.iter().filter(|((_, cut), _)| *cut).map(|(_, count)| count).sum()
    }

    /// Blocks at stacks with a frame that has no name.
    #[must_use]
    pub fn marked(&self) -> u64 {
        let is_marked = |stack: &Stack| stack.0.iter().any(|(function, _, _)| function == "?");
        self.0.iter().filter(|(stack, _)| is_marked(stack)).map(|(_, count)| count).sum()
    }

    /// How many of these blocks others have at the same stack.
    #[must_use]
    pub fn right_in(&self, others: &Self) -> u64 {
        let right =
            |(stack, &count): (&Stack, &u64)| others.0.get(stack).copied().unwrap_or(0).min(count);
        self.0.iter().map(right).sum()
    }

    /// The first stack that others do not have as often.
    #[must_use]
    pub fn first_wrong_in(&self, others: &Self) -> Option<(&Stack, u64, Option<u64>)> {
        let found = |stack| others.0.get(stack).copied();
        self.0
            .iter()
            .find(|&(stack, &count)| found(stack) != Some(count))
            .map(|(stack, &count)| (stack, count, found(stack)))
    }
}

fn named(function: &Value, file: &Value, line: &Value) -> Frame {
    let text = |value: &Value| {
        let text = value.as_str().unwrap_or("");
        // What a report has is cut already.
        match text.char_indices().nth(MAX_CHARS) {
            Some((end, _)) => format!("{}\u{2026}", &text[..end]),
            None => text.to_owned(),
        }
    };
    (text(function), text(file), line.as_u64().unwrap_or(0))
}
