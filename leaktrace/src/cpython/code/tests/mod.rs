//! Code objects and stacks: of live interpreters, and made up.

mod live;
mod made;
