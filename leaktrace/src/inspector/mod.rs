//! The target's heap looked at from outside, while it runs: which blocks still live, and what they hold.
//!
//! In budget mode allocations are seen in short windows only. Whether a block that was seen still lives is found by
//! looking: at the books of the allocator that it came from (`pool`, `chunk`), and at whether the object in it is
//! still the one that was there (`object`, `types`). Memory is read in few large pieces, and nothing is stopped,
//! so what is read may be half changed. A block is called dead only after two looks agree.
//!
//! An object's identity is to be taken when it is made, so not of the block that was handed out last, and while frees
//! are seen: else it may be another object's. "Dead" is said of the object. Where its type keeps freed objects for the
//! next one (`float`, `list` and others have such lists), the block itself is not given back, and is dead as soon as
//! another object is told from the first.
//!
//! Knows no clock and no kernel: it reads through [`ReadMemory`], and asks [`Resident`] what is swapped out.

#![forbid(unsafe_code)]

mod chunk;
mod names;
mod object;
mod pool;
mod reads;
mod sample;
#[cfg(test)]
mod tests;
mod types;

use crate::cpython::census::Resident;
use crate::cpython::layout::Layout;
use crate::pools::PoolMap;
use crate::target::memory::ReadMemory;

use chunk::Chunks;
use names::Names;
pub use object::Identity;
use object::{Held, Objects, Presize, Seen};
use pool::{Block, Geometry, State};
use reads::View;
pub use sample::Drawn;
use types::Types;

/// Which allocators serve the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocators {
    /// log2 of the bytes from one size class of pymalloc to the next; `None` where pymalloc does not serve
    /// (`PYTHONMALLOC=malloc`, free-threaded builds) or is not known.
    pub class_shift: Option<u64>,
    /// Whether all other blocks are in glibc's heap.
    pub glibc: bool,
}

/// A block to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it begins.
    pub address: u64,
    /// Bytes that were asked for, by the call that made it or by a `realloc` that left it in place.
    pub size: u64,
    /// Whether it came through the raw domain, which the C library serves whatever the size.
    pub is_raw: bool,
    /// What was there at the first look.
    pub identity: Option<Identity>,
    /// Whether there was no object at the first look: where there is one now, the block is another's.
    pub held_none: bool,
}

/// What was found of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It lives, for all that can be seen.
    Alive,
    /// It was given back.
    Dead(Death),
    /// It cannot be told.
    Unknown(Reason),
}

/// What tells that a block was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Death {
    /// It is on its pool's list of free blocks.
    FreeList,
    /// Its pool was emptied since, and did not hand out as many blocks again.
    HighWater,
    /// Its pool is empty, or is none any more.
    PoolGone,
    /// Its pool serves another size by now.
    OtherClass,
    /// Another object is there.
    OtherObject,
    /// Its chunk of the C library's heap is free.
    ChunkFree,
    /// Its memory was given back to the system.
    Unmapped,
}

/// What lies in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// An object of the type at this address.
    Object(u64),
    /// No object: the items of a list, the table of a dict, a buffer.
    NoObject,
    /// Nothing of it any more: it was given back.
    Gone,
    /// It cannot be told.
    Unknown,
}

/// Why it cannot be told whether a block lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Its pool changed whenever it was read.
    Torn,
    /// Its memory is swapped out, and was left there.
    Swapped,
    /// The target has no memory any more: it has ended, or become another program.
    Ended,
    /// Another allocator than pymalloc or glibc has it.
    OtherAllocator,
    /// What lies around it has not the form of glibc's heap.
    NoChunk,
    /// Its chunk has another size: it was resized, or it is another one.
    Resized,
    /// An object of another class is there; that can be the same one, after an assignment to `__class__`.
    ClassChanged,
    /// An object with another value is there; that can be the same one, whose only owner changed it.
    Altered,
}

/// How much was done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that were answered.
    pub looks: u64,
    /// Pools that were read as a whole.
    pub pools_read: u64,
    /// Pages that were not read since they are swapped out.
    pub swapped_pages: u64,
    /// Questions whose pool was read again since it made no sense.
    pub torn: u64,
}

/// Looks at one target's heap.
#[derive(Debug)]
pub struct Inspector {
    geometry: Option<Geometry>,
    chunks: Option<Chunks>,
    objects: Objects,
    types: Types,
    names: Names,
    counts: Counts,
}

impl Answer {
    /// Whether the block is gone, or so likely another's that it is to be counted so: what could be the same object after a
    /// change hardly ever is, seconds later, where others come and go at its address.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        matches!(self, Self::Dead(_) | Self::Unknown(Reason::Altered | Reason::ClassChanged))
    }
}

