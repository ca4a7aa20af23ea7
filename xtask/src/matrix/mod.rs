//! `cargo xtask matrix`: leaktrace on every build of CPython that can be brought up here, into `docs/matrix.md`.
//!
//! What takes long (a distribution in a folder, builds from source, a row's result) is kept in a cache outside of the
//! checkout and made once. A row is measured anew where leaktrace, the tests or the interpreter have changed.

mod build;
mod cache;
mod debian;
mod document;
mod measure;
mod rows;

use std::process::ExitCode;

use anyhow::{Result, bail};

use cache::Cache;
use measure::Meter;
use rows::{ROWS, Row};

pub(crate) const ABOUT: &str = "[--list | --bring] [--only ROW]... [--again]  run the tests on every build of CPython, into docs/matrix.md";

const USAGE: &str = "usage: cargo xtask matrix [--list | --bring] [--only ROW]... [--again]";

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    list: bool,
    /// Only bring the builds into the cache.
    bring: bool,
    again: bool,
    only: Vec<String>,
}

/// Runs the command.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let wanted = Wanted::parse(arguments)?;
    let cache = Cache::find()?;
    if wanted.list {
        list(&cache);
        return Ok(ExitCode::SUCCESS);
    }
    if wanted.bring {
        for row in ROWS.iter().filter(|row| wanted.takes(row)) {
            match row.bring(&cache) {
                Ok(python) => println!("{}: {}", row.name, python.name()),
                Err(error) => println!("{}: not to be had here: {error:#}", row.name),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let meter = Meter::new(cache.clone())?;
    for row in ROWS.iter().filter(|row| wanted.takes(row)) {
        if let Err(error) = measure(&meter, row, &cache, wanted.again) {
            println!("{}: not to be had here: {error:#}", row.name);
        }
        // What is done is not lost when a later row is interrupted.
        document::write(&cache)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The optimised builds that are not on every machine and that are here, as the tests' `LEAKTRACE_PYTHONS` calls them.
///
/// # Errors
/// As [`Cache::find`].
pub(crate) fn here() -> Result<Vec<String>> {
    let cache = Cache::find()?;
    let rare = ROWS.iter().filter(|row| row.is_rare());
    Ok(rare.filter_map(|row| row.find(&cache)).map(|python| python.name()).collect())
}

fn measure(meter: &Meter, row: &Row, cache: &Cache, again: bool) -> Result<()> {
    let python = row.bring(cache)?;
    if !again && meter.earlier(row).is_some() {
        println!("{}: as it was", row.name);
        return Ok(());
    }
    println!("{}: {}", row.name, python.name());
    meter.measure(row, &python)?;
    Ok(())
}

fn list(cache: &Cache) {
    for row in ROWS {
        let here = row.find(cache).map_or("not here yet".to_owned(), |python| python.name());
        println!("{:<20} {:<58} {here}", row.name, row.kind);
    }
}

impl Wanted {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut wanted = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => wanted.list = true,
                "--bring" => wanted.bring = true,
                "--again" => wanted.again = true,
                "--only" => match arguments.next() {
                    Some(name) if ROWS.iter().any(|row| row.name == name) => {
                        wanted.only.push(name.clone());
                    }
                    Some(name) => bail!("there is no row `{name}`; --list shows those there are"),
                    None => bail!(USAGE),
                },
                _ => bail!(USAGE),
            }
        }
        Ok(wanted)
    }

    fn takes(&self, row: &Row) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == row.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wanted> {
        Wanted::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn rows_are_picked_by_name_and_all_are_taken_without_one() {
        let all = parse(&[]).unwrap();
        assert!(ROWS.iter().all(|row| all.takes(row)));
        let one = parse(&["--only", ROWS[0].name, "--again"]).unwrap();
        assert!(one.again && one.takes(&ROWS[0]) && !one.takes(&ROWS[1]));
        assert!(parse(&["--only", "no such row"]).is_err());
        assert!(parse(&["--only"]).is_err());
    }
}
