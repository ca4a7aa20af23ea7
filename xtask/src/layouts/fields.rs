//! What leaktrace reads of CPython's structures. A field that a version does not have is left out of its table.

/// A structure and the fields wanted of it. Later names are those of other versions.
pub(crate) struct Wanted {
    /// The names under which versions define it; the first is the one in the table.
    pub(crate) names: &'static [&'static str],
    /// Paths of its fields.
    pub(crate) fields: &'static [&'static str],
    /// Whether its size goes into the table.
    pub(crate) size: bool,
}

const fn wanted(
    names: &'static [&'static str],
    size: bool,
    fields: &'static [&'static str],
) -> Wanted {
    Wanted { names, fields, size }
}

/// All structures, apart from [`WHOLE`].
pub(crate) const STRUCTURES: &[Wanted] = &[
    wanted(
        &["PyThreadState"],
        true,
        &[
            "next",
            "prev",
            "interp",
            "frame",
            "cframe",
            "current_frame",
            "thread_id",
            "native_thread_id",
        ],
    ),
    wanted(&["_PyCFrame", "CFrame"], false, &["current_frame"]),
    wanted(&["PyFrameObject"], true, &["f_back", "f_code", "f_lasti"]),
    wanted(
        &["_PyInterpreterFrame"],
        true,
        &["f_code", "f_executable", "previous", "prev_instr", "instr_ptr", "owner"],
    ),
    wanted(
        &["PyCodeObject"],
        true,
        &[
            "co_filename",
            "co_name",
            "co_qualname",
            "co_firstlineno",
            "co_lnotab",
            "co_linetable",
            "co_code",
            "co_code_adaptive",
            "_co_firsttraceable",
            "co_tlbc",
        ],
    ),
    wanted(&["PyObject"], true, &["ob_refcnt", "ob_type"]),
    wanted(&["PyVarObject"], true, &["ob_size"]),
    wanted(&["PyBytesObject"], false, &["ob_sval"]),
    wanted(
        &["PyASCIIObject"],
        true,
        &["length", "state", "state.kind", "state.compact", "state.ascii", "state.ready"],
    ),
    wanted(&["PyCompactUnicodeObject"], true, &["utf8_length", "utf8"]),
    wanted(&["PyUnicodeObject"], true, &["data"]),
    wanted(&["PyTypeObject"], false, &["tp_flags", "tp_name"]),
    wanted(
        &["PyInterpreterState"],
        true,
        &[
            "next",
            "tstate_head",
            "threads.head",
            "ceval.gil",
            "feature_flags",
            "obmalloc",
            "obmalloc.pools.used",
            "obmalloc.mgmt.arenas",
            "obmalloc.mgmt.maxarenas",
        ],
    ),
    wanted(
        &["_PyRuntimeState"],
        true,
        &[
            "debug_offsets",
            "interpreters.head",
            "interpreters.main",
            "gilstate.tstate_current",
            "gilstate.autoTSSkey",
            "autoTSSkey",
            "ceval.gil",
        ],
    ),
    wanted(&["_gil_runtime_state"], false, &["last_holder", "locked"]),
    wanted(
        &["pool_header"],
        true,
        &[
            "ref.count",
            "freeblock",
            "nextpool",
            "prevpool",
            "arenaindex",
            "szidx",
            "nextoffset",
            "maxnextoffset",
        ],
    ),
    wanted(
        &["arena_object"],
        true,
        &["address", "pool_address", "nfreepools", "ntotalpools", "freepools", "nextarena"],
    ),
    wanted(&["_obmalloc_state"], false, &["pools.used", "mgmt.arenas", "mgmt.maxarenas"]),
];

/// Structures whose every field goes into the table.
pub(crate) const WHOLE: &[&str] = &["_Py_DebugOffsets"];

/// Enumerators whose values go into the table.
pub(crate) const ENUMERATORS: &[&str] = &[
    "FRAME_OWNED_BY_THREAD",
    "FRAME_OWNED_BY_GENERATOR",
    "FRAME_OWNED_BY_FRAME_OBJECT",
    "FRAME_OWNED_BY_INTERPRETER",
    "FRAME_OWNED_BY_CSTACK",
];

/// Array variables whose numbers of elements go into the table.
pub(crate) const ARRAYS: &[&str] = &["usedpools"];
