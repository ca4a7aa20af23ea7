//! Which kernels are booted, and where they come from: Debian's kernels for clouds, which have built in what a virtual
//! machine needs.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use crate::cache;

/// A line of kernels: `5.10`, or `7` for the newest 7.x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Series(pub(super) String);

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// What was asked for.
    pub(super) series: Series,
    /// The version in its package's name, for instance `6.12.118+deb13`.
    pub(super) release: String,
    /// Its image.
    pub(super) image: PathBuf,
}

/// All series that are tested, oldest first.
pub(super) fn all() -> Vec<Series> {
    ["5.10", "6.1", "6.12", "7"].map(|name| Series(name.to_owned())).to_vec()
}

impl Series {
    /// The series of a name, such as `6.1` or `7`.
    ///
    /// # Errors
    /// It is no number of a kernel.
    pub(super) fn parse(name: &str) -> Result<Self> {
        let numbers: Option<Vec<u32>> = name.split('.').map(|number| number.parse().ok()).collect();
        match numbers.as_deref() {
            Some([_] | [_, _]) => Ok(Self(name.to_owned())),
            _ => bail!("`{name}` is no series of kernels; such are `5.10` and `7`"),
        }
    }

    /// The release in a package's name, if it is one of this series.
    fn release_of<'a>(&self, package: &'a str) -> Option<&'a str> {
        let release = package.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
        let rest = release.strip_prefix(&self.0)?;
        let is_release = rest.starts_with(['.', '-']) && !release.contains("rc");
        is_release.then_some(release)
    }

    /// The newest release of this series among the names of packages.
    fn newest<'a>(&self, packages: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
        packages
            .into_iter()
            .filter_map(|package| self.release_of(package))
            .max_by(|a, b| compare(a, b))
    }
}

/// Orders releases by their numbers: 6.9 is before 6.12.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |release: &str| -> Vec<u64> {
        release
            .split(|character: char| !character.is_ascii_digit())
            .filter_map(|number| number.parse().ok())
            .collect()
    };
    numbers(a).cmp(&numbers(b))
}

/// The newest kernel of a series: of the archive, or, unless `refresh`, of the cache. `None` where neither has one.
///
/// # Errors
/// The archive cannot be read, or a kernel not be fetched.
pub(super) fn find(
    series: &Series,
    folder: &Path,
    refresh: bool,
    archive: &mut super::Archive,
) -> Result<Option<Kernel>> {
    let cached = cached(series, folder);
    if cached.is_some() && !refresh {
        return Ok(cached);
    }
    let apt = archive.get()?;
    let packages = apt.names(&format!("linux-image-{}", series.0))?;
    let Some(release) = series.newest(packages.iter().map(String::as_str)) else {
        return Ok(cached);
    };
    let at = cache::once(folder, release, |folder| fetch(apt, release, folder))
        .with_context(|| format!("cannot fetch kernel {release}"))?;
    Ok(Some(Kernel {
        series: series.clone(),
        release: release.to_owned(),
        image: at.join("vmlinuz"),
    }))
}

/// The newest kernel of a series in the cache.
fn cached(series: &Series, folder: &Path) -> Option<Kernel> {
    let names: Vec<String> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| format!("linux-image-{}-cloud-amd64", entry.file_name().to_string_lossy()))
        .collect();
    let release = series.newest(names.iter().map(String::as_str))?.to_owned();
    let image = folder.join(&release).join("vmlinuz");
    Some(Kernel { series: series.clone(), release, image })
}

/// Puts the image of a release into `folder`, as `vmlinuz`.
fn fetch(apt: &Apt, release: &str, folder: &Path) -> Result<()> {
    let unpacked = folder.join("unpacked");
    // From 6.19 on the image is in a package of its own.
    for package in ["linux-image", "linux-binary"] {
        apt.unpack(&format!("{package}-{release}-cloud-amd64"), &unpacked)?;
        let places = [
            format!("boot/vmlinuz-{release}-cloud-amd64"),
            format!("usr/lib/modules/{release}-cloud-amd64/vmlinuz"),
        ];
        if let Some(image) =
            places.iter().map(|place| unpacked.join(place)).find(|image| image.is_file())
        {
            fs::rename(image, folder.join("vmlinuz"))?;
            return Ok(fs::remove_dir_all(unpacked)?);
        }
    }
    bail!("its packages hold no image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_of_a_series_goes_by_numbers() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
            "linux-image-6.1.0-57-cloud-amd64-unsigned",
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-7.2.12+deb13-cloud-amd64",
            "linux-image-7.10.1+deb13-cloud-amd64",
            "linux-image-7.11~rc2-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let newest = |name: &str| Series::parse(name).unwrap().newest(packages);
        assert_eq!(newest("6.1"), Some("6.1.0-56"));
        assert_eq!(newest("6.12"), Some("6.12.118+deb13"));
        assert_eq!(newest("7"), Some("7.10.1+deb13"));
        assert_eq!(newest("5.10"), None);
    }

    #[test]
    fn what_is_no_series_is_refused() {
        assert!(Series::parse("6.x").is_err());
        assert!(Series::parse("6.1.2").is_err());
    }
}
