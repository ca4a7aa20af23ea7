//! Builds CPython from source as those build it who ship it. Each build is made once, into the cache; its training
//! run is short, so that it takes minutes and not an hour.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cache::{self, Cache};
use super::debian;
use crate::{setup, shell};

/// What trains an optimised build, in place of CPython's own choice of 40 tests.
const TRAINING: &str =
    "PROFILE_TASK=-m test --pgo test_json test_re test_list test_dict test_generators test_struct";

/// What every build needs.
const PACKAGES: [&str; 7] =
    ["gcc", "make", "curl", "xz-utils", "zlib1g-dev", "libffi-dev", "libssl-dev"];

/// Two at a time: the machine has other things to do.
const JOBS: &str = "-j2";

/// How a CPython is built.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Its name, and that of its folder.
    pub(super) name: &'static str,
    /// In words.
    pub(super) kind: &'static str,
    minor: u8,
    environment: &'static [(&'static str, &'static str)],
    configure: &'static [&'static str],
    make: &'static [&'static str],
    packages: &'static [&'static str],
    /// A program that is written into the folder of the build first.
    script: Option<(&'static str, &'static str)>,
    /// The build whose Python runs what a cross build cannot run itself.
    helper: Option<&'static Self>,
}

const BASE: Recipe = Recipe {
    name: "",
    kind: "",
    minor: 13,
    environment: &[],
    configure: &[],
    make: &[],
    packages: &[],
    script: None,
    helper: None,
};

/// The flags of the official container images.
const CONTAINER: Recipe = Recipe {
    kind: "as in container images: GCC, PGO, LTO, shared, stripped",
    configure: &["--enable-shared", "--enable-optimizations", "--with-lto"],
    ..BASE
};

const CONTAINER_LINK: &str = "LDFLAGS=-Wl,-z,relro -Wl,--strip-all -Wl,-rpath='$$ORIGIN/../lib'";

/// The official image of 3.11.
pub(super) static CONTAINER_3_11: Recipe = Recipe {
    name: "container-3.11",
    minor: 11,
    make: &[
        "EXTRA_CFLAGS=-g -O2 -fstack-protector-strong -Wformat -Werror=format-security",
        CONTAINER_LINK,
    ],
    ..CONTAINER
};

/// The official image of 3.13, which keeps frame pointers.
pub(super) static CONTAINER_3_13: Recipe = Recipe {
    name: "container-3.13",
    make: &[
        "EXTRA_CFLAGS=-g -O2 -fstack-protector-strong -Wformat -Werror=format-security -fno-omit-frame-pointer \
         -mno-omit-leaf-frame-pointer",
        CONTAINER_LINK,
    ],
    ..CONTAINER
};

/// As uv's Pythons are built (python-build-standalone).
pub(super) static CLANG_3_13: Recipe = Recipe {
    name: "clang-3.13",
    kind: "as uv's: clang, ThinLTO, PGO, static",
    environment: &[
        ("CC", "clang-22"),
        ("AR", "/usr/bin/llvm-ar-22"),
        // Configure takes nothing but a path for this one.
        ("LLVM_AR", "/usr/bin/llvm-ar-22"),
        ("LLVM_PROFDATA", "/usr/bin/llvm-profdata-22"),
        ("LDFLAGS", "-fuse-ld=lld"),
    ],
    configure: &["--enable-optimizations", "--with-lto=thin"],
    packages: &["clang-22", "lld-22", "llvm-22", "libclang-rt-22-dev"],
    ..BASE
};

/// Without the GIL.
pub(super) static FREE_THREADED_3_13: Recipe = Recipe {
    name: "free-threaded-3.13",
    kind: "free-threaded: GCC, static",
    configure: &["--disable-gil"],
    ..BASE
};

/// The same, with bytecode of each thread's own.
pub(super) static FREE_THREADED_3_14: Recipe =
    Recipe { name: "free-threaded-3.14", minor: 14, ..FREE_THREADED_3_13 };

/// The newest one.
pub(super) static FREE_THREADED_3_15: Recipe =
    Recipe { name: "free-threaded-3.15", minor: 15, ..FREE_THREADED_3_13 };

