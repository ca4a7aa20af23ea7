//! Uprobe events: probes that are put into one process and taken out again within some 0.1 ms.
//!
//! Taking off an ordinary uprobe takes the kernel some 0.1 s, as it waits until nobody uses it any more, and the ones
//! behind it are hit meanwhile. So the kernel's registration is held for as long as the session lives, by a perf event on
//! the uprobe event for leaktrace itself, which never runs into it. Another perf event on the same uprobe event, for the
//! target, then is all that it takes to put the breakpoint into the target's memory, and closing it takes the breakpoint
//! out (`uprobe_perf_open` and `uprobe_perf_close`, `kernel/trace/trace_uprobe.c`). The BPF program belongs to the uprobe
//! event (`perf_event_attach_bpf_prog`) and runs for both.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use aya_obj::generated::{perf_event_attr, perf_type_id};

use super::Probe;
use super::tracefs::Tracefs;

/// The group of leaktrace's events.
const GROUP: &str = "leaktrace";

/// `PERF_FLAG_FD_CLOEXEC`, `include/uapi/linux/perf_event.h`.
const CLOSE_ON_EXEC: libc::c_ulong = 8;

/// `PERF_EVENT_IOC_SET_BPF`, from there as well: `_IOW('$', 8, __u32)`.
const SET_BPF: libc::c_ulong = 0x4004_2408;

/// How often events that a process used which has just ended are tried to be removed.
const TRIES: u32 = 20;

/// The uprobe events of one session. Dropping it removes them.
#[derive(Debug)]
pub(super) struct UprobeEvents {
    tracefs: Tracefs,
    events: Vec<UprobeEvent>,
}

/// One of them.
#[derive(Debug)]
struct UprobeEvent {
    name: String,
    id: u64,
    /// Holds the registration, and the program.
    held: Option<OwnedFd>,
}

impl UprobeEvents {
    /// None so far; removes those that a killed leaktrace left.
    ///
    /// # Errors
    /// This kernel has no tracefs, or it must not be used.
    pub(super) fn open() -> io::Result<Self> {
        let tracefs = Tracefs::open()?;
        sweep(&tracefs, |owner| !is_alive(owner));
        Ok(Self { tracefs, events: Vec::new() })
    }

    /// Defines an event that runs `program`, which is that of `probe`, at `offset` of `file`. Returns what perf calls it.
    ///
    /// # Errors
    /// The kernel refuses the file, the offset, or the program.
    pub(super) fn define(
        &mut self,
        probe: Probe,
        program: BorrowedFd<'_>,
        file: &Path,
        offset: u64,
    ) -> io::Result<u64> {
        // tracefs is the same for all, and pids are not.
        let token = fastrand::u64(..);
        let name = format!("{}_{}_{token:x}", probe.name(), std::process::id());
        let kind = if probe.is_return() { 'r' } else { 'p' };
        let file = file.display();
        self.tracefs.tell(&format!("{kind}:{GROUP}/{name} {file}:{offset:#x}"))?;
        let mut event = UprobeEvent { name, id: 0, held: None };
        let held = self.tracefs.id(GROUP, &event.name).and_then(|id| {
            event.id = id;
            let held = put(id, 0)?;
            set_program(&held, program).map(|()| held)
        });
        match held {
            Ok(held) => {
                event.held = Some(held);
                let id = event.id;
                self.events.push(event);
                Ok(id)
            }
            Err(error) => {
                self.forget(event);
                Err(error)
            }
        }
    }

    /// Removes the event `id`, which must not be in any process any more.
    pub(super) fn remove(&mut self, id: u64) {
        if let Some(index) = self.events.iter().position(|event| event.id == id) {
            let event = self.events.swap_remove(index);
            self.forget(event);
        }
    }

    fn forget(&self, event: UprobeEvent) {
        drop(event.held);
        if let Err(error) = self.tracefs.tell(&format!("-:{GROUP}/{}", event.name)) {
            tracing::debug!("the uprobe event {} stays until the next start: {error}", event.name);
        }
    }
}

impl Drop for UprobeEvents {
    fn drop(&mut self) {
        for event in std::mem::take(&mut self.events) {
            self.forget(event);
        }
    }
}

