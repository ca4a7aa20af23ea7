//! How the shared logic reads the target's memory, whoever runs it.

/// The target's memory could not be read at an address: not mapped, not resident, or not readable from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The memory of a target process, little-endian and 64-bit.
pub trait Memory {
    /// Fills the first `bytes / 8` of `words` from `address`; the other words keep their content.
    ///
    /// `bytes` is a multiple of 8; what exceeds the size of `words` is not read.
    ///
    /// # Errors
    /// [`Fault`] where any of it cannot be read; `words` is then unspecified.
    fn read<const N: usize>(
        &self,
        address: u64,
        bytes: u64,
        words: &mut [u64; N],
    ) -> Result<(), Fault>;

    /// One 8-byte word at `address`.
    ///
    /// # Errors
    /// [`Fault`] where it cannot be read.
    #[inline(always)]
    fn word(&self, address: u64) -> Result<u64, Fault> {
        let mut words = [0; 1];
        self.read(address, 8, &mut words)?;
        Ok(words[0])
    }
}

/// The 8-byte field at byte `offset` of a structure that was read into `words`.
///
/// An offset outside of `words` wraps around: it yields a wrong number, never a panic (which BPF could not have).
#[inline(always)]
pub fn field<const N: usize>(words: &[u64; N], offset: u64) -> u64 {
    const { assert!(N.is_power_of_two()) };
    words[(offset / 8) as usize & (N - 1)]
}

/// The 4-byte field at byte `offset` of a structure that was read into `words`; wraps as [`field`] does.
#[inline(always)]
pub fn field32<const N: usize>(words: &[u64; N], offset: u64) -> u32 {
    (field(words, offset) >> (offset % 8 * 8)) as u32
}

/// The byte at byte `offset` of a structure that was read into `words`; wraps as [`field`] does.
#[inline(always)]
pub fn field8<const N: usize>(words: &[u64; N], offset: u64) -> u8 {
    field32(words, offset) as u8
}
