//! All sites, and the way from a stack id to one of them.

use super::domain::Domain;
use super::series::{self, Axis, LEAST_INTERVALS, MAX_INTERVALS, Point};
use super::site::Site;
use crate::stack::{Frame, Stack};
use rustc_hash::FxHashMap;
use std::collections::HashMap;

/// No site yet.
const NONE: u32 = u32::MAX;

/// The stack of blocks without a Python frame.
const EMPTY_STACK: u32 = 0;

/// Bytes of a site without points and sizes: itself, and its share of a vector that doubles.
const SITE_BYTES: usize = size_of::<Site>() * 2;

/// Bytes of a stack without its frames: in the list, in the index, and what an `Arc` adds.
const STACK_BYTES: usize = 2 * size_of::<Interned>() + 2 * size_of::<(Stack, u32)>() + 16;

/// The site of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Its index.
    pub site: u32,
    /// Whether the stack id was one that was never defined.
    pub undefined: bool,
}

/// All sites.
pub(super) struct Sites {
    /// By index.
    pub list: Vec<Site>,
    stacks: Vec<Interned>,
    // The target chooses these keys, so this map has the hash that cannot be flooded.
    interned: HashMap<Stack, u32>,
    ids: FxHashMap<u64, u32>,
    current: Option<(u64, u32)>,
    changed: Vec<u32>,
    // Bytes of what is not counted by a length: frames, points and sizes.
    frame_bytes: usize,
    point_bytes: usize,
    size_bytes: usize,
    max_bytes: usize,
}

struct Interned {
    stack: Stack,
    sites: [u32; PLACES],
}

/// Of one stack there is a site for each domain, and another for what is counted apart as it came in dense windows.
const PLACES: usize = 2 * Domain::COUNT;

const fn place(domain: Domain, dense: bool) -> usize {
    domain as usize + if dense { Domain::COUNT } else { 0 }
}

impl Sites {
    /// No site; all of them together will take about `max_bytes` at most.
    #[must_use]
    pub(super) fn new(max_bytes: usize) -> Self {
        let mut sites = Self {
            list: Vec::new(),
            stacks: Vec::new(),
            interned: HashMap::new(),
            ids: FxHashMap::default(),
            current: None,
            changed: Vec::new(),
            frame_bytes: 0,
            point_bytes: 0,
            size_bytes: 0,
            max_bytes,
        };
        sites.intern(Stack::default());
        sites
    }

    /// Says what an id stands for from now on; false where there is no room for it.
    pub(super) fn define(&mut self, id: u64, stack: Stack) -> bool {
        self.current = None;
        if id == 0 || (self.is_full() && !self.interned.contains_key(&stack)) {
            // A stale meaning must not catch what is now another stack's.
            self.ids.remove(&id);
            return id == 0;
        }
        let index = self.intern(stack);
        self.ids.insert(id, index);
        true
    }

    /// The site of a stack id, made where it is new; none where there is no room for one more.
    #[inline]
    pub(super) fn find(&mut self, id: u64, domain: Domain, at_ns: u64) -> Option<Found> {
        let (stack, undefined) = match self.current {
            Some((current, stack)) if current == id => (stack, false),
            _ => self.stack_of(id),
        };
        match self.stacks[stack as usize].sites[domain as usize] {
            NONE => self.add(stack, (domain, false), at_ns),
            site => Some(site),
        }
        .map(|site| Found { site, undefined })
    }

    /// The site of a stack, or the one of its `dense` windows, made where it is new; none where there is no room for one more.
    pub(super) fn of(
        &mut self,
        stack: &Stack,
        (domain, dense): (Domain, bool),
        at_ns: u64,
    ) -> Option<u32> {
        if self.is_full() && !self.interned.contains_key(stack) {
            return None;
        }
        let index = self.intern(stack.clone());
        match self.stacks[index as usize].sites[place(domain, dense)] {
            NONE => self.add(index, (domain, dense), at_ns),
            site => Some(site),
        }
    }

    /// The sites of a stack, that of all windows but dense ones and that of these, as far as there are any.
    pub(super) fn indices_of(&self, stack: &Stack, domain: Domain) -> [Option<u32>; 2] {
        let Some(&index) = self.interned.get(stack) else { return [None; 2] };
        let sites = &self.stacks[index as usize].sites;
        [false, true].map(|dense| Some(sites[place(domain, dense)]).filter(|&site| site != NONE))
    }

