//! Structure layouts out of the DWARF of one binary: names and paths of fields go in, byte offsets come out.
//!
//! Knows nothing of CPython. Types are looked up among the top-level entries of all units; the first complete
//! definition of a name counts.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use anyhow::{Context as _, Result};
use gimli::{AttributeValue, DwAt, EndianSlice, RunTimeEndian, Unit, UnitOffset};
use object::{Object as _, ObjectSection as _};

type Reader<'a> = EndianSlice<'a, RunTimeEndian>;
type Entry<'a> = gimli::DebuggingInformationEntry<Reader<'a>>;
/// The raw bytes of all debug sections.
pub(crate) type Sections<'a> = gimli::DwarfSections<Cow<'a, [u8]>>;

/// Members inside members that a path may lead through; real ones have three.
const MAX_DEPTH: usize = 8;

/// Where a type is defined: its unit's index and its entry.
#[derive(Clone, Copy)]
struct Place {
    unit: usize,
    entry: UnitOffset,
}

/// A member of a structure or union.
struct Member {
    name: Option<String>,
    offset: u64,
    kind: Option<Place>,
    bits: Option<Bits>,
}

/// A member that is a bit field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    /// Its lowest bit, counted from the start of the structure that holds it.
    pub(crate) first: u64,
    /// How many bits it has.
    pub(crate) width: u64,
}

/// What a path of member names leads to.
pub(crate) struct Field {
    /// Bytes from the start of the outermost structure.
    pub(crate) offset: u64,
    /// Where it is a bit field.
    pub(crate) bits: Option<Bits>,
    /// Whether it is a pointer.
    pub(crate) pointer: bool,
    /// Elements, where it is an array.
    pub(crate) elements: Option<u64>,
}

/// The types of one binary.
pub(crate) struct Types<'a> {
    dwarf: gimli::Dwarf<Reader<'a>>,
    units: Vec<Unit<Reader<'a>>>,
    named: HashMap<String, Vec<Place>>,
}

/// Reads the debug sections of a binary.
pub(crate) fn sections(binary: &[u8]) -> Result<Sections<'_>> {
    let file = object::File::parse(binary).context("not an ELF file")?;
    gimli::DwarfSections::load(|id| {
        let section = file.section_by_name(id.name());
        section.map_or(Ok(Cow::Borrowed(&[][..])), |section| {
            section.uncompressed_data().with_context(|| format!("cannot read `{}`", id.name()))
        })
    })
}

