//! What Debian has: its unstable distribution in a folder, and the sources of its CPythons. Neither touches the
//! system's own list of sources.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cache::{self, Cache};
use crate::{setup, shell};

/// The distributions whose sources are looked at, the newest first.
const SUITES: [&str; 3] = ["sid", "trixie", "bookworm"];

/// A mirror that stands still has no new lists, and its old ones will do.
const OLD_LISTS: &str = "-oAcquire::Check-Valid-Until=false";

/// What is installed in the folder. Those that the distribution has not (any more) are left out.
const PYTHONS: [&str; 7] = [
    "python3.13",
    "python3.13-nopie",
    "python3.13-dbg",
    "python3.14",
    "python3.14-dbg",
    "python3.15",
    "python3.15-dbg",
];

/// Makes the folder of the unstable distribution and installs its CPythons there.
///
/// # Errors
/// The archive cannot be reached, or this is not root.
pub(super) fn install_sid(cache: &Cache) -> Result<()> {
    let folder = cache.debian_sid();
    if !folder.join("usr/bin/apt-get").is_file() {
        setup::install_packages(&["debootstrap"])?;
        cache::make(folder.parent().context("the cache is a folder")?)?;
        let mut debootstrap = shell::as_root("debootstrap")?;
        debootstrap.args(["--variant=minbase", "sid"]).arg(&folder).arg(archive()?);
        shell::run_logged(&mut debootstrap, &cache.log("debian-sid")?)?;
        // No package is to start anything in there.
        fs::write(folder.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n")?;
        shell::run(Command::new("chmod").arg("+x").arg(folder.join("usr/sbin/policy-rc.d")))?;
    }
    let log = cache.log("debian-sid-pythons")?;
    shell::run_logged(in_folder(&folder)?.args(["apt-get", OLD_LISTS, "update"]), &log)?;
    let known = |name: &&str| -> bool {
        in_folder(&folder).is_ok_and(|mut chroot| {
            let shown = shell::capture(chroot.args(["apt-cache", "show", name]));
            shown.is_ok_and(|text| !text.is_empty())
        })
    };
    let packages: Vec<&str> = PYTHONS.into_iter().filter(known).collect();
    println!("Debian sid has {}", packages.join(", "));
    let mut install = in_folder(&folder)?;
    install.env("DEBIAN_FRONTEND", "noninteractive");
    install.args(["apt-get", "install", "--yes", "--no-install-recommends"]).args(packages);
    shell::run_logged(&mut install, &log)
}

/// The versions of the folder's CPythons and C library, as `NAME VERSION`.
pub(super) fn versions_of_sid(cache: &Cache) -> Vec<String> {
    let query = "dpkg-query --show --showformat '${Package} ${Version}\\n' libc6 'python3.??'";
    let asked = in_folder(&cache.debian_sid())
        .and_then(|mut chroot| shell::capture(chroot.args(["sh", "-c", query])));
    asked.unwrap_or_default().lines().map(str::to_owned).collect()
}

fn in_folder(folder: &Path) -> Result<Command> {
    let mut chroot = shell::as_root("chroot")?;
    chroot.arg(folder);
    Ok(chroot)
}

/// CPython's own source of a minor version, as Debian's source package holds it.
///
/// # Errors
/// The archive has none, or cannot be reached.
pub(super) fn source(cache: &Cache, minor: u8) -> Result<PathBuf> {
    let folder = cache.sources();
    cache::make(&folder)?;
    if let Some(found) = downloaded(&folder, minor)? {
        return Ok(found);
    }
    let apt = private_apt(cache)?;
    let package = format!("python3.{minor}");
    let listed = shell::capture(Command::new("apt-cache").args(&apt).args(["madison", &package]))?;
    // An archive in motion lists versions that it has not any more, and the other way round.
    for version in listed.lines().filter_map(|line| line.split('|').nth(1)) {
        let mut download = Command::new("apt-get");
        download.args(&apt).args(["source", "--download-only"]);
        download.arg(format!("{package}={}", version.trim())).current_dir(&folder);
        match shell::capture(&mut download) {
            Ok(_) => break,
            Err(error) => println!("{error:#}"),
        }
    }
    if downloaded(&folder, minor)?.is_none() {
        from_pool(&listed, minor, &folder)?;
    }
    match downloaded(&folder, minor)? {
        Some(found) => Ok(found),
        None => bail!("the archive has no source of {package}"),
    }
}

/// Downloads the newest source that the archive still holds, whatever its lists say: a mirror may have the files of an
/// older version than those it lists. `listed` is what `apt-cache madison` says.
fn from_pool(listed: &str, minor: u8, folder: &Path) -> Result<()> {
    let newest =
        listed.lines().filter_map(|line| micro(line.split('|').nth(1)?.trim(), minor)).max();
    let pool = format!("{}/pool/main/p/python3.{minor}", archive()?.trim_end_matches('/'));
    for version in upstream_versions(minor, newest.unwrap_or(0)) {
        let name = format!("python3.{minor}_{version}.orig.tar.xz");
        let part = format!("{name}.part");
        let mut download = Command::new("curl");
        download.args(["--silent", "--fail", "--location", "--output", &part]);
        download.arg(format!("{pool}/{name}")).current_dir(folder);
        if shell::capture(&mut download).is_ok() {
            return Ok(fs::rename(folder.join(part), folder.join(name))?);
        }
    }
    Ok(())
}

/// The last number of a version of `minor`, such as 2 for `3.15.2-1`.
fn micro(version: &str, minor: u8) -> Option<u8> {
    let rest = version.strip_prefix(&format!("3.{minor}."))?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Versions of `minor` as source packages spell them, the newest first, down to its release candidates.
fn upstream_versions(minor: u8, newest: u8) -> impl Iterator<Item = String> {
    let releases = (0..=newest).rev().map(move |micro| format!("3.{minor}.{micro}"));
    releases.chain((1..=3).rev().map(move |candidate| format!("3.{minor}.0~rc{candidate}")))
}

fn downloaded(folder: &Path, minor: u8) -> Result<Option<PathBuf>> {
    let begin = format!("python3.{minor}_");
    let mut found: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&begin) && name.contains(".orig.tar.") && !name.ends_with(".asc")
        })
        .collect();
    found.sort();
    Ok(found.pop())
}

