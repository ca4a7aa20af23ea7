//! The inspector against what real interpreters say of their own objects.

use std::time::{Duration, Instant};

use leaktrace::cpython::census::{Arrays, Census, Resident};
use leaktrace::cpython::layout::Layout;
use leaktrace::cpython::root::Root;
use leaktrace::cpython::runtime::Runtime;
use leaktrace::cpython::usedpools::{self, UsedPools};
use leaktrace::inspector::{Allocators, Answer, Death, Identity, Inspector, Question, Reason};
use leaktrace::target::memory::ReadMemory as _;

use super::support::{Python, interpreters, say};

const OBJECTS: &str = include_str!("objects.py");

/// Pools and blocks are of these bytes at most.
const SMALL: u64 = 512;

/// An interpreter with objects, and what is known of them.
struct Objects {
    python: Python,
    layout: Layout,
    pools: UsedPools,
    inspector: Inspector,
    resident: Resident,
    /// `id()` and block of each object: its address, and bytes.
    places: Vec<(u64, u64, u64)>,
    identities: Vec<Option<Identity>>,
}

impl Objects {
    fn start(name: &str, path: &std::path::Path) -> Self {
        let mut python = Python::start_script(name, path.as_os_str(), "", &[], OBJECTS);
        let layout = Layout::for_version(3, python.version.minor).expect("there is a table");
        let ids = python.ask_numbers("make");
        let pools = usedpools::find(&python.module, &python.memory, &python.version)
            .expect("it has made objects");
        let allocators = Allocators { class_shift: Some(pools.class_shift), glibc: true };
        let root = python.module.symbol("PyType_Type");
        let inspector = Inspector::new(&layout, allocators, root);
        let resident = Resident::of(python.pid());
        let sizes = python.ask_numbers("sizes");
        let places = ids.iter().zip(sizes);
        let places: Vec<_> =
            places.map(|(&id, size)| place(&python, &layout, &pools, id, size)).collect();
        let identities = Vec::new();
        let mut objects = Self { python, layout, pools, inspector, resident, places, identities };
        objects.identify();
        objects
    }

    fn identify(&mut self) {
        let blocks = self.places.iter().map(|&(_, block, size)| (block, size));
        let blocks: Vec<(u64, u64)> = blocks.collect();
        self.identities = self.inspector.identify(&self.python.memory, &blocks);
    }

    fn name(&self) -> String {
        self.python.name.trim().to_owned()
    }

    fn look(&mut self) -> Vec<Answer> {
        let questions = self.places.iter().zip(&self.identities);
        let questions: Vec<Question> = questions
            .map(|(&(_, address, size), &identity)| Question {
                address,
                size,
                is_raw: false,
                identity,
                held_none: false,
            })
            .collect();
        self.inspector.look(&self.python.memory, &self.resident, &questions)
    }
}

/// The block that the object at `id` lies in: by its pool's own size, whatever may lie before objects. What is too large
/// for a pool begins at its block, of the objects that there are.
fn place(
    python: &Python,
    layout: &Layout,
    pools: &UsedPools,
    id: u64,
    size: u64,
) -> (u64, u64, u64) {
    let pool = id & !(pools.pool_bytes - 1);
    let half = |offset: u64| u64::from(python.memory.read_u32(pool + offset).unwrap_or(u32::MAX));
    let block_bytes = (half(layout.pool.szidx) + 1) << pools.class_shift;
    let last = layout.arena.as_ref().map_or(0, |arena| half(arena.pool_last));
    if block_bytes > SMALL || last + block_bytes != pools.pool_bytes {
        return (id, id, size);
    }
    let first = pool + layout.pool.header_bytes;
    let block = first + (id - first) / block_bytes * block_bytes;
    (id, block, block_bytes)
}

fn on_each(check: impl Fn(Objects)) {
    for (name, path) in interpreters() {
        check(Objects::start(&name, &path));
    }
}

