//! `leaktrace doctor`: finds what a killed leaktrace left behind in a process and its children, and puts it right.

use std::io::{self, Write as _};
use std::num::NonZeroU32;

use super::choose;
use crate::cli::{self, Wanted};
use crate::gate::repair::Repair;
use crate::session::{Family, heal, heal_descendants};

/// Runs the command.
pub(super) fn run(target: &Wanted) -> anyhow::Result<u8> {
    super::start_logging(false);
    // The doctor looks at what descends from a process as well.
    let pid = choose::pid(target, true)?;
    let (repair, family) = super::block_on(async {
        let repair = heal(pid.get()).await?;
        Ok((repair, heal_descendants(pid.get()).await))
    })?;
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", describe(pid, &repair) + &describe_family(family)) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(cli::EXIT_DONE),
    }
}

fn describe(pid: NonZeroU32, repair: &Repair) -> String {
    let Repair { slots, closed, closed_behind_hooks, foreign } = *repair;
    let mut text = if closed + closed_behind_hooks == 0 {
        format!("process {pid}: no gate left open in its {slots} allocator slots")
    } else {
        format!(
            "process {pid}: closed a gate that was left open, in {closed} of {slots} allocator slots"
        )
    };
    if closed_behind_hooks > 0 {
        text += &format!(" and in {closed_behind_hooks} copies that another tool keeps");
    }
    if foreign > 0 {
        text += &format!("; {foreign} slots hold another tool's hooks and were left alone");
    }
    text
}

/// Nothing where there are no children that run CPython.
fn describe_family(Family { pythons, closed, traced }: Family) -> String {
    let mut text = match (pythons, closed) {
        (0, _) => String::new(),
        (_, 0) => format!("; none left open in {pythons} of its descendants"),
        _ => format!("; closed one in {closed} of {pythons} descendants"),
    };
    if traced > 0 {
        text += &format!("; {traced} descendants are traced and were left alone");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_did() {
        let pid = NonZeroU32::new(7).unwrap();
        let clean = Repair { slots: 12, ..Repair::default() };
        assert_eq!(describe(pid, &clean), "process 7: no gate left open in its 12 allocator slots");
        let open = Repair { slots: 12, closed: 11, closed_behind_hooks: 2, foreign: 1 };
        let said = describe(pid, &open);
        let family = |pythons, closed, traced| describe_family(Family { pythons, closed, traced });
        assert_eq!(family(0, 0, 0), "");
        assert_eq!(family(3, 0, 0), "; none left open in 3 of its descendants");
        assert!(family(3, 2, 1).starts_with("; closed one in 2 of 3"));
        assert!(said.contains("11 of 12") && said.contains("2 copies") && said.contains("1 slots"));
    }
}