/// The mirror of Debian's archive that the system uses.
fn archive() -> Result<String> {
    let format = "$(ORIGIN) $(LABEL) $(REPO_URI)";
    let known = shell::capture(Command::new("apt-get").args(["indextargets", "--format", format]))?;
    let archive = known.lines().find_map(|line| line.strip_prefix("Debian Debian "));
    Ok(archive.context("apt knows no archive of Debian: this row needs one")?.to_owned())
}

/// Options for apt that make it use lists of its own, refreshed.
fn private_apt(cache: &Cache) -> Result<Vec<String>> {
    let root = cache.apt();
    let folders =
        ["etc/apt/sources.list.d", "etc/apt/preferences.d", "etc/apt/apt.conf.d", "var/lib/dpkg"];
    for folder in
        folders.iter().chain(&["var/lib/apt/lists/partial", "var/cache/apt/archives/partial"])
    {
        cache::make(&root.join(folder))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    let signed = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
    let archive = archive()?;
    let sources: Vec<String> =
        SUITES.iter().map(|suite| format!("deb-src {signed} {archive} {suite} main\n")).collect();
    fs::write(root.join("etc/apt/sources.list"), sources.concat())?;
    let options = vec![
        format!("-oDir={}", root.display()),
        "-oAPT::Sandbox::User=root".to_owned(),
        OLD_LISTS.to_owned(),
    ];
    shell::run(Command::new("apt-get").args(&options).args(["update", "--quiet"]))?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_looked_for_from_the_newest_that_is_listed_down_to_release_candidates() {
        assert_eq!(micro("3.15.2-1", 15), Some(2));
        assert_eq!(micro("3.15.0~rc2-1+b1", 15), Some(0));
        assert_eq!(micro("3.14.10-1", 15), None);
        let versions: Vec<String> = upstream_versions(15, 1).collect();
        assert_eq!(versions, ["3.15.1", "3.15.0", "3.15.0~rc3", "3.15.0~rc2", "3.15.0~rc1"]);
    }
}
