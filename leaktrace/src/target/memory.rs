//! The target's memory, read and written from outside.
//!
//! `/proc/PID/mem` is opened once: the descriptor holds on to the address space, so that neither `exec` nor a reuse
//! of the pid can lead a later read or write into another program.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;

use leaktrace_common::memory::{Fault, Memory};

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
}

/// The memory of a live process.
#[derive(Debug)]
pub struct ProcessMemory {
    file: File,
}

impl ProcessMemory {
    /// Opens the memory of `pid` for reading and writing.
    ///
    /// # Errors
    /// Whatever opening `/proc/PID/mem` fails with: no such process, or no permission.
    pub fn open(pid: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        Ok(Self { file })
    }

    /// Opens the memory of `pid` for reading alone.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_to_read(pid: u32) -> io::Result<Self> {
        Ok(Self { file: File::open(format!("/proc/{pid}/mem"))? })
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
}

impl ReadMemory for ProcessMemory {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        // A target that is gone reads as zero bytes without an error, which `read_exact_at` reports as an end of file.
        self.file.read_exact_at(buffer, address).map_err(|_cause| Fault)
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

    use super::ProcessMemory;

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
