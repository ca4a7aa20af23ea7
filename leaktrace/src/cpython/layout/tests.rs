//! The checked-in tables: that each gives a layout, and what must hold for the kernel side.

use super::{Layout, LayoutError, Obmalloc, supported};

fn layout(minor: u8) -> Layout {
    Layout::for_version(3, minor).unwrap()
}

#[test]
fn every_table_gives_a_layout() {
    assert!(supported().eq(6..=15));
    for minor in supported() {
        let layout = layout(minor);
        assert!(layout.source.starts_with(&format!("CPython 3.{minor}.")), "{}", layout.source);
        assert_eq!(layout.runtime.is_some(), minor >= 7);
        assert_eq!(layout.debug_offsets.is_some(), minor >= 13);
        assert_eq!(layout.code.qualname.is_some(), minor >= 11);
        assert_eq!(layout.code.first_traceable.is_some(), minor >= 11);
        assert_eq!(layout.frame.generator_owner.is_some(), minor >= 11);
    }
}

#[test]
fn another_version_is_refused_with_those_there_are() {
    for (major, minor) in [(2, 7), (3, 5), (3, 99), (4, 8)] {
        let error = Layout::for_version(major, minor).unwrap_err();
        assert!(matches!(error, LayoutError::Unsupported { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "CPython {major}.{minor} is not supported; leaktrace knows CPython \
                 3.6, 3.7, 3.8, 3.9, 3.10, 3.11, 3.12, 3.13, 3.14, 3.15"
            )
        );
    }
}

#[test]
fn the_kernel_side_can_read_what_it_needs_in_one_piece() {
    for minor in supported() {
        let frame = layout(minor).frame_layout();
        let width = if frame.lasti_unit == 0 { 8 } else { 4 };
        assert!(frame.bytes.is_multiple_of(8) && frame.bytes <= 128, "3.{minor}: {frame:?}");
        assert!(frame.previous + 8 <= frame.bytes && frame.code + 8 <= frame.bytes);
        assert!(frame.position + width <= frame.bytes && frame.owner < frame.bytes);
    }
}

#[test]
fn only_c_frames_are_skipped() {
    for minor in supported() {
        let frame = layout(minor).frame_layout();
        assert_eq!(frame.first_shim_owner, if minor >= 11 { 3 } else { 0 });
        assert_eq!(frame.lasti_unit, [1, 2, 0][usize::from(minor.clamp(9, 11) - 9)]);
    }
}

#[test]
fn pools_grew_with_3_10_and_moved_into_the_interpreter_with_3_12() {
    for minor in supported() {
        let layout = layout(minor);
        let pymalloc = layout.pymalloc_layout().unwrap();
        assert_eq!(pymalloc.pool_bytes, if minor >= 10 { 16_384 } else { 4_096 });
        assert_eq!((pymalloc.pool_header, pymalloc.class_shift), (48, 4));
        let place = layout.interpreter.obmalloc;
        assert_eq!(matches!(place, Obmalloc::Static), minor <= 11);
        assert_eq!(matches!(place, Obmalloc::Pointer { .. }), minor >= 13);
    }
}