#[test]
fn every_object_is_found_with_its_type() {
    on_each(|mut objects| {
        let names = objects.python.ask("names");
        let names: Vec<&str> = names.split(' ').collect();
        assert_eq!(names.len(), objects.places.len());
        assert!(names.len() > 400);
        let found = objects.identities.iter().zip(&objects.places).zip(names);
        for ((identity, &(id, block, size)), name) in found {
            let context = format!("{} {name} {id:#x} in {size} at {block:#x}", objects.name());
            let identity = identity.unwrap_or_else(|| panic!("{context}"));
            assert_eq!(block + identity.offset, id, "{context}");
            let known = objects.inspector.type_name(identity.type_address);
            assert_eq!(known, Some(name), "{context}");
        }
    });
}

#[test]
fn what_lives_is_alive_and_what_was_freed_is_not() {
    on_each(|mut objects| {
        let name = objects.name();
        let names = objects.python.ask("names");
        let names: Vec<&str> = names.split(' ').collect();
        let places = objects.places.clone();
        for (answer, &(id, _, size)) in objects.look().iter().zip(&places) {
            assert_eq!(*answer, Answer::Alive, "{name} {id:#x} of {size}");
        }
        let left = objects.python.ask_numbers("free");
        let (mut freed, mut dead, mut alive) = (0, 0, 0);
        for step in ["free", "fill"] {
            if step == "fill" {
                let _many = objects.python.ask("fill");
            }
            for (index, answer) in objects.look().iter().enumerate() {
                let (id, _, size) = places[index];
                let kind = names[index];
                let context = format!("{name} {step} {kind} {id:#x} of {size}: {answer:?}");
                if left[index] != 0 {
                    assert_eq!(*answer, Answer::Alive, "{context}");
                    continue;
                }
                if *answer == Answer::Alive {
                    say(&context);
                    alive += 1;
                }
                freed += u32::from(size <= SMALL);
                dead += u32::from(size <= SMALL && matches!(answer, Answer::Dead(_)));
            }
        }
        say(&format!("{name}: {dead} of {freed} freed objects are dead"));
        assert!(dead * 100 >= freed * 98, "{name}: {dead} of {freed}");
        // The interpreter makes lists and bound methods itself for its calls: one may come to the place of another.
        assert!(alive <= 2, "{name}: {alive} of {freed}");
    });
}

#[test]
fn blocks_in_the_caches_of_the_c_library_are_dead_once_their_key_is_known() {
    on_each(|mut objects| {
        let name = objects.name();
        let before = objects.python.ask_numbers("cache");
        let left = objects.python.ask_numbers("uncache");
        // Nine characters ninety times, the end, and what is in front of them.
        let size = 9 * 90 + 1 + objects.layout.text.ascii_bytes;
        for &freed in before.iter().filter(|id| !left.contains(id)) {
            objects.inspector.learn_freed(&objects.python.memory, freed, size);
        }
        let question = |&address: &u64| Question {
            address,
            size,
            is_raw: false,
            identity: None,
            held_none: false,
        };
        let questions: Vec<Question> = before.iter().map(question).collect();
        let answers = objects.inspector.look(&objects.python.memory, &objects.resident, &questions);
        let dead = answers.iter().filter(|&&answer| answer == Answer::Dead(Death::ChunkFree));
        say(&format!("{name}: {} of 6 cached blocks are dead", dead.count()));
        for (answer, id) in answers.iter().zip(&before) {
            assert!(!left.contains(id) || *answer == Answer::Alive, "{name}: {answers:?}");
        }
    });
}

#[test]
fn what_changes_lives_on() {
    on_each(|mut objects| {
        let name = objects.name();
        let names = objects.python.ask("names");
        let _changed = objects.python.ask("change");
        let answers = objects.look();
        for ((answer, kind), &(id, _, size)) in
            answers.iter().zip(names.split(' ')).zip(&objects.places)
        {
            let expected = match kind {
                "First" => Answer::Unknown(Reason::ClassChanged),
                _ if size > SMALL => continue,
                _ => Answer::Alive,
            };
            assert_eq!(*answer, expected, "{name} {kind} {id:#x}");
        }
    });
}