/// Puts the breakpoint of the event `id` into the process `pid` (0 is this one) until the descriptor is closed.
///
/// # Errors
/// The process is gone, or the kernel refuses that instruction.
pub fn put(id: u64, pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: `perf_event_attr` is plain data, for which all bits zero are its defaults (perf_event_open(2)).
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.type_ = perf_type_id::PERF_TYPE_TRACEPOINT as u32;
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.config = id;
    let pid = libc::pid_t::try_from(pid)
        .map_err(|_too_large| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (any_cpu, no_group): (libc::c_int, libc::c_int) = (-1, -1);
    // SAFETY: the attributes live until the call returns, and `size` says how long they are; the kernel takes what it does
    // not know for zero or refuses it.
    let descriptor = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            pid,
            any_cpu,
            no_group,
            CLOSE_ON_EXEC,
        )
    };
    match i32::try_from(descriptor) {
        // SAFETY: the kernel has just opened it for us alone.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the event behind `event` run `program`, whoever opened it.
fn set_program(event: &OwnedFd, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument of this request is a descriptor, by value; both are open.
    let status = unsafe { libc::ioctl(event.as_raw_fd(), SET_BPF, program.as_raw_fd()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes the events of the process `owner`, which has just ended. Some may stay: they do nothing, and the next leaktrace
/// removes them.
pub fn sweep_after(owner: u32) {
    let Ok(tracefs) = Tracefs::open() else { return };
    for _ in 0..TRIES {
        // The kernel closes what it had open a moment after it is gone.
        if sweep(&tracefs, |pid| pid == owner) == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Removes the events whose owner is one of those `whose`; returns how many are still in use.
fn sweep(tracefs: &Tracefs, whose: impl Fn(u32) -> bool) -> usize {
    let events = tracefs.events().unwrap_or_default();
    let left = |&name: &&str| tracefs.tell(&format!("-:{GROUP}/{name}")).is_err();
    events
        .lines()
        .filter_map(|line| owned(line).filter(|it| whose(it.1)))
        .map(|it| it.0)
        .filter(left)
        .count()
}

/// The name and the owner in `p:leaktrace/obj_free_1234_5 /usr/bin/python3:0x1000`.
fn owned(line: &str) -> Option<(&str, u32)> {
    let (event, _) = line.split_once(' ')?;
    let (_, name) = event.split_once(':')?;
    let name = name.strip_prefix(GROUP)?.strip_prefix('/')?;
    let owner = name.rsplit('_').nth(1)?;
    Some((name, owner.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use leaktrace_common::config::Config;

    use super::*;
    use crate::kernel::{Programs, calibrate, features};

    /// Says that this is the process that is probed.
    const PROBED: &str = "LEAKTRACE_TEST_IS_PROBED";

    #[test]
    fn an_event_tells_whose_it_is() {
        let line = "p:leaktrace/obj_free_1234_5 /usr/bin/python3:0x0000000000001000";
        assert_eq!(owned(line), Some(("obj_free_1234_5", 1234)));
        for other in ["p:uprobes/free_1_2 /bin/a:0x1", "", "p:leaktrace/x /bin/a:0x1"] {
            assert_eq!(owned(other), None, "{other}");
        }
    }

    #[test]
    fn a_breakpoint_is_put_into_a_process_and_taken_out_at_once() {
        if std::env::var_os(PROBED).is_some() {
            // Until the other one has done with it.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            return;
        }
        if let Err(error) = features::Kernel::check() {
            assert!(std::env::var_os("LEAKTRACE_E2E").is_none(), "must run here: {error}");
            return;
        }
        let program = std::env::current_exe().unwrap();
        let name = "kernel::uprobe_events::tests::a_breakpoint_is_put_into_a_process_and_taken_out_at_once";
        let mut child = Command::new(&program);
        child.args(["--exact", name]).env(PROBED, "1").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = child.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let offset = calibrate::probed_offset().unwrap();
        let process = procfs::process::Process::new(child.id().cast_signed()).unwrap();
        let mapping = process.maps().unwrap().into_iter().find(|map| {
            let length = map.address.1 - map.address.0;
            let is_code = map.perms.contains(procfs::process::MMPermissions::EXECUTE);
            is_code && (map.offset..map.offset + length).contains(&offset)
        });
        let mapping = mapping.expect("it runs the same program");
        let address = mapping.address.0 + offset - mapping.offset;
        let memory =
            File::open(Path::new("/proc").join(child.id().to_string()).join("mem")).unwrap();
        let byte = || {
            let mut byte = [0];
            memory.read_exact_at(&mut byte, address).unwrap();
            byte[0]
        };
        let before = byte();
        let mut programs = Programs::load(&Config::default(), false).unwrap();
        let event = programs.define_event(Probe::Calibrate, &program, offset).unwrap();
        assert_eq!(byte(), before, "it is in this process alone");
        // What the first ones wait for has been waited for then.
        let mut quickest = Duration::MAX;
        for _ in 0..20 {
            let standing = put(event, child.id()).unwrap();
            assert_eq!(byte(), 0xcc);
            let start = Instant::now();
            drop(standing);
            quickest = quickest.min(start.elapsed());
            assert_eq!(byte(), before);
        }
        println!("taken out within {quickest:?}");
        assert!(quickest < Duration::from_millis(5));
        drop(programs);
        let events = Tracefs::open().unwrap().events().unwrap();
        let own = |line: &str| owned(line).is_some_and(|it| it.1 == std::process::id());
        assert!(!events.lines().any(own), "{events}");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
