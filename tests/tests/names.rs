//! Names that are out of the ordinary, on every interpreter: what the report says is what the target says.

use leaktrace_tests::{Stacks, Target, Tracer, can_trace, pythons};

#[test]
fn unusual_names_are_what_python_says_on_every_python() {
    if !can_trace() {
        return;
    }
    for python in pythons() {
        let mut target = Target::start(&python, "names.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        let truth = target.work();
        let report = tracer.stop();
        let (wanted, seen) = (Stacks::of_target(&truth["stacks"]), Stacks::of_report(&report));
        assert_eq!(wanted.first_wrong_in(&seen), None, "{}", python.version);
        let frames = || wanted.0.keys().flat_map(|(frames, _)| frames);
        for file in ["caf\\udce9/", "caf\\udcea/", "pack.zip/inside_of_zip", "<frozen importlib"] {
            assert!(frames().any(|(_, name, _)| name.contains(file)), "no frame in `{file}`");
        }
        assert!(frames().any(|(function, _, _)| function.ends_with('\u{2026}')), "none was cut");
        println!("{}: {} of {} stacks right", python.version, wanted.count(), wanted.count());
    }
}