#[test]
fn what_is_used_again_for_another_value_is_not_called_dead() {
    on_each(|mut objects| {
        let name = objects.name();
        let mut ids = objects.python.ask_numbers("reuse");
        let mut stayed = [0; 3];
        for _ in 0..40 {
            let places = ids
                .iter()
                .map(|&id| place(&objects.python, &objects.layout, &objects.pools, id, 0));
            objects.places = places.collect();
            objects.identify();
            let now = objects.python.ask_numbers("reuse");
            for (index, answer) in objects.look().iter().enumerate() {
                if now[index] == ids[index] && objects.identities[index].is_some() {
                    stayed[index] += 1;
                    assert!(!matches!(answer, Answer::Dead(_)), "{name} {index} {answer:?}");
                }
            }
            ids = now;
        }
        say(&format!("{name}: float, str, tuple of zip at their place {stayed:?} times of 40"));
        assert!(stayed[2] > 0, "{name}");
    });
}

#[test]
fn a_target_that_runs_is_read_right() {
    on_each(|mut objects| {
        let name = objects.name();
        let _started = objects.python.ask("busy");
        let (mut unknown, mut all) = (0, 0);
        let mut took = Duration::MAX;
        for _ in 0..40 {
            let started = Instant::now();
            let answers = objects.look();
            took = took.min(started.elapsed());
            for (answer, &(id, _, size)) in answers.iter().zip(&objects.places) {
                assert!(!matches!(answer, Answer::Dead(_)), "{name} {id:#x} of {size}: {answer:?}");
                all += u32::from(size <= SMALL);
                unknown += u32::from(size <= SMALL && *answer != Answer::Alive);
            }
        }
        let blocks: Vec<(u64, u64)> =
            objects.places.iter().take(60).map(|&(_, block, size)| (block, size)).collect();
        let mut identified = Duration::MAX;
        for _ in 0..10 {
            let started = Instant::now();
            let _found = objects.inspector.identify(&objects.python.memory, &blocks);
            identified = identified.min(started.elapsed());
        }
        say(&format!(
            "{name}: {unknown} of {all} unknown; {} looks take {took:?}, 60 identities {identified:?}; {:?}",
            objects.places.len(),
            objects.inspector.counts()
        ));
        // A thread that is stopped in the middle of a change leaves its pool torn for as long.
        assert!(unknown * 10 <= all, "{name}: {unknown} of {all}");
    });
}

#[test]
fn blocks_are_drawn_from_the_heap_as_a_census_counts_them() {
    on_each(|mut objects| {
        let name = objects.name();
        let Python { module, memory, version, .. } = &objects.python;
        let runtime = Root::find(module, version)
            .ok()
            .and_then(|root| Runtime::read(memory, &objects.layout, root));
        let interpreters = runtime.map(|runtime| runtime.interpreters).unwrap_or_default();
        let mut arrays = Arrays::default();
        let census = Census::take(
            memory,
            module,
            &objects.layout,
            &interpreters,
            &mut arrays,
            &objects.resident,
        )
        .unwrap();
        let mut generator = fastrand::Rng::with_seed(1);
        let mut random = || generator.u64(..);
        let (inspector, resident) = (&mut objects.inspector, &objects.resident);
        let drawn = inspector.draw(memory, resident, &census.map, 2000, &mut random);
        assert_eq!(drawn.len(), 2000, "{name}");
        let blocks: Vec<(u64, u64)> =
            drawn.iter().map(|block| (block.address, block.block_bytes)).collect();
        let identities = inspector.identify(memory, &blocks);
        let found = identities.iter().flatten().count();
        say(&format!("{name}: {found} of 2000 blocks hold objects; {:?}", inspector.counts()));
        assert!(found > 1000, "{name}: {found}");
        for (&bytes, class) in &census.classes {
            let expected = 2000.0 * class.live as f64 / census.live_blocks() as f64;
            let drawn = blocks.iter().filter(|&&(_, size)| size == bytes).count() as f64;
            // Five standard deviations.
            assert!((drawn - expected).abs() <= 5.0 * expected.sqrt() + 1.0, "{name} {bytes}");
        }
        let question = |&(address, size): &(u64, u64)| Question {
            address,
            size,
            is_raw: false,
            identity: None,
            held_none: false,
        };
        let questions: Vec<Question> = blocks.iter().map(question).collect();
        let answers = inspector.look(memory, resident, &questions);
        assert!(answers.iter().all(|answer| *answer == Answer::Alive), "{name}");
    });
}
