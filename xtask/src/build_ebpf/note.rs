//! The note in the BPF object that tells what it was made from: `readelf --notes` shows it.
//!
//! An ELF note of owner `leaktrace` in section `.note.leaktrace`. Its content is text, a line each: the fingerprint of
//! the sources, then the toolchain.

use anyhow::{Context as _, Result, anyhow};
use object::build::elf::{Builder, SectionData};
use object::read::elf::{ElfFile64, FileHeader as _, SectionHeader as _};
use object::{Endianness, elf};

const SECTION: &str = ".note.leaktrace";
const OWNER: &[u8] = b"leaktrace";
const KIND: u32 = 1;

/// What an object was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// The fingerprint of its sources.
    pub(crate) sources: String,
    /// The programs that made it, with their versions.
    pub(crate) toolchain: String,
}

impl Note {
    /// The same object with this note added.
    ///
    /// # Errors
    /// Where `object` is no 64-bit ELF file that can be written again.
    pub(super) fn add_to(&self, object: &[u8]) -> Result<Vec<u8>> {
        let mut builder = Builder::read(object).context("cannot read what the linker wrote")?;
        let section = builder.sections.add();
        section.name = SECTION.into();
        section.sh_type = elf::SHT_NOTE;
        section.sh_addralign = 4;
        section.data = SectionData::Note(self.encode().into());
        add_section_names(&mut builder);
        let mut bytes = Vec::new();
        builder.write(&mut bytes).context("cannot add the note to what the linker wrote")?;
        Ok(bytes)
    }

    /// Reads the note of an object.
    ///
    /// # Errors
    /// Where it is no ELF file or has no such note.
    pub(super) fn read_from(object: &[u8]) -> Result<Self> {
        let file: ElfFile64<'_, Endianness> = ElfFile64::parse(object)?;
        let endian = file.endian();
        let sections = file.elf_header().sections(endian, object)?;
        let (_, section) = sections
            .section_by_name(endian, SECTION.as_bytes())
            .ok_or_else(|| anyhow!("it has no section `{SECTION}`"))?;
        let mut notes = section.notes(endian, object)?.context("its note is no note")?;
        let note = notes.next()?.context("its note is empty")?;
        Self::decode(note.desc()).context("its note is unreadable")
    }

    /// The note as it lies in the file: three words, then owner and content, each padded to 4 bytes.
    fn encode(&self) -> Vec<u8> {
        let text = format!("{}\n{}\n", self.sources, self.toolchain);
        let mut bytes = Vec::new();
        for word in [OWNER.len() as u32 + 1, text.len() as u32, KIND] {
            bytes.extend(word.to_le_bytes());
        }
        for piece in [&[OWNER, b"\0"].concat(), text.as_bytes()] {
            bytes.extend(piece);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (sources, toolchain) = std::str::from_utf8(content).ok()?.split_once('\n')?;
        Some(Self { sources: sources.to_owned(), toolchain: toolchain.trim_end().to_owned() })
    }
}

/// Adds the table of section names where there is none: LLVM keeps them among those of the symbols, in `.strtab`,
/// which the builder cannot.
fn add_section_names(builder: &mut Builder<'_>) {
    if builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        return;
    }
    let section = builder.sections.add();
    section.name = ".shstrtab".into();
    section.sh_type = elf::SHT_STRTAB;
    section.sh_addralign = 1;
    section.data = SectionData::SectionString;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object that holds nothing but the names of its sections.
    fn empty_object() -> Vec<u8> {
        let mut builder = Builder::new(Endianness::Little, true);
        builder.header.e_type = elf::ET_REL;
        builder.header.e_machine = elf::EM_BPF;
        add_section_names(&mut builder);
        let mut bytes = Vec::new();
        builder.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_note_is_read_back_as_it_was_written() {
        let note =
            Note { sources: "0123".into(), toolchain: "rustc 1.96.0, bpf-linker 0.13".into() };
        let object = note.add_to(&empty_object()).unwrap();
        assert_eq!(Note::read_from(&object).unwrap(), note);
    }

    #[test]
    fn an_object_without_a_note_is_an_error() {
        assert!(Note::read_from(&empty_object()).is_err());
        assert!(Note::read_from(b"no object").is_err());
    }
}
