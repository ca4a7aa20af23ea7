//! The developer's commands: `cargo xtask COMMAND`. One module a command; this one only picks it.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these commands talk to the person who typed them"
)]

use std::process::ExitCode;

use anyhow::{Result, bail};

mod bench;
mod build_ebpf;
mod cache;
mod demo;
mod images;
mod layouts;
mod matrix;
mod pythons;
mod services;
mod setup;
mod shell;
mod test;
mod tidy;
mod venv;
mod vm;

/// A command's name, what it does, and the function that does it with the arguments behind its name.
struct Task {
    name: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<ExitCode>,
}

const TASKS: &[Task] = &[
    Task { name: "demo", about: demo::ABOUT, run: demo::run },
    Task { name: "test", about: test::ABOUT, run: test::run },
    Task { name: "build-ebpf", about: build_ebpf::ABOUT, run: build_ebpf::run },
    Task { name: "layouts", about: layouts::ABOUT, run: layouts::run },
    Task { name: "images", about: images::ABOUT, run: images::run },
    Task { name: "matrix", about: matrix::ABOUT, run: matrix::run },
    Task { name: "tidy", about: tidy::ABOUT, run: tidy::run },
    Task { name: "bench", about: bench::ABOUT, run: bench::run },
    Task { name: "vm", about: vm::ABOUT, run: vm::run },
    Task { name: "pythons", about: pythons::ABOUT, run: pythons::run },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    run(&arguments).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = arguments.split_first() else {
        print_usage();
        return Ok(ExitCode::from(2));
    };
    if let Some(task) = TASKS.iter().find(|task| task.name == name) {
        return (task.run)(rest);
    }
    if !matches!(name.as_str(), "-h" | "--help" | "help") {
        bail!("there is no command `{name}`; `cargo xtask --help` lists those there are");
    }
    print_usage();
    Ok(ExitCode::SUCCESS)
}

fn print_usage() {
    println!("usage: cargo xtask COMMAND\n");
    for task in TASKS {
        println!("  {:<12}{}", task.name, task.about);
    }
}
