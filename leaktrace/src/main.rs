//! The `leaktrace` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(leaktrace::commands::run(std::env::args_os()))
}
