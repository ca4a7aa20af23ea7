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

    /// Writes one byte, which no thread of the target can see half done.
    ///
    /// # Errors
    /// The page is not mapped, or the process is gone.
    pub fn write_byte(&self, address: u64, byte: u8) -> io::Result<()> {
        self.file.write_all_at(&[byte], address)
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
