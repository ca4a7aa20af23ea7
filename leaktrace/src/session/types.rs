//! What the live blocks of each site are, read out of the target in the end.
//!
//! Some blocks of every site are drawn and read; what they are holds for all of the site. A block whose allocator says
//! that it was given back since the gate was closed is left out. One that was given back and handed out again by then is
//! taken for what lies there now: between the closing and the reading lie the last count and the last looks (some
//! milliseconds, of large heaps up to some seconds), and what a site keeps is not handed out again.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::recognise::Target;
use crate::aggregator::{DrawnBlock, Snapshot};
use crate::cpython::census::Resident;
use crate::inspector::{Allocators, Content, Inspector, Question};
use crate::report::{NO_OBJECT, TypeShare, UNKNOWN_TYPE};

/// Blocks that are read in all.
pub(super) const MOST_BLOCKS: usize = 16_384;

/// How long that may take; what is left then is not known.
const MOST_TIME: Duration = Duration::from_millis(400);

/// Blocks that are read in one go.
const BATCH: usize = 1_024;

/// The types of one site; `None` where none of its blocks could be read.
pub(super) type SiteTypes = Option<Vec<TypeShare>>;

/// An inspector of `target`.
pub(super) fn inspector(target: &Target) -> Inspector {
    let class_shift = (target.pymalloc.usedpools != 0).then_some(target.pymalloc.class_shift);
    let allocators = Allocators { class_shift, glibc: target.has_glibc_heap() };
    Inspector::new(&target.layout, allocators, target.module.symbol("PyType_Type"))
}

/// What `drawn` of each site of `snapshot` hold, as shares of the site's live blocks and bytes.
pub(super) fn read(
    inspector: &mut Inspector,
    target: &Target,
    snapshot: &Snapshot,
    drawn: &[Vec<DrawnBlock>],
) -> Vec<SiteTypes> {
    let began = Instant::now();
    let resident = Resident::of(target.process.pid());
    let memory = target.memory.as_ref();
    let questions = questions(snapshot, drawn);
    let mut names = HashMap::new();
    let mut types: Vec<SiteTypes> = vec![None; snapshot.sites.len()];
    for batch in batches(&questions) {
        if began.elapsed() > MOST_TIME {
            break;
        }
        let asked: Vec<Question> =
            questions[batch.clone()].iter().flat_map(|(_, asked)| asked).copied().collect();
        let contents = inspector.contents(memory, &resident, &asked);
        let objects: BTreeSet<u64> = contents.iter().filter_map(of_object).collect();
        for kind in objects {
            let name = inspector.full_name(memory, &resident, kind);
            names.insert(kind, name.unwrap_or_else(|| UNKNOWN_TYPE.to_owned()));
        }
        let mut contents = contents.into_iter();
        for (site, asked) in &questions[batch] {
            let of_site = drawn[*site].iter().zip(contents.by_ref().take(asked.len()));
            let named =
                of_site.filter_map(|(block, content)| Some((*block, name(content, &names)?)));
            let counts = snapshot.sites[*site].counts;
            types[*site] = shares(named, counts.live_blocks(), counts.live_bytes());
        }
    }
    tracing::debug!("types of {} sites in {:?}", questions.len(), began.elapsed());
    for (site, types) in snapshot.sites.iter().zip(&mut types) {
        if site.counts.live_blocks() == 0 {
            *types = Some(Vec::new());
        }
    }
    types
}

/// The blocks of each site that has some, the site with the most bytes first.
fn questions(snapshot: &Snapshot, drawn: &[Vec<DrawnBlock>]) -> Vec<(usize, Vec<Question>)> {
    let sites = snapshot.sites.iter().zip(drawn).enumerate();
    let sites = sites.filter(|(_, (_, drawn))| !drawn.is_empty());
    let mut questions: Vec<(usize, Vec<Question>)> = sites
        .map(|(index, (site, drawn))| {
            let is_raw = site.domain == crate::aggregator::Domain::Raw;
            let question = |block: &DrawnBlock| Question {
                address: block.address,
                size: block.size,
                is_raw,
                identity: None,
                held_none: false,
            };
            (index, drawn.iter().map(question).collect())
        })
        .collect();
    let bytes = |index: usize| snapshot.sites[index].counts.live_bytes();
    questions.sort_by_key(|&(index, _)| std::cmp::Reverse(bytes(index)));
    questions
}

