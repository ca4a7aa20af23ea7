//! A few offsets out of the kernel's own type information: where a task keeps its thread pointer and its pids.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`: a header, a table of types of varying size, a
//! table of strings. Only structs and their members are looked at.

use std::fs;

use super::KernelError;

const PATH: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u32 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

/// What is read out of the kernel's type information: offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offsets {
    /// `thread.fsbase` within `struct task_struct`.
    pub(super) fsbase: u64,
    /// Where a task's pids are; `None` where the kernel does not say.
    pub(super) pids: Option<PidOffsets>,
}

/// Where the pids of a task are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidOffsets {
    /// `tgid` within `struct task_struct`.
    pub tgid: u64,
    /// `thread_pid` there.
    pub thread_pid: u64,
    /// `level` within `struct pid`.
    pub level: u64,
    /// `numbers` there.
    pub numbers: u64,
    /// Size of `struct upid`, which `numbers` is made of.
    pub number_bytes: u64,
}

/// The offsets of the running kernel.
///
/// # Errors
/// [`KernelError::NoBtf`] where there is no BTF, or where it does not say where `fsbase` is.
pub(super) fn offsets() -> Result<Offsets, KernelError> {
    let bytes = fs::read(PATH).map_err(|cause| KernelError::NoBtf(cause.to_string()))?;
    find(&bytes).ok_or_else(|| KernelError::NoBtf("it does not describe task_struct".to_owned()))
}

fn find(bytes: &[u8]) -> Option<Offsets> {
    let btf = Btf::parse(bytes)?;
    let (mut thread, mut fsbase) = (None, None);
    let (mut tgid, mut thread_pid, mut level, mut numbers, mut number_bytes) =
        (None, None, None, None, None);
    btf.structs(|name, members| match name {
        b"task_struct" => {
            thread = thread.or(members.offset(b"thread"));
            tgid = tgid.or(members.offset(b"tgid"));
            thread_pid = thread_pid.or(members.offset(b"thread_pid"));
        }
        b"thread_struct" => fsbase = fsbase.or(members.offset(b"fsbase")),
        b"pid" => {
            level = level.or(members.offset(b"level"));
            numbers = numbers.or(members.offset(b"numbers"));
        }
        b"upid" => number_bytes = number_bytes.or(Some(members.size)),
        _ => {}
    })?;
    let pids = || {
        Some(PidOffsets {
            tgid: tgid?,
            thread_pid: thread_pid?,
            level: level?,
            numbers: numbers?,
            number_bytes: number_bytes?,
        })
    };
    Some(Offsets { fsbase: thread? + fsbase?, pids: pids() })
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

struct Members<'a> {
    btf: &'a Btf<'a>,
    bytes: &'a [u8],
    bitfields: bool,
    /// Bytes of the struct.
    size: u64,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 0)? & 0xffff != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let part = |at: usize| -> Option<&'a [u8]> {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..)?.get(..word(bytes, at + 4)? as usize)
        };
        Some(Self { types: part(8)?, strings: part(16)? })
    }

    /// Calls `visit` for each named struct.
    fn structs(&'a self, mut visit: impl FnMut(&[u8], &Members<'a>)) -> Option<()> {
        let mut at = 0;
        while at < self.types.len() {
            let flags = word(self.types, at + 4)?;
            let (kind, count) = (flags >> 24 & 0x1f, (flags & 0xffff) as usize);
            let bytes = trailing_bytes(kind, count)?;
            if kind == KIND_STRUCT {
                let members = self.types.get(at + 12..)?.get(..bytes)?;
                let name = self.string(word(self.types, at)?)?;
                let size = u64::from(word(self.types, at + 8)?);
                let bitfields = flags >> 31 != 0;
                visit(name, &Members { btf: self, bytes: members, bitfields, size });
            }
            at += 12 + bytes;
        }
        Some(())
    }

    fn string(&self, offset: u32) -> Option<&'a [u8]> {
        self.strings.get(offset as usize..)?.split(|&byte| byte == 0).next()
    }
}

impl Members<'_> {
    /// Offset in bytes of the member of that name.
    fn offset(&self, name: &[u8]) -> Option<u64> {
        self.bytes.chunks_exact(12).find_map(|member| {
            let found = self.btf.string(word(member, 0)?)? == name;
            let mask = if self.bitfields { 0xff_ffff } else { u32::MAX };
            found.then_some(u64::from(word(member, 8)? & mask) / 8)
        })
    }
}

/// Bytes that follow the 12 of `struct btf_type`, by kind (`include/uapi/linux/btf.h`).
fn trailing_bytes(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
        3 => 12,                       // ARRAY
        4 | 5 | 15 | 19 => 12 * count, // STRUCT, UNION, DATASEC, ENUM64
        6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
        2 | 7..=12 | 16 | 18 => 0,     // PTR, FWD, TYPEDEF, qualifiers, FUNC, FLOAT, TYPE_TAG
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_says_where_a_task_keeps_its_thread_pointer_and_its_pids() {
        let Ok(bytes) = fs::read(PATH) else {
            eprintln!("skipped: no {PATH}");
            return;
        };
        let Offsets { fsbase, pids } = find(&bytes).unwrap();
        assert!(fsbase > 0 && fsbase.is_multiple_of(8) && fsbase < 64 << 10, "{fsbase}");
        let pids = pids.unwrap();
        assert!(pids.tgid.is_multiple_of(4) && pids.thread_pid.is_multiple_of(8), "{pids:?}");
        assert!(pids.numbers > pids.level && pids.number_bytes == 16, "{pids:?}");
    }

    #[test]
    fn garbage_says_nothing() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[0x9f, 0xeb, 1, 0, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(find(&[0xff; 64]), None);
    }
}
