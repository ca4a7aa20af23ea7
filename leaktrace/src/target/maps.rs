//! Reads `/proc/PID/maps`: which address ranges of a process are mapped, how, and from which file.
//!
//! Paths are kept as they stand there; a path that is not UTF-8 must not hide the mapping, which is why this is not
//! left to a library that reads the file as text.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;

/// Mappings that are read at most: the kernel's default limit (`vm.max_map_count`) is 65,530.
const MAX_MAPPINGS: usize = 1 << 18;

/// Bytes of the file that are read at most: some 130 of them stand for a mapping.
const MAX_BYTES: u64 = 64 << 20;

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Addresses.
    pub range: Range<u64>,
    /// Whether the process may write there now.
    pub writable: bool,
    /// Whether the process may run code there.
    pub executable: bool,
    /// Offset of the first byte in the file.
    pub offset: u64,
    /// Inode of the file; 0 where there is none.
    pub inode: u64,
    /// The file's path, or a name in brackets, or nothing.
    pub path: String,
}

impl Mapping {
    /// Whether it shows a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with('/')
    }
}

/// The mappings of `pid`, by address.
///
/// # Errors
/// Whatever reading `/proc/PID/maps` fails with.
pub fn read(pid: u32) -> io::Result<Vec<Mapping>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/maps"))?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(parse(&bytes))
}

/// The mappings that the lines of a maps file describe; what is not such a line is left out.
#[must_use]
pub fn parse(bytes: &[u8]) -> Vec<Mapping> {
    bytes.split(|&byte| byte == b'\n').filter_map(parse_line).take(MAX_MAPPINGS).collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    let permissions = fields.next()?.as_bytes();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let _device = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start_matches(' ').to_owned();
    Some(Mapping {
        range,
        writable: permissions.get(1) == Some(&b'w'),
        executable: permissions.get(2) == Some(&b'x'),
        offset,
        inode,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::{Mapping, parse};

    #[test]
    fn a_line_is_read_whole() {
        let line = b"7f00-8000 r-xp 00001000 fe:00 42                         /opt/a b/lib\xff.so (deleted)\n";
        let expected = Mapping {
            range: 0x7f00..0x8000,
            writable: false,
            executable: true,
            offset: 0x1000,
            inode: 42,
            path: "/opt/a b/lib\u{fffd}.so (deleted)".to_owned(),
        };
        assert_eq!(parse(line), [expected]);
    }

    #[test]
    fn an_anonymous_mapping_has_no_path() {
        let mappings = parse(b"1000-2000 rw-p 00000000 00:00 0 \n2000-3000 rw-p 0 00:00 0 [heap]");
        assert_eq!(mappings[0].path, "");
        assert!(mappings[0].writable && !mappings[0].is_file());
        assert_eq!(mappings[1].path, "[heap]");
    }

    #[test]
    fn garbage_is_left_out() {
        assert!(parse(b"\n-\nzz-1 rw-p\n1-2\n1-2 rw-p 0 0\n\xff\xfe-").is_empty());
    }
}
