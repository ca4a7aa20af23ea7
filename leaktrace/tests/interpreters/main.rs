//! What is found in real interpreters, compared with their symbol tables and with what they say themselves.

mod inspector;
mod large;
#[path = "../support/mod.rs"]
mod support;

use std::process::Command;

use leaktrace::cpython::tables::{self, AllocatorTables, Check, Slot, Table};
use leaktrace::cpython::thread_source::{self, KnownThread, Place};
use leaktrace::cpython::usedpools;
use leaktrace::cpython::version::{self, OLDEST_MINOR, VersionError};
use leaktrace::gate::point::{self, Held, Kind};
use leaktrace::target::memory::{ProcessMemory, ReadMemory as _};
use leaktrace::target::module::{Module, ModuleError};

use support::{Python, interpreters, say};

/// Runs `check` on each interpreter under each allocator: `PYTHONMALLOC` and arguments.
fn on_each(modes: &[(&str, &[&str])], check: impl Fn(Python)) {
    for (name, path) in interpreters() {
        for (malloc, arguments) in modes {
            check(Python::start(&name, path.as_os_str(), malloc, arguments));
        }
    }
}

const DEFAULT: &[(&str, &[&str])] = &[("", &[])];

fn find(python: &Python) -> AllocatorTables {
    match tables::find(&python.module, &python.memory, &python.version) {
        Ok(tables) => tables,
        Err(error) => panic!("{}: {error}", python.name),
    }
}

#[test]
fn the_version_is_what_the_interpreter_is_called() {
    on_each(DEFAULT, |python| {
        let named = python.name.trim();
        assert!(named == "system" || named == python.version.text, "{}", python.version);
        assert!(python.version.is_known());
        assert!(python.module.functions().len() > 1000);
        say(&format!("{named}: {} {:?}", python.module.path(), python.module.build_id()));
    });
}

/// What the interpreter's own `PyMem_GetAllocator` says, in the order of raw, mem, obj.
fn true_words(python: &mut Python) -> Vec<[u64; 5]> {
    python.ask_numbers("allocators").as_chunks().0.to_vec()
}

fn words(table: &Table) -> [u64; 5] {
    [table.ctx, table.malloc, table.calloc, table.realloc, table.free]
}

#[test]
fn the_tables_are_found_by_their_code_under_every_allocator() {
    let modes: &[(&str, &[&str])] = &[
        ("", &[]),
        ("debug", &[]),
        ("malloc", &[]),
        ("pymalloc_debug", &[]),
        ("", &["-X", "tracemalloc"]),
    ];
    on_each(modes, |mut python| {
        let found = find(&python);
        let truth = true_words(&mut python);
        for ((which, table), truth) in found.named().iter().zip(truth) {
            // tracemalloc keeps the table whole: what calls come to through it is told in its place.
            let kept = found.hooked.then(|| Table::read(&python.memory, truth[0]));
            let truth = kept.flatten().map_or(truth, |kept| words(&kept));
            assert_eq!(words(table), truth, "{} {which}", python.name);
        }
        for (symbol, table) in
            [("_PyMem_Raw", found.raw), ("_PyMem", found.mem), ("_PyObject", found.obj)]
        {
            if let Some(address) = python.true_symbol(symbol) {
                assert_eq!(table.address, address, "{} {symbol}", python.name);
            }
        }
        if python.version.minor >= 12 {
            assert_eq!(found.mem.address, found.raw.address + 40);
            assert_eq!(found.obj.address, found.raw.address + 80);
        }
        say(&format!("{}: {:?}, inlined {}", python.name, found.check, found.inlined));
    });
}

#[test]
fn the_search_agrees_where_the_tables_are_at_rest() {
    on_each(DEFAULT, |python| {
        assert_eq!(find(&python).check, Check::Agrees, "{}", python.name);
    });
}

#[test]
fn plain_functions_are_told_from_hooks() {
    on_each(DEFAULT, |python| {
        let found = find(&python);
        for (which, table) in found.named() {
            assert!(table.all_plain(&python.module), "{} {which}", python.name);
            for (slot, name) in Slot::ALL.into_iter().zip(["Malloc", "Calloc", "Realloc", "Free"]) {
                let prefix = if which == "raw" { "_PyMem_Raw" } else { "_PyObject_" };
                if let Some(address) = python.true_symbol(&format!("{prefix}{name}")) {
                    assert_eq!(table.function(slot), address, "{} {which}.{name}", python.name);
                }
            }
        }
    });
    on_each(&[("debug", &[])], |python| {
        let found = find(&python);
        assert_eq!(found.check, Check::DoesNotApply);
        assert!(!found.hooked);
        assert!(found.named().iter().all(|(_, table)| !table.all_plain(&python.module)));
    });
}

