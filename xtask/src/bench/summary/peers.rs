//! The runs of all tools -> how much slower each makes each workload, side by side.

use anyhow::Result;

use super::table;
use crate::bench::environment::{Environment, Planned};
use crate::bench::folder::Folder;
use crate::bench::latencies::Pool;
use crate::bench::peers::BARE;
use crate::bench::records::Run;
use crate::bench::statistics::{median, quantile};

/// The part of the summary on other tools.
///
/// # Errors
/// The raw data cannot be read.
pub(super) fn section(folder: &Folder, environment: &Environment) -> Result<String> {
    let workloads: Vec<&Planned> =
        environment.plan.workloads.iter().filter(|planned| planned.peers).collect();
    let bare = workloads
        .iter()
        .map(|workload| Ok(folder.runs(&workload.name, BARE)?.records))
        .collect::<Result<Vec<_>>>()?;
    let (mut slower, mut memory) = (Vec::new(), Vec::new());
    for (tool, about) in &environment.plan.tools {
        let runs = workloads
            .iter()
            .map(|workload| Ok(folder.runs(&workload.name, tool)?.records))
            .collect::<Result<Vec<_>>>()?;
        if runs.iter().all(Vec::is_empty) {
            continue;
        }
        let (mut times, mut bytes) = (vec![format!("{tool}: {about}")], vec![tool.clone()]);
        for (workload, (runs, bare)) in workloads.iter().zip(runs.iter().zip(&bare)) {
            times.push(range(&slowdowns(runs, bare, workload.is_paced)));
            if let Some(latency) = p99(runs)? {
                times.push(latency);
            } else if workload.is_paced {
                times.push("-".to_owned());
            }
            bytes.push(peak(runs));
        }
        slower.push(times);
        memory.push(bytes);
    }
    let names = workloads.iter().map(|workload| workload.name.as_str());
    let columns: Vec<&str> = std::iter::once("tool")
        .chain(workloads.iter().flat_map(|it| {
            std::iter::once(it.name.as_str()).chain(it.is_paced.then_some("its p99"))
        }))
        .collect();
    let memory_columns: Vec<&str> = std::iter::once("tool").chain(names).collect();
    Ok(table(
        "Other tools",
        "How many times as long a unit of work takes as in the bare run of the same round: the median, the least and the \
         most of all rounds. Of a paced workload: how many times as much processor time it takes.",
        &columns,
        &slower,
    ) + &table(
        "Memory of the target",
        "The most that the target had resident, the median over rounds. What a tool keeps in the process is in it; what it \
         writes into files is not.",
        &memory_columns,
        &memory,
    ))
}

/// How many times as long a unit took in each round.
fn slowdowns(runs: &[Run], bare: &[Run], is_paced: bool) -> Vec<f64> {
    let of_same_round = |run: &&Run| bare.iter().find(|bare| bare.round == run.round);
    runs.iter()
        .filter_map(|run| Some((run, of_same_round(&run)?)))
        .map(|(run, bare)| match is_paced {
            true => run.work.cpu_per_unit() / bare.work.cpu_per_unit(),
            false => bare.work.rate / run.work.rate,
        })
        .collect()
}

fn range(ratios: &[f64]) -> String {
    match (median(ratios), quantile(ratios, 0.0), quantile(ratios, 1.0)) {
        (Some(middle), Some(least), Some(most)) => format!("{middle:.2} ({least:.2}-{most:.2})"),
        _ => "-".to_owned(),
    }
}

/// Of all requests of all rounds; `None` where nobody asked.
fn p99(runs: &[Run]) -> Result<Option<String>> {
    let pool = Pool::of(runs.iter().filter_map(|run| run.latencies.as_ref()))?;
    let missing: u64 =
        runs.iter().filter_map(|run| run.latencies.as_ref()).map(|it| it.missing).sum();
    if pool.len() + missing == 0 {
        return Ok(None);
    }
    let unanswered = 100.0 * missing as f64 / (pool.len() + missing) as f64;
    let p99 = format!("{:.1} ms", pool.quantile_ms(0.99));
    Ok(Some(if missing == 0 { p99 } else { format!("{p99}, {unanswered:.0} % unanswered") }))
}

fn peak(runs: &[Run]) -> String {
    let peaks: Vec<f64> =
        runs.iter().map(|run| run.peak_rss_bytes as f64 / f64::from(1 << 20)).collect();
    median(&peaks).map_or("-".to_owned(), |peak| format!("{peak:.0} MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::meter::Work;

    fn run(round: u32, rate: f64, cpu_share: f64) -> Run {
        let work = Work { units: 1, rate, cpu_share };
        Run { round, work, peak_rss_bytes: 0, latencies: None }
    }

    #[test]
    fn a_run_is_compared_with_the_bare_one_of_its_round() {
        let bare = [run(0, 100.0, 0.2), run(1, 200.0, 0.4)];
        let runs = [run(1, 50.0, 0.4), run(0, 50.0, 0.2), run(2, 1.0, 1.0)];
        assert_eq!(slowdowns(&runs, &bare, false), [4.0, 2.0]);
        assert_eq!(slowdowns(&runs, &bare, true), [4.0, 2.0]);
        assert_eq!(range(&[4.0, 2.0]), "3.00 (2.00-4.00)");
        assert_eq!(range(&[]), "-");
    }
}
