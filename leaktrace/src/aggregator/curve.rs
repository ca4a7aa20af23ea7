//! What lives of a sampled site along the axis, by the weights of its samples.

use super::series::Point;

/// A site at the end of one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spot {
    /// Which interval, from 0.
    pub(super) index: u32,
    /// Live blocks at its end, and the fewest within it.
    pub(super) live: f64,
    pub(super) low: f64,
    /// Live bytes at its end, and the fewest within it.
    pub(super) bytes: f64,
    pub(super) low_bytes: f64,
    /// Births since the site was first seen.
    pub(super) births: f64,
}

impl Spot {
    fn of(point: &Point, times: f64) -> Self {
        Self {
            index: point.index,
            live: f64::from(point.live_blocks) * times,
            low: f64::from(point.low_blocks) * times,
            bytes: point.live_bytes as f64 * times,
            low_bytes: point.low_bytes as f64 * times,
            births: point.births as f64 * times,
        }
    }

    /// What it is where a weight of one stands for `blocks` at this time, and a birth for `births`.
    pub(super) fn point(&self, blocks: f64, births: f64) -> Point {
        let count = |value: f64| value.round().clamp(0.0, f64::from(u32::MAX)) as u32;
        Point {
            index: self.index,
            live_blocks: count(self.live * blocks),
            low_blocks: count(self.low * blocks),
            survivors: 0,
            live_bytes: (self.bytes * blocks).round() as u64,
            low_bytes: (self.low_bytes * blocks).round() as u64,
            births: (self.births * births).round() as u64,
        }
    }

    /// As it stays, until something happens.
    const fn later(self, index: u32) -> Self {
        Self { index, low: self.live, low_bytes: self.bytes, ..self }
    }

    fn and(self, other: Self) -> Self {
        Self {
            index: self.index,
            live: self.live + other.live,
            low: self.low + other.low,
            bytes: self.bytes + other.bytes,
            low_bytes: self.low_bytes + other.low_bytes,
            births: self.births + other.births,
        }
    }
}

/// What was sampled in sparse windows and, `dense` times as much, in dense ones; also at the intervals of `more`, ascending,
/// behind the first point.
pub(super) fn joined(
    sparse: &[Point],
    (of_dense, dense): (&[Point], f64),
    more: impl Iterator<Item = u32>,
) -> Vec<Spot> {
    let mut lanes = [(sparse, 1.0, Spot::default()), (of_dense, dense, Spot::default())];
    let first = [sparse.first(), of_dense.first()].into_iter().flatten();
    let Some(first) = first.map(|point| point.index).min() else { return Vec::new() };
    let own = sparse.iter().chain(of_dense).map(|point| point.index);
    let mut indices: Vec<u32> = own.chain(more.filter(|&index| index > first)).collect();
    indices.sort_unstable();
    indices.dedup();
    let spot = |index: u32| {
        let now = lanes.each_mut().map(|(points, times, last)| {
            *last = match points.split_first() {
                Some((point, rest)) if point.index == index => {
                    *points = rest;
                    Spot::of(point, *times)
                }
                _ => last.later(index),
            };
            *last
        });
        now[0].and(now[1])
    };
    indices.into_iter().map(spot).collect()
}

#[cfg(test)]
mod tests {
    use super::{Point, Spot, joined};

    #[test]
    fn what_one_kind_of_windows_says_stays_while_the_other_goes_on() {
        let point = |index, live_blocks, low_blocks| Point {
            index,
            live_blocks,
            low_blocks,
            live_bytes: u64::from(live_blocks) * 10,
            low_bytes: u64::from(low_blocks) * 10,
            births: u64::from(live_blocks),
            survivors: 0,
        };
        let spot = |index, live: f64, low: f64| Spot {
            index,
            live,
            low,
            bytes: live * 10.0,
            low_bytes: low * 10.0,
            births: live,
        };
        let (sparse, dense) =
            ([point(2, 3, 0), point(5, 1, 1)], [point(3, 10, 0), point(5, 12, 9)]);
        let spots = joined(&sparse, (&dense, 0.5), [1, 4, 9].into_iter());
        assert_eq!(
            spots,
            [
                spot(2, 3.0, 0.0),
                spot(3, 8.0, 3.0),
                spot(4, 8.0, 8.0),
                spot(5, 7.0, 5.5),
                spot(9, 7.0, 7.0)
            ]
        );
        assert_eq!(joined(&[], (&[], 1.0), [1].into_iter()), []);
    }
}
