//! Whose code a file is, as far as its path tells: the standard library's, an installed package's, or the application's.
//!
//! Metadata beside the file would name the distribution; the path only knows what it is imported as, which is the
//! same for most.

/// What `package` of a standard library's frame says.
pub(super) const STDLIB: &str = "stdlib";

/// `stdlib`, the top-level name of an installed package, or `None` for the application's own code.
#[must_use]
pub(super) fn of(file: &str) -> Option<String> {
    if let Some(inside) = after_last(file, &["/site-packages/", "/dist-packages/"]) {
        let top = inside.split('/').next().unwrap_or(inside);
        let name = top.split('.').next().unwrap_or(top);
        return (!name.is_empty()).then(|| name.to_owned());
    }
    is_stdlib(file).then(|| STDLIB.to_owned())
}

fn after_last<'a>(file: &'a str, folders: &[&str]) -> Option<&'a str> {
    folders.iter().filter_map(|folder| file.rsplit_once(folder)).map(|(_, rest)| rest).next()
}

fn is_stdlib(file: &str) -> bool {
    file.starts_with("<frozen ") || after_lib_python(file).is_some_and(|rest| rest.contains('/'))
}

/// What follows the version in `…/lib/python3.11/…`, as in `…/lib64/…` and in `…/lib/python311.zip/…`.
fn after_lib_python(file: &str) -> Option<&str> {
    let at = file.find("/lib/python3").or_else(|| file.find("/lib64/python3"))?;
    let rest = &file[at + 1..];
    Some(rest.split_once("python3")?.1.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_tells_whose_code_it_is() {
        for (file, package) in [
            ("/usr/lib/python3.11/json/decoder.py", Some("stdlib")),
            ("/opt/py/lib/python311.zip/json/decoder.py", Some("stdlib")),
            ("<frozen importlib._bootstrap>", Some("stdlib")),
            ("/venv/lib/python3.12/site-packages/flask/app.py", Some("flask")),
            ("/venv/lib64/python3.12/site-packages/six.py", Some("six")),
            ("/usr/lib/python3/dist-packages/yaml/loader.py", Some("yaml")),
            ("/srv/shop/orders.py", None),
            ("<string>", None),
            ("", None),
        ] {
            assert_eq!(of(file).as_deref(), package, "{file}");
        }
    }
}
