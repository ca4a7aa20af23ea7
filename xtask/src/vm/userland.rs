//! All that a virtual machine has beside its kernel: busybox, the tests, leaktrace, and this system's own python3 with
//! its standard library, in one archive that the kernel unpacks into memory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

const INIT: &str = include_str!("init.sh");

/// Parts of the standard library that no test needs, and that are large.
const LEFT_OUT: &[&str] = &[
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "pydoc_data",
    "dist-packages",
    "site-packages",
];

/// A folder that becomes the machine's file system.
pub(super) struct Userland {
    root: PathBuf,
    /// What was already looked at for the libraries that it needs.
    done: BTreeSet<PathBuf>,
}

impl Userland {
    /// One in an empty folder, with busybox as all of its tools, and `init`.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn new(root: &Path, busybox: &Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root).with_context(|| format!("cannot empty {}", root.display()))?;
        }
        for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "tests"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::copy(busybox, root.join("bin/busybox"))?;
        let init = root.join("init");
        fs::write(&init, INIT)?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        // Where the libraries lie, as the dynamic linker of this system has it.
        if Path::new("/etc/ld.so.cache").is_file() {
            fs::copy("/etc/ld.so.cache", root.join("etc/ld.so.cache"))?;
        }
        Ok(Self { root: root.to_path_buf(), done: BTreeSet::new() })
    }

    /// Sets the commands that the machine runs.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn set_commands(&self, commands: &[String]) -> Result<()> {
        Ok(fs::write(self.root.join("commands"), commands.join("\n") + "\n")?)
    }

    /// Puts a program, without what only debuggers read, into `/tests` under another name.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn add_program(&mut self, program: &Path, name: &str) -> Result<()> {
        let copy = self.root.join("tests").join(name);
        shell::run(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
        self.add_libraries(program)
    }

    /// Builds a C source into `/tests`.
    ///
    /// # Errors
    /// It does not compile.
    pub(super) fn add_c_program(
        &mut self,
        source: &Path,
        options: &[&str],
        name: &str,
    ) -> Result<()> {
        let built = self.root.join("tests").join(name);
        let mut compiler = Command::new("gcc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&built);
        shell::run(compiler.arg(source).args(options))?;
        self.add_libraries(&built)
    }

    /// Puts a folder or file at the same place as here.
    ///
    /// # Errors
    /// It cannot be copied.
    pub(super) fn add(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        shell::run(
            Command::new("cp")
                .args(["--recursive", "--preserve", "--no-dereference"])
                .arg(path)
                .arg(place),
        )
    }

    /// The system's python3 and its standard library.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn add_python(&mut self) -> Result<()> {
        let link = Path::new("/usr/bin/python3");
        let program = fs::canonicalize(link).context("there is no /usr/bin/python3")?;
        self.add(&program)?;
        self.add_libraries(&program)?;
        symlink(&program, self.place(link)?)?;
        let script = "import sysconfig; print(sysconfig.get_path('stdlib'))";
        let library = shell::capture(Command::new(link).args(["-I", "-S", "-c", script]))?;
        let library = PathBuf::from(library.trim_end());
        fs::create_dir_all(self.place(&library)?)?;
        for entry in fs::read_dir(&library)?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !LEFT_OUT.contains(&name.as_ref()) && !name.starts_with("config-") {
                self.add(&entry.path())?;
            }
        }
        for extension in fs::read_dir(library.join("lib-dynload")).into_iter().flatten().flatten() {
            self.add_libraries(&extension.path())?;
        }
        Ok(())
    }

    /// The shared libraries that a program needs, at their places here.
    fn add_libraries(&mut self, program: &Path) -> Result<()> {
        // `ldd` fails on what is linked statically, which needs none.
        let said = Command::new("ldd").arg(program).stderr(Stdio::null()).output();
        let said = String::from_utf8(said.context("cannot start ldd")?.stdout)?;
        for library in libraries(&said)? {
            if self.done.insert(library.clone()) {
                fs::copy(&library, self.place(&library)?)
                    .with_context(|| format!("cannot copy {}", library.display()))?;
            }
        }
        Ok(())
    }

    /// Where a file of this system lies in the userland; its folder is made.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let inside = path.strip_prefix("/").context("not an absolute path")?;
        let place = self.root.join(inside);
        fs::create_dir_all(place.parent().unwrap_or(&self.root))?;
        Ok(place)
    }

    /// Packs it into one file.
    ///
    /// # Errors
    /// busybox fails.
    pub(super) fn pack(&self, archive: &Path) -> Result<()> {
        let busybox = self.root.join("bin/busybox");
        let output = fs::File::create(archive)?;
        let mut find = Command::new(&busybox)
            .args(["find", "."])
            .current_dir(&self.root)
            .stdout(Stdio::piped())
            .spawn()?;
        let names = find.stdout.take().context("a piped output is there")?;
        let mut cpio = Command::new(&busybox);
        cpio.args(["cpio", "-o", "-H", "newc", "-R", "0:0"]).current_dir(&self.root);
        let packed = cpio.stdin(names).stdout(output).output()?;
        let found = find.wait()?;
        ensure!(
            packed.status.success() && found.success(),
            "cannot pack the userland: {}",
            String::from_utf8_lossy(&packed.stderr)
        );
        Ok(())
    }
}

/// The libraries in what `ldd` says.
fn libraries(said: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in said.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        libraries
            .extend(line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_names() {
        let said = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(libraries(said).unwrap(), expected.map(PathBuf::from));
        assert!(libraries("\tlibz.so.1 => not found\n").is_err());
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }
}
