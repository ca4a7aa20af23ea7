//! What a site holds, in a few words.

use super::super::document::{NO_OBJECT, Site, TypeShare};
use super::units::{counted, percent};

/// Types that are named.
const NAMED: usize = 3;

/// What is said of blocks without an object in them.
const PARTS: &str = "holds no objects, but memory of such: items, tables, buffers";

/// `holds, by bytes: shop.Order (62.1 %), dict (25 %), (no object) (11.5 %) and 2 more types`; none where nothing is known,
/// or nothing lives.
#[must_use]
pub(super) fn holds(site: &Site) -> Option<String> {
    let types = site.types.as_ref().filter(|types| !types.is_empty())?;
    match types.as_slice() {
        [only] if only.name == NO_OBJECT => return Some(PARTS.to_owned()),
        [only] => return Some(format!("holds nothing but {}", only.name)),
        _ => {}
    }
    let named = types.iter().take(NAMED).map(|it| format!("{} ({})", it.name, share(it, site)));
    let named = named.collect::<Vec<_>>().join(", ");
    let others = match types.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {}", counted(more as u64, "more type")),
    };
    Some(format!("holds, by bytes: {named}{others}"))
}

/// Of the site's bytes; of its blocks where these have no bytes.
fn share(of: &TypeShare, site: &Site) -> String {
    let (part, whole) = match site.live_bytes {
        0 => (of.blocks, site.live_blocks),
        bytes => (of.bytes, bytes),
    };
    percent(100.0 * part as f64 / whole.max(1) as f64)
}