/// With musl in place of glibc.
pub(super) static MUSL_3_13: Recipe = Recipe {
    name: "musl-3.13",
    kind: "musl: GCC, static libpython",
    environment: &[("CC", "./musl-cc")],
    // Asked for the name of its platform, musl-gcc gives that of the gcc behind it, and CPython believes neither.
    script: Some((
        "musl-cc",
        "#!/bin/sh\n[ \"$1\" = --print-multiarch ] || exec musl-gcc \"$@\"\n",
    )),
    configure: &[
        "--host=x86_64-linux-musl",
        "--build=x86_64-linux-gnu",
        "ac_cv_file__dev_ptmx=yes",
        "ac_cv_file__dev_ptc=no",
        "ac_cv_buggy_getaddrinfo=no",
        // What it would find is for glibc.
        "PKG_CONFIG=false",
    ],
    packages: &["musl-tools"],
    helper: Some(&FREE_THREADED_3_13),
    ..BASE
};

impl Recipe {
    /// All that decides what comes out, as it is kept beside a build.
    fn text(&self) -> String {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let words = environment
            .chain(self.configure.iter().map(|word| (*word).to_owned()))
            .chain(self.make.iter().map(|word| (*word).to_owned()))
            .chain([TRAINING.to_owned()]);
        words.map(|word| word + "\n").collect()
    }

    /// The interpreter, if it was built by this very recipe.
    pub(super) fn find(&self, cache: &Cache) -> Option<PathBuf> {
        let folder = cache.python(self.name);
        let recipe = fs::read_to_string(Cache::mark(&folder)).ok()?;
        (recipe == self.text()).then(|| self.program(cache))
    }

    fn program(&self, cache: &Cache) -> PathBuf {
        cache.python(self.name).join(format!("bin/python3.{}", self.minor))
    }

    /// Builds and installs it into the cache.
    ///
    /// # Errors
    /// Something that it needs is missing, or it does not build.
    pub(super) fn build(&self, cache: &Cache) -> Result<()> {
        setup::install_packages(&PACKAGES)?;
        setup::install_packages(self.packages)?;
        let helper = self.helper.map(|helper| helper.bring(cache)).transpose()?;
        let source = debian::source(cache, self.minor)?;
        let folder = cache.build(self.name);
        // What an interrupted build left behind, if any.
        let _ = fs::remove_dir_all(&folder);
        cache::make(&folder)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&source).arg("-C").arg(&folder).arg("--strip-components=1");
        shell::run(&mut unpack)?;
        if let Some((name, text)) = self.script {
            fs::write(folder.join(name), text)?;
            shell::run(Command::new("chmod").arg("+x").arg(folder.join(name)))?;
        }
        let log = cache.log(self.name)?;
        println!("{} is built from {}: this takes a while", self.name, source.display());
        self.configure(cache, &folder, helper.as_deref(), &log)?;
        self.make(&folder, &["all"], &log)?;
        self.make(&folder, &["install"], &log)?;
        fs::remove_dir_all(&folder)?;
        fs::write(Cache::mark(&cache.python(self.name)), self.text())?;
        Ok(())
    }

    fn bring(&self, cache: &Cache) -> Result<PathBuf> {
        if self.find(cache).is_none() {
            self.build(cache).with_context(|| format!("cannot build {}", self.name))?;
        }
        Ok(self.program(cache))
    }

    fn configure(
        &self,
        cache: &Cache,
        folder: &Path,
        helper: Option<&Path>,
        log: &Path,
    ) -> Result<()> {
        let mut configure = Command::new("./configure");
        configure.arg(format!("--prefix={}", cache.python(self.name).display()));
        configure.args(["--with-ensurepip=no", "--disable-test-modules"]).args(self.configure);
        configure.args(helper.map(|path| format!("--with-build-python={}", path.display())));
        configure.envs(self.environment.iter().copied()).current_dir(folder);
        shell::run_logged(&mut configure, log)
    }

    fn make(&self, folder: &Path, goals: &[&str], log: &Path) -> Result<()> {
        let mut make = Command::new("nice");
        make.args(["make", JOBS]).args(self.make).arg(TRAINING).args(goals);
        make.envs(self.environment.iter().copied()).current_dir(folder);
        shell::run_logged(&mut make, log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_by_another_recipe_is_not_taken() {
        let root = std::env::temp_dir().join(format!("leaktrace-recipe-{}", std::process::id()));
        let cache = Cache::at(&root);
        let folder = cache.python(CLANG_3_13.name);
        cache::make(&folder).unwrap();
        assert_eq!(CLANG_3_13.find(&cache), None);
        fs::write(Cache::mark(&folder), CONTAINER_3_13.text()).unwrap();
        assert_eq!(CLANG_3_13.find(&cache), None);
        fs::write(Cache::mark(&folder), CLANG_3_13.text()).unwrap();
        assert_eq!(CLANG_3_13.find(&cache), Some(folder.join("bin/python3.13")));
        fs::remove_dir_all(&root).unwrap();
    }
}
