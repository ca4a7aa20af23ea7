//! Debian packages without installing them: an apt of its own, whose lists and packages lie in the cache.
//!
//! The system's package lists and sources are not touched; where the archive is, its sources tell.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Debian's releases that packages are taken from, by code name.
const RELEASES: &[&str] = &["bullseye", "bookworm", "trixie"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The apt.
pub(super) struct Apt {
    folder: PathBuf,
}

/// Where Debian's archive is mirrored.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    main: String,
    security: String,
}

impl Apt {
    /// An apt in `folder`, with fresh lists. Suites that the archive no longer has are left out.
    ///
    /// # Errors
    /// This is no Debian, or the archive cannot be reached.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        ensure!(
            shell::find_program("apt-get").is_some() && Path::new(KEYRING).is_file(),
            "kernels and QEMU come from Debian's archive, and this is no Debian: there is no apt-get, or no {KEYRING}"
        );
        let apt = Self { folder: folder.to_path_buf() };
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {part} in {}", folder.display()))?;
        }
        let own = own_release();
        fs::write(folder.join("sources.list"), sources(&mirror()?, &own))?;
        fs::write(folder.join("preferences"), preferences(&own))?;
        fs::write(folder.join("apt.conf"), apt.configuration())?;
        println!("reading the package lists of Debian's archive");
        apt.update()?;
        Ok(apt)
    }

    fn configuration(&self) -> String {
        let folder = self.folder.display();
        format!(
            "Dir::State \"{folder}/state\";\nDir::State::status \"/var/lib/dpkg/status\";\n\
             Dir::Cache \"{folder}/cache\";\nDir::Etc::sourcelist \"{folder}/sources.list\";\n\
             Dir::Etc::sourceparts \"/dev/null\";\nDir::Etc::preferences \"{folder}/preferences\";\n\
             Dir::Etc::preferencesparts \"/dev/null\";\nAPT::Architecture \"amd64\";\n\
             APT::Sandbox::User \"\";\nAPT::Install-Recommends \"false\";\nAcquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\nAcquire::Check-Valid-Until \"false\";\nDebug::NoLocking \"true\";\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf")).env("LC_ALL", "C");
        command
    }

    fn update(&self) -> Result<()> {
        let mut update = self.command("apt-get");
        let output = update.args(["update", "--quiet"]).output().context("cannot start apt-get")?;
        let said = String::from_utf8_lossy(&output.stderr);
        match complaint(&said) {
            Some(complaint) => bail!("Debian's archive cannot be read: {complaint}"),
            None => Ok(()),
        }
    }

    /// The names of all packages that begin so.
    ///
    /// # Errors
    /// apt cannot say.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = shell::capture(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Downloads a package and unpacks it into `folder`.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        println!("fetching {package}");
        let downloads = folder.join("downloads");
        fs::create_dir_all(&downloads)?;
        let mut download = self.command("apt-get");
        shell::capture(download.args(["download", "--quiet", package]).current_dir(&downloads))?;
        unpack_all(&downloads, folder)?;
        Ok(fs::remove_dir_all(downloads)?)
    }

    /// Downloads a package of a suite with what it needs and this system has not, and unpacks it into `folder`.
    ///
    /// # Errors
    /// It cannot be had.
    pub(super) fn unpack_with_needs(
        &self,
        package: &str,
        suite: &str,
        folder: &Path,
    ) -> Result<()> {
        println!("fetching {package} from {suite}");
        let downloads = folder.join("downloads");
        fs::create_dir_all(downloads.join("partial"))?;
        let mut install = self.command("apt-get");
        install.args(["install", "--quiet", "--yes", "--download-only", "--target-release", suite]);
        install.arg("--option").arg(format!("Dir::Cache::archives={}", downloads.display()));
        shell::capture(install.arg(package))?;
        unpack_all(&downloads, folder)?;
        Ok(fs::remove_dir_all(downloads)?)
    }
}

/// Unpacks every package that lies in a folder.
fn unpack_all(downloads: &Path, folder: &Path) -> Result<()> {
    let mut unpacked = 0;
    for entry in fs::read_dir(downloads)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            shell::run(Command::new("dpkg-deb").arg("--extract").arg(entry.path()).arg(folder))?;
            unpacked += 1;
        }
    }
    ensure!(unpacked > 0, "apt downloaded nothing");
    Ok(())
}

