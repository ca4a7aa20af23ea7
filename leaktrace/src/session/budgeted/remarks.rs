//! What the reader should know of a target's windows.

use super::windows::Windows;

impl Windows {
    /// What the reader should know.
    pub(super) fn warnings(&self) -> Vec<String> {
        let hooked = (self.hooked > 0).then(|| {
            format!(
                "in {} of {} windows hooks of another tool (tracemalloc, a profiler, debug hooks) had come over the \
                 allocator tables, or had gone: calls were not seen",
                self.hooked, self.opened
            )
        });
        let strays = (self.strays > 0).then(|| {
            format!(
                "{} calls came by the gate while it was closed: something in the target keeps a copy of the open tables",
                self.strays
            )
        });
        // Of the first few nobody has learned anything yet.
        let many = self.overruns > 20 && self.overruns * 5 > self.opened;
        let overruns = many.then(|| {
            format!(
                "{} of {} windows could not be closed in time, and are left out: this host is too busy, or leaktrace is \
                 held back",
                self.overruns, self.opened
            )
        });
        // A target that has ended has no gate left to open.
        let unopened = (self.unopened > 1).then(|| {
            format!(
                "{} windows could not be opened: what the target did then was not seen",
                self.unopened
            )
        });
        hooked.into_iter().chain(strays).chain(overruns).chain(unopened).collect()
    }
}