    /// A site that is about to change in this interval.
    #[inline]
    pub(super) fn change(&mut self, site: u32, interval: u32) -> &mut Site {
        let entry = &mut self.list[site as usize];
        if entry.touch(interval) {
            self.changed.push(site);
        }
        entry
    }

    /// The stack of a site.
    #[must_use]
    pub(super) fn stack(&self, site: &Site) -> &Stack {
        &self.stacks[site.stack as usize].stack
    }

    /// What an id stands for.
    #[must_use]
    pub(super) fn stack_behind(&self, id: u64) -> Option<&Stack> {
        self.ids.get(&id).map(|&index| &self.stacks[index as usize].stack)
    }

    /// Writes down what the interval that ends now did to the sites.
    fn close(&mut self) {
        for site in self.changed.drain(..) {
            let site = &mut self.list[site as usize];
            let points = site.points.capacity();
            site.close();
            self.point_bytes += (site.points.capacity() - points) * size_of::<Point>();
            let sizes = site.sizes.bytes();
            self.size_bytes += sizes - std::mem::replace(&mut site.counted_bytes, sizes);
        }
    }

    /// Doubles the interval; [`close`](Self::close) comes first.
    fn coarsen(&mut self, axis: &mut Axis) {
        axis.coarsen();
        self.list.iter_mut().for_each(Site::coarsen);
        self.point_bytes =
            self.list.iter().map(|site| site.points.capacity() * size_of::<Point>()).sum();
    }

    /// Lets `axis` and the sites go on to `at_ns`, where that is in a later interval. Returns how often the intervals were
    /// doubled for it.
    pub(super) fn go_on(&mut self, axis: &mut Axis, at_ns: u64) -> u32 {
        self.close();
        let mut doubled = 0;
        while axis.index_of(at_ns) >= u64::from(MAX_INTERVALS) {
            self.coarsen(axis);
            doubled += 1;
        }
        if self.points_are_many() && axis.index_of(at_ns) >= LEAST_INTERVALS {
            self.coarsen(axis);
            doubled += 1;
        }
        axis.open_at(at_ns);
        doubled
    }

    /// Bytes that all of this takes, about.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        self.list.len() * SITE_BYTES
            + self.stacks.len() * STACK_BYTES
            + self.ids.capacity() * 17
            + self.frame_bytes
            + self.point_bytes
            + self.size_bytes
    }

    /// Whether it is time for a coarser axis: the points take more than a quarter of the room. The other quarter of
    /// their half is for the vectors that double in the meantime.
    fn points_are_many(&self) -> bool {
        self.point_bytes > self.max_bytes / 4
    }

    fn is_full(&self) -> bool {
        self.bytes() - self.point_bytes >= self.max_bytes / 2
    }

    fn stack_of(&mut self, id: u64) -> (u32, bool) {
        if id == 0 {
            return (EMPTY_STACK, false);
        }
        let Some(&stack) = self.ids.get(&id) else { return (EMPTY_STACK, true) };
        self.current = Some((id, stack));
        (stack, false)
    }

    fn intern(&mut self, stack: Stack) -> u32 {
        if let Some(&index) = self.interned.get(&stack) {
            return index;
        }
        let index = self.stacks.len() as u32;
        self.frame_bytes += stack.frames.len() * size_of::<Frame>();
        self.stacks.push(Interned { stack: stack.clone(), sites: [NONE; PLACES] });
        self.interned.insert(stack, index);
        index
    }

    fn add(&mut self, stack: u32, (domain, dense): (Domain, bool), at_ns: u64) -> Option<u32> {
        if stack != EMPTY_STACK && self.is_full() {
            return None;
        }
        let site = self.list.len() as u32;
        self.list.push(Site::new(stack, domain, at_ns));
        self.stacks[stack as usize].sites[place(domain, dense)] = site;
        Some(site)
    }
}

/// The points of a site with the one of the interval that is not over.
#[must_use]
pub(super) fn points_until_now(site: &Site, open: u32) -> Vec<Point> {
    let mut points = site.points.clone();
    if site.touched == open {
        series::push(&mut points, site.point());
    }
    points
}
