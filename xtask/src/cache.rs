//! The folder outside of the checkout in which what takes long is kept: `$LEAKTRACE_CACHE`, else
//! `$XDG_CACHE_HOME/leaktrace`, else `~/.cache/leaktrace`. All of it can be deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder `name` in the cache, made where it is missing.
///
/// # Errors
/// There is no home to keep it in, or it cannot be made.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let folder = root()?.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Fills the folder `name` below `parent` with `make`, unless it is there. What could not be made whole is not left
/// there, and of two that make it at the same time one wins.
///
/// # Errors
/// As `make`, or the folder cannot be made.
pub(crate) fn once(
    parent: &Path,
    name: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let folder = parent.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let unfinished = parent.join(format!(".{name}.{}", std::process::id()));
    fs::create_dir_all(&unfinished)
        .with_context(|| format!("cannot make {}", unfinished.display()))?;
    let made = make(&unfinished).and_then(|()| match fs::rename(&unfinished, &folder) {
        Err(_) if folder.is_dir() => Ok(()),
        renamed => renamed.with_context(|| format!("cannot make {}", folder.display())),
    });
    // Gone already where it was renamed.
    let _ = fs::remove_dir_all(&unfinished);
    made.map(|()| folder)
}

/// The folder that the environment names. It need not exist.
///
/// # Errors
/// Where the environment names none and there is no home.
pub(crate) fn root() -> Result<PathBuf> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let root = named("LEAKTRACE_CACHE")
        .map(PathBuf::from)
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("leaktrace")))
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache/leaktrace")))
        .context("there is no home directory: set LEAKTRACE_CACHE to a folder")?;
    Ok(std::path::absolute(root)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_half_way_leaves_nothing_and_what_is_there_is_not_made_again() {
        let parent = std::env::temp_dir().join(format!("leaktrace-cache-{}", std::process::id()));
        let failed = once(&parent, "thing", |folder| {
            fs::write(folder.join("half"), "")?;
            anyhow::bail!("no")
        });
        assert!(failed.is_err() && !parent.join("thing").exists());
        let made = once(&parent, "thing", |folder| Ok(fs::write(folder.join("whole"), "")?));
        assert!(made.unwrap().join("whole").is_file());
        let again = once(&parent, "thing", |_| anyhow::bail!("made twice"));
        assert!(again.unwrap().join("whole").is_file());
        assert_eq!(fs::read_dir(&parent).unwrap().count(), 1);
        fs::remove_dir_all(parent).unwrap();
    }
}
