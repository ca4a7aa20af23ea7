//! Which CPython runs in a process.
//!
//! From 3.11 on the interpreter exports its version as a number (`Py_Version`, `Python/getversion.c`). Before, the
//! text that `Py_GetVersion` made at start stands in a static buffer, which a search of the writable data finds.

#![forbid(unsafe_code)]

use std::fmt;

use super::snapshot;
use crate::target::memory::ReadMemory;
use crate::target::module::Module;

/// The oldest minor version of CPython 3 that leaktrace knows.
pub const OLDEST_MINOR: u8 = 6;

/// The newest minor version of CPython 3 whose structures leaktrace knows.
pub const NEWEST_MINOR: u8 = 15;

/// Bytes of the version text that are looked at: the buffer has 250 to 300.
const TEXT_BYTES: usize = 300;

/// A version of CPython.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// 3.
    pub major: u8,
    /// The 11 of 3.11.2.
    pub minor: u8,
    /// The 2 of 3.11.2.
    pub micro: u8,
    /// As people write it: `3.11.2`, `3.14.0rc1`.
    pub text: String,
}

/// Why the version is not known, or of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// It is older than what leaktrace reads.
    #[error(
        "cannot trace CPython {version}: it is not supported; leaktrace reads 3.{OLDEST_MINOR} and later"
    )]
    TooOld {
        /// The version.
        version: Version,
    },
    /// It is nowhere to be found.
    #[error(
        "cannot tell the version of `{path}`: no `Py_Version` and no version text in its data; \
         if the process has just started, try again"
    )]
    Unknown {
        /// The module.
        path: String,
    },
    /// The file's name says another version than the process.
    #[error(
        "cannot trust the version of `{path}`: its data say {version}, its name another; reinstall that Python"
    )]
    Contradiction {
        /// The module.
        path: String,
        /// What the data say.
        version: Version,
    },
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Version {
    /// Whether its structures are known; of a newer version only what describes itself can be read.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.major == 3 && self.minor >= OLDEST_MINOR && self.minor <= NEWEST_MINOR
    }

    /// Reads the number that `Py_Version` holds: `0xMMmmuuLS` with the release level and serial last.
    fn from_number(number: u32) -> Option<Self> {
        let [major, minor, micro, release] = number.to_be_bytes();
        let level = match release >> 4 {
            0xa => format!("a{}", release & 15),
            0xb => format!("b{}", release & 15),
            0xc => format!("rc{}", release & 15),
            0xf => String::new(),
            _ => return None,
        };
        let text = format!("{major}.{minor}.{micro}{level}");
        (major == 3).then_some(Self { major, minor, micro, text })
    }

    /// Reads the text of `Py_GetVersion`: `3.8.18 (default, Nov 22 2025, 10:00:00) \n[GCC 12.2.0]`.
    fn from_text(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|&byte| byte == 0)?;
        let (text, build) = std::str::from_utf8(bytes.get(..end)?).ok()?.split_once(" (")?;
        // Up to 3.9 the compiler stands on a line of its own.
        let compiler = build.split_once(") ")?.1.trim_start();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'+';
        if !compiler.starts_with('[') || text.len() > 32 || !text.bytes().all(plain) {
            return None;
        }
        let mut parts = text.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let rest = parts.next()?;
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let micro = rest.get(..digits)?.parse().ok()?;
        Some(Self { major, minor, micro, text: text.to_owned() })
    }
}

/// Finds the version of the interpreter in `module`.
///
/// # Errors
/// [`VersionError`] where it is too old, not found, or contradicts the name of the library. A newer one than leaktrace
/// knows is no error: see [`Version::is_known`].
pub fn find(module: &Module, memory: &dyn ReadMemory) -> Result<Version, VersionError> {
    let path = || module.path().to_owned();
    let version = exported(module, memory)
        .or_else(|| written(module, memory))
        .ok_or_else(|| VersionError::Unknown { path: path() })?;
    if version.major < 3 || version.minor < OLDEST_MINOR {
        return Err(VersionError::TooOld { version });
    }
    let named = module.elf().soname().and_then(named_minor);
    if named.is_some_and(|minor| minor != version.minor) {
        return Err(VersionError::Contradiction { path: path(), version });
    }
    Ok(version)
}

fn exported(module: &Module, memory: &dyn ReadMemory) -> Option<Version> {
    Version::from_number(memory.read_u32(module.symbol("Py_Version")?).ok()?)
}

fn written(module: &Module, memory: &dyn ReadMemory) -> Option<Version> {
    snapshot::take(memory, module.writable()).iter().find_map(|stretch| in_data(&stretch.bytes))
}

/// The first version text in `data`: it begins a buffer, behind nothing or behind the zeros that end another.
fn in_data(data: &[u8]) -> Option<Version> {
    (0..data.len()).find_map(|at| {
        let text = data.get(at..data.len().min(at + TEXT_BYTES))?;
        let begins = at.checked_sub(1).is_none_or(|before| data.get(before) == Some(&0));
        if !begins || !matches!(text, [b'2' | b'3', b'.', ..]) {
            return None;
        }
        Version::from_text(text)
    })
}

/// The minor version in a name such as `libpython3.11.so.1.0`.
fn named_minor(soname: &str) -> Option<u8> {
    let rest = soname.strip_prefix("libpython3.")?;
    let digits = rest.find(|character: char| !character.is_ascii_digit())?;
    rest.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Version, in_data, named_minor};

    #[test]
    fn a_number_tells_its_release_level() {
        let text = |number| Version::from_number(number).map(|version| version.text);
        assert_eq!(text(0x030b_02f0).as_deref(), Some("3.11.2"));
        assert_eq!(text(0x030e_00c2).as_deref(), Some("3.14.0rc2"));
        assert_eq!(text(0x030e_00a7).as_deref(), Some("3.14.0a7"));
        assert_eq!(text(0x0000_0000), None);
        assert_eq!(text(0xffff_ffff), None);
    }

    #[test]
    fn the_text_is_found_behind_zeros() {
        let mut data = b"3.9 junk\0".to_vec();
        data.extend(b"3.8.18+ (default, Nov 22 2025, 10:00:00) \n[GCC 12.2.0]\0\0\0");
        let version = in_data(&data).unwrap();
        assert_eq!((version.minor, version.micro, version.text.as_str()), (8, 18, "3.8.18+"));
        assert_eq!(in_data(b"3.10.13 (main, 1) [GCC 9]\0").unwrap().minor, 10);
        assert_eq!(in_data(b"2.7.18 (default, 1) \n[GCC 9]\0").unwrap().major, 2);
    }

    #[test]
    fn text_that_is_like_it_is_not_taken() {
        for data in [&b"3.8.18"[..], b"3.8.18 (\0", b"3..1 () \n[\0", b"3.999.1 () \n[\0", b""] {
            assert_eq!(in_data(data), None);
        }
    }

    #[test]
    fn the_name_of_a_library_tells_the_minor_version() {
        assert_eq!(named_minor("libpython3.11.so.1.0"), Some(11));
        assert_eq!(named_minor("libpython3.13t.so.1.0"), Some(13));
        assert_eq!(named_minor("libpython3.so"), None);
        assert_eq!(named_minor("libpython3.999.so"), None);
    }
}