impl Inspector {
    /// `type_type` is the address of `PyType_Type`; without it, `type` is what has itself as its type.
    #[must_use]
    pub fn new(layout: &Layout, allocators: Allocators, type_type: Option<u64>) -> Self {
        let presize = Presize::new(layout, allocators.class_shift);
        Self {
            geometry: allocators.class_shift.and_then(|shift| Geometry::new(layout, shift)),
            chunks: allocators.glibc.then(Chunks::default),
            objects: Objects::new(layout, presize),
            types: Types::new(layout, presize, type_type),
            names: Names::new(layout),
            counts: Counts::default(),
        }
    }

    /// What `blocks` (address, requested size) hold; `None` for what is no object.
    pub fn identify(
        &mut self,
        memory: &dyn ReadMemory,
        blocks: &[(u64, u64)],
    ) -> Vec<Option<Identity>> {
        let mut view = View { memory, resident: None, counts: &mut self.counts };
        let blocks: Vec<Block> =
            blocks.iter().map(|&(address, size)| Block { address, size }).collect();
        let identity = |held| match held {
            Held::Object(identity) => Some(identity),
            Held::Nothing | Held::Untold => None,
        };
        let held = self.objects.held(&mut view, &mut self.types, &blocks);
        held.into_iter().map(identity).collect()
    }

    /// What lies in the blocks now, in the order of the questions. Those that were given back since they were handed out
    /// are [`Content::Gone`], as far as the books of the allocators tell; pages that are swapped out are left there.
    pub fn contents(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        questions: &[Question],
    ) -> Vec<Content> {
        let answers = self.look(memory, resident, questions);
        let blocks: Vec<Block> = questions.iter().map(block).collect();
        let mut view = View { memory, resident: Some(resident), counts: &mut self.counts };
        let held = self.objects.held(&mut view, &mut self.types, &blocks);
        let content = |(answer, held): (Answer, Held)| match (answer, held) {
            (Answer::Dead(_), _) => Content::Gone,
            // What lies in a chunk of another size may be another block.
            (Answer::Unknown(Reason::Ended | Reason::Resized), _) | (_, Held::Untold) => {
                Content::Unknown
            }
            (_, Held::Object(identity)) => Content::Object(identity.type_address),
            (_, Held::Nothing) => Content::NoObject,
        };
        answers.into_iter().zip(held).map(content).collect()
    }

    /// What the type at `type_address` is called in a program, with its module where that is not `builtins` and can be
    /// read; of a type that was met lately.
    pub fn full_name(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        type_address: u64,
    ) -> Option<String> {
        let kind = self.types.get(type_address)?;
        let mut view = View { memory, resident: Some(resident), counts: &mut self.counts };
        Some(self.names.of(&mut view, type_address, kind))
    }

    /// Whether the blocks still live, in the order of the questions.
    pub fn look(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        questions: &[Question],
    ) -> Vec<Answer> {
        self.counts.looks += questions.len() as u64;
        let mut answers = self.once(memory, resident, questions);
        if answers.contains(&Answer::Dead(Death::Unmapped)) && self.has_ended(memory) {
            answers.fill(Answer::Unknown(Reason::Ended));
            return answers;
        }
        let is_dead = |answer: &Answer| matches!(answer, Answer::Dead(_));
        let dead: Vec<usize> =
            (0..answers.len()).filter(|&index| is_dead(&answers[index])).collect();
        let again: Vec<Question> = dead.iter().map(|&index| questions[index]).collect();
        let second = self.once(memory, resident, &again);
        for (index, answer) in dead.into_iter().zip(second) {
            answers[index] = answer;
        }
        answers
    }

    /// The name of a type as CPython has it, of a type that [`identify`](Self::identify) met lately.
    #[must_use]
    pub fn type_name(&self, type_address: u64) -> Option<&str> {
        self.types.get(type_address).map(|kind| &*kind.name)
    }

    /// Learns how freed blocks look from one of `size` bytes in the C library's heap that was just freed.
    pub fn learn_freed(&mut self, memory: &dyn ReadMemory, address: u64, size: u64) {
        let mut view = View { memory, resident: None, counts: &mut self.counts };
        if let Some(chunks) = &mut self.chunks {
            chunks.learn(&mut view, Block { address, size });
        }
    }

