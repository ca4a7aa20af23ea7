//! The target's memory, read and written from outside.
//!
//! `/proc/PID/mem` is opened once: the descriptor holds on to the address space, so that neither `exec` nor a reuse
//! of the pid can lead a later read or write into another program.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt as _;

use leaktrace_common::memory::{Fault, Memory};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// Spans that one system call reads at most: `UIO_MAXIOV` of the kernel's `include/uapi/linux/uio.h`.
const MOST_SPANS: usize = 1024;

/// A stretch of memory to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub address: u64,
    /// Its bytes.
    pub bytes: usize,
}

/// The 8-byte word at an offset of what was read.
#[must_use]
pub fn word(bytes: &[u8], offset: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// The 4-byte word at an offset of what was read.
#[must_use]
pub fn word32(bytes: &[u8], offset: u64) -> Option<u64> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..)?.first_chunk().map(|word| u64::from(u32::from_le_bytes(*word)))
}

/// Reads bytes of a target's memory.
pub trait ReadMemory {
    /// Fills `buffer` from `address`.
    ///
    /// # Errors
    /// [`Fault`] where any of it is not mapped or cannot be read.
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault>;

    /// The 8-byte word at `address`.
    ///
    /// # Errors
    /// [`Fault`] where it cannot be read.
    fn read_u64(&self, address: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read_bytes(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The 4-byte word at `address`.
    ///
    /// # Errors
    /// [`Fault`] where it cannot be read.
    fn read_u32(&self, address: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.read_bytes(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads many spans, one behind the other into `buffer`, which has room for all; says of each whether it was read.
    fn read_many(&self, spans: &[Span], buffer: &mut [u8]) -> Vec<bool> {
        one_by_one(self, spans, buffer)
    }
}

/// One read for each span.
fn one_by_one(
    memory: &(impl ReadMemory + ?Sized),
    spans: &[Span],
    mut buffer: &mut [u8],
) -> Vec<bool> {
    let mut read = Vec::with_capacity(spans.len());
    for span in spans {
        let Some((piece, rest)) = buffer.split_at_mut_checked(span.bytes) else { break };
        read.push(memory.read_bytes(span.address, piece).is_ok());
        buffer = rest;
    }
    read.resize(spans.len(), false);
    read
}

/// The memory of a live process.
#[derive(Debug)]
pub struct ProcessMemory {
    file: File,
    pid: Pid,
}

impl ProcessMemory {
    /// Opens the memory of `pid` for reading and writing.
    ///
    /// # Errors
    /// Whatever opening `/proc/PID/mem` fails with: no such process, or no permission.
    pub fn open(pid: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Self { file, pid: Pid::from_raw(pid.cast_signed()) })
    }

    /// Opens the memory of `pid` for reading alone.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/mem"))?;
        Ok(Self { file, pid: Pid::from_raw(pid.cast_signed()) })
    }

    /// Writes a pointer in one piece. On x86-64 the kernel copies an aligned word by one store of 8 bytes, or by
    /// microcode that moves it whole; neither was ever seen half done.
    ///
    /// # Errors
    /// The address is not aligned to 8 bytes, the page is not mapped, or the process is gone.
    pub fn write_pointer(&self, address: u64, pointer: u64) -> io::Result<()> {
        if !address.is_multiple_of(8) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a pointer that is not aligned",
            ));
        }
        self.file.write_all_at(&pointer.to_le_bytes(), address)
    }

    /// Reads `spans` by as few system calls as there are faults; `None` where the kernel refuses that call.
    fn read_at_once(&self, spans: &[Span], buffer: &mut [u8]) -> Option<Vec<bool>> {
        let mut read = vec![false; spans.len()];
        let (mut first, mut start) = (0, 0);
        while let Some(left) = spans.get(first..).filter(|left| !left.is_empty()) {
            let left = left.get(..MOST_SPANS).unwrap_or(left);
            let remote: Vec<RemoteIoVec> = left.iter().copied().map(remote).collect();
            let room = left.iter().map(|span| span.bytes).sum::<usize>();
            let piece = buffer.get_mut(start..start + room)?;
            let came = match process_vm_readv(self.pid, &mut [IoSliceMut::new(piece)], &remote) {
                Ok(came) => came,
                Err(Errno::EFAULT) => 0,
                Err(Errno::ESRCH) => return Some(read),
                Err(_) => return None,
            };
            let (mut whole, mut end) = (0, 0);
            while let Some(span) = left.get(whole).filter(|span| end + span.bytes <= came) {
                end += span.bytes;
                whole += 1;
            }
            read.iter_mut().skip(first).take(whole).for_each(|read| *read = true);
            // What stopped the call is the span behind those that came whole.
            let failed = left.get(whole).map_or(0, |span| span.bytes);
            first += whole + usize::from(whole < left.len());
            start += end + failed;
        }
        Some(read)
    }

    /// Whether the address space that was opened is still there: one that nobody uses reads as empty.
    fn is_there(&self, address: u64) -> bool {
        self.file.read_at(&mut [0], address).is_ok_and(|came| came == 1)
    }
}