impl<'a> Types<'a> {
    /// Indexes all top-level types and variables.
    pub(crate) fn new(sections: &'a Sections<'_>) -> Result<Self> {
        let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, RunTimeEndian::Little));
        let mut types = Self { units: Vec::new(), named: HashMap::new(), dwarf };
        let mut headers = types.dwarf.units();
        while let Some(header) = headers.next()? {
            let unit = types.dwarf.unit(header)?;
            types.index(&unit)?;
            types.units.push(unit);
        }
        Ok(types)
    }

    fn index(&mut self, unit: &Unit<Reader<'a>>) -> Result<()> {
        let mut tree = unit.entries_tree(None)?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            let name = entry.attr_value(gimli::DW_AT_name);
            if let Some(name) = name
                && wanted(entry.tag())
            {
                let name = self.dwarf.attr_string(unit, name)?.to_string_lossy().into_owned();
                let place = Place { unit: self.units.len(), entry: entry.offset() };
                self.named.entry(name).or_default().push(place);
            }
            if entry.tag() == gimli::DW_TAG_enumeration_type {
                let place = Place { unit: self.units.len(), entry: entry.offset() };
                self.named.entry(ENUMS.to_owned()).or_default().push(place);
            }
        }
        Ok(())
    }

    /// The size of a structure in bytes.
    pub(crate) fn size(&self, structure: &str) -> Result<Option<u64>> {
        let Some(place) = self.structure(structure)? else { return Ok(None) };
        Ok(number(&self.entry(place)?, gimli::DW_AT_byte_size))
    }

    /// The field of `structure` that `path` (member names with dots between them) leads to.
    pub(crate) fn field(&self, structure: &str, path: &str) -> Result<Option<Field>> {
        let Some(mut place) = self.structure(structure)? else { return Ok(None) };
        let mut offset = 0;
        let mut names = path.split('.').peekable();
        while let Some(name) = names.next() {
            let Some(member) = self.member(place, name, 0)? else { return Ok(None) };
            offset += member.offset;
            if names.peek().is_none() {
                return self.describe(offset, &member).map(Some);
            }
            let Some(inner) = self.complete(member.kind)? else { return Ok(None) };
            place = inner;
        }
        Ok(None)
    }

    /// All fields of `structure` that are no structures themselves, by their paths.
    pub(crate) fn all_fields(&self, structure: &str) -> Result<BTreeMap<String, u64>> {
        let mut fields = BTreeMap::new();
        if let Some(place) = self.structure(structure)? {
            self.flatten(place, "", 0, &mut fields, 0)?;
        }
        Ok(fields)
    }

    /// The value of an enumerator.
    pub(crate) fn enumerator(&self, name: &str) -> Result<Option<u64>> {
        for place in self.named.get(ENUMS).into_iter().flatten() {
            let unit = &self.units[place.unit];
            let mut tree = unit.entries_tree(Some(place.entry))?;
            let mut children = tree.root()?.children();
            while let Some(child) = children.next()? {
                if self.name(place.unit, child.entry())?.as_deref() == Some(name) {
                    return Ok(number(child.entry(), gimli::DW_AT_const_value));
                }
            }
        }
        Ok(None)
    }

    /// How many elements the array variable `name` has.
    pub(crate) fn array_length(&self, name: &str) -> Result<Option<u64>> {
        for &place in self.named.get(name).into_iter().flatten() {
            let kind = self.kind_of(place.unit, &self.entry(place)?);
            if let Some(elements) = self.elements(kind)? {
                return Ok(Some(elements));
            }
        }
        Ok(None)
    }

    fn describe(&self, offset: u64, member: &Member) -> Result<Field> {
        let kind = self.strip(member.kind)?;
        let tag = kind.map(|kind| self.entry(kind).map(|entry| entry.tag())).transpose()?;
        let pointer = tag == Some(gimli::DW_TAG_pointer_type);
        Ok(Field { offset, bits: member.bits, pointer, elements: self.elements(kind)? })
    }

    fn flatten(
        &self,
        structure: Place,
        prefix: &str,
        base: u64,
        fields: &mut BTreeMap<String, u64>,
        depth: usize,
    ) -> Result<()> {
        for member in self.members(structure)? {
            let name = format!("{prefix}{}", member.name.as_deref().unwrap_or_default());
            let offset = base + member.offset;
            match self.complete(member.kind)?.filter(|_| depth < MAX_DEPTH) {
                Some(inner) => {
                    self.flatten(inner, &format!("{name}."), offset, fields, depth + 1)?;
                }
                None => {
                    fields.insert(name, offset);
                }
            }
        }
        Ok(())
    }

    /// A member by name, also of the nameless structures and unions inside.
    fn member(&self, structure: Place, name: &str, depth: usize) -> Result<Option<Member>> {
        for member in self.members(structure)? {
            if member.name.as_deref() == Some(name) {
                return Ok(Some(member));
            }
            if member.name.is_some() || depth == MAX_DEPTH {
                continue;
            }
            let Some(inner) = self.complete(member.kind)? else { continue };
            if let Some(found) = self.member(inner, name, depth + 1)? {
                return Ok(Some(Member { offset: member.offset + found.offset, ..found }));
            }
        }
        Ok(None)
    }

    fn members(&self, structure: Place) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        let mut tree = self.units[structure.unit].entries_tree(Some(structure.entry))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_member {
                continue;
            }
            let first = number(entry, gimli::DW_AT_data_bit_offset);
            let bits = first.zip(number(entry, gimli::DW_AT_bit_size));
            members.push(Member {
                name: self.name(structure.unit, entry)?,
                offset: number(entry, gimli::DW_AT_data_member_location).unwrap_or(0),
                kind: self.kind_of(structure.unit, entry),
                bits: bits.map(|(first, width)| Bits { first, width }),
            });
        }
        Ok(members)
    }

    /// The complete structure or union that a name stands for.
    fn structure(&self, name: &str) -> Result<Option<Place>> {
        for &place in self.named.get(name).into_iter().flatten() {
            if let Some(found) = self.complete(Some(place))? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn complete(&self, kind: Option<Place>) -> Result<Option<Place>> {
        let Some(place) = self.strip(kind)? else { return Ok(None) };
        let entry = self.entry(place)?;
        let composite =
            matches!(entry.tag(), gimli::DW_TAG_structure_type | gimli::DW_TAG_union_type);
        Ok((composite && !entry.has_attr(gimli::DW_AT_declaration)).then_some(place))
    }

    /// The type behind typedefs and qualifiers.
    fn strip(&self, mut kind: Option<Place>) -> Result<Option<Place>> {
        for _ in 0..MAX_DEPTH {
            let Some(place) = kind else { return Ok(None) };
            let entry = self.entry(place)?;
            match entry.tag() {
                gimli::DW_TAG_typedef
                | gimli::DW_TAG_const_type
                | gimli::DW_TAG_volatile_type
                | gimli::DW_TAG_atomic_type => kind = self.kind_of(place.unit, &entry),
                _ => return Ok(Some(place)),
            }
        }
        Ok(None)
    }

    fn elements(&self, kind: Option<Place>) -> Result<Option<u64>> {
        let Some(place) = self.strip(kind)? else { return Ok(None) };
        if self.entry(place)?.tag() != gimli::DW_TAG_array_type {
            return Ok(None);
        }
        let mut tree = self.units[place.unit].entries_tree(Some(place.entry))?;
        let mut ranges = tree.root()?.children();
        while let Some(range) = ranges.next()? {
            if let Some(last) = number(range.entry(), gimli::DW_AT_upper_bound) {
                return Ok(last.checked_add(1));
            }
        }
        Ok(None)
    }

    fn entry(&self, place: Place) -> Result<Entry<'a>> {
        Ok(self.units[place.unit].entry(place.entry)?)
    }

    fn name(&self, unit: usize, entry: &Entry<'a>) -> Result<Option<String>> {
        let Some(name) = entry.attr_value(gimli::DW_AT_name) else { return Ok(None) };
        let name = self.dwarf.attr_string(&self.units[unit], name)?;
        Ok(Some(name.to_string_lossy().into_owned()))
    }

    fn kind_of(&self, unit: usize, entry: &Entry<'a>) -> Option<Place> {
        match entry.attr_value(gimli::DW_AT_type)? {
            AttributeValue::UnitRef(entry) => Some(Place { unit, entry }),
            _ => None,
        }
    }
}

/// The key under which all enumerations are indexed, since theirs are the enumerators' names that are looked for.
const ENUMS: &str = "enum";

fn wanted(tag: gimli::DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_structure_type
            | gimli::DW_TAG_union_type
            | gimli::DW_TAG_typedef
            | gimli::DW_TAG_variable
    )
}

fn number(entry: &Entry<'_>, attribute: DwAt) -> Option<u64> {
    entry.attr(attribute)?.udata_value()
}
