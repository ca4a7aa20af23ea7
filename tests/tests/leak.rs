//! The demo names its planted leak first, and calls nothing else leaking.
//!
//! `LEAKTRACE_DEMO_ROUNDS` says how often for each Python (1 unless told), each time with another seed.

use leaktrace_tests::{can_trace, leaktrace, pythons};

/// Minor versions that the demo is run on, where they are here.
const MINORS: [u32; 2] = [11, 12];

#[test]
fn the_demo_names_the_planted_line_first_and_nothing_else() {
    if !can_trace() {
        return;
    }
    let rounds: u32 = std::env::var("LEAKTRACE_DEMO_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(1);
    // The system's own comes first, so a second interpreter of the same minor is left out.
    let mut left = MINORS.to_vec();
    for python in pythons() {
        let Some(index) = left.iter().position(|&minor| minor == python.minor()) else { continue };
        left.remove(index);
        for seed in 1..=rounds {
            let path = python.path.to_str().expect("paths of Pythons are UTF-8");
            let seed = seed.to_string();
            let arguments = ["demo", "--duration", "20s", "--python", path, "--seed", &seed];
            let output = leaktrace(&arguments).output().expect("leaktrace runs");
            let text = String::from_utf8_lossy(&output.stdout);
            println!(
                "{path}, seed {seed}: {}: {}",
                output.status,
                text.lines().next().unwrap_or("")
            );
            assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