    /// Draws up to `count` live blocks out of the pools of `map`, each block with the same probability, none twice.
    /// `random` gives numbers of 64 random bits.
    pub fn draw(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        map: &PoolMap,
        count: usize,
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<Drawn> {
        let Some(geometry) = &self.geometry else { return Vec::new() };
        let mut view = View { memory, resident: Some(resident), counts: &mut self.counts };
        sample::draw(&mut view, geometry, map, count, random).into_iter().collect()
    }

    /// The blocks of the pool at `pool` that are handed out, in order; `None` where it cannot be read, or is none.
    pub fn live_blocks(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        pool: u64,
    ) -> Option<Vec<u64>> {
        let geometry = self.geometry.as_ref()?;
        let mut view = View { memory, resident: Some(resident), counts: &mut self.counts };
        let pool = geometry.read(&mut view, &[pool]).pop()?.ok()??;
        Some(pool.live_blocks(geometry).collect())
    }

    /// How much was done.
    #[must_use]
    pub const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether nothing is left where `type` was, which is as long as its interpreter.
    fn has_ended(&self, memory: &dyn ReadMemory) -> bool {
        self.types.root().is_some_and(|root| memory.read_u64(root).is_err())
    }

    /// One look at all.
    fn once(
        &mut self,
        memory: &dyn ReadMemory,
        resident: &Resident,
        questions: &[Question],
    ) -> Vec<Answer> {
        let mut view = View { memory, resident: Some(resident), counts: &mut self.counts };
        let (geometry, chunks) = (self.geometry.as_ref(), self.chunks.as_ref());
        let states = states(&mut view, geometry, chunks, questions);
        let mut answers: Vec<Answer> = states.into_iter().map(answer).collect();
        // What a pool that changes all the time does not tell, the object in the block may.
        let may_live =
            |answer: Answer| matches!(answer, Answer::Alive | Answer::Unknown(Reason::Torn));
        let alive = (0..questions.len()).filter(|&index| may_live(answers[index]));
        let (indices, held): (Vec<usize>, Vec<(Block, Identity)>) = alive
            .filter_map(|index| {
                let question = questions.get(index)?;
                Some((index, (block(question), question.identity?)))
            })
            .unzip();
        let objectless = |question: &Question| question.held_none && !question.is_raw;
        let (others, bare): (Vec<usize>, Vec<Block>) = (0..questions.len())
            .filter(|&index| may_live(answers[index]) && objectless(&questions[index]))
            .map(|index| (index, block(&questions[index])))
            .unzip();
        let now = self.objects.held(&mut view, &mut self.types, &bare);
        for (index, now) in others.into_iter().zip(now) {
            if matches!(now, Held::Object(_)) {
                answers[index] = Answer::Dead(Death::OtherObject);
            }
        }
        let seen = self.objects.compare(&mut view, &mut self.types, &held);
        for (index, seen) in indices.into_iter().zip(seen) {
            match seen {
                Seen::Same => {}
                Seen::Other(death) => answers[index] = Answer::Dead(death),
                Seen::Unknown(reason) => answers[index] = Answer::Unknown(reason),
            }
        }
        answers
    }
}

/// What the books of the allocators say of each block.
fn states(
    view: &mut View<'_>,
    geometry: Option<&Geometry>,
    chunks: Option<&Chunks>,
    questions: &[Question],
) -> Vec<State> {
    let is_pooled = |question: &Question| {
        !question.is_raw && leaktrace_common::pymalloc::is_small(question.size)
    };
    let mut states = vec![State::Unknown(Reason::OtherAllocator); questions.len()];
    let (pooled, others): (Vec<usize>, Vec<usize>) =
        (0..questions.len()).partition(|&index| is_pooled(&questions[index]));
    let blocks = |of: &[usize]| of.iter().map(|&index| block(&questions[index])).collect();
    let mut found: Vec<(Vec<usize>, Vec<State>)> = Vec::with_capacity(2);
    if let Some(geometry) = geometry {
        let blocks: Vec<Block> = blocks(&pooled);
        found.push((pooled, geometry.look(view, &blocks)));
    }
    if let Some(chunks) = chunks {
        let blocks: Vec<Block> = blocks(&others);
        found.push((others, chunks.look(view, &blocks)));
    }
    for (indices, of) in found {
        indices.into_iter().zip(of).for_each(|(index, state)| states[index] = state);
    }
    states
}

const fn block(question: &Question) -> Block {
    Block { address: question.address, size: question.size }
}

const fn answer(state: State) -> Answer {
    match state {
        State::Live => Answer::Alive,
        State::Free(death) => Answer::Dead(death),
        State::Unknown(reason) => Answer::Unknown(reason),
    }
}
