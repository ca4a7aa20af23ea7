//! What real services run, in a virtual environment below the target directory: end-to-end tests trace it.

use crate::venv::Environment;

/// A prefork server, a task queue with a prefork pool, a memory profiler, greenlets with an event loop of their own, an
/// event loop for asyncio, and the compiler of compiled modules.
pub(crate) const SERVICES: Environment = Environment {
    // `leaktrace_tests::services` knows it, too.
    folder: "services",
    packages: &[
        "gunicorn==23.*",
        "celery==5.*",
        "memray==1.*",
        "gevent==26.*",
        "uvloop==0.*",
        "cython==3.*",
    ],
    import: "import gunicorn, celery, memray, gevent, uvloop, Cython",
    purpose: "for tests to trace",
};
