//! The words of the command line, as golden files: `LEAKTRACE_BLESS=1` writes them anew.

use std::path::Path;

use leaktrace_tests::leaktrace;

#[test]
fn the_help_texts_are_the_golden_ones() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (name, arguments) in [
        ("help.txt", &["--help"][..]),
        ("help-trace.txt", &["trace", "--help"]),
        ("help-demo.txt", &["demo", "--help"]),
        ("help-ps.txt", &["ps", "--help"]),
        ("help-doctor.txt", &["doctor", "--help"]),
    ] {
        let output = leaktrace(arguments).env("COLUMNS", "100").output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}");
        let text = String::from_utf8(output.stdout).expect("help is UTF-8");
        let file = golden.join(name);
        if std::env::var_os("LEAKTRACE_BLESS").is_some() {
            std::fs::write(&file, &text).expect("the golden file can be written");
        }
        let wanted = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(text, wanted, "{name} differs; LEAKTRACE_BLESS=1 writes it anew");
    }
}
