//! What a target says of its own layout: real ones, and descriptions gone wrong.

use leaktrace_common::memory::Fault;

use super::super::layout::Layout;
use super::{DebugOffsetsError, refine};
use crate::target::memory::ReadMemory;

const RUNTIME: u64 = 0x1000;

struct Runtime(Vec<u8>);

impl ReadMemory for Runtime {
    fn read_bytes(&self, address: u64, buffer: &mut [u8]) -> Result<(), Fault> {
        let start = address.checked_sub(RUNTIME).ok_or(Fault)? as usize;
        let from = self.0.get(start..).ok_or(Fault)?;
        buffer.copy_from_slice(from.get(..buffer.len()).ok_or(Fault)?);
        Ok(())
    }
}

fn layout() -> Layout {
    Layout::for_version(3, 13).unwrap()
}

impl Runtime {
    /// One that says what the table says.
    fn like_the_table() -> Self {
        let layout = layout();
        let mut runtime = Self(vec![0; layout.debug_offsets.as_ref().unwrap().bytes as usize]);
        runtime.set("cookie", u64::from_le_bytes(*b"xdebugpy"));
        runtime.set("version", 0x030d_00f0);
        for (structure, size) in [
            ("runtime_state", layout.runtime.as_ref().unwrap().bytes),
            ("interpreter_state", layout.interpreter.bytes),
            ("thread_state", layout.thread.bytes),
            ("interpreter_frame", 80),
            ("code_object", 208),
            ("pyobject", 16),
            ("type_object", 416),
            ("bytes_object", 40),
            ("unicode_object", 64),
        ] {
            runtime.set(&format!("{structure}.size"), size);
        }
        runtime.set_interpreter(&layout);
        runtime.set_objects(&layout);
        runtime
    }

    fn set_interpreter(&mut self, layout: &Layout) {
        let head = layout.runtime.as_ref().unwrap().interpreters_head;
        self.set("runtime_state.interpreters_head", head);
        self.set("interpreter_state.next", layout.interpreter.next);
        self.set("interpreter_state.threads_head", layout.interpreter.threads);
        self.set("interpreter_state.ceval_gil", layout.interpreter.gil.unwrap());
        self.set("thread_state.prev", layout.thread.prev);
        self.set("thread_state.next", layout.thread.next);
        self.set("thread_state.interp", layout.thread.interp);
        self.set("thread_state.current_frame", layout.thread.frame);
        self.set("thread_state.thread_id", layout.thread.thread_id);
        self.set("thread_state.native_thread_id", layout.thread.native_thread_id.unwrap());
        self.set("interpreter_frame.previous", layout.frame.previous);
        self.set("interpreter_frame.executable", layout.frame.code);
        self.set("interpreter_frame.instr_ptr", layout.frame_layout().position);
        self.set("interpreter_frame.owner", layout.frame.owner.unwrap());
    }

    fn set_objects(&mut self, layout: &Layout) {
        self.set("code_object.filename", layout.code.filename);
        self.set("code_object.name", layout.code.name);
        self.set("code_object.qualname", layout.code.qualname.unwrap());
        self.set("code_object.linetable", layout.code.lines);
        self.set("code_object.firstlineno", layout.code.first_line);
        self.set("code_object.co_code_adaptive", layout.code.code_start);
        self.set("pyobject.ob_type", layout.object.kind);
        self.set("type_object.tp_name", layout.object.type_name);
        self.set("type_object.tp_flags", layout.object.type_flags);
        self.set("bytes_object.ob_size", layout.object.size);
        self.set("bytes_object.ob_sval", layout.object.bytes_start);
        self.set("unicode_object.state", layout.text.state);
        self.set("unicode_object.length", layout.text.length);
        self.set("unicode_object.asciiobject_size", layout.text.ascii_bytes);
    }

    fn set(&mut self, path: &str, value: u64) {
        let at = layout().debug_offsets.unwrap().fields[path] as usize;
        self.0[at..][..8].copy_from_slice(&value.to_le_bytes());
    }
}

/// What a runtime with one field changed is refused with.
fn refusal(path: &str, value: u64) -> DebugOffsetsError {
    let mut runtime = Runtime::like_the_table();
    runtime.set(path, value);
    let mut layout = layout();
    let error = refine(&runtime, RUNTIME, &mut layout).unwrap_err();
    assert_eq!(layout, self::layout(), "a refused description changed the layout");
    error
}

#[test]
fn what_the_target_says_wins_over_the_table() {
    let mut refined = layout();
    let mut runtime = Runtime::like_the_table();
    refine(&runtime, RUNTIME, &mut refined).unwrap();
    assert_eq!(refined, layout());
    runtime.set("interpreter_frame.previous", 16);
    refine(&runtime, RUNTIME, &mut refined).unwrap();
    assert_eq!(refined.frame_layout().previous, 16);
}

#[test]
fn another_version_a_wrong_cookie_and_a_build_without_gil_are_refused() {
    assert_eq!(refusal("cookie", 7), DebugOffsetsError::Cookie { address: RUNTIME });
    assert_eq!(
        refusal("version", 0x030e_00f0).to_string(),
        "`_Py_DebugOffsets` is of CPython 3.14, not of 3.13"
    );
    assert_eq!(refusal("free_threaded", 1), DebugOffsetsError::FreeThreaded { minor: 13 });
    let mut old = Layout::for_version(3, 12).unwrap();
    let error = refine(&Runtime::like_the_table(), RUNTIME, &mut old).unwrap_err();
    assert_eq!(error, DebugOffsetsError::Absent { minor: 12 });
    let error = refine(&Runtime(vec![]), RUNTIME, &mut layout()).unwrap_err();
    assert_eq!(error, DebugOffsetsError::Unreadable { address: RUNTIME });
}

#[test]
fn offsets_that_cannot_be_are_refused() {
    for (path, value) in [
        ("interpreter_frame.previous", 80),
        ("interpreter_frame.previous", 7),
        ("interpreter_frame.owner", u64::MAX),
        ("thread_state.current_frame", u64::MAX - 7),
        ("thread_state.current_frame", 264),
        ("thread_state.size", 0),
        ("interpreter_state.size", u64::MAX),
        ("code_object.linetable", 208),
        ("code_object.firstlineno", 70),
        ("unicode_object.asciiobject_size", 8192),
    ] {
        assert!(
            matches!(refusal(path, value), DebugOffsetsError::Insane { .. }),
            "{path} = {value}"
        );
    }
}