#[test]
fn under_tracemalloc_the_tables_that_it_keeps_are_found() {
    on_each(&[("", &["-X", "tracemalloc"])], |python| {
        let found = find(&python);
        assert_eq!(found.check, Check::DoesNotApply);
        assert!(found.hooked);
        for (which, table) in found.named() {
            assert!(table.all_plain(&python.module), "{} {which}", python.name);
            let now = Table::read(&python.memory, table.address).expect("it is there");
            assert_ne!(now.ctx, 0, "{} {which}: tracemalloc stands there", python.name);
        }
    });
}

#[test]
fn the_pools_are_found() {
    on_each(DEFAULT, |mut python| {
        let _work = python.ask("work");
        let found = usedpools::find(&python.module, &python.memory, &python.version);
        let found = found.unwrap_or_else(|reason| panic!("{}: {reason}", python.name));
        let truth = match python.version.minor {
            ..=11 => python.true_symbol("usedpools"),
            12 if python.version.micro == 1 => {
                python.true_symbol("_PyRuntime").map(|runtime| runtime + 0x1_39e0)
            }
            12 => None,
            _ => python.true_symbol("obmalloc_state_main"),
        };
        assert!(truth.is_none_or(|truth| truth == found.address), "{}", python.name);
        say(&format!("{}: usedpools at {:#x}", python.name, found.address));
    });
}

#[test]
fn the_pools_are_found_while_they_change() {
    on_each(DEFAULT, |mut python| {
        let before = usedpools::find(&python.module, &python.memory, &python.version);
        let _threads = python.ask("threads");
        let mut found = 0;
        for _ in 0..20 {
            match usedpools::find(&python.module, &python.memory, &python.version) {
                Ok(pools) => {
                    assert_eq!(Ok(pools), before, "{}", python.name);
                    found += 1;
                }
                Err(usedpools::Reason::NotFound { .. }) => {}
                Err(reason) => panic!("{}: {reason}", python.name),
            }
        }
        say(&format!("{}: found {found} of 20 times while four threads run", python.name));
        assert!(found > 0, "{}", python.name);
    });
}

#[test]
fn gate_points_lie_between_functions() {
    on_each(DEFAULT, |python| {
        let (found, ends) = (find(&python), python.true_ends());
        let mut line = python.name.clone();
        let mut with_nop = 0;
        for table in [found.raw, found.obj] {
            for function in table.functions() {
                let points = point::candidates(&python.module, function);
                let nops: Vec<_> = points.iter().filter(|point| point.kind == Kind::Nop).collect();
                for nop in &nops {
                    let inside =
                        ends.iter().any(|&(start, end)| start <= nop.address && nop.address < end);
                    let low_byte = nop.address ^ function < 256;
                    assert!(!inside && nop.differs_in_low_byte_only == low_byte, "{}", python.name);
                }
                with_nop += u32::from(!nops.is_empty());
                line += &match nops.first() {
                    Some(nop) => format!(" {}@-{}", nop.length, function - nop.address),
                    None => format!(" none({:x})", function & 0xff),
                };
                assert_eq!(points.last().map(|point| point.kind), Some(Kind::Entry));
            }
        }
        say(&line);
        // The fewest of 13 builds were 6.
        assert!(with_nop >= 6, "{line}");
    });
}

#[test]
fn the_interpreter_works_through_every_gate_point() {
    on_each(DEFAULT, |mut python| {
        let (found, right) = (find(&python), python.ask("work"));
        for (which, table) in found.named() {
            for slot in Slot::ALL {
                let (function, address) = (table.function(slot), table.slot_address(slot));
                for point in point::candidates(&python.module, function) {
                    if point.kind == Kind::Entry || !point.differs_in_low_byte_only {
                        continue;
                    }
                    assert_eq!(
                        point::classify(&python.module, point.address),
                        Held::Open { function }
                    );
                    python.memory.write_pointer(address, point.address).unwrap();
                    assert_eq!(python.memory.read_u64(address), Ok(point.address));
                    assert_eq!(
                        find(&python).named().map(|(_, table)| table.address),
                        found.named().map(|(_, table)| table.address),
                        "{} {which}",
                        python.name
                    );
                    let answer = python.ask("work");
                    python.memory.write_pointer(address, function).unwrap();
                    assert_eq!(answer, right, "{} {which} {slot:?}", python.name);
                }
                assert_eq!(point::classify(&python.module, function), Held::Closed);
            }
        }
        assert_eq!(find(&python), found);
    });
}

