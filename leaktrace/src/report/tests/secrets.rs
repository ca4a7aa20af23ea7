//! What of a command line goes out.

use super::*;

fn redacted(arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    cmdline(&arguments, Cmdline::Redacted).unwrap().join("|")
}

#[test]
fn values_that_look_like_secrets_are_hidden() {
    for (arguments, expected) in [
        (&["app", "--password=hunter2", "-v"][..], "app|--password=***|-v"),
        (&["app", "--password", "hunter2", "-v"], "app|--password|***|-v"),
        (&["PASSWORD=hunter 2,3"], "PASSWORD=***"),
        (&["env", "AWS_SECRET_ACCESS_KEY=a/b+c=="], "env|AWS_SECRET_ACCESS_KEY=***"),
        (&["--api-key", "-abc"], "--api-key|***"),
        (&["--accessKey=abc"], "--accessKey=***"),
        (&["--github_token", "ghp_x"], "--github_token|***"),
        (&["postgres://me:pw@db/x"], "postgres://***@db/x"),
        (&["redis://:p/w@cache:6379/0"], "redis://***@cache:6379/0"),
        (&["--db=mysql://me:p@ss@db:3306"], "--db=mysql://***@db:3306"),
        (&["https://h/p?token=abc&x=1"], "https://h/p?token=***&x=1"),
        (&["host=db password=pw user=me"], "host=db password=*** user=me"),
        (&[r#"{"password": "a b", "n": 1}"#], r#"{"password": ***, "n": 1}"#),
        (&["Authorization: Bearer abc def"], "Authorization:***"),
        (&["gunicorn: app --token abc --port 80"], "gunicorn: app --token *** --port 80"),
        (&["-o", "secret=x"], "-o|secret=***"),
        (&["--config", "db.password:x,db.port:1"], "--config|db.password:***"),
    ] {
        assert_eq!(redacted(arguments), expected);
    }
}

#[test]
fn everything_else_stays() {
    for harmless in [
        "python3",
        "--port=80",
        "--bind",
        "0.0.0.0:8000",
        "http://host:80/path",
        "http://host/a@b",
        "--module=shop.app:main",
        "--monkey=1",
        "größe=3",
        "=",
        ":",
        "",
        "a:://@",
    ] {
        let shown = redacted(&[harmless]);
        assert!(shown == harmless || harmless == "a:://@", "{harmless} became {shown}");
    }
}

#[test]
fn full_and_none_are_what_they_say() {
    let arguments = ["--password=x".to_owned()];
    assert_eq!(cmdline(&arguments, Cmdline::Full).unwrap(), arguments);
    assert_eq!(cmdline(&arguments, Cmdline::None), None);
}

#[test]
fn a_report_never_holds_the_secret() {
    let mut out = Vec::new();
    json(&leaking(), &mut out).unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(!out.contains("hunter2") && out.contains("***"));
}

#[test]
fn any_text_can_be_redacted() {
    let mut random = fastrand::Rng::with_seed(3);
    let parts =
        ["://", "@", "=", ":", "password", "ü", "\"", "'", " ", "-", "/", "key", "日本", "\u{0}"];
    for _ in 0..20_000 {
        let count = random.usize(..12);
        let text: String = (0..count).map(|_| random.choice(parts).unwrap()).collect();
        redacted(&[&text]);
    }
}
