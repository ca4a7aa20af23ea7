//! Starts real interpreters and learns the truth about them from their symbol tables.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use leaktrace::cpython::version::{self, Version};
use leaktrace::target::memory::ProcessMemory;
use leaktrace::target::module::Module;
use object::{Object as _, ObjectSymbol as _};

/// Answers each line of its input: `allocators`, `threads`, or anything else for some work.
const SCRIPT: &str = include_str!("answers.py");

/// The interpreters of this machine that leaktrace knows, by name.
pub(crate) fn interpreters() -> Vec<(String, PathBuf)> {
    let mut found = all_interpreters();
    found.retain(|(name, _)| is_known(name));
    if found.len() < 2 {
        say("skipped in part: no pyenv interpreters in $PYENV_ROOT/versions or ~/.pyenv/versions");
    }
    found
}

/// The interpreters of this machine, by name: pyenv's, and the system's.
pub(crate) fn all_interpreters() -> Vec<(String, PathBuf)> {
    let root = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pyenv")));
    let mut found: Vec<(String, PathBuf)> = root
        .and_then(|root| std::fs::read_dir(root.join("versions")).ok())
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.path().join("bin/python"))
        })
        .chain([("system".to_owned(), PathBuf::from("/usr/bin/python3"))])
        .filter(|(_, path)| path.exists())
        .collect();
    found.sort();
    found
}

fn is_known(name: &str) -> bool {
    let minor = name.strip_prefix("3.").and_then(|rest| rest.split('.').next()?.parse().ok());
    let known = version::OLDEST_MINOR..=version::NEWEST_MINOR;
    name == "system" || minor.is_some_and(|minor| known.contains(&minor))
}

/// Writes a line that `cargo test -- --nocapture` shows.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stderr(), "{line}");
}

/// A running interpreter, which ends with its value.
pub(crate) struct Python {
    pub(crate) name: String,
    path: PathBuf,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) memory: ProcessMemory,
    pub(crate) module: Module,
    pub(crate) version: Version,
    symbols: HashMap<String, u64>,
}

impl Python {
    /// Starts the interpreter at `path`; `malloc` is the value of `PYTHONMALLOC`.
    pub(crate) fn start(name: &str, path: &OsStr, malloc: &str, arguments: &[&str]) -> Self {
        Self::start_script(name, path, malloc, arguments, SCRIPT)
    }

    /// The same with another script, which says `ready` and then answers.
    pub(crate) fn start_script(
        name: &str,
        path: &OsStr,
        malloc: &str,
        arguments: &[&str],
        script: &str,
    ) -> Self {
        let mut child = Command::new(path)
            .args(arguments)
            .args(["-u", "-c", script])
            .env("PYTHONMALLOC", malloc)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let input = child.stdin.take().expect("stdin is piped");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        assert_eq!(line(&mut output), "ready");
        let memory = ProcessMemory::open(child.id()).expect("the target's memory opens");
        let module = Module::find(child.id()).expect("the interpreter is found");
        let version = version::find(&module, &memory).expect("the version is found");
        let symbols = symbols(&module);
        let name = format!("{name} {malloc}{}", arguments.join(" "));
        Self { name, path: path.into(), child, input, output, memory, module, version, symbols }
    }

    /// Ends it, and starts the same interpreter with another value of `PYTHONMALLOC`.
    pub(crate) fn again(self, malloc: &str) -> Self {
        Self::start(self.name.trim(), self.path.as_os_str(), malloc, &[])
    }

    /// Sends a line, and gives the answer.
    pub(crate) fn ask(&mut self, question: &str) -> String {
        writeln!(self.input, "{question}").expect("the interpreter reads");
        line(&mut self.output)
    }

    /// The words of an answer: numbers.
    pub(crate) fn ask_numbers(&mut self, question: &str) -> Vec<u64> {
        let answer = self.ask(question);
        answer.split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Ends the process, and waits for it.
    pub(crate) fn end(&mut self) {
        let _gone_already = self.child.kill();
        let _status = self.child.wait();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The address of a symbol, also of one that is not exported; `None` in a stripped build.
    pub(crate) fn true_symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// The ends of all functions in the symbol table; empty in a stripped build.
    pub(crate) fn true_ends(&self) -> Vec<(u64, u64)> {
        let file = object::File::parse(self.module.elf().file()).expect("it was parsed before");
        file.symbols()
            .filter(|symbol| symbol.kind() == object::SymbolKind::Text && symbol.is_definition())
            .map(|symbol| {
                let start = symbol.address().wrapping_add(self.module.bias());
                (start, start + symbol.size())
            })
            .collect()
    }
}

fn symbols(module: &Module) -> HashMap<String, u64> {
    let file = object::File::parse(module.elf().file()).expect("it was parsed before");
    file.symbols()
        .filter(object::ObjectSymbol::is_definition)
        .filter_map(|symbol| {
            let address = symbol.address().wrapping_add(module.bias());
            Some((symbol.name().ok()?.to_owned(), address))
        })
        .collect()
}

fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).expect("the interpreter answers");
    line.trim_end().to_owned()
}

impl Drop for Python {
    fn drop(&mut self) {
        self.end();
    }
}

/// An interpreter of any version, which waits for the end of its input.
pub(crate) struct Idle(Child);

impl Idle {
    pub(crate) fn start(path: &Path) -> Self {
        let script =
            "import sys; sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.read()";
        let mut child = Command::new(path)
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter starts");
        let mut output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        assert_eq!(line(&mut output), "ready");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn end(&mut self) {
        let _gone_already = self.0.kill();
        let _status = self.0.wait();
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.end();
    }
}