fn remote(span: Span) -> RemoteIoVec {
    RemoteIoVec { base: span.address as usize, len: span.bytes }
}

impl ReadMemory for ProcessMemory {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        // A target that is gone reads as zero bytes without an error, which `read_exact_at` reports as an end of file.
        self.file.read_exact_at(buffer, address).map_err(|_cause| Fault)
    }

    /// By `process_vm_readv`, which names the process by its pid: that it was still the one that was opened is asked
    /// afterwards. An address space that is there then was there before, and only its own process led to it.
    fn read_many(&self, spans: &[Span], buffer: &mut [u8]) -> Vec<bool> {
        if spans.len() < 2 {
            return one_by_one(self, spans, buffer);
        }
        let Some(mut read) = self.read_at_once(spans, buffer) else {
            return one_by_one(self, spans, buffer);
        };
        let known = spans.iter().zip(&read).find(|&(_, &read)| read);
        if known.is_some_and(|(span, _)| !self.is_there(span.address)) {
            read.fill(false);
        }
        read
    }
}

impl Memory for ProcessMemory {
    fn read<const N: usize>(
        &self,
        address: u64,
        bytes: u64,
        words: &mut [u64; N],
    ) -> Result<(), Fault> {
        for (index, word) in words.iter_mut().enumerate().take((bytes / 8) as usize) {
            *word = self.read_u64(address + 8 * index as u64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::{ProcessMemory, ReadMemory as _, Span};

    #[test]
    fn many_spans_are_read_at_once_and_those_that_cannot_are_told() {
        let memory = ProcessMemory::open_to_read(std::process::id()).unwrap();
        let words: Vec<u64> = (0..3000).collect();
        let address = |index: usize| (&raw const words[index]) as u64;
        let mut spans: Vec<Span> =
            (0..words.len()).map(|index| Span { address: address(index), bytes: 8 }).collect();
        for wrong in [0, 1, 1500, 2999] {
            spans[wrong].address = 8;
        }
        let mut buffer = vec![0; 8 * words.len()];
        let read = memory.read_many(&spans, &mut buffer);
        let came = buffer.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        for (index, (word, read)) in came.zip(read).enumerate() {
            assert_eq!(read, ![0, 1, 1500, 2999].contains(&index), "{index}");
            assert!(!read || word == words[index]);
        }
    }

    #[test]
    fn many_spans_of_a_process_that_ended_are_not_read() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let memory = ProcessMemory::open_to_read(child.id()).unwrap();
        let mapped = crate::target::maps::read(child.id()).unwrap()[0].range.start;
        child.kill().unwrap();
        child.wait().unwrap();
        let spans = [Span { address: mapped, bytes: 8 }; 3];
        assert_eq!(memory.read_many(&spans, &mut [0; 24]), [false; 3]);
    }

    #[test]
    fn a_pointer_is_never_seen_half_written() {
        const VALUES: [u64; 2] = [0x7f12_3456_03f9, 0x7f12_3456_0400];
        let memory = ProcessMemory::open(std::process::id()).unwrap();
        let (slot, done) = (AtomicU64::new(VALUES[0]), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut seen = [0_u64; 2];
                while !done.load(Ordering::Relaxed) {
                    let value = slot.load(Ordering::Relaxed);
                    let which = VALUES.iter().position(|&known| known == value);
                    seen[which.unwrap_or_else(|| panic!("half written: {value:#x}"))] += 1;
                }
                seen
            });
            for round in 0..200_000 {
                memory.write_pointer(slot.as_ptr() as u64, VALUES[round % 2]).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            let seen = reader.join().unwrap();
            assert!(seen.iter().all(|&times| times > 100), "{seen:?}");
        });
        assert!(memory.write_pointer(slot.as_ptr() as u64 + 1, 0).is_err());
    }
}
