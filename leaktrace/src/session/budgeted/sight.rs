//! What it takes to look at blocks of the target.

use crate::cpython::census::Resident;
use crate::inspector::{Answer, Inspector, Question};
use crate::target::memory::ReadMemory;

/// An inspector before a target, as that is resident at the moment.
pub(super) struct Sight<'a> {
    pub(super) inspector: &'a mut Inspector,
    pub(super) memory: &'a dyn ReadMemory,
    pub(super) resident: Resident,
}

impl Sight<'_> {
    /// Answers in the order of the questions.
    pub(super) fn look(&mut self, questions: &[Question]) -> Vec<Answer> {
        self.inspector.look(self.memory, &self.resident, questions)
    }
}
