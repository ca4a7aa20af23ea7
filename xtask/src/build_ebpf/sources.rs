//! The fingerprint of what the BPF object is made from.
//!
//! It covers the two crates' own files, and every package that cargo compiles for them: its name, version, features
//! and checksum. It is the same on every machine, since it holds no path but those within the workspace.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::shell;

/// The crates whose files count.
const CRATES: [&str; 2] = ["leaktrace-ebpf", "leaktrace-common"];

/// The fingerprint: 64 hex digits.
///
/// # Errors
/// Where a file cannot be read, or cargo cannot resolve the packages.
pub(super) fn fingerprint() -> Result<String> {
    let root = shell::root()?;
    let mut hash = Sha256::new();
    for path in files(&root)? {
        let bytes = fs::read(root.join(&path))
            .with_context(|| format!("cannot read `{}`", path.display()))?;
        add(&mut hash, path.as_os_str().as_encoded_bytes());
        add(&mut hash, &bytes);
    }
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read `Cargo.lock`")?;
    for package in packages(&tree()?, &lock)? {
        add(&mut hash, package.as_bytes());
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Adds one piece, with its length first, so that no two lists of pieces give the same stream.
fn add(hash: &mut Sha256, piece: &[u8]) {
    hash.update((piece.len() as u64).to_le_bytes());
    hash.update(piece);
}

/// Every manifest and source file of the crates, relative to the root, sorted.
fn files(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut files = BTreeSet::new();
    for name in CRATES {
        files.insert(Path::new(name).join("Cargo.toml"));
        walk(root, &Path::new(name).join("src"), &mut files)?;
    }
    Ok(files)
}

fn walk(root: &Path, directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = root.join(directory).read_dir();
    for entry in entries.with_context(|| format!("cannot list `{}`", directory.display()))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

/// What cargo compiles for the BPF crate: a line `NAME vVERSION ..|FEATURES` for each package.
fn tree() -> Result<String> {
    let mut cargo = shell::cargo()?;
    cargo.args(["tree", "--locked", "--package", CRATES[0], "--target", super::TARGET]);
    cargo.args(["--edges", "normal,build", "--prefix", "none", "--format", "{p}|{f}"]);
    shell::capture(&mut cargo)
}

/// One text for each package of `tree`, with its checksum out of `lock`.
fn packages(tree: &str, lock: &str) -> Result<BTreeSet<String>> {
    let lock: toml::Table = lock.parse().context("cannot read `Cargo.lock`")?;
    let locked = lock.get("package").and_then(toml::Value::as_array).map_or(&[][..], |list| list);
    tree.lines()
        .map(|line| {
            let (package, features) = line.split_once('|').with_context(|| unreadable(line))?;
            let mut words = package.split(' ');
            let (name, version) =
                words.next().zip(words.next()).with_context(|| unreadable(line))?;
            let version = version.trim_start_matches('v');
            let features = features.trim_end_matches(" (*)");
            Ok(format!("{name} {version} {features} {}", checksum(locked, name, version)))
        })
        .collect()
}

fn unreadable(line: &str) -> String {
    format!("cannot read `{line}` as a line of `cargo tree`")
}

/// The checksum of a package, empty for one of the workspace's own.
fn checksum<'a>(locked: &'a [toml::Value], name: &str, version: &str) -> &'a str {
    let field = |package: &'a toml::Value, key| package.get(key).and_then(toml::Value::as_str);
    locked
        .iter()
        .find(|package| {
            field(package, "name") == Some(name) && field(package, "version") == Some(version)
        })
        .and_then(|package| field(package, "checksum"))
        .unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = r#"
[[package]]
name = "aya-ebpf"
version = "0.2.1"
checksum = "abc"

[[package]]
name = "leaktrace-ebpf"
version = "0.1.0"
"#;

    #[test]
    fn a_package_that_is_named_twice_counts_once() {
        let tree =
            "leaktrace-ebpf v0.1.0 (somewhere)|\naya-ebpf v0.2.1|a,b\naya-ebpf v0.2.1|a,b (*)\n";
        let packages = packages(tree, LOCK).unwrap();
        let expected = ["aya-ebpf 0.2.1 a,b abc", "leaktrace-ebpf 0.1.0  "];
        assert!(packages.iter().eq(expected), "{packages:?}");
    }

    #[test]
    fn where_the_workspace_lies_does_not_count() {
        let at = |place| packages(&format!("leaktrace-ebpf v0.1.0 ({place})|\n"), LOCK).unwrap();
        assert_eq!(at("here"), at("there"));
    }

    #[test]
    fn a_line_of_another_form_is_an_error() {
        assert!(packages("nonsense", LOCK).is_err());
    }

    #[test]
    fn the_fingerprint_covers_both_crates() {
        let files = files(&shell::root().unwrap()).unwrap();
        assert!(files.contains(Path::new("leaktrace-ebpf/src/main.rs")));
        assert!(files.contains(Path::new("leaktrace-common/src/config.rs")));
        assert!(files.contains(Path::new("leaktrace-common/Cargo.toml")));
    }
}
