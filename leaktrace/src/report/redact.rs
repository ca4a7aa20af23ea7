//! A command line without its secrets.
//!
//! Goes by the names of options and variables, and by URLs. It hides rather too much than too little.

/// What stands in place of a secret.
const HIDDEN: &str = "***";

/// Parts of a name that make its value a secret wherever they stand.
const ANYWHERE: [&str; 8] =
    ["passw", "passphrase", "secret", "token", "apikey", "credential", "authorization", "private"];

/// Words that make a value a secret if they are a word of the name.
const WORDS: [&str; 11] =
    ["key", "keys", "pass", "pwd", "pw", "auth", "cookie", "dsn", "sas", "sig", "signature"];

/// How much of the command line goes into a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cmdline {
    /// All of it.
    Full,
    /// Values that look like secrets are `***`.
    #[default]
    Redacted,
    /// Nothing.
    None,
}

/// The command line as it may go out; none where nothing may.
#[must_use]
pub fn cmdline(arguments: &[String], how: Cmdline) -> Option<Vec<String>> {
    match how {
        Cmdline::Full => Some(arguments.to_vec()),
        Cmdline::Redacted => Some(redacted(arguments)),
        Cmdline::None => None,
    }
}

fn redacted(arguments: &[String]) -> Vec<String> {
    let mut hide_next = false;
    let mut shown = Vec::with_capacity(arguments.len());
    for argument in arguments {
        if std::mem::take(&mut hide_next) {
            shown.push(HIDDEN.to_owned());
            continue;
        }
        hide_next = is_secret_option(argument);
        shown.push(redact_argument(argument));
    }
    shown
}

fn redact_argument(argument: &str) -> String {
    // `NAME=value` and `Name: value` as a whole argument: all that follows is the value.
    if let Some(at) = argument.find(['=', ':'])
        && is_name(&argument[..at])
        && is_secret(&argument[..at])
    {
        return format!("{}{HIDDEN}", &argument[..=at]);
    }
    hide_words(&hide_pairs(&hide_userinfo(argument)))
}

/// A process that sets its own title has all words in one argument.
fn hide_words(text: &str) -> String {
    let mut hide_next = false;
    let words = text.split(' ').map(|word| {
        if word.is_empty() {
            return word;
        }
        let hidden = std::mem::replace(&mut hide_next, is_secret_option(word));
        if hidden { HIDDEN } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// `scheme://user:password@host` becomes `scheme://***@host`.
fn hide_userinfo(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        rest = after;
        if let Some(end) = userinfo_end(after) {
            shown.push_str(HIDDEN);
            rest = &after[end..];
        }
    }
    shown + rest
}

/// Where the `@` after the user info is.
fn userinfo_end(after_scheme: &str) -> Option<usize> {
    let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',');
    let url = &after_scheme[..after_scheme.find(is_end).unwrap_or(after_scheme.len())];
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    // A password with a slash in it: what looks like a port is no number.
    let port = authority.split_once(':')?.1;
    if port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    url.rfind('@')
}

/// `name=value` and `name: value` anywhere, as in connection strings, queries and JSON.
fn hide_pairs(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, after) = rest.split_at(at + 1);
        shown.push_str(before);
        rest = after;
        if is_secret(name_before(&before[..at])) {
            let value = value_at(after);
            shown.push_str(&after[..value.start]);
            shown.push_str(HIDDEN);
            rest = &after[value.end..];
        }
    }
    shown + rest
}

fn name_before(text: &str) -> &str {
    let text = text.trim_end_matches(['"', '\'', ' ']);
    let start = text
        .rfind(|c| !is_name_char(c))
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    &text[start..]
}

fn value_at(text: &str) -> std::ops::Range<usize> {
    let start = text.len() - text.trim_start_matches(' ').len();
    let value = &text[start..];
    let length = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].find(quote).map_or(value.len(), |end| end + 2),
        _ => value
            .find(|c: char| c.is_whitespace() || matches!(c, '&' | ';' | ',' | '}' | '"' | '\''))
            .unwrap_or(value.len()),
    };
    start..start + length
}

fn is_secret_option(argument: &str) -> bool {
    argument.starts_with('-') && is_name(argument) && is_secret(argument)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

fn is_secret(name: &str) -> bool {
    let lower = name.to_lowercase();
    let joined: String = lower.chars().filter(|c| c.is_alphanumeric()).collect();
    ANYWHERE.iter().any(|part| joined.contains(part))
        || lower.split(|c: char| !c.is_alphanumeric()).any(|word| WORDS.contains(&word))
        || camel_words(name).any(|word| WORDS.contains(&word.to_lowercase().as_str()))
}

/// `accessKey` has the words `access` and `Key`.
fn camel_words(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let start = first.len_utf8();
        let end = rest[start..]
            .find(|c: char| c.is_uppercase() || !c.is_alphanumeric())
            .map_or(rest.len(), |at| start + at);
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}
