//! The list of processes against its schema, and as a table.

use super::*;

fn shop() -> Processes {
    let docker = Container { id: "0123456789abcdef".repeat(4), runtime: Some("docker") };
    let unknown = Container { id: "fedcba9876543210".repeat(4), runtime: None };
    Processes {
        schema: SCHEMA,
        leaktrace: "0.1.0",
        hostname: Some("shop-1".to_owned()),
        processes: vec![
            Process {
                pid: 1234,
                parent_pid: Some(1),
                user: Some(33),
                name: "gunicorn".to_owned(),
                python: Some("3.11.2".to_owned()),
                unit: Some("shop.service".to_owned()),
                cgroup: Some("/system.slice/shop.service".to_owned()),
                rss: Some(310 << 20),
                cmdline: Some(
                    ["/usr/bin/python3", "-m", "gunicorn", "shop:app"].map(Into::into).into(),
                ),
                traceable: true,
                ..Process::default()
            },
            Process {
                pid: 98_765,
                python: Some("3.13.1".to_owned()),
                container: Some(docker),
                pod: Some("0f5e23a1-7d02".to_owned()),
                rss: Some(42 << 20),
                cmdline: Some(vec![
                    "python".to_owned(),
                    "wörker\u{1b}[2J.py".to_owned(),
                    "x".repeat(200),
                ]),
                reason: Some("a free-threaded build of CPython is not supported".to_owned()),
                obstacle: Some("free-threaded"),
                ..Process::default()
            },
            Process {
                pid: 7,
                name: "python3".to_owned(),
                container: Some(unknown),
                reason: Some("cannot look into process 7; run as root".to_owned()),
                obstacle: Some("no permission"),
                ..Process::default()
            },
        ],
        hidden: 1,
        warnings: vec!["nothing can be traced here".to_owned()],
    }
}

fn table(processes: &Processes, width: usize) -> String {
    let mut bytes = Vec::new();
    text(processes, width, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_table_has_a_line_for_each_process_and_none_is_wider_than_the_terminal() {
    let shown = table(&shop(), 100);
    assert_eq!(
        shown,
        "  PID  PYTHON       RSS  RUN BY                  TRACE          COMMAND\n \
         1234  3.11.2   310 MiB  shop.service            yes            /usr/bin/python3 -m gunicorn shop:a…\n\
         98765  3.13.1  42.0 MiB  docker:0123456789ab     free-threaded  python wörker\\u{1b}[2J.py xxxxxxxxx…\n    \
         7  -              -  container:fedcba987654  no permission  python3\n\n\
         Processes that could not be looked into: 1. Root may look into all.\n\n\
         nothing can be traced here\n"
    );
}

#[test]
fn a_narrow_terminal_leaves_something_of_the_command() {
    let shown = table(&shop(), 20);
    assert!(shown.contains("/usr/bin/py…\n"), "{shown}");
}

#[test]
fn no_process_is_said_to_be_none() {
    let none = Processes { processes: Vec::new(), hidden: 0, warnings: Vec::new(), ..shop() };
    assert_eq!(table(&none, 80), "No CPython runs here.\n");
}

#[test]
fn the_document_keeps_to_the_schema_and_what_is_unknown_is_null() {
    let schema = include_str!("../../../../docs/schema/leaktrace.ps-1.schema.json");
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut bytes = Vec::new();
    json(&shop(), &mut bytes).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let faults: Vec<_> = validator.iter_errors(&document).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "{faults:?}");
    let last = &document["processes"][2];
    for unknown in ["python", "unit", "pod", "rss", "user", "parent_pid", "cmdline"] {
        assert!(last.get(unknown).is_some_and(serde_json::Value::is_null), "{unknown}");
    }
    assert!(document["processes"][0]["reason"].is_null());
    let mut broken = document.clone();
    broken["processes"][0].as_object_mut().unwrap().remove("pid");
    assert!(!validator.is_valid(&broken));
}
