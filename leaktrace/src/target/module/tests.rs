//! Finding the interpreter among mappings, and damaged files.

use super::{Elf, Module, ModuleError, candidates, read_regular};
use crate::target::maps;

#[test]
fn the_program_goes_before_libraries() {
    let mappings = maps::parse(
        b"1000-2000 r-xp 0 fe:00 1 /lib/libpython3.11.so.1.0\n\
          2000-3000 r-xp 0 fe:00 2 /lib/libc.so.6\n\
          3000-4000 r-xp 0 fe:00 3 /opt/service\n\
          4000-5000 r--p 0 fe:00 4 /lib/libpython3.9.so.1.0\n\
          5000-6000 r-xp 0 fe:00 5 /usr/bin/python3.11\n",
    );
    let paths: Vec<_> =
        candidates(&mappings, "/opt/service").iter().map(|mapping| mapping.path.as_str()).collect();
    assert_eq!(paths, ["/opt/service", "/usr/bin/python3.11", "/lib/libpython3.11.so.1.0"]);
}

#[test]
fn this_test_is_not_python() {
    let error = Module::find(std::process::id()).unwrap_err();
    assert!(matches!(error, ModuleError::NotPython { .. }), "{error}");
}

#[test]
fn a_process_that_is_gone_has_no_maps() {
    assert!(matches!(Module::find(u32::MAX), Err(ModuleError::Maps { .. })));
}

#[test]
fn only_regular_files_are_opened() {
    assert!(read_regular("/dev/null".as_ref()).is_err());
    assert!(read_regular("/proc/self/exe".as_ref()).is_ok());
}

#[test]
fn a_file_cut_or_damaged_anywhere_does_no_harm() {
    let whole = read_regular("/bin/true".as_ref()).unwrap();
    let elf = Elf::parse(whole.clone()).unwrap();
    assert!(!elf.segments().is_empty());
    for cut in (0..whole.len()).step_by(97) {
        use_all(whole[..cut].to_vec());
    }
    for at in (0..whole.len().min(4096)).chain((4096..whole.len()).step_by(61)) {
        let mut bytes = whole.clone();
        bytes[at] = 0xff;
        bytes[(at * 7) % whole.len()] ^= 0x80;
        use_all(bytes);
    }
}

fn use_all(bytes: Vec<u8>) {
    let Ok(elf) = Elf::parse(bytes) else { return };
    let _ = (elf.span(u64::MAX - 4095), super::Functions::read(&elf, 4096));
    for segment in elf.segments() {
        let end = segment.address.wrapping_add(segment.file_size).wrapping_sub(1);
        let _ = (elf.bytes(segment.address, usize::MAX), elf.bytes(end, 16));
    }
    for mapping in maps::parse(b"1000-2000 r-xp 00001000 fe:00 1 /x") {
        let _ = elf.bias(&mapping);
    }
}
