//! The JSON document.

use super::*;
use serde_json::{Value, json as value};

fn schema() -> Value {
    let schema = include_str!("../../../../docs/schema/leaktrace.report-1.schema.json");
    serde_json::from_str(schema).unwrap()
}

fn assert_valid(document: &Value) {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let errors: Vec<_> = validator
        .iter_errors(document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn real_reports_are_valid_by_the_schema() {
    let empty = Aggregator::new(Options { max_memory: 0, started_at_ns: 0, raw_free_seen: false });
    for report in [leaking(), healthy(), report_of(&empty, 0), report_of(&shop(1, true), 1)] {
        assert_valid(&json_of(&report));
    }
}

#[test]
fn the_schema_names_every_field_and_nothing_else() {
    let (document, schema) = (json_of(&leaking()), schema());
    let same = |document: &Value, schema: &Value| {
        let mut written: Vec<_> = document.as_object().unwrap().keys().collect();
        let mut named: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
        written.sort();
        named.sort();
        assert_eq!(written, named);
    };
    same(&document, &schema);
    for part in ["target", "session", "memory"] {
        same(&document[part], &schema["properties"][part]);
    }
    same(&document["sites"][0], &schema["$defs"]["site"]);
}

#[test]
fn the_schema_refuses_what_the_contract_forbids() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    for (pointer, wrong) in [
        ("/schema", value!("leaktrace.report/2")),
        ("/session/mode", value!("fast")),
        ("/sites/0/id", value!("xyz")),
        ("/sites/0/live_bytes", value!(1.5)),
        ("/sites/0/verdict", value!(null)),
        ("/sites/0/series/0", value!([1.0])),
    ] {
        let mut document = json_of(&leaking());
        *document.pointer_mut(pointer).unwrap() = wrong;
        assert!(!validator.is_valid(&document), "{pointer}");
    }
}

#[test]
fn the_leak_comes_first_with_its_numbers() {
    let document = json_of(&leaking());
    let site = &document["sites"][0];
    assert_eq!(site["verdict"], "leaking");
    assert_eq!(site["live_blocks"], 6000);
    assert_eq!(site["stack"][2]["function"], "OrderHandler.remember");
    let rate = site["growth_bytes_per_s"]["estimate"].as_f64().unwrap();
    assert!((rate - 12_300.0).abs() < 50.0, "{rate}");
    let others = document["sites"].as_array().unwrap()[1..].iter();
    assert!(others.clone().all(|site| site["verdict"] == "stable"));
}

#[test]
fn a_series_ascends_and_ends_at_the_end() {
    for seconds in [1, 7, 60, 200] {
        let report = report_of(&shop(seconds, true), seconds);
        for site in &report.sites {
            assert!(site.series.len() <= 300);
            assert!(site.series.windows(2).all(|pair| pair[0].0 < pair[1].0), "{:?}", site.series);
            assert_eq!(site.series.last().unwrap(), &(seconds as f64, site.live_bytes));
        }
    }
}

#[test]
fn sites_are_ordered_by_verdict_growth_bytes_and_id() {
    let report = leaking();
    let key = |site: &Site| {
        let growth = site.growth_bytes_per_s.map_or(f64::INFINITY, |it| -it.estimate);
        (site.verdict != "leaking", growth, u64::MAX - site.live_bytes, site.id.clone())
    };
    let keys: Vec<_> = report.sites.iter().map(key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
}

#[test]
fn the_same_code_has_the_same_id_everywhere() {
    let [orders, buffer, ..] = stacks();
    let obj = aggregator::Domain::Obj;
    // Ids are kept by those who collect reports: they must not change.
    assert_eq!(site_id(&Stack::default(), obj), "1a31b71921ed77da");
    assert_eq!(site_id(&orders, obj), "e8cf447f7a59599d");
    assert_ne!(site_id(&orders, obj), site_id(&buffer, obj));
    assert_ne!(site_id(&orders, obj), site_id(&orders, aggregator::Domain::Raw));
    let cut = Stack { truncated: true, ..orders.clone() };
    assert_ne!(site_id(&orders, obj), site_id(&cut, obj));
}

#[test]
fn what_is_not_a_number_is_null() {
    let document = json_of(&leaking());
    assert_eq!(document["session"]["overhead_pct"], Value::Null);
    assert_eq!(document["target"]["hostname"], Value::Null);
    assert_eq!(document["session"]["started_at"], "2026-09-21T14:13:20Z");
}

#[test]
fn only_counters_that_counted_are_told() {
    let counters = leaking().counters;
    assert_eq!(counters.len(), 1);
    assert_eq!((counters[0].id, counters[0].name, counters[0].count), (9, "stack_cut", 12));
}