/// Sites in a row that are read together.
fn batches(questions: &[(usize, Vec<Question>)]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut blocks) = (0, 0);
    for (index, (_, asked)) in questions.iter().enumerate() {
        blocks += asked.len();
        if blocks >= BATCH || index + 1 == questions.len() {
            batches.push(start..index + 1);
            (start, blocks) = (index + 1, 0);
        }
    }
    batches
}

const fn of_object(content: &Content) -> Option<u64> {
    match content {
        Content::Object(kind) => Some(*kind),
        Content::NoObject | Content::Gone | Content::Unknown => None,
    }
}

/// What to call it; `None` for what is gone.
fn name(content: Content, names: &HashMap<u64, String>) -> Option<&str> {
    match content {
        Content::Object(kind) => Some(names.get(&kind).map_or(UNKNOWN_TYPE, String::as_str)),
        Content::NoObject => Some(NO_OBJECT),
        Content::Unknown => Some(UNKNOWN_TYPE),
        Content::Gone => None,
    }
}

/// Spreads `blocks` and `bytes` over the names, in proportion to the weights; most bytes first.
fn shares<'a>(
    named: impl Iterator<Item = (DrawnBlock, &'a str)>,
    blocks: u64,
    bytes: u64,
) -> SiteTypes {
    let mut sums: HashMap<&str, (f64, f64)> = HashMap::new();
    for (block, name) in named {
        let sum = sums.entry(name).or_default();
        sum.0 += block.weight;
        sum.1 += block.weight * block.size as f64;
    }
    let mut sums: Vec<(&str, (f64, f64))> = sums.into_iter().collect();
    let order = |a: &(&str, (f64, f64)), b: &(&str, (f64, f64))| {
        b.1.1.total_cmp(&a.1.1).then(b.1.0.total_cmp(&a.1.0)).then(a.0.cmp(b.0))
    };
    sums.sort_by(order);
    let of_blocks = spread(sums.iter().map(|(_, sum)| sum.0), blocks)?;
    let of_bytes = spread(sums.iter().map(|(_, sum)| sum.1), bytes);
    let of_bytes = of_bytes.unwrap_or_else(|| vec![0; sums.len()]);
    let share = |((&(name, _), blocks), bytes): ((&(&str, _), u64), u64)| TypeShare {
        name: name.to_owned(),
        blocks,
        bytes,
    };
    let shares = sums.iter().zip(of_blocks).zip(of_bytes).map(share);
    Some(shares.filter(|share| share.blocks > 0 || share.bytes > 0).collect())
}

/// `whole` in proportion to `parts`, in numbers that add up to it; `None` where there is nothing to go by.
fn spread(parts: impl Iterator<Item = f64> + Clone, whole: u64) -> Option<Vec<u64>> {
    let sum: f64 = parts.clone().sum();
    if sum <= 0.0 {
        return None;
    }
    let (mut until, mut given) = (0.0, 0);
    let share = |part: f64| {
        until += part;
        let end = ((whole as f64 * until / sum).round() as u64).min(whole);
        let share = end.saturating_sub(given);
        given = end.max(given);
        share
    };
    Some(parts.map(share).collect())
}

#[cfg(test)]
mod tests {
    use super::{DrawnBlock, shares};

    fn block(size: u64, weight: f64) -> DrawnBlock {
        DrawnBlock { address: 0, size, weight }
    }

    #[test]
    fn what_was_drawn_stands_for_all_of_the_site() {
        let drawn = [
            (block(100, 1.0), "dict"),
            (block(100, 1.0), "dict"),
            (block(50, 1.0), "list"),
            (block(24, 3.0), "float"),
        ];
        let types = shares(drawn.into_iter(), 601, 32_201).unwrap();
        let seen: Vec<_> = types.iter().map(|it| (it.name.as_str(), it.blocks, it.bytes)).collect();
        assert_eq!(seen, [("dict", 200, 20_001), ("float", 301, 7_200), ("list", 100, 5_000)]);
        assert_eq!(types.iter().map(|it| it.blocks).sum::<u64>(), 601);
        assert_eq!(types.iter().map(|it| it.bytes).sum::<u64>(), 32_201);
    }

    #[test]
    fn of_a_site_without_a_block_to_read_nothing_is_known() {
        assert_eq!(shares(std::iter::empty(), 5, 100).map(|types| types.len()), None);
        // Blocks of no size have a type all the same.
        let empty = shares([(block(0, 1.0), "(no object)")].into_iter(), 5, 0).unwrap();
        assert_eq!((empty[0].blocks, empty[0].bytes), (5, 0));
    }
}