#[test]
fn the_thread_state_is_found_from_the_thread_pointer() {
    on_each(DEFAULT, |mut python| {
        if python.version.minor < 12 {
            return;
        }
        let words = python.ask_numbers("threads");
        let threads: Vec<_> = words
            .as_chunks()
            .0
            .iter()
            .map(|&[pointer, state]| KnownThread { pointer, state })
            .collect();
        let place = thread_source::place(&python.module, &python.memory, &threads)
            .unwrap_or_else(|reason| panic!("{}: {reason}", python.name));
        let Place::Offset(offset) = place else {
            panic!("{}: {place:?}, though nothing was loaded by `dlopen`", python.name);
        };
        let own = |thread: &KnownThread| {
            let word = python.memory.read_u64(thread.pointer.wrapping_add_signed(offset));
            assert!(word == Ok(0) || word == Ok(thread.state), "{}", python.name);
            word == Ok(thread.state)
        };
        let mut seen = vec![false; threads.len()];
        for _ in 0..200_000 {
            for (thread, seen) in threads.iter().zip(&mut seen) {
                *seen |= own(thread);
            }
            // The first thread waits for input, without the GIL.
            if seen.iter().skip(1).all(|&seen| seen) {
                break;
            }
        }
        say(&format!("{}: at {offset}, seen {seen:?}", python.name));
        assert!(seen.iter().skip(1).all(|&seen| seen));
        let wrong = [KnownThread { state: 1, ..threads[1] }; 64];
        let _race = thread_source::place(&python.module, &python.memory, &wrong);
    });
}

#[test]
fn mimalloc_has_tables_of_its_own() {
    on_each(DEFAULT, |python| {
        if python.version.minor < 13 {
            return;
        }
        let mut python = python.again("mimalloc");
        let found = find(&python);
        for ((which, table), truth) in found.named().iter().zip(true_words(&mut python)) {
            assert_eq!(words(table), truth, "{} {which}", python.name);
        }
        assert_ne!(found.mem.malloc, found.obj.malloc);
        assert_eq!(found.check, Check::DoesNotApply);
    });
}

#[test]
fn an_interpreter_whose_file_is_gone_is_read_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("python3");
    let system = std::path::Path::new("/usr/bin/python3");
    if !system.exists() {
        return say("skipped: no /usr/bin/python3");
    }
    std::fs::copy(system, &path).unwrap();
    let removed = {
        let started = Python::start("removed", path.as_os_str(), "", &[]);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another program").unwrap();
        let module = Module::find(started.pid()).unwrap();
        (module.path().to_owned(), find(&started).check, started.version.text.clone())
    };
    assert!(removed.0.ends_with(" (deleted)"), "{removed:?}");
    assert_eq!(removed.1, Check::Agrees);
}

#[test]
fn an_optimised_build_of_any_kind_is_told_from_a_plain_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("python3");
    for arguments in [["-fPIC", "-pie"], ["-fPIE", "-pie"], ["-fno-pie", "-no-pie"]] {
        let compiled = Command::new("cc")
            .args(arguments)
            .args(["-O2", "-w", "-rdynamic", "-fno-ipa-icf", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/optimised.c"))
            .status();
        if !compiled.is_ok_and(|status| status.success()) {
            return say("skipped: no C compiler (`cc`)");
        }
        let started = support::Idle::start(&path);
        let memory = ProcessMemory::open(started.pid()).unwrap();
        let module = Module::find(started.pid()).unwrap();
        let version = version::find(&module, &memory).unwrap();
        let found = tables::find(&module, &memory, &version).unwrap();
        let raw = module.symbol("_PyRuntime").unwrap() + 2400;
        let addresses = found.named().map(|(_, table)| table.address);
        assert_eq!(addresses, [raw, raw + 40, raw + 80], "{arguments:?}");
        assert!(found.inlined && found.check == Check::Agrees, "{arguments:?} {found:?}");
    }
}

#[test]
fn versions_that_are_too_old_are_named() {
    for (name, path) in support::all_interpreters() {
        let minor = name.strip_prefix("3.").and_then(|rest| rest.split('.').next()?.parse().ok());
        if name == "system" || minor.is_some_and(|minor| OLDEST_MINOR <= minor) {
            continue;
        }
        let mut child = support::Idle::start(&path);
        let memory = ProcessMemory::open(child.pid()).unwrap();
        let module = Module::find(child.pid()).unwrap();
        let error = version::find(&module, &memory).unwrap_err();
        child.end();
        say(&error.to_string());
        assert!(matches!(error, VersionError::TooOld { version } if version.text == name));
    }
}

#[test]
fn a_process_that_is_not_python_is_named() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    // Until it has left this program's image.
    while std::fs::read_link(format!("/proc/{}/exe", child.id())).ok()
        == std::env::current_exe().ok()
    {
        std::thread::yield_now();
    }
    let error = Module::find(child.id()).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, ModuleError::NotPython { .. }), "{error}");
}

#[test]
fn a_process_that_ended_is_no_panic() {
    on_each(DEFAULT, |mut python| {
        let found = find(&python);
        python.end();
        let Python { module, memory, version: known, .. } = &python;
        assert!(tables::find(module, memory, known).is_err());
        assert!(usedpools::find(module, memory, known).is_err());
        assert_eq!(Table::read(memory, found.raw.address), None);
        assert!(version::find(module, memory).is_err());
        assert!(Module::find(python.pid()).is_err());
    });
}
