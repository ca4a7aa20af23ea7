//! Code objects that are made, called and dropped in a loop: none lends its name to another that lies at its address.
//!
//! `LEAKTRACE_STACKS` (600) says how many are made on each interpreter.

use leaktrace_tests::{Stack, Stacks, Target, Tracer, can_trace, pythons, record};
use serde_json::json;

/// The files of code that lives but a moment: `?` may stand for it.
const GONE: &str = "made/gone/";

/// The files of code that lives for more than half a second. It has its name when it has lived for a while; where it
/// was just born, at the address and with the callers of code that had just been freed, `?` may stand for it as well.
const STAYS: &str = "made/stays/";

/// Whether `seen` is `wanted` but for frames of young code that have no name.
fn is_marked_version((seen, _): &Stack, (wanted, _): &Stack) -> bool {
    let is_born = wanted.iter().any(|(function, _, _)| function == "born");
    let may_be_marked = |file: &str| file.starts_with(GONE) || (is_born && file.starts_with(STAYS));
    seen.len() == wanted.len()
        && seen
            .iter()
            .zip(wanted)
            .all(|(seen, wanted)| seen == wanted || (seen.0 == "?" && may_be_marked(&wanted.1)))
}

/// The stacks with a frame of this function.
fn with(stacks: &Stacks, function: &str) -> Stacks {
    let is_its = |(frames, _): &Stack| frames.iter().any(|frame| frame.0 == function);
    let its = stacks.0.iter().filter(|(stack, _)| is_its(stack));
    Stacks(its.map(|(stack, count)| (stack.clone(), *count)).collect())
}

#[test]
fn code_at_the_address_of_freed_code_has_its_own_name_or_none_on_every_python() {
    if !can_trace() {
        return;
    }
    let count = std::env::var("LEAKTRACE_STACKS").unwrap_or_else(|_| "600".to_owned());
    for python in pythons() {
        let mut target = Target::start(&python, "reused.py", &[&count]);
        let tracer = Tracer::start(target.pid, &[]);
        let truth = target.work();
        let report = tracer.stop();
        let (wanted, all) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
        // The workload's own books take memory as well.
        let seen = with(&all, "block");
        let (right, marked) = (wanted.right_in(&seen), seen.marked());
        let is_wrong = |stack: &Stack, count: u64| {
            let is_marked = stack.0.iter().any(|frame| frame.0 == "?");
            match wanted.0.get(stack) {
                Some(&made) => made < count,
                None => !is_marked || !wanted.0.keys().any(|made| is_marked_version(stack, made)),
            }
        };
        let wrong: Vec<_> =
            seen.0.iter().filter(|&(stack, count)| is_wrong(stack, *count)).collect();
        println!(
            "{} {}: {right} of {} stacks right, {marked} marked, {} wrong",
            python.path.display(),
            python.version,
            wanted.count(),
            wrong.len(),
        );
        let figures =
            json!({ "right": right, "of": wanted.count(), "marked": marked, "wrong": wrong.len() });
        record("reused_code", &python, figures);
        assert_eq!(wrong.first(), None, "{}", python.version);
        assert_eq!(right + marked, wanted.count(), "{}: blocks are missing", python.version);
        for function in ["grown", "dying"] {
            let (wanted, seen) = (with(&wanted, function), with(&seen, function));
            assert!(wanted.count() > 0, "{}: nothing was {function}", python.version);
            assert_eq!(wanted, seen, "{}: code that stays has its name", python.version);
        }
        let (born, named) = (with(&wanted, "born"), with(&wanted, "born").right_in(&seen));
        // How soon frames are sent anew depends on what else the machine does.
        assert!(4 * named >= born.count(), "{}: {named} of {}", python.version, born.count());
    }
}