/// Where this system's own packages come from.
fn mirror() -> Result<Mirror> {
    let mut update = Command::new("apt-get");
    let uris = shell::capture(update.args(["update", "--print-uris"]).env("LC_ALL", "C"))?;
    match mirror_of(&uris) {
        Some(mirror) => Ok(mirror),
        None => bail!(
            "kernels and QEMU come from Debian's archive, which is not among this system's package sources"
        ),
    }
}

/// The mirror in lines such as `'http://HOST/debian/dists/bookworm/InRelease' ..`.
fn mirror_of(uris: &str) -> Option<Mirror> {
    let suites: Vec<(&str, &str)> = uris
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once("/dists/"))
        .filter_map(|(site, rest)| Some((site, rest.split('/').next()?)))
        .collect();
    let site = |is_it: &dyn Fn(&str) -> bool| {
        suites.iter().find(|(_, suite)| is_it(suite)).map(|(site, _)| (*site).to_owned())
    };
    Some(Mirror {
        main: site(&|suite| RELEASES.contains(&suite))?,
        security: site(&|suite| {
            suite.strip_suffix("-security").is_some_and(|release| RELEASES.contains(&release))
        })?,
    })
}

/// `sources.list`: kernels are in the backports and the security updates of every release; all else is taken from
/// this system's `own`.
fn sources(mirror: &Mirror, own: &str) -> String {
    let mut suites = vec![(&mirror.main, own.to_owned())];
    for release in RELEASES {
        suites.push((&mirror.main, format!("{release}-backports")));
        suites.push((&mirror.security, format!("{release}-security")));
    }
    suites
        .iter()
        .map(|(site, suite)| format!("deb [arch=amd64 signed-by={KEYRING}] {site} {suite} main\n"))
        .collect()
}

/// What other releases have is taken only where this system's `own` has nothing of that name.
fn preferences(own: &str) -> String {
    let others = RELEASES.iter().filter(|release| **release != own);
    others
        .flat_map(|release| ["backports", "security"].map(|part| format!("{release}-{part}")))
        .map(|suite| format!("Package: *\nPin: release n={suite}\nPin-Priority: 1\n\n"))
        .collect()
}

/// The code name of the Debian that runs here; empty where this is none.
pub(super) fn own_release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

/// What `apt-get update` minds, apart from suites that the archive no longer has.
fn complaint(said: &str) -> Option<&str> {
    said.lines()
        .filter(|line| !line.ends_with("Release file."))
        .find(|line| line.starts_with("E:") || line.starts_with("W: Failed to fetch"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_where_the_systems_own_packages_come_from() {
        let uris = "'http://mirror.example/debian/dists/bookworm/InRelease' a 0 \n\
                    'http://mirror.example/debian/dists/bookworm-updates/InRelease' b 0 \n\
                    'https://other.example/dists/nodistro/InRelease' c 0 \n\
                    'http://security.example/debian-security/dists/bookworm-security/InRelease' d 0 \n";
        let mirror = mirror_of(uris).unwrap();
        assert_eq!(mirror.main, "http://mirror.example/debian");
        assert_eq!(mirror.security, "http://security.example/debian-security");
        assert!(mirror_of("'https://other.example/dists/nodistro/InRelease' c 0 \n").is_none());
        let sources = sources(&mirror, "bookworm");
        assert_eq!(sources.lines().count(), 1 + 2 * RELEASES.len());
        assert!(sources.contains("/debian-security trixie-security main"), "{sources}");
        assert!(!preferences("bookworm").contains("bookworm"));
    }

    #[test]
    fn a_suite_that_is_gone_is_no_complaint_and_an_archive_out_of_reach_is_one() {
        let gone =
            "E: The repository 'http://a/debian buzz Release' does not have a Release file.\n";
        assert_eq!(complaint(gone), None);
        let unreachable = "W: Failed to fetch http://a/InRelease  Could not connect\n\
                           W: Some index files failed to download.\n";
        assert!(complaint(unreachable).unwrap().contains("Could not connect"));
    }
}
