//! A real report of every Python keeps to the published schema, and to what the schema cannot say.

use leaktrace_tests::{Target, Tracer, can_trace, pythons};
use serde_json::Value;

/// The verdicts in the order in which sites are listed.
const ORDER: [&str; 5] = ["leaking", "growing", "sawtooth", "plateaued", "stable"];

#[test]
fn real_reports_keep_to_the_schema() {
    if !can_trace() {
        return;
    }
    let schema = include_str!("../../docs/schema/leaktrace.report-1.schema.json");
    let schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    for python in pythons() {
        let mut target = Target::start(&python, "mixed.py", &[]);
        let tracer = Tracer::start(target.pid, &[]);
        target.work();
        let report = tracer.stop();
        let faults: Vec<String> =
            validator.iter_errors(&report.0).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", python.version);
        check_sites(&report.0);
        let session = &report.0["session"];
        assert_eq!(session["end"], "signal");
        assert_eq!(session["mode"], "exact");
        assert!(session["overhead_pct"].is_number() && session["budget_pct"].is_null());
        assert_eq!(report.0["target"]["python"], python.version.as_str());
    }
}

fn check_sites(report: &Value) {
    let sites = report["sites"].as_array().expect("an array");
    let ranks: Vec<_> = sites
        .iter()
        .map(|site| ORDER.iter().position(|verdict| site["verdict"] == *verdict).expect("known"))
        .collect();
    assert!(ranks.is_sorted(), "sites are not in the order of their verdicts");
    let mut ids: Vec<&str> = sites.iter().map(|site| site["id"].as_str().expect("text")).collect();
    assert!(ids.iter().all(|id| id.len() == 16 && id.bytes().all(|c| c.is_ascii_hexdigit())));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), sites.len(), "two sites have one id");
    for site in sites {
        let live = site["allocations"].as_u64().zip(site["frees"].as_u64());
        assert_eq!(live.map(|(born, died)| born - died), site["live_blocks"].as_u64());
        let series = site["series"].as_array().expect("an array");
        assert!(series.len() <= 300);
        assert!(series.is_sorted_by_key(|point| point[0].as_f64().expect("a number") as u64));
        assert_eq!(series.last().expect("it has an end")[1], site["live_bytes"]);
    }
}
